package outcome

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/miekg/dns"

	"viaduct/internal/lab"
)

// answers asks by UDP and by TCP and fails the test unless both times the
// response code and the data of the answers are these.
func (s *site) answers(from *lab.Node, server netip.Addr, name string, kind uint16, rcode int, want ...string) {
	s.t.Helper()
	for _, network := range []string{"udp", "tcp"} {
		q := new(dns.Msg).SetQuestion(dns.Fqdn(name), kind)
		reply, err := from.Exchange(s.context(), network, netip.AddrPortFrom(server, 53), q)
		if err != nil {
			s.t.Errorf("%s asks for %s by %s: %v", from.Name, name, network, err)
			continue
		}
		var got []string
		for _, rr := range reply.Answer {
			got = append(got, strings.TrimPrefix(rr.String(), rr.Header().String()))
		}
		if reply.Rcode != rcode || !slices.Equal(got, want) {
			s.t.Errorf("%s %s by %s: %s %q, want %s %q", dns.TypeToString[kind], name, network,
				dns.RcodeToString[reply.Rcode], got, dns.RcodeToString[rcode], want)
		}
	}
}

func reverse(a netip.Addr) string {
	name, err := dns.ReverseAddr(a.String())
	if err != nil {
		panic(err) // only invalid addresses have none
	}
	return name
}

const dnsXML = `<network><name>a</name><forward mode='nat'/><bridge name='virbr50'/><domain name='lab.example' localOnly='yes'/>
	<dns><host ip='192.168.50.200'><hostname>printer</hostname><hostname>paper</hostname></host></dns>
	<ip address='192.168.50.1' netmask='255.255.255.0'><dhcp><range start='192.168.50.2' end='192.168.50.99'/>
	<host mac='52:54:00:aa:bb:cc' name='reserved' ip='192.168.50.150'/></dhcp></ip></network>`

// Guests find each other, what is reserved and the world by name.
func TestNames(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	upstream := s.host.Outside.ServeDNS("www.example.com. 60 IN A 20.1.2.3", "3.2.1.20.in-addr.arpa. 60 IN PTR www.example.com.")
	s.host.WriteFile("/etc/resolv.conf", "nameserver "+s.host.Outside.Addr.String()+"\n")
	s.create(dnsXML)
	one, lease := s.guest("virbr50", "one")
	two, _ := s.guest("virbr50", "two")
	gate := addr("192.168.50.1")
	for _, asker := range []*lab.Node{one.Node, two.Node, s.host.Node} {
		for _, c := range []struct {
			name string
			kind uint16
			want string
		}{
			{"one", dns.TypeA, lease.Addr.Addr().String()},
			{"ONE.lab.example", dns.TypeA, lease.Addr.Addr().String()},
			{reverse(lease.Addr.Addr()), dns.TypePTR, "one.lab.example."},
			{"reserved.lab.example", dns.TypeA, "192.168.50.150"}, // its guest has never been there
			{reverse(addr("192.168.50.150")), dns.TypePTR, "reserved.lab.example."},
			{"paper", dns.TypeA, "192.168.50.200"},
			{reverse(addr("192.168.50.200")), dns.TypePTR, "printer.lab.example."},
			{"www.example.com", dns.TypeA, "20.1.2.3"},
			{reverse(addr("20.1.2.3")), dns.TypePTR, "www.example.com."},
		} {
			s.answers(asker, gate, c.name, c.kind, dns.RcodeSuccess, c.want)
		}
		s.answers(asker, gate, "one", dns.TypeAAAA, dns.RcodeSuccess)
		for _, unknown := range []string{"nobody.lab.example", "nobody.example.com", reverse(addr("192.168.50.9"))} {
			s.answers(asker, gate, unknown, dns.TypeA, dns.RcodeNameError)
		}
	}
	for _, q := range upstream.Queries() {
		if strings.HasSuffix(strings.ToLower(q.Name), "lab.example.") || strings.HasSuffix(q.Name, "168.192.in-addr.arpa.") {
			t.Errorf("the question for %s left the network", q.Name)
		}
	}

	s.must(one.Release(s.context()))
	lab.Eventually(t, 5*time.Second, func() error {
		r, err := two.Query(s.context(), netip.AddrPortFrom(gate, 53), "one.lab.example.", dns.TypeA)
		if err == nil && r.Rcode != dns.RcodeNameError {
			err = fmt.Errorf("a guest that left is still known: %s", r.Answer)
		}
		return err
	})
}

