package outcome

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/miekg/dns"

	"viaduct/internal/lab"
)

var update = flag.Bool("update", false, "write what was seen into docs/reach.md")

const reachDoc = "../../docs/reach.md"

// reachModes are the kinds of network that the table has a column for.
var reachModes = []struct{ title, forward string }{
	{"NAT", `<forward mode='nat'/>`},
	{"NAT with <nat ipv6='yes'/>", `<forward mode='nat'><nat ipv6='yes'/></forward>`},
	{"NAT with dev='eth0'", `<forward mode='nat' dev='eth0'/>`},
	{"Routed", `<forward mode='route'/>`},
	{"Routed with dev='eth0'", `<forward mode='route' dev='eth0'/>`},
	{"Isolated", ``},
	{"Open", `<forward mode='open'/>`},
}

// reachOthers are the networks whose guests play the strangers.
var reachOthers = []struct{ name, forward string }{
	{"nat", `<forward mode='nat'><nat ipv6='yes'/></forward>`},
	{"routed", `<forward mode='route'/>`},
	{"isolated", ``},
}

// reachPairs are the rows: who tries to reach whom, and in which of
// reachModes it is let through. 4 and 6 say that only that family is.
var reachPairs = []struct {
	from, to string
	service  reachService
	want     string
}{
	{"guest", "second guest", plain, "yes yes yes yes yes yes yes"},
	{"second guest", "guest", plain, "yes yes yes yes yes yes yes"},
	{"guest", "host", plain, "yes yes yes yes yes yes yes"},
	{"guest", "host", dnsService, "yes yes yes yes yes yes yes"},
	{"guest", "host", dhcpService, "yes yes yes yes yes yes yes"},
	{"guest", "uplink", plain, "yes yes yes yes yes yes yes"},
	{"guest", "outside", plain, "yes yes yes yes yes no yes"},
	{"guest", "nat guest", plain, "no no no no no no no"},
	{"guest", "routed guest", plain, "yes yes no yes no no yes"},
	{"guest", "isolated guest", plain, "no no no no no no no"},
	{"host", "guest", plain, "yes yes yes yes yes yes yes"},
	{"host", "host", dnsService, "yes yes yes yes yes yes yes"},
	{"outside", "guest", plain, "6 no 6 yes yes no yes"},
	{"outside", "host", plain, "yes yes yes yes yes yes yes"},
	{"outside", "host", dnsService, "no no no no no no no"},
	{"outside", "host", dhcpService, "no no no no no no no"},
	{"nat guest", "guest", plain, "6 no no yes no no yes"},
	{"nat guest", "host", plain, "yes yes yes yes yes yes yes"},
	{"nat guest", "host", dnsService, "no no no no no no no"},
	{"nat guest", "host", dhcpService, "no no no no no no no"},
	{"routed guest", "guest", plain, "6 no no yes no no yes"},
	{"routed guest", "host", plain, "yes yes yes yes yes yes yes"},
	{"routed guest", "host", dnsService, "no no no no no no no"},
	{"routed guest", "host", dhcpService, "no no no no no no no"},
	{"isolated guest", "guest", plain, "no no no no no no no"},
	{"isolated guest", "host", plain, "yes yes yes yes yes yes yes"},
	{"isolated guest", "host", dnsService, "no no no no no no no"},
	{"isolated guest", "host", dhcpService, "no no no no no no no"},
}

// reachNames are what the table calls those who take part.
var reachNames = map[string]string{
	"guest": "guest", "second guest": "second guest", "host": "host", "outside": "outside",
	"uplink": "host's uplink address", "nat guest": "guest of a NAT network",
	"routed guest": "guest of a routed network", "isolated guest": "guest of an isolated network",
}

// reachService is what is asked for at the other end.
type reachService string

const (
	plain       reachService = ""
	dnsService  reachService = "DNS at "
	dhcpService reachService = "DHCP at "
)

