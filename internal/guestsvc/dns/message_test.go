package dns

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
)

// TestParse is what is said to messages that are wrong in some way; -1 is silence.
func TestParse(t *testing.T) {
	const head, question = "1234 0100 0001 0000 0000 ", "0161 00 0001 0001 "
	const opt = "00 0029 04d0 00000000 0000 "
	for _, row := range []struct {
		name, msg string
		want      int
	}{
		{"good", head + "0000" + question, 0},
		{"root", head + "0000 00 0002 0001", 0},
		{"edns", head + "0001" + question + opt, 0},
		{"trailing bytes", head + "0000" + question + "ffff", 0},
		{"other record", head + "0001" + question + "00 00fa 00ff 00000000 0001 00", 0},
		{"nothing", "", -1},
		{"scrap", "1234 0100 0001 0000 0000 00", -1},
		{"an answer", "1234 8100 0001 0000 0000 0000" + question, -1},
		{"an empty answer", "1234 8100 0000 0000 0000 0000", -1},
		{"no question", "1234 0100 0000 0000 0000 0000", 1},
		{"two questions", "1234 0100 0002 0000 0000 0000" + question + question, 1},
		{"update", "1234 2900 0001 0000 0000 0000" + question, 4},
		{"notify", "1234 2000 0001 0000 0000 0000" + question, 4},
		{"missing question", head + "0000", 1},
		{"cut in name", head + "0000 0161", 1},
		{"cut in label", head + "0000 0561", 1},
		{"cut in class", head + "0000 0161 00 0001 00", 1},
		{"pointer", head + "0000 c00c 0001 0001", 1},
		{"long label", head + "0000 40" + strings.Repeat("61", 64) + "00 0001 0001", 1},
		{"long name", head + "0000" + strings.Repeat("0161", 127) + "0161 00 0001 0001", 1},
		{"longest name", head + "0000" + strings.Repeat("0161", 127) + "00 0001 0001", 0},
		{"missing record", head + "0001" + question, 1},
		{"cut record", head + "0001" + question + "00 0029 04d0 00000000 00", 1},
		{"cut data", head + "0001" + question + "00 0029 04d0 00000000 0004 00", 1},
		{"65535 records", head + "ffff" + question + opt, 1},
		{"two opts", head + "0002" + question + opt + opt, 1},
		{"edns 1", head + "0001" + question + "00 0029 04d0 00010000 0000", 16},
	} {
		t.Run(row.name, func(t *testing.T) {
			msg, err := hex.DecodeString(strings.ReplaceAll(row.msg, " ", ""))
			if err != nil {
				t.Fatal(err)
			}
			var q query
			code, ok := q.parse(msg)
			got := -1
			if ok {
				got = int(code)
			}
			if got != row.want {
				t.Errorf("got %d, want %d", got, row.want)
			}
		})
	}
}

func TestReverseAddr(t *testing.T) {
	for _, a := range addrs("0.0.0.0", "1.2.3.4", "255.254.100.10", "::", "2001:db8:1234:5678:9abc:def0::1", "fe80::ffff") {
		want, err := mdns.ReverseAddr(a.String())
		if err != nil {
			t.Fatal(err)
		}
		if got := reverseName(netip.PrefixFrom(a, a.BitLen())) + "."; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if got, ok := reverseAddr([]byte(reverseWire(a))); !ok || got != a {
			t.Errorf("%s comes back as %s", a, got)
		}
	}
	for _, name := range []string{
		"", "in-addr.arpa", "1.in-addr.arpa", "5.4.3.2.1.in-addr.arpa", "256.1.1.1.in-addr.arpa", "01.1.1.1.in-addr.arpa",
		"x.1.1.1.in-addr.arpa", "1111.1.1.1.in-addr.arpa", "1.1.1.1.in-addr.arpa.lan", "ip6.arpa", "1.ip6.arpa",
		strings.Repeat("g.", 32) + "ip6.arpa", strings.Repeat("11.", 21) + "ip6.arpa", strings.Repeat("1.", 33) + "ip6.arpa",
	} {
		if a, ok := reverseAddr([]byte(mustPack(name))); ok {
			t.Errorf("%q is the address %s", name, a)
		}
	}
}

