package dhcp6

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"

	"viaduct/internal/netdef"
)

// said is what a server says to a message, read again from the wire.
func said(t *testing.T, c Config, p *dhcpv6.Message) *dhcpv6.Message {
	t.Helper()
	st, now := known{}.state(t, c)
	m, err := parseMessage(p.ToBytes(), linkLocal(1), true)
	if err != nil {
		t.Fatal(err)
	}
	r, err := dhcpv6.MessageFromBytes(st.reply(m, st.answer(m, now)).ToBytes())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// codes are the options of a message, in order.
func codes(p *dhcpv6.Message) string {
	var list []int
	for _, o := range p.Options.Options {
		list = append(list, int(o.Code()))
	}
	slices.Sort(list)
	return strings.Trim(fmt.Sprint(list), "[]")
}

func TestOptionsAreThoseAskedFor(t *testing.T) {
	all := asking(dhcpv6.OptionDNSRecursiveNameServer, dhcpv6.OptionDomainSearchList, dhcpv6.OptionInformationRefreshTime,
		dhcpv6.OptionSolMaxRT, dhcpv6.OptionInfMaxRT, dhcpv6.OptionFQDN, dhcpv6.OptionNTPServer)
	stateless := testConfig()
	stateless.Ranges, stateless.Hosts = nil, nil
	bare := stateless
	bare.DNS, bare.Search = nil, nil
	for _, c := range []struct {
		name   string
		config Config
		kind   dhcpv6.MessageType
		mods   []mod
		want   string
	}{
		{"advertise, no list", testConfig(), solicit, []mod{na(1)}, "1 2 3 7 23 24"},
		{"advertise, empty list", testConfig(), solicit, []mod{na(1), asking()}, "1 2 3 7"},
		{"advertise, dns", testConfig(), solicit, []mod{na(1), asking(dhcpv6.OptionDNSRecursiveNameServer)}, "1 2 3 7 23"},
		{"advertise, all", testConfig(), solicit, []mod{na(1), all}, "1 2 3 7 23 24 82 83"},
		{"advertise, all, with a name", testConfig(), solicit, []mod{na(1), all, named("web", 0)}, "1 2 3 7 23 24 39 82 83"},
		{"advertise, name not asked for", testConfig(), solicit, []mod{na(1), asking(), named("web", 0)}, "1 2 3 7"},
		{"advertise, no valid name", testConfig(), solicit, []mod{na(1), all, named("localhost", 0)}, "1 2 3 7 23 24 82 83"},
		{"reply at once", testConfig(), solicit, []mod{na(1), rapid, all}, "1 2 3 14 23 24 82 83"},
		{"reply", testConfig(), request, []mod{na(1), server(ourDUID), all}, "1 2 3 23 24 82 83"},
		{"information", testConfig(), inform, []mod{all}, "1 2 23 24 32 82 83"},
		{"information to nobody", testConfig(), inform, []mod{anonymous, all}, "2 23 24 32 82 83"},
		{"information only", stateless, inform, []mod{all}, "1 2 23 24 32 82 83"},
		{"information only, address wanted", stateless, solicit, []mod{na(1), all}, "1 2 3 7 23 24 82 83"},
		{"information, none there", bare, inform, []mod{all}, "1 2 32 82 83"},
		{"confirm", testConfig(), confirm, []mod{na(1, fresh), all}, "1 2 13"},
		{"release", testConfig(), release, []mod{na(1, fresh), server(ourDUID), all}, "1 2 3 13"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := codes(said(t, c.config, packet(t, c.kind, 1, c.mods...))); got != c.want {
				t.Errorf("options %s, want %s", got, c.want)
			}
		})
	}
}

func TestReplyOnTheWire(t *testing.T) {
	c := testConfig()
	c.Ranges[0].Lease = 1000 * time.Second
	c.Hosts[0].Infinite = true
	p := packet(t, request, 50, na(1), na(0xdeadbeef), server(ourDUID), asking(dhcpv6.OptionDNSRecursiveNameServer, dhcpv6.OptionDomainSearchList))
	r := said(t, c, p)
	if r.MessageType != dhcpv6.MessageTypeReply || r.TransactionID != p.TransactionID {
		t.Errorf("reply %v to %v", r, p)
	}
	if !bytes.Equal(r.Options.ServerID().ToBytes(), ourDUID) || !bytes.Equal(r.Options.ClientID().ToBytes(), duid(50)) {
		t.Errorf("from %v to %v", r.Options.ServerID(), r.Options.ClientID())
	}
	ias := r.Options.IANA()
	if len(ias) != 2 || ias[1].IaId != [4]byte{0xde, 0xad, 0xbe, 0xef} {
		t.Fatalf("associations %v", ias)
	}
	for i, want := range []time.Duration{forever, 1000 * time.Second} {
		// The times of all are those of the shortest.
		if ias[i].T1 != 500*time.Second || ias[i].T2 != 800*time.Second {
			t.Errorf("T1 %v, T2 %v", ias[i].T1, ias[i].T2)
		}
		if a := ias[i].Options.OneAddress(); a.ValidLifetime != want || a.PreferredLifetime != want {
			t.Errorf("lifetimes %v, want %v", a, want)
		}
	}
	if got := ias[0].Options.OneAddress().IPv6Addr.String(); got != "2001:db8:7::50" {
		t.Errorf("address %s", got)
	}
	if dns := r.Options.DNS(); len(dns) != 1 || dns[0].String() != "2001:db8:7::1" {
		t.Errorf("dns %v", dns)
	}
	if s := r.Options.DomainSearchList(); s == nil || !slices.Equal(s.Labels, []string{"example.test"}) {
		t.Errorf("search %v", s)
	}
	only := said(t, c, packet(t, request, 50, na(1), server(ourDUID))).Options.OneIANA()
	if only.T1 != forever || only.T2 != forever {
		t.Errorf("a lease for ever has T1 %v, T2 %v", only.T1, only.T2)
	}
}

