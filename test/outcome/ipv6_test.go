package outcome

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"viaduct/internal/lab"
)

// xml6 is a network with a subnet of each family, fd00:N::/64 and 192.168.N.0/24.
func xml6(name string, n int, forward string) string {
	return fmt.Sprintf(`<network><name>%s</name>%s<bridge name='virbr%d'/><ip address='192.168.%d.1' prefix='24'>
		<dhcp><range start='192.168.%d.2' end='192.168.%d.254'/></dhcp></ip>
		<ip family='ipv6' address='fd00:%d::1' prefix='64'/></network>`, name, forward, n, n, n, n, n)
}

// address6 waits until the guest has made itself a global address and has a
// default route, or only an address if the network leads nowhere.
func (s *site) address6(g *lab.Guest, prefix string) netip.Addr {
	s.t.Helper()
	p := netip.MustParsePrefix(prefix)
	var found netip.Addr
	lab.Eventually(s.t, time.Minute, func() error {
		if tentative, _ := g.Run(s.context(), "ip", "-6", "address", "show", "tentative"); tentative.Stdout != "" {
			return fmt.Errorf("addresses are being confirmed")
		}
		for _, a := range g.Addrs("eth0") {
			if p.Contains(a.Addr()) {
				found = a.Addr()
				return nil
			}
		}
		return fmt.Errorf("%s has no address in %s", g.Name, p)
	})
	return found
}

func TestIPv6Reach(t *testing.T) {
	at := func(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, lab.PortEcho) }
	for _, c := range []struct {
		name, forward       string
		out, in, translated bool
	}{
		{"route", `<forward mode='route'/>`, true, true, false},
		{"nat", `<forward mode='nat'/>`, true, true, false},
		{"nat66", `<forward mode='nat'><nat ipv6='yes'/></forward>`, true, false, true},
		{"open", `<forward mode='open'/>`, true, true, false},
		{"isolated", ``, false, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := startSite(t)
			s.create(xml6("a", 50, c.forward))
			s.create(xml6("b", 51, ``))
			s.host.Outside.AddRoute(netip.MustParsePrefix("fd00:50::/64"), s.host.Addr6)
			g, other := s.PlugGuest(s.host.Node, "virbr50", "one"), s.PlugGuest(s.host.Node, "virbr51", "other")
			mine, theirs := s.address6(g, "fd00:50::/64"), s.address6(other, "fd00:51::/64")
			for _, n := range []*lab.Guest{g, other} {
				n.ServeEcho(lab.PortEcho)
			}
			check := func(ok bool, from *lab.Node, to netip.Addr) {
				t.Helper()
				if ok {
					s.reaches(from, at(to))
				} else {
					s.cannotReach(from, at(to))
				}
			}
			s.reaches(g.Node, netip.AddrPortFrom(addr("fd00:50::1"), 53))
			s.reaches(s.host.Node, at(mine))
			check(c.out, g.Node, s.host.Outside.Addr6)
			check(c.in, s.host.Outside.Node, mine)
			s.cannotReach(g.Node, at(theirs))
			s.cannotReach(other.Node, at(mine))
			s.cannotReach(other.Node, netip.AddrPortFrom(addr("fd00:50::1"), 53))
			if !c.out {
				return
			}
			seen, err := g.Who(s.context(), "tcp", s.host.Outside.Addr6)
			want := mine
			if c.translated {
				want = s.host.Addr6
			}
			if err != nil || seen.Addr() != want {
				t.Errorf("outside sees %v, %v, want %s", seen, err, want)
			}
		})
	}
}
