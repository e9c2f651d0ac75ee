package dhcp4

import (
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"viaduct/internal/guestsvc/guestsvctest"
	"viaduct/internal/guestsvc/leases"
	"viaduct/internal/guestsvc/pool"
	"viaduct/internal/netdef"
)

// known is what a server knows when a message arrives.
type known struct {
	leases      []netdef.Lease
	offered     map[string]byte // address to guest, not probed yet
	ready       map[string]byte // address to guest, offer sent
	quarantined []string
	after       time.Duration // time that passed since
}

func (k known) state(t *testing.T, c Config) (*state, time.Time) {
	t.Helper()
	now := start.Add(k.after)
	table := leases.New(&guestsvctest.Journal{}, k.leases, func() time.Time { return now }).Table(network)
	s := testSettings(t, c)
	table.ReserveNames(leases.IPv4, s.reserved)
	p := newState(s, table, start)
	for a, n := range k.offered {
		p.Offer(addr(a), leases.ClientKey(nil, guest(n)), start)
	}
	for a, n := range k.ready {
		p.Offer(addr(a), leases.ClientKey(nil, guest(n)), start).Ready = true
	}
	for _, a := range k.quarantined {
		p.Quarantine(addr(a), start)
	}
	p.Expire(now)
	return p, now
}

// fresh is the address that guest 1 gets if nothing else decides.
const fresh = "192.168.122.6"

