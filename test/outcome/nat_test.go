package outcome

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"viaduct/internal/lab"
)

// bridgeFirewalling are the two ways in which a host treats frames between
// ports of one bridge: past the IP rules, or through them.
var bridgeFirewalling = []string{"0", "1"}

func eachBridgeFirewalling(t *testing.T, test func(t *testing.T, s *site)) {
	for _, v := range bridgeFirewalling {
		t.Run("bridge-nf-call-iptables="+v, func(t *testing.T) {
			s := startSite(t)
			s.host.SetSysctl("net.bridge.bridge-nf-call-iptables", v)
			test(t, s)
		})
	}
}

func TestNATReach(t *testing.T) {
	eachBridgeFirewalling(t, func(t *testing.T, s *site) {
		s.create(natXML("a", 50, ""))
		s.create(natXML("b", 51, ""))
		one, oneLease := s.guest("virbr50", "one")
		two, twoLease := s.guest("virbr50", "two")
		other, otherLease := s.guest("virbr51", "other")
		const port = 8080
		for _, n := range []*lab.Node{one.Node, two.Node, other.Node, s.host.Node} {
			n.ServeEcho(port)
		}
		at := func(a netip.Addr, p uint16) netip.AddrPort { return netip.AddrPortFrom(a, p) }

		s.reaches(one.Node, at(twoLease.Addr.Addr(), port))
		s.reaches(one.Node, at(s.host.Outside.Addr, lab.PortEcho))
		s.reaches(s.host.Node, at(oneLease.Addr.Addr(), port))
		s.reaches(one.Node, at(addr("192.168.50.1"), port))
		s.cannotReach(one.Node, at(otherLease.Addr.Addr(), port))
		s.cannotReach(other.Node, at(oneLease.Addr.Addr(), port))

		for _, network := range []string{"tcp", "udp"} {
			seen, err := one.Who(s.context(), network, s.host.Outside.Addr)
			if err != nil {
				t.Fatal(err)
			}
			if seen.Addr() != s.host.Addr || seen.Port() < 1024 {
				t.Errorf("outside sees %s by %s, want the host's %s and a port from 1024", seen, network, s.host.Addr)
			}
		}

		// The outside knows the way in and still is not let in.
		s.host.Outside.AddRoute(netip.MustParsePrefix("192.168.50.0/24"), s.host.Addr)
		s.cannotReach(s.host.Outside.Node, at(oneLease.Addr.Addr(), port))

		// DNS belongs to the network's own guests.
		s.reaches(one.Node, at(addr("192.168.50.1"), 53))
		s.reaches(s.host.Node, at(addr("192.168.50.1"), 53))
		s.cannotReach(other.Node, at(addr("192.168.50.1"), 53))
		s.cannotReach(s.host.Outside.Node, at(addr("192.168.50.1"), 53))
	})
}

func TestNATPortsAndAddresses(t *testing.T) {
	s := startSite(t)
	s.host.AddAddr("eth0", netip.MustParsePrefix("203.0.113.7/24"))
	s.create(natXML("a", 50, `<forward mode='nat'><nat><address start='203.0.113.7' end='203.0.113.7'/><port start='5000' end='5009'/></nat></forward>`))
	g, _ := s.guest("virbr50", "one")
	for _, network := range []string{"tcp", "udp"} {
		seen, err := g.Who(s.context(), network, s.host.Outside.Addr)
		if err != nil {
			t.Fatal(err)
		}
		if seen.Addr() != addr("203.0.113.7") || seen.Port() < 5000 || seen.Port() > 5009 {
			t.Errorf("outside sees %s by %s, want 203.0.113.7 and a port from 5000 to 5009", seen, network)
		}
	}
}

