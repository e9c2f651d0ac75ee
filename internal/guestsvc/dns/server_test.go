package dns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"viaduct/internal/lab"
)

// demo is a network with one of everything.
var demo = Config{
	Name: "demo", Bridge: "virbr0", Domain: "lan.example", LocalOnly: true, ForwardPlainNames: true,
	Clients: prefixes("192.168.122.0/24", "fd00:122::/64"),
	Hosts:   []Host{{netip.MustParseAddr("192.168.122.5"), []string{"web", "www"}}},
	TXTs:    []TXT{{Name: "note.lan.example", Value: "hello, world"}},
	SRVs:    []SRV{{Service: "ldap", Protocol: "tcp", Target: "web.lan.example", Port: 389}},
}

// dig runs the real client and returns the answer's code and what it prints in short form.
func dig(t *testing.T, s *server, args ...string) string {
	t.Helper()
	path, err := exec.LookPath("dig")
	if err != nil {
		if os.Getenv("CI") == "true" || os.Getenv("VIADUCT_REQUIRE_LANES") == "1" {
			t.Fatal("dig is not installed")
		}
		t.Skip("dig is not installed")
	}
	args = append([]string{"@" + s.addr.Addr().String(), "-p", fmt.Sprint(s.addr.Port()),
		"+noall", "+comments", "+answer", "+time=5", "+tries=1"}, args...)
	out, err := exec.Command(path, args...).CombinedOutput()
	if err != nil {
		return fmt.Sprintf("%v: %s", err, out)
	}
	var words []string
	for line := range strings.Lines(string(out)) {
		switch {
		case strings.Contains(line, "status: "):
			_, status, _ := strings.Cut(line, "status: ")
			status, _, _ = strings.Cut(status, ",")
			words = append(words, status)
		case strings.HasPrefix(line, ";; flags:"):
			flags, _, _ := strings.Cut(strings.TrimPrefix(line, ";; flags: "), ";")
			words = append(words, "("+flags+")")
		case strings.HasPrefix(line, "; EDNS"):
			words = append(words, strings.TrimSpace(line[2:]))
		case strings.HasPrefix(line, ";"):
			if strings.Contains(strings.ToLower(line), "warning") || strings.Contains(line, "malformed") {
				words = append(words, line)
			}
		default:
			words = append(words, strings.Fields(line)...)
		}
	}
	return strings.Join(words, " ")
}

func TestDig(t *testing.T) {
	f := newFixture(t)
	var lines []string
	for i := range 60 {
		lines = append(lines, fmt.Sprintf("@ 60 A 192.0.2.%d", i))
	}
	up := serve(t, 2, 0, func(w mdns.ResponseWriter, m *mdns.Msg) {
		if m.Question[0].Name == "big.example.com." {
			records(lines...)(w, m)
		} else {
			records("@ 60 A 192.0.2.1")(w, m)
		}
	})
	c := demo
	c.Forwarders = []Forwarder{{Addr: up.addr}}
	s := f.start(c, guests)
	const edns = "EDNS: version: 0, flags:; udp: 1232"
	for _, row := range []struct{ args, want string }{
		{"alpha A", "NOERROR (qr aa rd ra) " + edns + " alpha. 0 IN A 192.168.122.10"},
		{"+noedns alpha A", "NOERROR (qr aa rd ra) alpha. 0 IN A 192.168.122.10"},
		{"+tcp +noedns alpha.lan.example AAAA", "NOERROR (qr aa rd ra) alpha.lan.example. 0 IN AAAA fd00:122::10"},
		{"+noedns -x 192.168.122.10", "NOERROR (qr aa rd ra) 10.122.168.192.in-addr.arpa. 0 IN PTR alpha.lan.example."},
		{"+noedns -x fd00:122::10", "NOERROR (qr aa rd ra) 0.1." + strings.Repeat("0.", 22) + "2.2.1.0.0.0.d.f.ip6.arpa. 0 IN PTR alpha.lan.example."},
		{"+noedns -x 192.168.122.99", "NXDOMAIN (qr aa rd ra)"},
		{"+noedns Web.Lan.Example A", "NOERROR (qr aa rd ra) Web.Lan.Example. 0 IN A 192.168.122.5"},
		{"+noedns web AAAA", "NOERROR (qr aa rd ra)"},
		{"+noedns note.lan.example TXT", `NOERROR (qr aa rd ra) note.lan.example. 0 IN TXT "hello, world"`},
		{"+noedns _ldap._tcp.lan.example SRV", "NOERROR (qr aa rd ra) _ldap._tcp.lan.example. 0 IN SRV 0 0 389 web.lan.example."},
		{"+noedns nobody.lan.example A", "NXDOMAIN (qr aa rd ra)"},
		{"+noedns a.example.com A", "NOERROR (qr rd ra) a.example.com. 60 IN A 192.0.2.1"},
		{"+noedns +tcp a.example.com A", "NOERROR (qr rd ra) a.example.com. 60 IN A 192.0.2.1"},
		{"+cookie +padding=128 +dnssec a.example.com A", "NOERROR (qr rd ra) EDNS: version: 0, flags: do; udp: 1232 a.example.com. 60 IN A 192.0.2.1"},
		{"+ignore +noedns big.example.com A", "NOERROR (qr tc rd ra)"},
		{"+ignore +bufsize=4096 big.example.com A", "NOERROR (qr rd ra) " + edns + strings.ReplaceAll(strings.Join(append([]string{""}, lines...), " "), "@ 60", "big.example.com. 60 IN")},
		{"+noedns big.example.com A", "NOERROR (qr rd ra)" + strings.ReplaceAll(strings.Join(append([]string{""}, lines...), " "), "@ 60", "big.example.com. 60 IN")},
		{"+noedns +tcp lan.example AXFR", "REFUSED (qr ra)"},
		{"+noedns version.bind TXT CH", "REFUSED (qr rd ra)"},
		{"+noedns +norec a.example.com A", "REFUSED (qr ra)"},
		{"+noedns +opcode=UPDATE alpha A", "NOTIMP (qr rd ra)"},
		{"+edns=1 +noednsneg alpha A", "BADVERS (qr rd ra) " + edns},
	} {
		t.Run(row.args, func(t *testing.T) {
			if got := dig(t, s, strings.Fields(row.args)...); got != row.want {
				t.Errorf("got  %s\nwant %s", got, row.want)
			}
		})
	}
}