func TestNames(t *testing.T) {
	for _, c := range []struct {
		name   string
		domain string
		flags  byte
		from   byte
		want   string
	}{
		{"web", "example.test", 0, 1, "\x03\x03web\x07example\x04test\x00"},
		{"web.other.test", "example.test", fqdnServerUpdates, 1, "\x01\x03web\x07example\x04test\x00"},
		{"web", "example.test", fqdnNoUpdate, 1, "\x04\x03web\x07example\x04test\x00"},
		{"web", "", fqdnServerUpdates, 1, "\x01\x03web"},
		{"web", "example.test", fqdnServerUpdates, 50, "\x01\x05fifty\x07example\x04test\x00"},
	} {
		config := testConfig()
		config.Domain = c.domain
		r := said(t, config, packet(t, solicit, c.from, na(1), named(c.name, c.flags), asking(dhcpv6.OptionFQDN)))
		if got := r.Options.GetOne(dhcpv6.OptionFQDN); got == nil || string(got.ToBytes()) != c.want {
			t.Errorf("%+v: got %v", c, got)
		}
	}
}

func TestHardwareAddrs(t *testing.T) {
	mac := netdef.MAC{0x52, 0x54, 0, 1, 2, 3}
	for _, c := range []struct {
		name, from string
		duid       []byte
		want       netdef.MAC
	}{
		{"by its address", "fe80::5054:ff:fe01:203", duid(1), mac},
		{"by its address before its duid", "fe80::5054:ff:fe01:203", append([]byte{0, 3, 0, 1}, 2, 9, 9, 9, 9, 9), mac},
		{"by a duid with time", "fe80::1", append([]byte{0, 1, 0, 1, 0, 0, 0, 0}, mac[:]...), mac},
		{"by a duid without", "fe80::1", append([]byte{0, 3, 0, 1}, mac[:]...), mac},
		{"other hardware", "fe80::1", append([]byte{0, 3, 0, 6}, mac[:]...), netdef.MAC{}},
		{"too long", "fe80::1", append([]byte{0, 3, 0, 1, 1}, mac[:]...), netdef.MAC{}},
		{"too short", "fe80::1", []byte{0, 1, 0, 1}, netdef.MAC{}},
		{"a group", "fe80::1", append([]byte{0, 3, 0, 1}, 1, 9, 9, 9, 9, 9), netdef.MAC{}},
		{"not told", "fe80::1", duid(1), netdef.MAC{}},
	} {
		if got := hardwareAddr(addr(c.from), c.duid); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// FuzzMessage has any bytes come from a client. Whatever they are, the answer
// must be one that a client can read, and give no address that is not for guests.
func FuzzMessage(f *testing.F) {
	for _, kind := range []dhcpv6.MessageType{solicit, request, confirm, renew, rebind, release, decline, inform} {
		mods := []mod{na(1, fresh, "2001:db8:8::5"), na(2), ta(3, fresh), pd(4), named("web", 1), asking(23, 24, 32, 39, 82)}
		switch {
		case rules[kind].server == must:
			mods = append(mods, server(ourDUID))
		case kind == inform:
			mods = mods[4:]
		case kind == solicit:
			mods = append(mods, rapid)
		}
		f.Add(packet(f, kind, 1, mods...).ToBytes(), true)
	}
	f.Add([]byte{12, 0}, false)
	taken := lease("2001:db8:7::5", 99, time.Hour)
	st, now := known{leases: []netdef.Lease{taken}}.state(f, testConfig())
	f.Fuzz(func(t *testing.T, b []byte, group bool) {
		if len(b) > maxMessage {
			return
		}
		m, err := parseMessage(b, linkLocal(1), group)
		if err != nil {
			return
		}
		a := st.answer(m, now)
		_ = a.String()
		if a.kind == dhcpv6.MessageTypeNone {
			return
		}
		// Not by the codec's own parser, which does not accept every DUID.
		ias := 0
		if err := options(st.reply(m, a).ToBytes()[headerSize:], func(code dhcpv6.OptionCode, data []byte) error {
			switch code {
			case dhcpv6.OptionIANA, dhcpv6.OptionIATA, dhcpv6.OptionIAPD:
				ias++
				_, err := parseIA(code, data)
				return err
			}
			return nil
		}); err != nil {
			t.Fatalf("the reply cannot be read: %v", err)
		}
		if ias > len(m.ias) {
			t.Errorf("%d associations of %d", ias, len(m.ias))
		}
		seen := map[netip.Addr]uint32{}
		for _, v := range a.ias {
			if !v.addr.IsValid() {
				continue
			}
			if other, twice := seen[v.addr]; twice && other != v.ia.id || v.addr == taken.Addr && !bytes.Equal(m.clientID, taken.ClientID) ||
				!st.space.Open(v.addr) && st.hostAt[v.addr] == nil {
				t.Errorf("gave %v: %v", v.addr, a)
			}
			seen[v.addr] = v.ia.id
		}
	})
}
