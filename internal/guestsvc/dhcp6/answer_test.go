package dhcp6

import (
	"errors"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"

	"viaduct/internal/guestsvc/guestsvctest"
	"viaduct/internal/guestsvc/leases"
	"viaduct/internal/guestsvc/pool"
	"viaduct/internal/netdef"
)

// known is what a server knows when a message arrives.
type known struct {
	leases      []netdef.Lease
	offered     map[string]byte // address to guest
	quarantined []string
	after       time.Duration // time that passed since
}

func (k known) state(t testing.TB, c Config) (*state, time.Time) {
	t.Helper()
	now := start.Add(k.after)
	table := leases.New(&guestsvctest.Journal{}, k.leases, func() time.Time { return now }).Table(network)
	s := testSettings(t, c)
	table.ReserveNames(leases.IPv6, s.reserved)
	p := newState(s, table, start)
	for a, n := range k.offered {
		p.Offer(addr(a), leases.DUIDKey(duid(n), 1), start)
	}
	for _, a := range k.quarantined {
		p.Quarantine(addr(a), start)
	}
	p.Expire(now)
	return p, now
}

// fresh is what guest 1 gets if nothing else decides, fresh2 what its
// second association gets.
const (
	fresh  = "2001:db8:7::19"
	fresh2 = "2001:db8:7::6"
)