// TestRFC2131Section43 has a row for every case that section 4.3 tells apart,
// and for what it leaves to the server.
func TestRFC2131Section43(t *testing.T) {
	const (
		us    = "192.168.122.1"
		other = "192.168.122.9"
	)
	five := func(left time.Duration) known {
		return known{leases: []netdef.Lease{lease("192.168.122.5", guest(1), left)}}
	}
	taken := known{leases: []netdef.Lease{lease("192.168.122.5", guest(2), time.Hour)}}
	var full []netdef.Lease
	for _, n := range []byte{2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20} {
		l := lease("192.168.122.2", guest(100+n), time.Hour)
		for range n - 2 {
			l.Addr = l.Addr.Next()
		}
		full = append(full, l)
	}
	var ended []netdef.Lease
	for i, l := range full {
		l.Expiry = start.Add(-time.Duration(i+1) * time.Minute)
		if l.Addr == addr("192.168.122.15") {
			l.Expiry = start.Add(-time.Hour)
		}
		ended = append(ended, l)
	}
	in := func(mods ...mod) []mod { return mods }

	for _, c := range []struct {
		name  string
		known known
		kind  dhcpv4.MessageType
		from  byte
		mods  []mod
		want  string // the verdict, "probe" after it if it needs one
	}{
		// 4.3.1 DHCPDISCOVER
		{"discover: new client", known{}, discover, 1, nil, "offer " + fresh + " probe"},
		{"discover: the address of the current lease", five(time.Hour), discover, 1, nil, "offer 192.168.122.5"},
		{"discover: the address of a lease that ended", five(-time.Hour), discover, 1, nil, "offer 192.168.122.5"},
		{"discover: the former address was given away", known{leases: []netdef.Lease{
			lease("192.168.122.5", guest(1), -time.Hour), lease("192.168.122.5", guest(2), time.Hour)}},
			discover, 1, nil, "offer " + fresh + " probe"},
		{"discover: the former address is offered to another", known{
			leases: []netdef.Lease{lease("192.168.122.5", guest(1), -time.Hour)}, ready: map[string]byte{"192.168.122.5": 2}},
			discover, 1, nil, "offer " + fresh + " probe"},
		{"discover: the former address is out of range now", known{leases: []netdef.Lease{lease("192.168.122.99", guest(1), time.Hour)}},
			discover, 1, nil, "offer " + fresh + " probe"},
		{"discover: the wished address, free", known{}, discover, 1, in(requested("192.168.122.7")), "offer 192.168.122.7 probe"},
		{"discover: the wished address is taken", taken, discover, 1, in(requested("192.168.122.5")), "offer " + fresh + " probe"},
		{"discover: the wished address is off-subnet", known{}, discover, 1, in(requested("10.0.0.5")), "offer " + fresh + " probe"},
		{"discover: the wished address is ours", known{}, discover, 1, in(requested(us)), "offer " + fresh + " probe"},
		{"discover: the wished address is reserved for another", known{}, discover, 1, in(requested("192.168.122.10")), "offer " + fresh + " probe"},
		{"discover: the wished address is quarantined", known{quarantined: []string{"192.168.122.7"}}, discover, 1,
			in(requested("192.168.122.7")), "offer " + fresh + " probe"},
		{"discover: current lease before the wish", five(time.Hour), discover, 1, in(requested("192.168.122.7")), "offer 192.168.122.5"},
		{"discover: said again after our offer", known{ready: map[string]byte{"192.168.122.8": 1}}, discover, 1, nil, "offer 192.168.122.8"},
		{"discover: said again while its address is probed", known{offered: map[string]byte{"192.168.122.8": 1}}, discover, 1, nil,
			"offer 192.168.122.8 probe"},
		{"discover: said again after the offer ended", known{ready: map[string]byte{"192.168.122.8": 1}, after: pool.OfferTime}, discover, 1, nil,
			"offer " + fresh + " probe"},
		{"discover: reservation by mac", known{}, discover, 50, nil, "offer 192.168.122.50 probe"},
		{"discover: reservation by mac, had it before", known{leases: []netdef.Lease{lease("192.168.122.50", guest(50), -time.Hour)}},
			discover, 50, nil, "offer 192.168.122.50"},
		{"discover: reservation by client id", known{}, discover, 1, in(clientID(0, 'i', 'd')), "offer 192.168.122.51 probe"},
		{"discover: reservation by name", known{}, discover, 1, in(named("NAMED")), "offer 192.168.122.52 probe"},
		{"discover: reservation before the current lease", known{leases: []netdef.Lease{lease("192.168.122.5", guest(50), time.Hour)}},
			discover, 50, nil, "offer 192.168.122.50 probe"},
		{"discover: somebody leases the reserved address", known{leases: []netdef.Lease{lease("192.168.122.10", guest(1), time.Hour)}},
			discover, 10, nil, "offer 192.168.122.11 probe"},
		{"discover: the reserved address is quarantined", known{quarantined: []string{"192.168.122.10"}}, discover, 10, nil,
			"offer 192.168.122.11 probe"},
		{"discover: the name of a reservation, its address is leased to another", known{
			leases: []netdef.Lease{lease("192.168.122.52", guest(9), time.Hour)}}, discover, 1, in(named("named")), "offer " + fresh + " probe"},
		{"discover: pool exhausted", known{leases: full}, discover, 1, nil, "nothing (no free address)"},
		{"discover: no address unused, the one free for longest", known{leases: ended}, discover, 1, nil, "offer 192.168.122.15 probe"},
		{"discover: two clients by identifier behind one mac", five(time.Hour), discover, 1, in(clientID(0, 7)), "offer " + fresh + " probe"},
		{"discover: identifier made of the mac", five(time.Hour), discover, 1, in(clientID(1, 0x52, 0x54, 0, 0, 0, 1)), "offer 192.168.122.5"},
		{"discover: relayed within the subnet", known{}, discover, 1, in(giaddr("192.168.122.7")), "offer " + fresh + " probe"},
		{"discover: relayed from elsewhere", known{}, discover, 1, in(giaddr("10.0.0.1")), "nothing (relayed from another subnet)"},

		// 4.3.2 DHCPREQUEST, SELECTING
		{"selecting: our offer", known{ready: map[string]byte{"192.168.122.8": 1}}, request, 1,
			in(server(us), requested("192.168.122.8")), "ack 192.168.122.8"},
		{"selecting: another server, our offer withdrawn", known{ready: map[string]byte{"192.168.122.8": 1}}, request, 1,
			in(server(other), requested("192.168.122.8")), "withdraw 192.168.122.8 (client chose another server)"},
		{"selecting: another server, no offer", known{}, request, 1, in(server(other), requested("10.0.0.8")),
			"nothing (client chose another server)"},
		{"selecting: offer forgotten, address free", known{}, request, 1, in(server(us), requested("192.168.122.8")), "ack 192.168.122.8"},
		{"selecting: offer ended, address leased to another", taken, request, 1, in(server(us), requested("192.168.122.5")),
			"nak 192.168.122.5 (address is taken)"},
		{"selecting: the offer of another client", known{ready: map[string]byte{"192.168.122.8": 2}}, request, 1,
			in(server(us), requested("192.168.122.8")), "nak 192.168.122.8 (address is taken)"},
		{"selecting: not the address that was offered, but free", known{ready: map[string]byte{"192.168.122.8": 1}}, request, 1,
			in(server(us), requested("192.168.122.7")), "ack 192.168.122.7"},
		{"selecting: address of another subnet", known{}, request, 1, in(server(us), requested("10.0.0.8")),
			"nak 10.0.0.8 (address is of another subnet)"},
		{"selecting: our own address", known{}, request, 1, in(server(us), requested(us)), "nak 192.168.122.1 (address is not for guests)"},
		{"selecting: the broadcast address", known{}, request, 1, in(server(us), requested("192.168.122.255")),
			"nak 192.168.122.255 (address is not for guests)"},
		{"selecting: the reservation of another", known{}, request, 1, in(server(us), requested("192.168.122.50")),
			"nak 192.168.122.50 (address is reserved for another guest)"},
		{"selecting: without an address", known{}, request, 1, in(server(us)), "nothing (request for no address)"},

		// 4.3.2 DHCPREQUEST, INIT-REBOOT
		{"init-reboot: its lease", five(time.Hour), request, 1, in(requested("192.168.122.5")), "ack 192.168.122.5"},
		{"init-reboot: its lease ended, still free", five(-time.Hour), request, 1, in(requested("192.168.122.5")), "ack 192.168.122.5"},
		{"init-reboot: another address than its lease, free", five(time.Hour), request, 1, in(requested("192.168.122.6")), "ack 192.168.122.6"},
		{"init-reboot: unknown client, free address", known{}, request, 1, in(requested("192.168.122.6")), "ack 192.168.122.6"},
		{"init-reboot: address taken", taken, request, 1, in(requested("192.168.122.5")), "nak 192.168.122.5 (address is taken)"},
		{"init-reboot: address offered to another", known{ready: map[string]byte{"192.168.122.5": 2}}, request, 1,
			in(requested("192.168.122.5")), "nak 192.168.122.5 (address is taken)"},
		{"init-reboot: wrong subnet", known{}, request, 1, in(requested("192.168.1.5")), "nak 192.168.1.5 (address is of another subnet)"},
		{"init-reboot: outside the ranges", known{}, request, 1, in(requested("192.168.122.99")),
			"nak 192.168.122.99 (address is not in a range for guests)"},
		{"init-reboot: its reservation, no lease known", known{}, request, 50, in(requested("192.168.122.50")), "ack 192.168.122.50"},
		{"init-reboot: has a reservation elsewhere now", known{leases: []netdef.Lease{lease("192.168.122.5", guest(50), time.Hour)}},
			request, 50, in(requested("192.168.122.5")), "nak 192.168.122.5 (another address is reserved for the guest)"},
		{"init-reboot: quarantined", known{quarantined: []string{"192.168.122.6"}}, request, 1, in(requested("192.168.122.6")),
			"nak 192.168.122.6 (address is taken)"},

		// 4.3.2 DHCPREQUEST, RENEWING and REBINDING, which differ only in how the frame is addressed
		{"renewing: its lease", five(time.Minute), request, 1, in(ciaddr("192.168.122.5")), "ack 192.168.122.5"},
		{"renewing: lease lost, address free", known{}, request, 1, in(ciaddr("192.168.122.5")), "ack 192.168.122.5"},
		{"renewing: lease lost, only offered to another", known{ready: map[string]byte{"192.168.122.5": 2}}, request, 1,
			in(ciaddr("192.168.122.5")), "ack 192.168.122.5"},
		{"renewing: leased to another", taken, request, 1, in(ciaddr("192.168.122.5")), "nak 192.168.122.5 (address is taken)"},
		{"renewing: reservation, lease lost", known{}, request, 1, in(ciaddr("192.168.122.51"), clientID(0, 'i', 'd')), "ack 192.168.122.51"},
		{"renewing: address got reserved for another", known{leases: []netdef.Lease{lease("192.168.122.10", guest(1), time.Hour)}},
			request, 1, in(ciaddr("192.168.122.10")), "nak 192.168.122.10 (address is reserved for another guest)"},
		{"renewing: reserved address not to be had, keeps its own", known{leases: []netdef.Lease{
			lease("192.168.122.5", guest(50), time.Hour), lease("192.168.122.50", guest(9), time.Hour)}},
			request, 50, in(ciaddr("192.168.122.5")), "ack 192.168.122.5"},
		{"renewing: another subnet", known{}, request, 1, in(ciaddr("10.0.0.5")), "nak 10.0.0.5 (address is of another subnet)"},
		{"rebinding: lease of another server, address free", known{}, request, 1, in(ciaddr("192.168.122.6"), broadcastFlag), "ack 192.168.122.6"},

		// 4.3.3 DHCPDECLINE
		{"decline: its lease", five(time.Hour), decline, 1, in(server(us), requested("192.168.122.5")),
			"quarantine 192.168.122.5 (declined by the client)"},
		{"decline: an offer to it", known{ready: map[string]byte{"192.168.122.8": 1}}, decline, 1, in(server(us), requested("192.168.122.8")),
			"quarantine 192.168.122.8 (declined by the client)"},
		{"decline: the lease of another", taken, decline, 1, in(server(us), requested("192.168.122.5")),
			"nothing (decline of an address that the client does not have)"},
		{"decline: a free address", known{}, decline, 1, in(server(us), requested("192.168.122.5")),
			"nothing (decline of an address that the client does not have)"},
		{"decline: to another server", five(time.Hour), decline, 1, in(server(other), requested("192.168.122.5")), "nothing (for another server)"},

		// 4.3.4 DHCPRELEASE
		{"release: its lease", five(time.Hour), released, 1, in(server(us), ciaddr("192.168.122.5")), "release 192.168.122.5"},
		{"release: the lease of another", taken, released, 1, in(server(us), ciaddr("192.168.122.5")),
			"nothing (release of an address that the client does not have)"},
		{"release: already ended", five(-time.Hour), released, 1, in(server(us), ciaddr("192.168.122.5")),
			"nothing (release of an address that the client does not have)"},
		{"release: to another server", five(time.Hour), released, 1, in(server(other), ciaddr("192.168.122.5")), "nothing (for another server)"},

		// 4.3.5 DHCPINFORM
		{"inform: with an address", known{}, inform, 1, in(ciaddr("192.168.122.200")), "inform 192.168.122.200"},
		{"inform: without an address", known{}, inform, 1, nil, "nothing (inform without an address in this subnet)"},
		{"inform: off-subnet", known{}, inform, 1, in(ciaddr("10.0.0.200")), "nothing (inform without an address in this subnet)"},

		// Not for servers.
		{"offer", known{}, dhcpv4.MessageTypeOffer, 1, nil, "nothing (no message for a server)"},
		{"ack", known{}, dhcpv4.MessageTypeAck, 1, nil, "nothing (no message for a server)"},
		{"unknown type", known{}, dhcpv4.MessageType(77), 1, nil, "nothing (no message for a server)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, now := c.known.state(t, testConfig())
			v := decide(p, parse(t, packet(t, c.kind, guest(c.from), c.mods...)), now)
			got := v.String()
			if v.probe {
				got += " probe"
			}
			if got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestLeaseTimes(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Config)
		from   byte
		mods   []mod
		want   time.Duration
	}{
		{"default", func(*Config) {}, 1, nil, time.Hour},
		{"configured", func(c *Config) { c.Lease = 10 * time.Minute }, 1, nil, 10 * time.Minute},
		{"of the range", func(c *Config) { c.Ranges[0].Lease = 5 * time.Minute }, 1, nil, 5 * time.Minute},
		{"range for ever", func(c *Config) { c.Ranges[0].Infinite = true }, 1, nil, 0},
		{"of the reservation", func(c *Config) { c.Hosts[0].Lease = time.Minute }, 50, nil, time.Minute},
		{"reservation for ever", func(c *Config) { c.Hosts[0].Infinite = true }, 50, nil, 0},
		{"reservation in a range with a time", func(c *Config) { c.Ranges[0].Lease = 5 * time.Minute }, 10, nil, 5 * time.Minute},
		{"longer than the wire can say", func(c *Config) { c.Lease = 200 * 365 * 24 * time.Hour }, 1, nil, 0},
		{"client asks for less", func(*Config) {}, 1, []mod{leaseTime(10 * time.Minute)}, 10 * time.Minute},
		{"client asks for too little", func(*Config) {}, 1, []mod{leaseTime(time.Second)}, minRequested},
		{"client asks for more", func(*Config) {}, 1, []mod{leaseTime(24 * time.Hour)}, time.Hour},
		{"client asks for ever", func(*Config) {}, 1, []mod{rawOption(51, 255, 255, 255, 255)}, time.Hour},
		{"short lease, client asks for less", func(c *Config) { c.Lease = time.Minute }, 1, []mod{leaseTime(time.Second)}, time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := testConfig()
			c.change(&config)
			p, now := known{}.state(t, config)
			v := decide(p, parse(t, packet(t, discover, guest(c.from), c.mods...)), now)
			if v.action != actOffer || v.lease != c.want {
				t.Errorf("%v for %v, want an offer for %v", v, v.lease, c.want)
			}
		})
	}
}