// FuzzMessage feeds raw bytes to a server, as a guest could.
func FuzzMessage(f *testing.F) {
	for _, question := range []string{"alpha", "web.lan.example", "10.122.168.192.in-addr.arpa", "www.example.com", ".", "a.localhost"} {
		for _, typ := range []uint16{mdns.TypeA, mdns.TypePTR, mdns.TypeANY, mdns.TypeAXFR} {
			m := new(mdns.Msg).SetQuestion(mdns.Fqdn(question), typ)
			plain, _ := m.Pack()
			edns, _ := m.SetEdns0(4096, true).Pack()
			f.Add(plain)
			f.Add(edns)
			m.Response = true
			answer, _ := m.Pack()
			f.Add(answer)
		}
	}
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{0xc0}, 40))
	z, err := newZone(demo)
	if err != nil {
		f.Fatal(err)
	}
	resolver := NewResolver("/nonexistent", nil)
	s := &Server{deps: Deps{Names: guests, Resolver: resolver}}
	s.zone.Store(z)
	client := netip.MustParseAddr("192.168.122.10")
	f.Fuzz(func(t *testing.T, msg []byte) {
		d := new(desk)
		n := copy(d.in[:], msg)
		for _, from := range []netip.Addr{client, netip.MustParseAddr("203.0.113.1")} {
			out, ask := s.answer(d, n, from, false)
			if out == nil {
				silent := n < headerLen || msg[2]&0x80 != 0
				if ask == nil && !silent || ask != nil && (silent || from != client) {
					t.Fatalf("no answer, ask %v", ask)
				}
				if ask != nil { // the question that goes out is the one that came in
					var question mdns.Msg
					if err := question.Unpack(appendQuestion(nil, &d.query, 1, true)); err != nil {
						t.Fatal(err)
					}
				}
				continue
			}
			if n < headerLen || msg[2]&0x80 != 0 || len(out) > maxUDP || !bytes.Equal(out[:2], msg[:2]) || out[2]&0x80 == 0 {
				t.Fatalf("answered %x with %x", msg, out)
			}
			var got, want mdns.Msg
			if err := got.Unpack(out); err != nil {
				t.Fatalf("answered %x with %x: %v", msg, out, err)
			}
			// Where the library understands the query, it must have got its question back.
			if want.Unpack(d.in[:n]) == nil && len(want.Question) == 1 && len(got.Question) == 1 && got.Question[0] != want.Question[0] {
				t.Fatalf("asked %v, answered %v", want.Question, got.Question)
			}
		}
	})
}

// FuzzResponse feeds raw bytes from an upstream server to what takes them apart.
func FuzzResponse(f *testing.F) {
	var q query
	asked := new(mdns.Msg).SetQuestion("a.example.", mdns.TypeA)
	msg, _ := asked.Pack()
	q.parse(msg)
	for _, m := range []*mdns.Msg{
		compose(asked, mdns.RcodeSuccess, "@ 60 A 192.0.2.1", "@ 60 CNAME b.example."),
		compose(asked.Copy().SetEdns0(1232, true), mdns.RcodeNameError, ";authority example. 900 SOA ns. admin. 1 2 3 4 300"),
		compose(asked, mdns.RcodeRefused),
	} {
		m.Id = asked.Id
		b, _ := m.Pack()
		f.Add(b[headerLen:], b[2:headerLen])
	}
	question := appendQuestion(nil, &q, q.id, true)
	f.Fuzz(func(t *testing.T, rest, header []byte) {
		// The id and the length of the header are given, so as not to waste time on guessing them.
		msg := append(bytes.Clone(question[:2]), append(header, make([]byte, headerLen)...)[:headerLen-2]...)
		msg = append(msg, rest...)
		if !belongs(msg, question) {
			return
		}
		r, err := parseResponse(msg, &q)
		if err != nil {
			return
		}
		if r.ttl < 0 || r.ttl > maxTTL*time.Second || len(r.reply.body) > len(msg) {
			t.Fatalf("%+v", r)
		}
		r.reply.age = 1000
		for _, limit := range []int{minUDP, maxTCP} {
			out := r.reply.append(nil, &q, limit)
			if len(out) > limit || !bytes.Equal(out[:2], msg[:2]) || out[2]&0x80 == 0 {
				t.Fatalf("%x becomes %x", msg, out)
			}
		}
	})
}

// names is a Names with one guest, as quick as it gets.
type oneName []netip.Addr

func (n oneName) LookupName(host string) []netip.Addr {
	if host == "alpha" {
		return n
	}
	return nil
}
func (n oneName) LookupAddr(a netip.Addr) (string, bool) { return "alpha", a == n[0] }

// BenchmarkAnswer is everything but the socket.
func BenchmarkAnswer(b *testing.B) {
	z, err := newZone(demo)
	if err != nil {
		b.Fatal(err)
	}
	resolver := NewResolver("/nonexistent", nil)
	s := &Server{deps: Deps{Names: oneName(addrs("192.168.122.10")), Resolver: resolver}}
	s.zone.Store(z)
	var kept query
	msg, _ := new(mdns.Msg).SetQuestion("www.example.com.", mdns.TypeA).Pack()
	kept.parse(msg)
	fetched, _ := compose(new(mdns.Msg).SetQuestion("www.example.com.", mdns.TypeA), 0, "@ 600 A 192.0.2.1").Pack()
	resp, _ := parseResponse(fetched, &kept)
	resolver.cache.put(string(appendKey(nil, &kept, resolver.servers(hostResolvers))), resp.reply, time.Hour, time.Now())
	client := netip.MustParseAddr("192.168.122.10")
	for name, question := range map[string]string{
		"reserved": "web.lan.example.", "leased": "alpha.lan.example.", "unknown": "nobody.lan.example.", "cached": "www.example.com.",
	} {
		b.Run(name, func(b *testing.B) {
			d := new(desk)
			msg, _ := new(mdns.Msg).SetQuestion(question, mdns.TypeA).SetEdns0(1232, false).Pack()
			n := copy(d.in[:], msg)
			b.ReportAllocs()
			for b.Loop() {
				if out, _ := s.answer(d, n, client, false); len(out) < headerLen {
					b.Fatal("no answer")
				}
			}
		})
	}
}