// TestRFC8415Section183 has a row for every case that sections 18.3 and 16 tell
// apart, by the client's state and what the server knows, and for what they
// leave to the server.
func TestRFC8415Section183(t *testing.T) {
	const (
		us      = "2001:db8:7::1"
		free    = "2001:db8:7::7"
		held    = "2001:db8:7::5"
		outside = "2001:db8:7::99" // on the link, in no range
		foreign = "2001:db8:8::5"
	)
	five := func(left time.Duration) known { return known{leases: []netdef.Lease{lease(held, 1, left)}} }
	taken := known{leases: []netdef.Lease{lease(held, 2, time.Hour)}}
	offered := known{offered: map[string]byte{free: 1}}
	var full, ended []netdef.Lease
	for i, a := byte(0), addr(us).Next(); i < 31; i, a = i+1, a.Next() {
		if a == addr("2001:db8:7::10") {
			continue
		}
		full = append(full, lease(a.String(), 100+i, time.Hour))
		left := -time.Minute
		if a == addr("2001:db8:7::15") {
			left = -time.Hour
		}
		ended = append(ended, lease(a.String(), 100+i, left))
	}
	in := func(mods ...mod) []mod { return mods }
	ours := server(ourDUID)
	other := server([]byte{0, 4, 'o', 't', 'h', 'e', 'r'})

	for _, c := range []struct {
		name  string
		known known
		kind  dhcpv6.MessageType
		from  byte
		mods  []mod
		want  string
	}{
		// 18.3.1 Solicit
		{"solicit: new client", known{}, solicit, 1, in(na(1)), "advertise; 1 gets " + fresh},
		{"solicit: no association", known{}, solicit, 1, nil, "advertise"},
		{"solicit: the current lease", five(time.Hour), solicit, 1, in(na(1)), "advertise; 1 gets " + held},
		{"solicit: a lease that ended", five(-time.Hour), solicit, 1, in(na(1)), "advertise; 1 gets " + held},
		{"solicit: the lease of another association", five(time.Hour), solicit, 1, in(na(2)), "advertise; 2 gets " + fresh2},
		{"solicit: two associations at once", known{}, solicit, 1, in(na(1), na(2)), "advertise; 1 gets " + fresh + "; 2 gets " + fresh2},
		{"solicit: two associations, one address left", known{leases: full[1:]}, solicit, 1, in(na(1), na(2)),
			"advertise; 1 gets 2001:db8:7::2; 2 NoAddrsAvail"},
		{"solicit: the former address was given away", known{leases: []netdef.Lease{
			lease(held, 1, -time.Hour), lease(held, 2, time.Hour)}}, solicit, 1, in(na(1)), "advertise; 1 gets " + fresh},
		{"solicit: the former address is offered to another", known{
			leases: []netdef.Lease{lease(held, 1, -time.Hour)}, offered: map[string]byte{held: 2}}, solicit, 1, in(na(1)), "advertise; 1 gets " + fresh},
		{"solicit: the former address is out of range now", known{leases: []netdef.Lease{lease(outside, 1, time.Hour)}},
			solicit, 1, in(na(1)), "advertise; 1 gets " + fresh},
		{"solicit: the wished address", known{}, solicit, 1, in(na(1, free)), "advertise; 1 gets " + free},
		{"solicit: the second wish, the first is taken", taken, solicit, 1, in(na(1, held, free)), "advertise; 1 gets " + free},
		{"solicit: the wished address is off-link", known{}, solicit, 1, in(na(1, foreign)), "advertise; 1 gets " + fresh},
		{"solicit: the wished address is ours", known{}, solicit, 1, in(na(1, us)), "advertise; 1 gets " + fresh},
		{"solicit: the wished address is the subnet's anycast", known{}, solicit, 1, in(na(1, "2001:db8:7::")), "advertise; 1 gets " + fresh},
		{"solicit: the wished address is reserved for another", known{}, solicit, 1, in(na(1, "2001:db8:7::10")), "advertise; 1 gets " + fresh},
		{"solicit: the wished address is quarantined", known{quarantined: []string{free}}, solicit, 1, in(na(1, free)), "advertise; 1 gets " + fresh},
		{"solicit: current lease before the wish", five(time.Hour), solicit, 1, in(na(1, free)), "advertise; 1 gets " + held},
		{"solicit: said again after our advertisement", offered, solicit, 1, in(na(1)), "advertise; 1 gets " + free},
		{"solicit: said again after the offer ended", known{offered: map[string]byte{free: 1}, after: pool.OfferTime}, solicit, 1, in(na(1)), "advertise; 1 gets " + fresh},
		{"solicit: reservation by duid", known{}, solicit, 50, in(na(1)), "advertise; 1 gets 2001:db8:7::50"},
		{"solicit: reservation by duid, second association", known{}, solicit, 50, in(na(1), na(2, free)),
			"advertise; 1 gets 2001:db8:7::50; 2 gets " + free},
		{"solicit: reservation by name", known{}, solicit, 1, in(na(1), named("NAMED", 0)), "advertise; 1 gets 2001:db8:7::52"},
		{"solicit: reservation before the current lease", known{leases: []netdef.Lease{lease(held, 50, time.Hour)}}, solicit, 50, in(na(1)),
			"advertise; 1 gets 2001:db8:7::50"},
		{"solicit: somebody leases the reserved address", known{leases: []netdef.Lease{lease("2001:db8:7::10", 1, time.Hour)}}, solicit, 10,
			in(na(1, free)), "advertise; 1 gets " + free},
		{"solicit: pool exhausted", known{leases: full}, solicit, 1, in(na(1)), "advertise; 1 NoAddrsAvail"},
		{"solicit: no address unused, the one free for longest", known{leases: ended}, solicit, 1, in(na(1)), "advertise; 1 gets 2001:db8:7::15"},
		{"solicit: temporary addresses", known{}, solicit, 1, in(ta(1)), "advertise; temporary NoAddrsAvail"},
		{"solicit: prefixes", known{}, solicit, 1, in(na(1), pd(1)), "advertise; 1 gets " + fresh + "; prefix NoPrefixAvail"},
		{"solicit: rapid commit", known{}, solicit, 1, in(rapid, na(1)), "reply at once; 1 gets " + fresh},
		{"solicit: rapid commit, nothing to give", known{leases: full}, solicit, 1, in(rapid, na(1)), "advertise; 1 NoAddrsAvail"},
		{"solicit: rapid commit, prefixes only", known{}, solicit, 1, in(rapid, pd(1)), "advertise; prefix NoPrefixAvail"},

		// 18.3.2 Request
		{"request: the advertised address", offered, request, 1, in(ours, na(1, free)), "reply; 1 gets " + free},
		{"request: without the address", offered, request, 1, in(ours, na(1)), "reply; 1 gets " + free},
		{"request: our advertisement is forgotten", known{}, request, 1, in(ours, na(1, free)), "reply; 1 gets " + free},
		{"request: the address went to another", taken, request, 1, in(ours, na(1, held)), "reply; 1 gets " + fresh},
		{"request: an address off-link", known{}, request, 1, in(ours, na(1, foreign)), "reply; 1 NotOnLink"},
		{"request: one association off-link", known{}, request, 1, in(ours, na(1, free), na(2, foreign)), "reply; 1 NotOnLink; 2 NotOnLink"},
		{"request: pool exhausted", known{leases: full}, request, 1, in(ours, na(1, held)), "reply; 1 NoAddrsAvail"},
		{"request: temporary addresses and prefixes", known{}, request, 1, in(ours, ta(1), pd(1)), "reply; temporary NoAddrsAvail; prefix NoPrefixAvail"},
		{"request: to another server", offered, request, 1, in(other, na(1, free)), "nothing (for another server)"},
		{"request: said again after our reply", five(time.Hour), request, 1, in(ours, na(1, held)), "reply; 1 gets " + held},
		{"request: of the quarantined address", known{quarantined: []string{free}}, request, 1, in(ours, na(1, free)), "reply; 1 gets " + fresh},
		{"request: after the quarantine", known{quarantined: []string{free}, after: pool.QuarantineTime}, request, 1, in(ours, na(1, free)), "reply; 1 gets " + free},

		// 18.3.3 Confirm
		{"confirm: on the link", five(time.Hour), confirm, 1, in(na(1, held)), "reply Success"},
		{"confirm: on the link, lease unknown", known{}, confirm, 1, in(na(1, held)), "reply Success"},
		{"confirm: on the link, somebody else's", taken, confirm, 1, in(na(1, held)), "reply Success"},
		{"confirm: off the link", known{}, confirm, 1, in(na(1, foreign)), "reply NotOnLink"},
		{"confirm: one of two off the link", five(time.Hour), confirm, 1, in(na(1, held), na(2, foreign)), "reply NotOnLink"},
		{"confirm: temporary address", known{}, confirm, 1, in(ta(1, free)), "reply Success"},
		{"confirm: no address", known{}, confirm, 1, in(na(1)), "nothing (confirm of no address)"},
		{"confirm: no association", known{}, confirm, 1, nil, "nothing (confirm of no address)"},

		// 18.3.4 Renew
		{"renew: the current lease", five(time.Minute), renew, 1, in(ours, na(1, held)), "reply; 1 gets " + held},
		{"renew: without naming the address", five(time.Minute), renew, 1, in(ours, na(1)), "reply; 1 gets " + held},
		{"renew: a lease that ended", five(-time.Minute), renew, 1, in(ours, na(1, held)), "reply; 1 gets " + held},
		{"renew: lease unknown, address free", known{}, renew, 1, in(ours, na(1, free)), "reply; 1 gets " + free},
		{"renew: lease unknown, address taken", taken, renew, 1, in(ours, na(1, held)), "reply; 1 NoBinding"},
		{"renew: lease unknown, address only offered to another", known{offered: map[string]byte{free: 2}}, renew, 1,
			in(ours, na(1, free)), "reply; 1 gets " + free},
		{"renew: lease unknown, address in no range", known{}, renew, 1, in(ours, na(1, outside)), "reply; 1 NoBinding"},
		{"renew: lease unknown, address off-link", known{}, renew, 1, in(ours, na(1, foreign)), "reply; 1 loses " + foreign},
		{"renew: lease unknown, one off-link and one taken", taken, renew, 1, in(ours, na(1, foreign, held)), "reply; 1 loses " + foreign + " NoBinding"},
		{"renew: more addresses than it has", five(time.Hour), renew, 1, in(ours, na(1, held, free)), "reply; 1 gets " + held + " loses " + free},
		{"renew: another address than it has", five(time.Hour), renew, 1, in(ours, na(1, free)), "reply; 1 gets " + held + " loses " + free},
		{"renew: the address was reserved for another since", known{leases: []netdef.Lease{lease("2001:db8:7::10", 1, time.Hour)}}, renew, 1,
			in(ours, na(1, "2001:db8:7::10")), "reply; 1 gets " + fresh + " loses 2001:db8:7::10"},
		{"renew: another address was reserved for it since", known{leases: []netdef.Lease{lease(held, 50, time.Hour)}}, renew, 50,
			in(ours, na(1, held)), "reply; 1 gets 2001:db8:7::50 loses " + held},
		{"renew: the range was changed, nothing is left", known{leases: append([]netdef.Lease{lease(outside, 1, time.Hour)}, full...)}, renew, 1,
			in(ours, na(1, outside)), "reply; 1 loses " + outside},
		{"renew: an association that has nothing yet", five(time.Hour), renew, 1, in(ours, na(1, held), na(2)),
			"reply; 1 gets " + held + "; 2 gets " + fresh2},
		{"renew: an association that has nothing yet, pool exhausted", known{leases: full}, renew, 1, in(ours, na(2)), "reply; 2 NoAddrsAvail"},
		{"renew: temporary addresses and prefixes", known{}, renew, 1, in(ours, ta(1, free), pd(1)), "reply; temporary NoBinding; prefix NoBinding"},
		{"renew: to another server", five(time.Hour), renew, 1, in(other, na(1, held)), "nothing (for another server)"},

		// 18.3.5 Rebind
		{"rebind: the current lease", five(time.Minute), rebind, 1, in(na(1, held)), "reply; 1 gets " + held},
		{"rebind: lease unknown, address free", known{}, rebind, 1, in(na(1, free)), "reply; 1 gets " + free},
		{"rebind: lease unknown, address taken", taken, rebind, 1, in(na(1, held)), "reply; 1 NoBinding"},
		{"rebind: lease unknown, address off-link", known{}, rebind, 1, in(na(1, foreign)), "reply; 1 loses " + foreign},
		{"rebind: lease unknown, another address reserved", known{}, rebind, 50, in(na(1, free)), "reply; 1 gets 2001:db8:7::50 loses " + free},

		// 18.3.6 Information-request
		{"information-request", known{}, inform, 1, nil, "reply"},
		{"information-request: without identifier", known{}, inform, 1, in(anonymous), "reply"},
		{"information-request: to us", known{}, inform, 1, in(ours), "reply"},
		{"information-request: to another server", known{}, inform, 1, in(other), "nothing (for another server)"},

		// 18.3.7 Release
		{"release: the current lease", five(time.Hour), release, 1, in(ours, na(1, held)), "reply Success; 1 releases " + held},
		{"release: an address it does not have", five(time.Hour), release, 1, in(ours, na(1, free)), "reply Success"},
		{"release: of another's lease", taken, release, 1, in(ours, na(1, held)), "reply Success; 1 NoBinding"},
		{"release: a lease that ended", five(-time.Hour), release, 1, in(ours, na(1, held)), "reply Success; 1 NoBinding"},
		{"release: one known, one unknown", five(time.Hour), release, 1, in(ours, na(1, held), na(2, free)),
			"reply Success; 1 releases " + held + "; 2 NoBinding"},
		{"release: prefixes", known{}, release, 1, in(ours, pd(1)), "reply Success; prefix NoBinding"},
		{"release: to another server", five(time.Hour), release, 1, in(other, na(1, held)), "nothing (for another server)"},

		// 18.3.8 Decline
		{"decline: the current lease", five(time.Hour), decline, 1, in(ours, na(1, held)), "reply Success; 1 declines " + held},
		{"decline: of another's lease", taken, decline, 1, in(ours, na(1, held)), "reply Success; 1 NoBinding"},
		{"decline: an address it does not have", five(time.Hour), decline, 1, in(ours, na(1, free)), "reply Success"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, now := c.known.state(t, testConfig())
			m, err := parseMessage(packet(t, c.kind, c.from, c.mods...).ToBytes(), linkLocal(c.from), true)
			if err != nil {
				t.Fatal(err)
			}
			if got := p.answer(m, now).String(); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// TestRFC8415Section16 has what is not even looked at.
func TestRFC8415Section16(t *testing.T) {
	in := func(mods ...mod) []mod { return mods }
	ours := server(ourDUID)
	many := make([]mod, maxIAs+1)
	for i := range many {
		many[i] = na(uint32(i))
	}
	crowd := make([]string, maxAddrs+1)
	for i := range crowd {
		crowd[i] = fresh
	}
	for _, c := range []struct {
		name string
		kind dhcpv6.MessageType
		mods []mod
		want error
	}{
		{"solicit without client", solicit, in(anonymous), errClientID},
		{"solicit to a server", solicit, in(ours), errServerID},
		{"request without client", request, in(anonymous, ours), errClientID},
		{"request to no server", request, nil, errServerID},
		{"confirm without client", confirm, in(anonymous), errClientID},
		{"confirm to a server", confirm, in(ours), errServerID},
		{"renew without client", renew, in(anonymous, ours), errClientID},
		{"renew to no server", renew, nil, errServerID},
		{"rebind without client", rebind, in(anonymous), errClientID},
		{"rebind to a server", rebind, in(ours), errServerID},
		{"release without client", release, in(anonymous, ours), errClientID},
		{"release to no server", release, nil, errServerID},
		{"decline without client", decline, in(anonymous, ours), errClientID},
		{"decline to no server", decline, nil, errServerID},
		{"information-request with an association", inform, in(na(1)), errInform},
		{"advertise", dhcpv6.MessageTypeAdvertise, in(ours), errKind},
		{"reply", dhcpv6.MessageTypeReply, in(ours), errKind},
		{"reconfigure", dhcpv6.MessageTypeReconfigure, in(ours), errKind},
		{"unknown", 99, nil, errKind},
		{"relayed", dhcpv6.MessageTypeRelayForward, nil, errRelay},
		{"too many associations", solicit, many, errIAs},
		{"too many addresses", solicit, in(na(1, crowd...)), errAddrs},
		{"identifier too short", solicit, in(anonymous, func(p *dhcpv6.Message) { p.AddOption(generic(dhcpv6.OptionClientID, []byte{0, 4})) }), errClientID},
		{"identifier too long", solicit, in(anonymous, func(p *dhcpv6.Message) {
			p.AddOption(generic(dhcpv6.OptionClientID, make([]byte, maxDUID+1)))
		}), errClientID},
		{"association too short", solicit, in(func(p *dhcpv6.Message) { p.AddOption(generic(dhcpv6.OptionIANA, make([]byte, 11))) }), errShort},
		{"address too short", solicit, in(func(p *dhcpv6.Message) {
			p.AddOption(generic(dhcpv6.OptionIANA, append(make([]byte, 12), 0, 5, 0, 2, 1, 1)))
		}), errShort},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := parseMessage(packet(t, c.kind, 1, c.mods...).ToBytes(), linkLocal(1), true)
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

// TestUnicast is section 18.4.
func TestUnicast(t *testing.T) {
	for kind, want := range map[dhcpv6.MessageType]string{
		solicit: "nothing (not sent to the group)", confirm: "nothing (not sent to the group)",
		rebind: "nothing (not sent to the group)", inform: "nothing (not sent to the group)",
		request: "reply UseMulticast", renew: "reply UseMulticast", release: "reply UseMulticast", decline: "reply UseMulticast",
	} {
		p, now := known{leases: []netdef.Lease{lease(fresh, 1, time.Hour)}}.state(t, testConfig())
		var mods []mod
		if rules[kind].server == must {
			mods = []mod{server(ourDUID), na(1, fresh)}
		}
		m, err := parseMessage(packet(t, kind, 1, mods...).ToBytes(), linkLocal(1), false)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.answer(m, now).String(); got != want {
			t.Errorf("%v: %s, want %s", kind, got, want)
		}
	}
}
