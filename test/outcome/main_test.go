// Package outcome tests what users of Viaduct experience: the real program on
// a host of its own in namespaces, with guests, an outside, and real clients.
package outcome

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"viaduct/internal/lab"
)

// binary is the program under test.
var binary string

func TestMain(m *testing.M) { lab.Main("outcome", &binary, m.Run) }

// site is a lab with one host that runs a daemon.
type site struct {
	*lab.Lab
	t      *testing.T
	host   *lab.Host
	daemon *lab.Daemon
}

// newSite makes a host and prepares a daemon on it, which is not started. It
// knows nothing of what libvirt has defined on the machine that runs the tests.
func newSite(t *testing.T, args ...string) *site {
	t.Helper()
	return siteOn(t, lab.HostOptions{}, args...)
}

// siteOn is newSite with a host of another kind.
func siteOn(t *testing.T, o lab.HostOptions, args ...string) *site {
	t.Helper()
	return siteWith(t, o, lab.DaemonOptions{Args: args})
}

// siteWith is siteOn with wishes about the daemon.
func siteWith(t *testing.T, o lab.HostOptions, d lab.DaemonOptions) *site {
	t.Helper()
	s := &site{Lab: lab.New(t), t: t}
	s.host = s.NewHost(o)
	d.Args = append([]string{"--libvirt-dir", "/nowhere"}, d.Args...)
	s.daemon = s.host.NewDaemon(binary, d)
	return s
}

// startSite is newSite with the daemon running and without the default network.
func startSite(t *testing.T, args ...string) *site {
	t.Helper()
	s := newSite(t, append([]string{"--no-default"}, args...)...)
	s.must(s.daemon.Start())
	return s
}

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) context() context.Context {
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*time.Minute)
	s.t.Cleanup(cancel)
	return ctx
}

// viaduct runs a command that must succeed and returns what it printed.
func (s *site) viaduct(args ...string) string {
	s.t.Helper()
	r, err := s.daemon.Viaduct(s.context(), args...)
	if err != nil || r.Code != 0 {
		s.t.Fatalf("viaduct %s: %v, exit code %d\n%s%s", strings.Join(args, " "), err, r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// logs fails the test unless the daemon says a line with the text.
func (s *site) logs(text string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
	defer cancel()
	_, err := s.daemon.Process().WaitLine(ctx, regexp.QuoteMeta(text))
	s.must(err)
}

// refused runs a command that must fail and returns its error output.
func (s *site) refused(args ...string) string {
	s.t.Helper()
	r, _ := s.daemon.Viaduct(s.context(), args...)
	if r.Code == 0 {
		s.t.Fatalf("viaduct %s was to fail:\n%s", strings.Join(args, " "), r.Stdout)
	}
	return r.Stderr
}

// file writes a definition where the host sees it and returns its path.
func (s *site) file(xml string) string {
	s.t.Helper()
	path := fmt.Sprintf("/tmp/definition-%d.xml", time.Now().UnixNano())
	s.host.WriteFile(path, xml)
	return path
}

// create starts a transient network.
func (s *site) create(xml string) { s.t.Helper(); s.viaduct("net-create", s.file(xml)) }

// lease gives a guest its address by the lab's own client.
func (s *site) lease(g *lab.Guest) lab.LeaseSeen {
	s.t.Helper()
	seen, err := g.DHCP(s.context(), lab.Builtin)
	s.must(err)
	return seen
}

// guest plugs a guest in and gives it an address.
func (s *site) guest(bridge, name string) (*lab.Guest, lab.LeaseSeen) {
	s.t.Helper()
	g := s.PlugGuest(s.host.Node, bridge, name)
	return g, s.lease(g)
}

// natXML is a NAT network on 192.168.N.0/24 with the bridge virbrN. Extra goes
// into the forward element's tag, before its end.
func natXML(name string, n int, forward string) string {
	if forward == "" {
		forward = "<forward mode='nat'/>"
	}
	return fmt.Sprintf(`<network><name>%s</name>%s<bridge name='virbr%d'/><ip address='192.168.%d.1' netmask='255.255.255.0'>
		<dhcp><range start='192.168.%d.2' end='192.168.%d.254'/></dhcp></ip></network>`, name, forward, n, n, n, n)
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// reaches fails the test unless a connection succeeds.
func (s *site) reaches(from *lab.Node, to netip.AddrPort) {
	s.t.Helper()
	if err := from.Reach(s.context(), to); err != nil {
		s.t.Errorf("%s does not reach %s: %v", from.Name, to, err)
	}
}

// cannotReach fails the test if a connection succeeds.
func (s *site) cannotReach(from *lab.Node, to netip.AddrPort) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*time.Second)
	defer cancel()
	if err := from.Reach(ctx, to); err == nil {
		s.t.Errorf("%s reaches %s", from.Name, to)
	}
}

var (
	errStillTalking  = errors.New("the kernel still announces changes")
	errNotTranslated = errors.New("the outside sees the guest's own address")
	errNoWarning     = errors.New("nothing is warned of")
)

// short bounds one attempt of something that is tried again.
func short(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	t.Cleanup(cancel)
	return ctx
}
