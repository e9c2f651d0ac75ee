package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// live furnishes the guest, and runs the commands that the console brings. Each
// is a line with a number and what the shell is to run. What the command prints
// goes back as lines that begin with the number and a colon, and its end as one
// with the number, an equals sign and the exit status.
func live() error {
	os.Setenv("PATH", "/bin:/sbin")
	for _, m := range []struct{ kind, dir string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/tmp"}} {
		if err := unix.Mount(m.kind, m.dir, m.kind, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	for _, argv := range [][]string{
		{"/bin/busybox", "--install", "-s", "/bin"},
		{"/bin/busybox", "modprobe", "-a", "xen-netfront", "af_packet", "8021q"},
		{"/bin/busybox", "ip", "link", "set", "lo", "up"},
	} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			fmt.Printf("%s: %v: %s\n", argv, err, out)
		}
	}
	console, err := os.OpenFile("/dev/hvc0", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if err := raw(console); err != nil {
		return err
	}
	var writing sync.Mutex
	say := func(line string) {
		writing.Lock()
		defer writing.Unlock()
		io.WriteString(console, line+"\n")
	}
	say("READY")
	commands := bufio.NewScanner(console)
	for commands.Scan() {
		number, command, _ := strings.Cut(strings.TrimSpace(commands.Text()), " ")
		go shell(command, func(mark, text string) { say(number + mark + text) })
	}
	return errors.Join(commands.Err(), errors.New("the console is closed"))
}

// shell runs a command and passes on what it prints, line by line.
func shell(command string, say func(mark, text string)) {
	cmd := exec.Command("/bin/sh", "-c", command)
	r, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	var reading sync.WaitGroup
	reading.Go(func() {
		for lines := bufio.NewScanner(r); lines.Scan(); {
			say(":", lines.Text())
		}
		io.Copy(io.Discard, r)
	})
	err := cmd.Run()
	w.Close()
	reading.Wait()
	status := 0
	if err != nil {
		status = max(1, cmd.ProcessState.ExitCode())
	}
	say("=", fmt.Sprint(status))
}

// raw keeps the console from echoing and from changing what passes.
func raw(console *os.File) error {
	fd := int(console.Fd())
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return err
	}
	t.Iflag &^= unix.ICRNL | unix.INLCR | unix.IXON | unix.ISTRIP
	t.Lflag &^= unix.ECHO | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Oflag &^= unix.OPOST
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	return unix.IoctlSetTermios(fd, unix.TCSETS, t)
}