// A program that holds port 53 on all addresses does not keep guests from
// their names, and is told of.
func TestNamesBesideAnotherServer(t *testing.T) {
	t.Parallel()
	lab.Need(t, "dnsmasq")
	s := newSite(t, "--no-default")
	other := s.host.Start("dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root",
		"--address=/one/192.0.2.66", "--log-facility=-")
	_, err := other.WaitLine(s.context(), "started")
	s.must(err)
	s.must(s.daemon.Start())
	s.create(dnsXML)
	s.create(natXML("b", 51, ""))
	one, lease := s.guest("virbr50", "one")
	stranger, _ := s.guest("virbr51", "stranger")
	gate := addr("192.168.50.1")

	s.answers(one.Node, gate, "one", dns.TypeA, dns.RcodeSuccess, lease.Addr.Addr().String())
	s.answers(one.Node, gate, reverse(lease.Addr.Addr()), dns.TypePTR, dns.RcodeSuccess, "one.lab.example.")
	s.answers(stranger.Node, addr("192.168.51.1"), "stranger", dns.TypeA, dns.RcodeSuccess, s.addressOf(stranger))
	s.answers(s.host.Node, s.host.Addr, "one", dns.TypeA, dns.RcodeSuccess, "192.0.2.66") // the other goes on
	s.logs("dnsmasq (process")

	// A restart keeps to the port, and nobody else gets at it.
	s.daemon.Kill9()
	s.must(s.daemon.Start())
	s.nothingToChange("a")
	s.answers(one.Node, gate, "one", dns.TypeA, dns.RcodeSuccess, lease.Addr.Addr().String())
	for _, port := range []uint16{5354, 5355} {
		s.cannotReach(stranger.Node, netip.AddrPortFrom(gate, port))
		s.cannotReach(s.host.Outside.Node, netip.AddrPortFrom(gate, port))
	}
}

func (s *site) addressOf(g *lab.Guest) string {
	s.t.Helper()
	seen, err := g.Configured()
	s.must(err)
	return seen.Addr.Addr().String()
}

// What is served to a network is served to no other.
func TestServicesBelongToTheirNetwork(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	s.create(dnsXML)
	s.create(natXML("b", 51, ""))
	own, _ := s.guest("virbr50", "own")
	stranger, _ := s.guest("virbr51", "stranger")
	s.host.Outside.AddRoute(netip.MustParsePrefix("192.168.50.0/24"), s.host.Addr)
	gate := addr("192.168.50.1")
	for _, c := range []struct {
		node   *lab.Node
		addr   netip.Addr
		served bool
	}{
		{own.Node, addr(s.addressOf(own)), true},
		{stranger.Node, addr(s.addressOf(stranger)), false},
		{s.host.Outside.Node, s.host.Outside.Addr, false},
	} {
		if got := s.resolvedBy(c.node, gate); got != c.served {
			t.Errorf("%s gets an answer from the network's DNS: %v", c.node.Name, got)
		}
		if got := s.informedBy(c.node, c.addr, gate); got != c.served {
			t.Errorf("%s gets an answer from the network's DHCP: %v", c.node.Name, got)
		}
	}
}

// patience is how long an answer that must not come is waited for.
const patience = 700 * time.Millisecond

// resolvedBy tells whether a DNS server answers a question by UDP.
func (s *site) resolvedBy(from *lab.Node, server netip.Addr) bool {
	s.t.Helper()
	conn, err := from.Dial(s.context(), "udp", netip.AddrPortFrom(server, 53))
	s.must(err)
	defer conn.Close()
	q, err := new(dns.Msg).SetQuestion("reserved.lab.example.", dns.TypeA).Pack()
	s.must(err)
	conn.Write(q)
	conn.SetReadDeadline(time.Now().Add(patience))
	_, err = conn.Read(make([]byte, 512))
	return err == nil
}

// informedBy tells whether a DHCP server answers a DHCPINFORM that is sent to
// its address.
func (s *site) informedBy(from *lab.Node, own, server netip.Addr) bool {
	s.t.Helper()
	conn, err := from.ListenPacket(netip.AddrPortFrom(own, 68))
	s.must(err)
	defer conn.Close()
	inform, err := dhcpv4.NewInform(from.MAC("eth0"), net.IP(own.AsSlice()))
	s.must(err)
	_, err = conn.WriteToUDPAddrPort(inform.ToBytes(), netip.AddrPortFrom(server, 67))
	s.must(err)
	conn.SetReadDeadline(time.Now().Add(patience))
	_, _, err = conn.ReadFromUDPAddrPort(make([]byte, 1500))
	return err == nil
}
