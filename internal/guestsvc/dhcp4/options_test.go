package dhcp4

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"
)

// replyTo is what a server without leases says, read back from the wire.
func replyTo(t testing.TB, c Config, p *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
	t.Helper()
	s := testSettings(t, c)
	st := newState(s, newRigTable(), start)
	m := parse(t, p)
	wire := s.reply(m, decide(st, m, start)).ToBytes()
	if len(wire) < 300 {
		t.Errorf("%d bytes: shorter than BOOTP's minimum", len(wire))
	}
	reply, err := dhcpv4.FromBytes(wire)
	if err != nil {
		t.Fatal(err)
	}
	return reply
}

// show is options as text, by code.
func show(o dhcpv4.Options) map[uint8]string {
	text := map[uint8]string{}
	for code, value := range o {
		text[code] = hex.EncodeToString(value)
	}
	return text
}

func TestOfferedOptions(t *testing.T) {
	full := testConfig()
	full.MTU = 1400
	full.Routes = []Route{
		{netip.MustParsePrefix("10.0.0.0/8"), addr("192.168.122.254")},
		{netip.MustParsePrefix("172.16.5.0/25"), addr("192.168.122.253")},
	}
	isolated := testConfig()
	isolated.Router, isolated.DNS, isolated.Domain, isolated.Search = nil, nil, "", nil
	isolatedRoutes := isolated
	isolatedRoutes.Routes = full.Routes[:1]
	ownDefault := full
	ownDefault.Routes = []Route{{netip.MustParsePrefix("0.0.0.0/0"), addr("192.168.122.254")}}
	boot := isolated
	boot.BootFile, boot.BootServer = "pxelinux.0", addr("192.168.122.9")

	const us = "c0a87a01"
	// What every offer has.
	essential := func(more map[uint8]string) map[uint8]string {
		want := map[uint8]string{
			1: "ffffff00", 28: "c0a87aff", 51: "00000e10", 53: "02", 54: us, 58: "00000708", 59: "00000c4e",
		}
		for code, value := range more {
			want[code] = value
		}
		return want
	}
	text := func(s string) string { return hex.EncodeToString([]byte(s)) }
	const search = "07" + "6578616d706c65" + "04" + "74657374" + "00"

	for _, c := range []struct {
		name   string
		config Config
		mods   []mod
		want   map[uint8]string
	}{
		{"no list of parameters: all", full, nil, essential(map[uint8]string{
			3: us, 6: us, 15: text("example.test"), 26: "0578", 119: search,
			121: "080a" + "c0a87afe" + "19ac100500" + "c0a87afd" + "00" + us,
		})},
		{"a list: essentials and what it names", full, []mod{asking(dhcpv4.OptionInterfaceMTU, dhcpv4.OptionNTPServers)},
			essential(map[uint8]string{3: us, 6: us, 26: "0578"})},
		{"isolated: no router", isolated, nil, essential(nil)},
		{"isolated with routes: no default route", isolatedRoutes, nil, essential(map[uint8]string{121: "080a" + "c0a87afe"})},
		{"routes with a default of their own", ownDefault, []mod{asking(dhcpv4.OptionClasslessStaticRoute)},
			essential(map[uint8]string{3: us, 6: us, 121: "00" + "c0a87afe"})},
		{"host name of the reservation", isolated, []mod{func(p *dhcpv4.DHCPv4) { p.ClientHWAddr[5] = 50 }},
			essential(map[uint8]string{12: text("fifty")})},
		{"own host name", isolated, []mod{named("web")}, essential(map[uint8]string{12: text("web")})},
		{"own host name, not asked for", isolated, []mod{named("web"), asking(dhcpv4.OptionSubnetMask)}, essential(nil)},
		{"client identifier", isolated, []mod{clientID(0, 1, 2)}, essential(map[uint8]string{61: "000102"})},
		{"relay agent information", isolated, []mod{rawOption(82, 1, 2, 'a', 'b')}, essential(map[uint8]string{82: "01026162"})},
		{"full name, server shall publish", full, []mod{
			rawOption(81, append([]byte{fqdnServerUpdates, 0, 0}, "web"...)...), asking(dhcpv4.OptionSubnetMask)},
			essential(map[uint8]string{3: us, 6: us, 81: "01ffff" + text("web.example.test")})},
		{"full name, client would publish", full, []mod{
			rawOption(81, append([]byte{fqdnWire, 0, 0}, "\x03web"...)...), asking(dhcpv4.OptionSubnetMask)},
			essential(map[uint8]string{3: us, 6: us, 81: "07ffff" + "03776562" + search})},
		{"full name in wire form", full, []mod{
			rawOption(81, append([]byte{fqdnWire | fqdnServerUpdates, 0, 0}, "\x03web\x00"...)...), asking(dhcpv4.OptionSubnetMask)},
			essential(map[uint8]string{3: us, 6: us, 81: "05ffff" + "03776562" + search})},
		{"full name, nobody shall publish", isolated, []mod{
			rawOption(81, append([]byte{fqdnNoUpdate, 0, 0}, "web"...)...), asking(dhcpv4.OptionSubnetMask)},
			essential(map[uint8]string{81: "08ffff" + text("web")})},
		{"boot", boot, nil, essential(map[uint8]string{66: text("192.168.122.9"), 67: text("pxelinux.0")})},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := replyTo(t, c.config, packet(t, discover, guest(1), c.mods...))
			if diff := cmp.Diff(c.want, show(got.Options)); diff != "" {
				t.Errorf("options (-want +got):\n%s", diff)
			}
		})
	}
}