const (
	reachPort = 8080
	// allowedPatience is for what is let through, which ends when it has come;
	// forbiddenPatience is waited for in full where packets vanish.
	allowedPatience   = 10 * time.Second
	forbiddenPatience = time.Second
)

// party is somebody who takes part: a node, and its address of each family.
type party struct {
	node  *lab.Node
	addrs [2]netip.Addr
}

var families = [2]string{"IPv4", "IPv6"}

// world is one host with networks of all kinds, each with guests.
type world struct {
	*site
	shared  map[string]party
	parties []map[string]party // by the index of the mode
	asking  map[*lab.Node]*sync.Mutex
}

// subnetsOf are the subnets of xml6.
func subnetsOf(n int) [2]netip.Prefix {
	return [2]netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("192.168.%d.0/24", n)), netip.MustParsePrefix(fmt.Sprintf("fd00:%d::/64", n))}
}

func newWorld(t *testing.T, bridgeFirewalling string) *world {
	s := startSite(t)
	for _, name := range []string{"iptables", "ip6tables"} {
		s.host.SetSysctl("net.bridge.bridge-nf-call-"+name, bridgeFirewalling)
	}
	s.host.ServeEcho(reachPort)
	s.host.Outside.ServeEcho(reachPort)
	w := &world{site: s, shared: map[string]party{
		"outside": {s.host.Outside.Node, [2]netip.Addr{s.host.Outside.Addr, s.host.Outside.Addr6}},
		"uplink":  {s.host.Node, [2]netip.Addr{s.host.Addr, s.host.Addr6}},
	}, asking: map[*lab.Node]*sync.Mutex{s.host.Node: {}, s.host.Outside.Node: {}}}

	guests := map[string]*lab.Guest{}
	network := func(name string, n int, forward string, guestNames ...string) {
		s.create(xml6(name, n, forward))
		for i, p := range subnetsOf(n) {
			// Everybody knows the way: what does not arrive is kept from arriving.
			s.host.Outside.AddRoute(p, [2]netip.Addr{s.host.Addr, s.host.Addr6}[i])
		}
		for _, g := range guestNames {
			guests[g] = s.PlugGuest(s.host.Node, fmt.Sprintf("virbr%d", n), g)
			guests[g].ServeEcho(reachPort)
			w.asking[guests[g].Node] = &sync.Mutex{}
		}
	}
	for i, m := range reachModes {
		network(fmt.Sprintf("net%d", i), 50+i, m.forward, fmt.Sprintf("one%d", i), fmt.Sprintf("two%d", i))
	}
	for i, o := range reachOthers {
		network(o.name, 80+i, o.forward, o.name)
	}
	var leasing sync.WaitGroup
	errs := make(chan error, len(guests))
	for _, g := range guests {
		leasing.Go(func() {
			_, err := g.DHCP(s.context(), lab.Builtin)
			errs <- err
		})
	}
	leasing.Wait()
	for range guests {
		s.must(<-errs)
	}
	guest := func(name string, n int, isolated bool) party {
		g, seen := guests[name], netip.Addr{}
		for _, a := range g.Addrs("eth0") {
			if a.Addr().Is4() {
				seen = a.Addr()
			}
		}
		p := party{g.Node, [2]netip.Addr{seen, s.address6(g, subnetsOf(n)[1].String())}}
		if isolated {
			for i, gate := range gatesOf(n) {
				g.AddRoute(netip.PrefixFrom([2]netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}[i], 0), gate)
			}
		}
		return p
	}
	for i, o := range reachOthers {
		w.shared[o.name+" guest"] = guest(o.name, 80+i, o.forward == "")
	}
	for i, m := range reachModes {
		n, isolated := 50+i, m.forward == ""
		w.parties = append(w.parties, map[string]party{
			"guest": guest(fmt.Sprintf("one%d", i), n, isolated), "second guest": guest(fmt.Sprintf("two%d", i), n, isolated),
			"host": {s.host.Node, gatesOf(n)},
		})
	}
	return w
}