// Connections that are exempt from translation keep the guest's address, for
// whoever knows the way back.
func TestExemptFromTranslation(t *testing.T) {
	s := startSite(t)
	other := addr("203.0.113.99")
	s.host.Outside.AddAddr("eth0", netip.PrefixFrom(other, 24))
	s.host.Outside.AddRoute(netip.MustParsePrefix("192.168.50.0/24"), s.host.Addr)
	s.create(strings.Replace(natXML("a", 50, ""), "<forward", `<metadata><v:settings xmlns:v='urn:viaduct:settings:1'>
		<v:exempt destination='203.0.113.96/29'/></v:settings></metadata><forward`, 1))
	g, lease := s.guest("virbr50", "one")
	for to, want := range map[netip.Addr]netip.Addr{other: lease.Addr.Addr(), s.host.Outside.Addr: s.host.Addr} {
		seen, err := g.Who(s.context(), "tcp", to)
		if err != nil || seen.Addr() != want {
			t.Errorf("%s sees %s, %v, want %s", to, seen, err, want)
		}
	}
}

// A network restricted to an uplink that is not there starts, and its guests
// get out once it is.
func TestUplinkComesLater(t *testing.T) {
	s := startSite(t)
	s.create(natXML("a", 50, `<forward mode='nat' dev='eth1'/>`))
	g, _ := s.guest("virbr50", "one")
	s.cannotReach(g.Node, netip.AddrPortFrom(s.host.Outside.Addr, lab.PortEcho))

	far := s.Node("far")
	s.Connect(s.host.Node, "eth1", far, "eth0", lab.WireOptions{})
	s.host.AddAddr("eth1", netip.MustParsePrefix("198.51.100.2/24"))
	far.AddAddr("eth0", netip.MustParsePrefix("198.51.100.1/24"))
	far.ServeEcho(lab.PortEcho)
	s.reaches(g.Node, netip.AddrPortFrom(addr("198.51.100.1"), lab.PortEcho))
	s.cannotReach(g.Node, netip.AddrPortFrom(s.host.Outside.Addr, lab.PortEcho))
}

func TestForwardingOnlyWhileNeeded(t *testing.T) {
	s := startSite(t)
	forwarding := func() string { return s.host.Sysctl("net.ipv4.ip_forward") }
	s.host.SetSysctl("net.ipv4.ip_forward", "0")
	s.create(natXML("a", 50, ""))
	s.create(natXML("b", 51, ""))
	if forwarding() != "1" {
		t.Error("forwarding is off with networks active")
	}
	s.viaduct("net-destroy", "a")
	if forwarding() != "1" {
		t.Error("forwarding is off while a network needs it")
	}
	s.viaduct("net-destroy", "b")
	if forwarding() != "0" {
		t.Error("forwarding is on with no network left")
	}
}

func TestBridge(t *testing.T) {
	s := startSite(t)
	s.create(`<network><name>a</name><forward mode='nat'/><bridge name='virbr50'/><mac address='52:54:00:12:34:56'/><mtu size='1400'/>
		<ip address='192.168.50.1' prefix='24'><dhcp><range start='192.168.50.2' end='192.168.50.9'/></dhcp></ip>
		<ip address='192.168.60.1' prefix='24'/></network>`)
	want := net.HardwareAddr{0x52, 0x54, 0, 0x12, 0x34, 0x56}
	if got := s.host.MAC("virbr50"); got.String() != want.String() {
		t.Errorf("empty bridge has MAC %s, want %s", got, want)
	}
	g, seen := s.guest("virbr50", "one")
	if got := s.host.MAC("virbr50"); got.String() != want.String() {
		t.Errorf("bridge with a port has MAC %s, want %s", got, want)
	}
	if seen.MTU != 1400 {
		t.Errorf("guest has MTU %d, want 1400", seen.MTU)
	}
	s.must(g.Ping(s.context(), addr("192.168.60.1")))
	g.Unplug()
	if got := s.host.MAC("virbr50"); got.String() != want.String() {
		t.Errorf("emptied bridge has MAC %s, want %s", got, want)
	}
}