func TestInfiniteLeaseHasNoRenewal(t *testing.T) {
	c := testConfig()
	c.Ranges[0].Infinite = true
	got := show(replyTo(t, c, packet(t, discover, guest(1))).Options)
	if got[51] != "ffffffff" || got[58] != "" || got[59] != "" {
		t.Errorf("lease %s, T1 %q, T2 %q", got[51], got[58], got[59])
	}
}

func TestBootHeader(t *testing.T) {
	c := testConfig()
	c.BootFile = "pxelinux.0"
	got := replyTo(t, c, packet(t, discover, guest(1)))
	if got.BootFileName != c.BootFile || given(got.ServerIPAddr) != addr("192.168.122.1") {
		t.Errorf("file %q from %v, want %q from the host", got.BootFileName, got.ServerIPAddr, c.BootFile)
	}
	c.BootServer, c.ServerName = addr("192.168.122.9"), "pxe.example.test"
	got = replyTo(t, c, packet(t, discover, guest(1)))
	if given(got.ServerIPAddr) != c.BootServer || got.ServerHostName != c.ServerName {
		t.Errorf("from %v %q, want %v %q", got.ServerIPAddr, got.ServerHostName, c.BootServer, c.ServerName)
	}
}

// TestHeaderFields is table 3 of RFC 2131 section 4.3.1.
func TestHeaderFields(t *testing.T) {
	offer := replyTo(t, testConfig(), packet(t, discover, guest(1), broadcastFlag))
	if offer.OpCode != dhcpv4.OpcodeBootReply || !offer.IsBroadcast() || given(offer.ClientIPAddr).IsValid() ||
		given(offer.YourIPAddr) != addr(fresh) || !bytes.Equal(offer.ClientHWAddr, mac(1)) {
		t.Errorf("offer: %v", offer.Summary())
	}
	ack := replyTo(t, testConfig(), packet(t, request, guest(1), ciaddr("192.168.122.5")))
	if given(ack.ClientIPAddr) != addr("192.168.122.5") || given(ack.YourIPAddr) != addr("192.168.122.5") {
		t.Errorf("ack: %v", ack.Summary())
	}
	nak := replyTo(t, testConfig(), packet(t, request, guest(1), ciaddr("10.0.0.5"), clientID(0, 1)))
	if given(nak.ClientIPAddr).IsValid() || given(nak.YourIPAddr).IsValid() {
		t.Errorf("nak: %v", nak.Summary())
	}
	want := map[uint8]string{53: "06", 54: "c0a87a01", 56: hex.EncodeToString([]byte("address is of another subnet")), 61: "0001"}
	if diff := cmp.Diff(want, show(nak.Options)); diff != "" {
		t.Errorf("nak (-want +got):\n%s", diff)
	}
	inform := show(replyTo(t, testConfig(), packet(t, inform, guest(1), ciaddr("192.168.122.200"))).Options)
	if inform[53] != "05" || inform[51] != "" || inform[58] != "" || inform[1] == "" || inform[6] == "" {
		t.Errorf("answer to inform: %v", inform)
	}
	relayed := replyTo(t, testConfig(), packet(t, request, guest(1), ciaddr("10.0.0.5"), giaddr("192.168.122.9")))
	if !relayed.IsBroadcast() || given(relayed.GatewayIPAddr) != addr("192.168.122.9") {
		t.Errorf("relayed nak: %v", relayed.Summary())
	}
}

func mac(n byte) []byte {
	m := guest(n)
	return m[:]
}