// TestStrangersAreRefused is about who may ask at all. The addresses cannot
// be had on a loopback device, so it goes without sockets.
func TestStrangersAreRefused(t *testing.T) {
	f := newFixture(t)
	f.nameservers(serve(t, 2, 0, records("@ 60 A 192.0.2.1")))
	s := f.start(demo, guests)
	d := new(desk)
	for _, name := range []string{"alpha.", "www.example.com."} {
		msg, err := new(mdns.Msg).SetQuestion(name, mdns.TypeA).Pack()
		if err != nil {
			t.Fatal(err)
		}
		out, ask := s.answer(d, copy(d.in[:], msg), netip.MustParseAddr("198.51.100.7"), false)
		var got mdns.Msg
		if err := got.Unpack(out); err != nil || ask != nil || got.Rcode != mdns.RcodeRefused || len(out) > len(msg) {
			t.Errorf("%s: %v, ask %v, error %v", name, got, ask, err)
		}
	}
}

func TestTCPPipelining(t *testing.T) {
	f := newFixture(t)
	up, release := hold(t)
	f.resolver.patience, f.resolver.limit = 5*time.Second, 10*time.Second
	s := f.start(via(up), leases{"alpha": addrs("192.168.122.9")})
	conn, err := mdns.Dial("tcp", s.addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	for i, name := range []string{"slow.example.", "alpha."} {
		m := new(mdns.Msg).SetQuestion(name, mdns.TypeA)
		m.Id = uint16(i)
		if err := conn.WriteMsg(m); err != nil {
			t.Fatal(err)
		}
	}
	// The second answer does not wait for the first, which comes even though
	// the client has nothing more to say.
	for _, id := range []uint16{1, 0} {
		got, err := conn.ReadMsg()
		if err != nil || got.Id != id || len(got.Answer) != 1 {
			t.Fatalf("got %v, %v; want the answer to query %d", got, err, id)
		}
		if id == 1 {
			conn.Conn.(*net.TCPConn).CloseWrite()
			release()
		}
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("connection was not closed: %v", err)
	}
}

// TestTCPRules is what ends a connection at once.
func TestTCPRules(t *testing.T) {
	f := newFixture(t)
	s := f.start(demo, guests)
	frame := func(b []byte) []byte { return append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...) }
	for name, bytes := range map[string][]byte{
		"too long":  frame(make([]byte, maxMessage+1)),
		"too short": frame(make([]byte, 3)),
		"empty":     frame(nil),
		"an answer": frame([]byte{0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0}),
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", s.addr.String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(5 * time.Second))
			conn.Write(bytes)
			if n, err := conn.Read(make([]byte, 10)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("got %d bytes, %v", n, err)
			}
		})
	}
}

func TestTCPConnectionLimit(t *testing.T) {
	f := newFixture(t)
	s := f.start(demo, guests)
	open := func() net.Conn {
		conn, err := net.Dial("tcp", s.addr.String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		return conn
	}
	var held []net.Conn
	for range maxConnsOfClient {
		held = append(held, open())
	}
	if _, err := open().Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("one connection too many was served")
	}
	held[0].Close()
	lab.Await(t, "a place is free", func() bool { return s.conns.count() < maxConnsOfClient })
	if got := short(s.exchange(t, "tcp", new(mdns.Msg).SetQuestion("alpha.", mdns.TypeA))); got != "NOERROR A 192.168.122.10" {
		t.Errorf("got %s", got)
	}
}