func TestNames(t *testing.T) {
	web := lease("192.168.122.5", guest(5), time.Hour)
	web.Hostname = "web"
	for _, c := range []struct {
		name string
		from byte
		mods []mod
		want string
	}{
		{"none", 1, nil, ""},
		{"its own", 1, []mod{named("db")}, "db"},
		{"with a domain", 1, []mod{named("db.example.org")}, "db"},
		{"with the NUL that some send", 1, []mod{named("db\x00")}, "db"},
		{"taken by another guest", 1, []mod{named("Web")}, ""},
		{"reserved for another guest", 1, []mod{named("fifty")}, ""},
		{"of the reservation", 50, []mod{named("db")}, "fifty"},
		{"reservation without a name", 10, []mod{named("db")}, "db"},
		{"invalid character", 1, []mod{named("d_b")}, ""},
		{"shell words", 1, []mod{named("$(reboot)")}, ""},
		{"leading hyphen", 1, []mod{named("-db")}, ""},
		{"trailing hyphen", 1, []mod{named("db-")}, ""},
		{"too long", 1, []mod{named(strings.Repeat("a", 64))}, ""},
		{"longest", 1, []mod{named(strings.Repeat("a", 63))}, strings.Repeat("a", 63)},
		{"localhost", 1, []mod{named("localhost")}, ""},
		{"web proxy discovery", 1, []mod{named("WPAD")}, ""},
		{"option 81, ASCII", 1, []mod{rawOption(81, append([]byte{0, 0, 0}, "db.example.org"...)...)}, "db"},
		{"option 81, wire form", 1, []mod{rawOption(81, append([]byte{fqdnWire, 0, 0, 2}, "db\x07example\x03org\x00"...)...)}, "db"},
		{"option 81, wire form cut short", 1, []mod{rawOption(81, fqdnWire, 0, 0, 9, 'd', 'b')}, ""},
		{"option 81 without a name", 1, []mod{rawOption(81, 0, 0, 0), named("db")}, "db"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, now := known{leases: []netdef.Lease{web}}.state(t, testConfig())
			v := decide(p, parse(t, packet(t, discover, guest(c.from), c.mods...)), now)
			if v.action != actOffer || v.name != c.want {
				t.Errorf("%v with name %q, want an offer with %q", v, v.name, c.want)
			}
		})
	}
}

