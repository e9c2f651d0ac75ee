package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"viaduct/internal/hoststate"
)

// sysctlRoot is where the kernel shows the settings of our network namespace.
const sysctlRoot = "/proc/sys/"

// sysctlApplier observes and changes kernel settings.
type sysctlApplier struct{}

func (sysctlApplier) Kinds() []hoststate.Kind { return []hoststate.Kind{hoststate.KindSysctl} }

// Owned is empty: the kernel does not tell who has set a value.
func (sysctlApplier) Owned() hoststate.State { return hoststate.State{} }

func (sysctlApplier) Observe(keys []hoststate.Key) hoststate.State {
	s := hoststate.State{}
	for _, k := range keys {
		if value, err := readSysctl(k.Name); err == nil {
			s.Add(hoststate.Sysctl{Name: k.Name, Value: value, Link: sysctlLink(k.Name)})
		}
	}
	return s
}

// OneByOne implements sequential.
func (sysctlApplier) OneByOne() {}

func (sysctlApplier) Apply(_ context.Context, ops []hoststate.Op) error {
	for _, op := range ops {
		if err := applySysctl(op); err != nil {
			return &OpError{Op: op, Err: err}
		}
	}
	return nil
}

// applySysctl writes a value. There is no removing one: a link's settings go
// with the link, and to put a host's back is a change.
func applySysctl(op hoststate.Op) error {
	s, ok := op.New.(hoststate.Sysctl)
	if !ok || op.Verb == hoststate.Delete {
		return nil
	}
	if have, err := readSysctl(s.Name); err == nil && have == s.Value {
		return nil
	}
	return writeProc(sysctlRoot+s.Name, s.Value)
}

// readSysctl returns a value with single spaces between its parts. Where the
// kernel has no IPv6, it counts as disabled on every link.
func readSysctl(name string) (string, error) {
	if !fs.ValidPath(name) {
		return "", fmt.Errorf("read sysctl %q: not a path", name)
	}
	b, err := readProc(sysctlRoot + name)
	if err != nil && strings.HasSuffix(name, "/disable_ipv6") {
		if _, err := os.Stat(sysctlRoot + "net/ipv6"); errors.Is(err, fs.ErrNotExist) {
			return "1", nil
		}
	}
	return strings.Join(strings.Fields(string(b)), " "), err
}

// readProc reads a small file of the kernel's, which is all there at once. A
// change of a port looks at many of them, and what [os.ReadFile] does beside,
// for files that one has to wait for, takes longer than that.
func readProc(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	b := make([]byte, 128)
	for {
		n, err := unix.Read(fd, b)
		switch {
		case err == nil && n == len(b): // there may be more
			return os.ReadFile(path)
		case err == nil:
			return b[:n], nil
		case err != unix.EINTR:
			return nil, err
		}
	}
}

// writeProc writes such a file.
func writeProc(path, value string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	for {
		if _, err = unix.Write(fd, []byte(value)); err != unix.EINTR {
			return errors.Join(err, unix.Close(fd))
		}
	}
}

// sysctlLink is the link that a setting belongs to: "virbr0" for
// "net/ipv4/conf/virbr0/forwarding", none for a setting of the host.
func sysctlLink(name string) string {
	p := strings.Split(name, "/")
	if len(p) != 5 || p[0] != "net" || p[2] != "conf" && p[2] != "neigh" || p[3] == "all" || p[3] == "default" {
		return ""
	}
	return p[3]
}