// gatesOf are the host's addresses in the network of xml6.
func gatesOf(n int) [2]netip.Addr {
	s := subnetsOf(n)
	return [2]netip.Addr{s[0].Addr().Next(), s[1].Addr().Next()}
}

func (w *world) party(mode int, name string) party {
	if p, ok := w.shared[name]; ok {
		return p
	}
	return w.parties[mode][name]
}

// probe says how far from gets with what it asks for: "yes", "no", or by
// which protocol alone.
func (w *world) probe(from, to party, family int, service reachService, patience time.Duration) string {
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	target := to.addrs[family]
	ask := func() error { return w.ask(ctx, from.node, "udp", target) }
	other, names := func() error { return w.ask(ctx, from.node, "tcp", target) }, [2]string{"UDP", "TCP"}
	switch service {
	case plain:
		ask, names = func() error { return from.node.Ping(ctx, target) }, [2]string{"ping", "TCP"}
		other = func() error { return from.node.Reach(ctx, netip.AddrPortFrom(target, reachPort)) }
	case dhcpService:
		if w.inform(from, target, family, patience) == nil {
			return "yes"
		}
		return "no"
	}
	first := make(chan error, 1)
	go func() { first <- ask() }()
	second := other()
	switch one, two := <-first == nil, second == nil; {
	case one && two:
		return "yes"
	case one:
		return names[0] + " only"
	case two:
		return names[1] + " only"
	}
	return "no"
}

// ask puts a question to a DNS server.
func (w *world) ask(ctx context.Context, from *lab.Node, network string, server netip.Addr) error {
	conn, err := from.Dial(ctx, network, netip.AddrPortFrom(server, 53))
	if err != nil {
		return err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)
	wire := &dns.Conn{Conn: conn}
	if err := wire.WriteMsg(new(dns.Msg).SetQuestion("nobody.", dns.TypeA)); err != nil {
		return err
	}
	_, err = wire.ReadMsg()
	return err
}

// inform asks a DHCP server for options, as a client that has its address does.
// DHCPv6 clients ask the group of all servers on their link, which only the
// network's own guests are on; strangers try the server's address.
func (w *world) inform(from party, server netip.Addr, family int, patience time.Duration) error {
	lock := w.asking[from.node]
	lock.Lock() // clients have one port
	defer lock.Unlock()
	mac := from.node.MAC("eth0")
	local, remote := netip.AddrPortFrom(from.addrs[0], 68), netip.AddrPortFrom(server, 67)
	var message []byte
	if family == 0 {
		m, err := dhcpv4.NewInform(mac, net.IP(from.addrs[0].AsSlice()))
		if err != nil {
			return err
		}
		message = m.ToBytes()
	} else {
		m, err := dhcpv6.NewMessage(dhcpv6.WithClientID(&dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: mac}),
			dhcpv6.WithRequestedOptions(dhcpv6.OptionDNSRecursiveNameServer))
		if err != nil {
			return err
		}
		m.MessageType = dhcpv6.MessageTypeInformationRequest
		message = m.ToBytes()
		local, remote = netip.AddrPortFrom(from.addrs[1], 546), netip.AddrPortFrom(server, 547)
		if subnet, _ := from.addrs[1].Prefix(64); subnet.Contains(server) {
			remote = netip.AddrPortFrom(netip.MustParseAddr("ff02::1:2%eth0"), 547)
		}
	}
	conn, err := from.node.ListenPacket(local)
	if err != nil {
		return err
	}
	defer conn.Close()
	// The zone of the address is looked up where the sender is.
	err = from.node.Do(func() error {
		_, err := conn.WriteToUDPAddrPort(message, remote)
		return err
	})
	if err != nil {
		return err
	}
	conn.SetReadDeadline(time.Now().Add(patience))
	_, _, err = conn.ReadFromUDPAddrPort(make([]byte, 1500))
	return err
}

// expected is what a row wants for one mode and family.
func expected(want string, mode, family int) string {
	switch w := strings.Fields(want)[mode]; w {
	case "4", "6":
		if (w == "4") == (family == 0) {
			return "yes"
		}
		return "no"
	default:
		return w
	}
}