// TestDestination is the table of RFC 2131 section 4.1.
func TestDestination(t *testing.T) {
	const offered = "192.168.122.5"
	relay := netdef.MAC{2, 2, 2, 2, 2, 2}
	for _, c := range []struct {
		name string
		mods []mod
		act  action
		mac  netdef.MAC
		to   string
	}{
		{"offer", nil, actOffer, guest(1), offered + ":68"},
		{"offer, broadcast flag", []mod{broadcastFlag}, actOffer, broadcastMAC, "255.255.255.255:68"},
		{"ack of a selection", nil, actAck, guest(1), offered + ":68"},
		{"ack, broadcast flag", []mod{broadcastFlag}, actAck, broadcastMAC, "255.255.255.255:68"},
		{"ack of a renewal", []mod{ciaddr(offered)}, actAck, guest(1), offered + ":68"},
		{"ack of a renewal, broadcast flag", []mod{ciaddr(offered), broadcastFlag}, actAck, guest(1), offered + ":68"},
		{"ack of an inform", []mod{ciaddr("192.168.122.200")}, actInform, guest(1), "192.168.122.200:68"},
		{"nak", nil, actNak, broadcastMAC, "255.255.255.255:68"},
		{"nak of a renewal", []mod{ciaddr(offered)}, actNak, broadcastMAC, "255.255.255.255:68"},
		{"relayed", []mod{giaddr("192.168.122.7")}, actOffer, relay, "192.168.122.7:67"},
		{"nak, relayed", []mod{giaddr("192.168.122.7")}, actNak, relay, "192.168.122.7:67"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := parse(t, packet(t, request, guest(1), c.mods...))
			m.from = relay
			mac, to := destination(m, verdict{action: c.act, addr: addr(offered)})
			if mac != c.mac || to.String() != c.to {
				t.Errorf("to %v at %v, want %v at %v", to, mac, c.to, c.mac)
			}
		})
	}
}