// TestReconfigureLosesNothing asks all the time while the configuration changes.
func TestReconfigureLosesNothing(t *testing.T) {
	f := newFixture(t)
	c := demo
	s := f.start(c, nil)
	c.Listen = s.Config().Listen
	var stop atomic.Bool
	var wg sync.WaitGroup
	for _, network := range []string{"udp", "tcp"} {
		wg.Go(func() {
			for !stop.Load() {
				got := short(s.exchange(t, network, new(mdns.Msg).SetQuestion("web.", mdns.TypeA)))
				if got != "NOERROR A 192.168.122.5" && got != "NOERROR A 192.168.122.6" {
					t.Errorf("by %s: got %s", network, got)
				}
			}
		})
	}
	addr := s.addr
	for i := range 200 {
		c.Hosts = []Host{{netip.MustParseAddr(fmt.Sprintf("192.168.122.%d", 5+i%2)), []string{"web"}}}
		if err := s.Reconfigure(c); err != nil {
			t.Fatal(err)
		}
		// What has been configured holds from now on.
		if got, want := s.ask(t, "web.", mdns.TypeA), "NOERROR A "+c.Hosts[0].Addr.String(); got != want {
			t.Fatalf("got %s, want %s", got, want)
		}
	}
	stop.Store(true)
	wg.Wait()
	if s.addr != addr {
		t.Error("the sockets were opened again")
	}
}

func TestReconfigureSockets(t *testing.T) {
	f := newFixture(t)
	open := map[netip.AddrPort]net.PacketConn{}
	taken := errors.New("address in use")
	var refuse netip.AddrPort
	listen := func(a netip.AddrPort) (net.PacketConn, net.Listener, error) {
		if a == refuse {
			return nil, nil, taken
		}
		pc, l, err := listenLoopback(netip.AddrPortFrom(a.Addr(), 0))
		open[a] = pc
		return pc, l, err
	}
	a, b, x := netip.MustParseAddrPort("127.0.0.1:53"), netip.MustParseAddrPort("127.0.0.2:53"), netip.MustParseAddrPort("127.0.0.3:53")
	c := demo
	c.Listen = []netip.AddrPort{a, b}
	s, err := Start(c, Deps{Listen: listen, Resolver: f.resolver, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ask := func(at netip.AddrPort) string {
		return (&server{addr: open[at].LocalAddr().(*net.UDPAddr).AddrPort()}).ask(t, "web.", mdns.TypeA)
	}
	first := open[a]

	// A failure changes nothing: not the names, not the sockets.
	refuse = x
	bad := c
	bad.Listen, bad.Hosts = []netip.AddrPort{a, netip.MustParseAddrPort("127.0.0.4:53"), x}, nil
	if err := s.Reconfigure(bad); !errors.Is(err, taken) || !strings.Contains(err.Error(), x.String()) {
		t.Errorf("got error %v", err)
	}
	for _, at := range c.Listen {
		if got := ask(at); got != "NOERROR A 192.168.122.5" {
			t.Errorf("after a failure: %s: %s", at, got)
		}
	}
	if n := len(s.listeners); n != 2 {
		t.Errorf("%d listeners", n)
	}

	refuse = netip.AddrPort{}
	c.Listen = []netip.AddrPort{x, a}
	if err := s.Reconfigure(c); err != nil {
		t.Fatal(err)
	}
	for _, at := range c.Listen {
		if got := ask(at); got != "NOERROR A 192.168.122.5" {
			t.Errorf("%s: %s", at, got)
		}
	}
	if open[a] != first {
		t.Error("a socket that stays was opened again")
	}
	if _, err := open[b].WriteTo(nil, open[a].LocalAddr()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("old socket: %v", err)
	}
	var own []string
	for a := range f.resolver.own {
		own = append(own, a.String())
	}
	slices.Sort(own)
	if !slices.Equal(own, []string{"127.0.0.1", "127.0.0.3"}) {
		t.Errorf("resolver believes that ours are %v", own)
	}

	other := c
	other.Network[0]++
	if err := s.Reconfigure(other); err == nil {
		t.Error("became another network's")
	}
	s.Close()
	if err := s.Reconfigure(c); err == nil {
		t.Error("configured after its end")
	}
	if len(f.resolver.own) != 0 {
		t.Errorf("after the end, ours are %v", f.resolver.own)
	}
}

func TestStartFails(t *testing.T) {
	f := newFixture(t)
	deps := Deps{Resolver: f.resolver, Log: slog.New(slog.DiscardHandler), Listen: func(netip.AddrPort) (net.PacketConn, net.Listener, error) {
		return nil, nil, errors.New("no")
	}}
	c := demo
	c.Listen = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")}
	if _, err := Start(c, deps); err == nil || err.Error() != "listen for dns on 127.0.0.1:53: no" {
		t.Errorf("got %v", err)
	}
}