// reachCell is one row in one mode and family.
type reachCell struct{ row, mode, family int }

// maxProbes bounds how many probes run at a time.
const maxProbes = 48

// reach tries all rows and returns what was seen.
func reach(t *testing.T, bridgeFirewalling string) map[reachCell]string {
	w := newWorld(t, bridgeFirewalling)
	seen, places := map[reachCell]string{}, make(chan struct{}, maxProbes)
	var mu sync.Mutex
	var probing sync.WaitGroup
	for row, p := range reachPairs {
		for mode := range reachModes {
			for family := range families {
				probing.Go(func() {
					places <- struct{}{}
					defer func() { <-places }()
					patience := forbiddenPatience
					if expected(p.want, mode, family) == "yes" {
						patience = allowedPatience
					}
					got := w.probe(w.party(mode, p.from), w.party(mode, p.to), family, p.service, patience)
					mu.Lock()
					defer mu.Unlock()
					seen[reachCell{row, mode, family}] = got
				})
			}
		}
	}
	probing.Wait()
	for row, p := range reachPairs {
		for mode, m := range reachModes {
			for family, name := range families {
				if want, got := expected(p.want, mode, family), seen[reachCell{row, mode, family}]; got != want {
					t.Errorf("%s, %s: %s to %s%s: seen %s, want %s", m.title, name, p.from, p.service, p.to, got, want)
				}
			}
		}
	}
	return seen
}

// TestReach tries who reaches whom in networks of all modes, and keeps
// docs/reach.md true.
func TestReach(t *testing.T) {
	seen := make([]map[reachCell]string, len(bridgeFirewalling))
	t.Run("with", func(t *testing.T) {
		for i, v := range bridgeFirewalling {
			t.Run("bridge-nf-call-iptables="+v, func(t *testing.T) {
				t.Parallel()
				seen[i] = reach(t, v)
			})
		}
	})
	if t.Failed() {
		return
	}
	text := reachText(seen)
	if *update {
		if err := os.WriteFile(reachDoc, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(reachDoc)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(have), text); diff != "" {
		t.Errorf("docs/reach.md is not what was seen (-doc +seen), -update writes it:\n%s", diff)
	}
}

// reachText is docs/reach.md.
func reachText(seen []map[reachCell]string) string {
	var s strings.Builder
	s.WriteString(reachHead)
	for mode, m := range reachModes {
		fmt.Fprintf(&s, "\n## %s\n\n| from | to |", m.title)
		for _, f := range families {
			fmt.Fprintf(&s, " %s expected | seen, 0 | seen, 1 |", f)
		}
		s.WriteString("\n|" + strings.Repeat("---|", 2+3*len(families)) + "\n")
		for row, p := range reachPairs {
			fmt.Fprintf(&s, "| %s | %s%s |", reachNames[p.from], p.service, reachNames[p.to])
			for family := range families {
				cell := reachCell{row, mode, family}
				fmt.Fprintf(&s, " %s | %s | %s |", expected(p.want, mode, family), seen[0][cell], seen[1][cell])
			}
			s.WriteString("\n")
		}
	}
	return s.String()
}

const reachHead = `# Who reaches whom

Written by a test, ` + "`go test ./test/outcome -run TestReach -update`" + `, which tries each row on a real kernel. It does so on a
host where frames between two guests of one network go past the IP rules (bridge-nf-call-iptables and -ip6tables 0) and on one
where they go through them (1); the columns "seen" are for these two.

"Yes" means that both a TCP connection and a ping succeed; for a service, that it answers. The host has no firewall of its own here,
so rows about other things than services at the host say what Viaduct leaves to that. The outside has routes to all networks, and
guests of isolated networks have given themselves a default route, so what is not reached is kept from being reached. "Host" is its
address in the network that the table is about; guests of other networks are in networks beside it, of which the NAT one translates
IPv6 too.
`