func TestReplyFitsTheClient(t *testing.T) {
	c := testConfig()
	for i := range 30 {
		c.Search = append(c.Search, fmt.Sprintf("department-%02d.example.test", i))
	}
	for _, size := range []struct {
		name  string
		mods  []mod
		limit int
		whole bool
	}{
		{"nothing said", nil, 576, false},
		{"less than the least", []mod{rawOption(57, 0, 100)}, 576, false},
		{"as much as a frame holds", []mod{rawOption(57, 0x05, 0xdc)}, 1500, true},
		{"more than a frame holds", []mod{rawOption(57, 0xff, 0xff)}, 1500, true},
		{"nonsense", []mod{rawOption(57, 1)}, 576, false},
	} {
		t.Run(size.name, func(t *testing.T) {
			mods := append(size.mods, clientID(bytes.Repeat([]byte{7}, 200)...))
			reply := replyTo(t, c, packet(t, discover, guest(1), mods...))
			if n := len(reply.ToBytes()) + datagramHeaders; n > size.limit {
				t.Errorf("%d bytes, the client receives %d", n, size.limit)
			}
			if _, whole := reply.Options[optSearch]; whole != size.whole {
				t.Errorf("search list sent: %v, want %v", whole, size.whole)
			}
			for _, code := range []uint8{optMask, optRouter, optDNS, optLeaseTime, optServer} {
				if reply.Options[code] == nil {
					t.Errorf("option %d was left out", code)
				}
			}
		})
	}
}

func TestParseMessageRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		change mod
		want   string
	}{
		{"a reply", func(p *dhcpv4.DHCPv4) { p.OpCode = dhcpv4.OpcodeBootReply }, "not a request"},
		{"BOOTP", func(p *dhcpv4.DHCPv4) { p.Options.Del(dhcpv4.OptionDHCPMessageType) }, "BOOTP"},
		{"Token Ring", func(p *dhcpv4.DHCPv4) { p.HWType = 6 }, "not an Ethernet address"},
		{"an address of eight bytes", func(p *dhcpv4.DHCPv4) { p.ClientHWAddr = make([]byte, 8) }, "not an Ethernet address"},
		{"no address", func(p *dhcpv4.DHCPv4) { p.ClientHWAddr = make([]byte, 6) }, "not an Ethernet address"},
		{"a group's address", func(p *dhcpv4.DHCPv4) { p.ClientHWAddr = []byte{1, 0, 0, 0, 0, 1} }, "not an Ethernet address"},
		{"an endless client identifier", func(p *dhcpv4.DHCPv4) { p.Options[61] = make([]byte, 256) }, "longer than 255"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := parseMessage(packet(t, discover, guest(1), c.change).ToBytes())
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	good := packet(t, discover, guest(1)).ToBytes()
	for n := range 244 {
		if _, err := parseMessage(good[:n]); err == nil {
			t.Fatalf("the first %d bytes pass for a message", n)
		}
	}
	cookie := slices.Clone(good)
	cookie[236]++
	if _, err := parseMessage(cookie); err == nil {
		t.Error("a wrong cookie passes")
	}
}

func FuzzAnswer(f *testing.F) {
	for _, p := range []*dhcpv4.DHCPv4{
		packet(f, discover, guest(1), named("web"), clientID(0, 1, 2)),
		packet(f, discover, guest(50), rawOption(81, append([]byte{fqdnWire, 0, 0}, "\x03web\x00"...)...)),
		packet(f, request, guest(2), requested("192.168.122.5"), server("192.168.122.1")),
		packet(f, request, guest(2), ciaddr("192.168.122.5"), leaseTime(time.Second)),
		packet(f, request, guest(2), requested("10.0.0.1"), rawOption(57, 2, 3)),
		packet(f, decline, guest(2), requested("192.168.122.5"), server("192.168.122.1")),
		packet(f, released, guest(2), ciaddr("192.168.122.5"), server("192.168.122.1")),
		packet(f, inform, guest(2), ciaddr("192.168.122.5"), rawOption(82, 1, 1, 1)),
		packet(f, discover, guest(1), giaddr("192.168.122.5"), asking(dhcpv4.OptionRouter)),
	} {
		f.Add(p.ToBytes())
	}
	s := testSettings(f, testConfig())
	table := newRigTable()
	table.Put(lease("192.168.122.5", guest(2), time.Hour), func(error) {})
	f.Fuzz(func(t *testing.T, payload []byte) {
		m, err := parseMessage(payload)
		if err != nil {
			return
		}
		p := newState(s, table, start)
		v := decide(p, m, start)
		switch v.action {
		case actOffer, actAck:
			if p.refusal(v.addr, m, start) != "" {
				t.Errorf("%v: must not be given: %s", v, p.refusal(v.addr, m, start))
			}
		case actNak, actInform:
		default:
			return
		}
		destination(m, v)
		wire := s.reply(m, v).ToBytes()
		if len(wire)+datagramHeaders > 1500 {
			t.Errorf("reply of %d bytes", len(wire))
		}
		reply, err := dhcpv4.FromBytes(wire)
		if err != nil {
			t.Fatalf("reply %x: %v", wire, err)
		}
		if reply.TransactionID != m.packet.TransactionID || !bytes.Equal(reply.ClientHWAddr, m.mac[:]) {
			t.Errorf("reply to another client: %v", reply)
		}
	})
}
