package lab

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// holderName is argv[0] of the process that holds a node's namespaces open.
const holderName = "viaduct-lab-node"

// sysAccess says how a node sees /sys. systemd-networkd waits for udev when it
// can write there; a host's daemons may want to.
type sysAccess string

const (
	sysWritable sysAccess = "rw"
	sysReadOnly sysAccess = "ro"
)

// holderReady is what the holder says once its namespaces are furnished.
const holderReady = "ready\n"

// labDir is where a node keeps what the lab itself puts into it.
const labDir = "/run/lab"

// holderMain is the life of a node's first process: it furnishes the
// namespaces it was started in, says so on stdout, and then stays until
// its leash, the pipe on stdin, breaks because the lab's process ended. As it
// is process 1 of its namespace, the kernel kills all others with it.
func holderMain(args []string) {
	// Orphans of daemons land here; ignoring SIGCHLD makes the kernel bury them.
	signal.Ignore(unix.SIGCHLD, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT)
	if err := furnish(args[0], sysAccess(args[1])); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	io.WriteString(os.Stdout, holderReady)
	io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

// furnish gives the node private files: what it changes in /etc, and all of
// /run, /var/lib and /tmp, is in memory and its own.
func furnish(name string, sys sysAccess) error {
	if err := unix.Sethostname([]byte(name)); err != nil {
		return fmt.Errorf("set host name %q: %w", name, err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	for _, m := range []struct{ dir, mode string }{
		{"/run", "0755"}, {"/var/lib", "0755"}, {"/tmp", "1777"},
	} {
		if err := unix.Mount("tmpfs", m.dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode="+m.mode); err != nil {
			return fmt.Errorf("mount private %s: %w", m.dir, err)
		}
	}
	if err := privateEtc(name); err != nil {
		return err
	}
	return mountKernelViews(sys)
}

// privateEtc lays a writable layer over /etc and puts neutral files where the
// machine's own would answer for a node: its resolvers, names and address.
func privateEtc(name string) error {
	upper, work := filepath.Join(labDir, "etc"), filepath.Join(labDir, "etc.work")
	for _, dir := range []string{upper, work} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	options := fmt.Sprintf("lowerdir=/etc,upperdir=%s,workdir=%s", upper, work)
	if err := unix.Mount("overlay", "/etc", "overlay", 0, options); err != nil {
		return fmt.Errorf("mount private /etc: %w", err)
	}
	for path, content := range map[string]string{
		"/etc/resolv.conf": "",
		"/etc/hosts":       "127.0.0.1 localhost\n::1 localhost\n",
		"/etc/hostname":    name + "\n",
	} {
		// The machine's file may be a symbolic link to somewhere else.
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// mountKernelViews gives the node its own /sys and /proc. A container's user
// namespace may refuse both; the machine's then stay in place, which serves
// all but systemd-networkd.
func mountKernelViews(sys sysAccess) error {
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC)
	sysFlags := flags
	if sys == sysReadOnly {
		sysFlags |= unix.MS_RDONLY
	}
	for _, m := range []struct {
		kind, dir string
		flags     uintptr
	}{{"sysfs", "/sys", sysFlags}, {"proc", "/proc", flags}} {
		err := unix.Mount(m.kind, m.dir, m.kind, m.flags, "")
		if err != nil && !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("mount private %s: %w", m.dir, err)
		}
	}
	return nil
}
