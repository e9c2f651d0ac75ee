package vm

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"viaduct/test/kernel"
)

// machineParts are the two files that a machine starts from.
type machineParts struct{ kernel, initrd string }

// parts are made once, since all machines start from the same.
var parts = sync.OnceValues(func() (machineParts, error) {
	tree, err := kernel.Tree()
	if err != nil {
		return machineParts{}, err
	}
	initrd, err := packInitrd(tree)
	return machineParts{filepath.Join(tree, "boot/vmlinuz"), initrd}, err
})

// packInitrd packs the machine's whole system: the program inside, the daemon,
// modules with what loads them, nft and bridge.
func packInitrd(tree string) (string, error) {
	inside, err := goBuild("viaduct/test/vm/inside", "inside")
	if err != nil {
		return "", err
	}
	viaduct, err := goBuild("viaduct/cmd/viaduct", "viaduct")
	if err != nil {
		return "", err
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return "", err
	}
	files := map[string]string{"init": inside, "bin/viaduct": viaduct, "bin/busybox": busybox}
	for _, name := range []string{"nft", "bridge"} {
		needed, err := kernel.Needs(name)
		if err != nil {
			return "", err
		}
		files["bin/"+name] = needed[0]
		for _, path := range needed[1:] {
			files[path] = path
		}
	}

	root := filepath.Join(scratch, "root")
	for _, dir := range []string{"dev", "proc", "sys", "run", "tmp", "etc", "var/lib", "disk", "sbin"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return "", err
		}
	}
	for to, from := range files {
		if err := copyFile(filepath.Join(root, to), from); err != nil {
			return "", err
		}
	}
	if err := os.Symlink("/bin/busybox", filepath.Join(root, "sbin/modprobe")); err != nil {
		return "", err
	}
	if err := os.CopyFS(filepath.Join(root, "lib/modules"), os.DirFS(filepath.Join(tree, "lib/modules"))); err != nil {
		return "", err
	}
	return filepath.Join(scratch, "initrd"), kernel.Archive(root, filepath.Join(scratch, "initrd"))
}

func copyFile(to, from string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, content, 0o755)
}

// newDisk makes a disk with an empty file system. It is a file here.
func newDisk(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if out, err := exec.Command("mke2fs", "-q", "-F", "-t", "ext4", path, "64M").CombinedOutput(); err != nil {
		t.Fatalf("make a file system: %v\n%s", err, out)
	}
	return path
}

// machine is a virtual machine that runs.
type machine struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines chan string // of the console; closed at the end
	said  []string
}

const (
	// lifetime ends a machine that hangs.
	lifetime = 2 * time.Minute
	// memory is in MiB.
	memory = "384"
)

// boot starts a machine with an environment for the program inside. The disk
// may be "".
func boot(t *testing.T, disk string, env ...string) *machine {
	t.Helper()
	p, err := parts()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{
		"-accel", "tcg", "-cpu", "max", "-m", memory, "-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot",
		"-kernel", p.kernel, "-initrd", p.initrd,
		// On a busy machine an emulated timer can be too late for the kernel's check of it, which then panics.
		"-append", "console=ttyS0 quiet panic=1 no_timer_check " + strings.Join(env, " "),
	}
	if disk != "" {
		// What the machine has written but not synced is in its own memory, and
		// ends with it.
		args = append(args, "-drive", "if=virtio,format=raw,cache=writeback,file="+disk)
	}
	m := &machine{t: t, cmd: exec.Command("qemu-system-x86_64", args...), lines: make(chan string, 1024)}
	console, err := m.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var errs strings.Builder
	m.cmd.Stderr = &errs
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go m.listen(console)
	timer := time.AfterFunc(lifetime, func() { m.cmd.Process.Kill() })
	t.Cleanup(func() {
		timer.Stop()
		m.cut()
		m.cmd.Wait()
		if t.Failed() {
			t.Logf("the machine said:\n%s%s", strings.Join(m.said, "\n"), &errs)
		}
	})
	return m
}

// listen passes on what the machine says, but an unfinished last line.
func (m *machine) listen(console io.Reader) {
	defer close(m.lines)
	for r := bufio.NewReader(console); ; {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		m.lines <- strings.TrimSpace(line)
	}
}

// next is the next thing that the machine says: a word and what it is about.
// There is none after it ended.
func (m *machine) next() (word, rest string, ok bool) {
	m.t.Helper()
	line, ok := <-m.lines
	if !ok {
		return "", "", false
	}
	m.said = append(m.said, line)
	word, rest, _ = strings.Cut(line, " ")
	if word == "FAILED" {
		m.t.Fatalf("inside the machine: %s", rest)
	}
	return word, rest, true
}

// cut pulls the plug.
func (m *machine) cut() { m.cmd.Process.Kill() }

// lease is what the machine says of one.
type lease struct {
	mac, ip string
	turn    int
}

func parseLease(t *testing.T, text string) lease {
	t.Helper()
	var l lease
	if _, err := fmt.Sscan(text, &l.mac, &l.ip, &l.turn); err != nil {
		t.Fatalf("the machine says %q: %v", text, err)
	}
	return l
}
