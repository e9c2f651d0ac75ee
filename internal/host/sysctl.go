package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

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

// oneByOne implements sequential.
func (sysctlApplier) oneByOne() {}

func (sysctlApplier) Apply(_ context.Context, ops []hoststate.Op) error {
	for _, op := range ops {
		if err := applySysctl(op); err != nil {
			return &OpError{op, err}
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
	f, err := os.OpenFile(sysctlRoot+s.Name, os.O_WRONLY, 0)
	if err != nil {
		return cause(err)
	}
	_, err = f.WriteString(s.Value)
	return cause(errors.Join(err, f.Close()))
}

// cause takes the path off a file error: the operation names it already.
func cause(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}

// readSysctl returns a value with single spaces between its parts. Where the
// kernel has no IPv6, it counts as disabled on every link.
func readSysctl(name string) (string, error) {
	if !fs.ValidPath(name) {
		return "", fmt.Errorf("read sysctl %q: not a path", name)
	}
	b, err := os.ReadFile(sysctlRoot + name)
	if err != nil && strings.HasSuffix(name, "/disable_ipv6") {
		if _, err := os.Stat(sysctlRoot + "net/ipv6"); errors.Is(err, fs.ErrNotExist) {
			return "1", nil
		}
	}
	return strings.Join(strings.Fields(string(b)), " "), err
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
