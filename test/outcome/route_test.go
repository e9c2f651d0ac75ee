package outcome

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"viaduct/internal/lab"
)

// Whoever starts a routed network is told what the LAN's router needs, and with
// that the outside finds the guests.
func TestRoutedNetworkNamesTheRoutesItNeeds(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	s.viaduct("net-define", s.file(xml6("a", 50, `<forward mode='route'/>`)))
	r, err := s.daemon.Viaduct(s.context(), "net-start", "a")
	s.must(err)
	want := "note: the LAN's router needs a route: 192.168.50.0/24 via 203.0.113.2\n" +
		"note: the LAN's router needs a route: fd00:50::/64 via 2001:db8:113::2\n"
	if r.Stderr != want || strings.TrimSpace(r.Stdout) != "Network a started" {
		t.Errorf("net-start says %q and %q, want the note %q", r.Stdout, r.Stderr, want)
	}
	g, _ := s.guest("virbr50", "one")
	s.address6(g, "fd00:50::/64")
	g.ServeEcho(lab.PortEcho)
	for line := range strings.Lines(r.Stderr) {
		words := strings.Fields(line)
		prefix, via := netip.MustParsePrefix(words[len(words)-3]), netip.MustParseAddr(words[len(words)-1])
		s.host.Outside.AddRoute(prefix, via)
		for _, a := range g.Addrs("eth0") {
			if prefix.Contains(a.Addr()) {
				s.reaches(s.host.Outside.Node, netip.AddrPortFrom(a.Addr(), lab.PortEcho))
			}
		}
	}

	// By another link it is that link's address; other modes need nothing.
	s.Connect(s.host.Node, "eth1", s.Node("far"), "eth0", lab.WireOptions{})
	s.host.AddAddr("eth1", netip.MustParsePrefix("198.51.100.2/24"))
	s.viaduct("net-define", s.file(natXML("b", 51, `<forward mode='route' dev='eth1'/>`)))
	var said struct{ Notes []string }
	s.must(json.Unmarshal([]byte(s.viaduct("-o", "json", "net-start", "b")), &said))
	if want := []string{"the LAN's router needs a route: 192.168.51.0/24 via 198.51.100.2"}; !slices.Equal(said.Notes, want) {
		t.Errorf("notes %q, want %q", said.Notes, want)
	}
	for i, forward := range []string{`<forward mode='nat'/>`, ` `} {
		r, err := s.daemon.Viaduct(s.context(), "net-create", s.file(natXML(string(rune('c'+i)), 52+i, forward)))
		s.must(err)
		if r.Stderr != "" {
			t.Errorf("%q: net-create says %q", forward, r.Stderr)
		}
	}
}

// Guests that cannot leave their network do not learn addresses of the outside
// either: programs that find some try them until they time out. Only an admin
// who names forwarders wants it otherwise.
func TestIsolatedNamesStayInside(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	upstream := s.host.Outside.ServeDNS("www.example.com. 60 IN A 20.1.2.3", "www.example.com. 60 IN AAAA 2001:db8::3")
	s.host.WriteFile("/etc/resolv.conf", "nameserver "+s.host.Outside.Addr.String()+"\n")
	s.create(xml6("a", 50, ""))
	s.create(xml6("b", 51, `<forward mode='nat'/>`))
	inside, lease := s.guest("virbr50", "inside")
	free, _ := s.guest("virbr51", "free")
	s.address6(inside, "fd00:50::/64")
	s.address6(free, "fd00:51::/64")
	for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA} {
		for _, gate := range gatesOf(50) {
			s.answers(inside.Node, gate, "www.example.com", kind, dns.RcodeNameError)
		}
	}
	s.answers(inside.Node, gatesOf(50)[1], "inside", dns.TypeA, dns.RcodeSuccess, lease.Addr.Addr().String())
	if asked := upstream.Queries(); len(asked) > 0 {
		t.Errorf("questions left the network: %v", asked)
	}
	for _, gate := range gatesOf(51) {
		s.answers(free.Node, gate, "www.example.com", dns.TypeAAAA, dns.RcodeSuccess, "2001:db8::3")
	}
}
