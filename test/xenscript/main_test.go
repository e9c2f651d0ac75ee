// Package xenscript tests Xen's hotplug script on the real program, as libxl
// runs it, with a store, a host, guests and an outside.
package xenscript

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"viaduct/internal/lab"
)

// binary is the program under test, and script Xen's script alone, which lies
// beside it.
var binary, script string

func TestMain(m *testing.M) {
	lab.Main("xenscript", &binary, func() (code int) {
		var err error
		if script, err = lab.Build(filepath.Dir(binary), "viaduct/cmd/viaduct-vif", "viaduct-vif"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		goleak.VerifyTestMain(m, goleak.Cleanup(func(c int) { code = c }))
		return code
	})
}

// site is a lab with one host that runs a daemon.
type site struct {
	*lab.Lab
	t      *testing.T
	host   *lab.Host
	daemon *lab.Daemon
}

// newSite makes a host and prepares a daemon on it, which is not started.
func newSite(t *testing.T, args ...string) *site {
	t.Helper()
	s := &site{Lab: lab.New(t), t: t}
	s.host = s.NewHost(lab.HostOptions{})
	s.daemon = s.host.NewDaemon(binary, lab.DaemonOptions{Args: append([]string{"--libvirt-dir", "/nowhere"}, args...)})
	return s
}

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) context() context.Context {
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	s.t.Cleanup(cancel)
	return ctx
}

// viaduct runs a command that must succeed.
func (s *site) viaduct(args ...string) {
	s.t.Helper()
	r, err := s.daemon.Viaduct(s.context(), args...)
	if err != nil || r.Code != 0 {
		s.t.Fatalf("viaduct %s: %v, exit code %d\n%s%s", strings.Join(args, " "), err, r.Code, r.Stdout, r.Stderr)
	}
}

// file writes a definition where the host sees it and returns its path.
func (s *site) file(xml string) string {
	s.t.Helper()
	path := fmt.Sprintf("/tmp/definition-%d.xml", time.Now().UnixNano())
	s.host.WriteFile(path, xml)
	return path
}

// natXML is a NAT network on 192.168.N.0/24 with the bridge virbrN.
func natXML(name string, n int) string {
	return fmt.Sprintf(`<network><name>%s</name><forward mode='nat'/><bridge name='virbr%d'/><ip address='192.168.%d.1' netmask='255.255.255.0'>
		<dhcp><range start='192.168.%d.2' end='192.168.%d.254'/></dhcp></ip></network>`, name, n, n, n, n)
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// lease gives a guest its address by the lab's own client, once the guest's
// kernel has seen its link come up, which may take it a second.
func (s *site) lease(g *lab.Guest) lab.LeaseSeen {
	s.t.Helper()
	lab.Eventually(s.t, 10*time.Second, func() error {
		state, err := g.ReadFile("/sys/class/net/eth0/operstate")
		if err == nil && state != "up\n" {
			err = fmt.Errorf("the guest's link is %s", state)
		}
		return err
	})
	seen, err := g.DHCP(s.context(), lab.Builtin)
	s.must(err)
	return seen
}

// echo is a service on the outside.
func (s *site) echo() netip.AddrPort { return netip.AddrPortFrom(s.host.Outside.Addr, lab.PortEcho) }

// reaches fails the test unless a connection succeeds.
func (s *site) reaches(from *lab.Node, to netip.AddrPort) {
	s.t.Helper()
	if err := from.Reach(s.context(), to); err != nil {
		s.t.Errorf("%s does not reach %s: %v\n%s", from.Name, to, err, s.daemon.Output())
	}
}

// cannotReach fails the test if a connection succeeds.
func (s *site) cannotReach(from *lab.Node, to netip.AddrPort) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Second)
	defer cancel()
	if err := from.Reach(ctx, to); err == nil {
		s.t.Errorf("%s reaches %s", from.Name, to)
	}
}
