package dns

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"viaduct/internal/lab"
)

func TestCacheCountsDown(t *testing.T) {
	f := newFixture(t)
	up := serve(t, 2, 0, records("@ 60 A 192.0.2.1", "@ 300 A 192.0.2.2"))
	s := f.start(via(up), nil)
	for _, step := range []struct {
		forward time.Duration
		want    string
		asked   int
	}{
		{0, "NOERROR A 192.0.2.1 ttl 60 A 192.0.2.2 ttl 300", 1},
		{0, "NOERROR A 192.0.2.1 ttl 60 A 192.0.2.2 ttl 300", 1},
		{59 * time.Second, "NOERROR A 192.0.2.1 ttl 1 A 192.0.2.2 ttl 241", 1},
		{time.Second, "NOERROR A 192.0.2.1 ttl 60 A 192.0.2.2 ttl 300", 2},
	} {
		f.clock.Advance(step.forward)
		if got := s.ask(t, "Host.Example.", mdns.TypeA); got != step.want || up.count() != step.asked {
			t.Errorf("after %s: got %s having asked %d times, want %s, %d", step.forward, got, up.count(), step.want, step.asked)
		}
	}
}

// TestWhatIsKept is for how long each sort of answer is kept.
func TestWhatIsKept(t *testing.T) {
	soa := ";authority example. 900 SOA ns. admin. 1 2 3 4 300"
	for _, row := range []struct {
		name    string
		handler func(mdns.ResponseWriter, *mdns.Msg)
		want    string
		kept    time.Duration
	}{
		{"positive", records("@ 20 A 192.0.2.1"), "NOERROR A 192.0.2.1 ttl 20", 20 * time.Second},
		{"ttl 0", records("@ 0 A 192.0.2.1"), "NOERROR A 192.0.2.1", 0},
		{"long", records("@ 1000000 A 192.0.2.1"), "NOERROR A 192.0.2.1 ttl 1000000", 24 * time.Hour},
		{"negative ttl", records("@ 4294967295 A 192.0.2.1"), "NOERROR A 192.0.2.1 ttl 4294967295", 0},
		{"nxdomain", code(mdns.RcodeNameError, soa), "NXDOMAIN", 300 * time.Second},
		{"nxdomain without soa", code(mdns.RcodeNameError), "NXDOMAIN", 0},
		{"nodata", records(soa), "NOERROR", 300 * time.Second},
		{"nodata without soa", records(), "NOERROR", 0},
		{"referral", records(";authority example. 900 NS ns.example."), "NOERROR", 0},
		{"alias to nothing", records("@ 50 CNAME b.example.", soa), "NOERROR CNAME b.example. ttl 50", 50 * time.Second},
		{"alias", records("@ 50 CNAME b.example.", "b.example. 40 A 192.0.2.1"),
			"NOERROR CNAME b.example. ttl 50 A 192.0.2.1 ttl 40", 40 * time.Second},
		{"failure", code(mdns.RcodeServerFailure), "SERVFAIL", time.Second},
		{"refusal", code(mdns.RcodeRefused), "SERVFAIL", time.Second},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := newFixture(t)
			up := serve(t, 2, 0, row.handler)
			s := f.start(via(up), nil)
			ask := func(fresh bool) {
				t.Helper()
				before := up.count()
				got := s.ask(t, "a.example.", mdns.TypeA)
				if asked := up.count() > before; asked != fresh {
					t.Errorf("asked upstream: %t, want %t", asked, fresh)
				}
				if fresh && got != row.want {
					t.Errorf("got %s, want %s", got, row.want)
				}
			}
			ask(true)
			if row.kept > 0 {
				f.clock.Advance(row.kept - time.Millisecond)
				ask(false)
				f.clock.Advance(time.Millisecond)
			}
			ask(true)
		})
	}
}

// TestFailover is what is answered, and who is asked, when servers misbehave.
func TestFailover(t *testing.T) {
	good := records("@ 60 A 192.0.2.9")
	nowhere := func(t *testing.T) *upstream { // nobody listens there
		pc, l, err := listenLoopback(netip.MustParseAddrPort("127.0.0.2:0"))
		if err != nil {
			t.Fatal(err)
		}
		pc.Close()
		l.Close()
		return &upstream{addr: pc.LocalAddr().(*net.UDPAddr).AddrPort()}
	}
	for _, row := range []struct {
		name  string
		first func(mdns.ResponseWriter, *mdns.Msg) // nil: not there
		// again is whether the next question goes to the first server once more.
		again bool
	}{
		{"not there", nil, false},
		{"silent", silence, false},
		{"failing", code(mdns.RcodeServerFailure), true},
		{"refusing", code(mdns.RcodeRefused), true},
		{"garbage", func(w mdns.ResponseWriter, _ *mdns.Msg) { w.Write([]byte("what?")) }, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := newFixture(t)
			var first *upstream
			if row.first == nil {
				first = nowhere(t)
			} else {
				first = serve(t, 2, 0, row.first)
			}
			second := serve(t, 3, 0, good)
			s := f.start(via(first, second), nil)
			for i := range 3 {
				if got := s.ask(t, fmt.Sprintf("n%d.example.", i), mdns.TypeA); got != "NOERROR A 192.0.2.9 ttl 60" {
					t.Fatalf("got %s", got)
				}
			}
			if second.count() != 3 {
				t.Errorf("second server was asked %d times, want 3", second.count())
			}
			if row.first == nil {
				return
			}
			want := 1
			if row.again {
				want = 3
			}
			if first.count() != want {
				t.Errorf("first server was asked %d times, want %d", first.count(), want)
			}
			// In time it gets another chance.
			f.clock.Advance(firstOutage)
			s.ask(t, "later.example.", mdns.TypeA)
			if first.count() != want+1 {
				t.Errorf("first server was asked %d times after its outage, want %d", first.count(), want+1)
			}
		})
	}
}

func TestOutages(t *testing.T) {
	a, b := netip.MustParseAddrPort("10.0.0.1:53"), netip.MustParseAddrPort("10.0.0.2:53")
	o := outages{down: map[netip.AddrPort]outage{}}
	now := time.Unix(1e9, 0)
	first := func() netip.AddrPort { return o.order([]netip.AddrPort{a, b}, now)[0] }
	if first() != a {
		t.Fatal("servers are not asked in their order")
	}
	for _, pause := range []time.Duration{firstOutage, 2 * firstOutage, 4 * firstOutage} {
		o.failed(a, now)
		if now = now.Add(pause - 1); first() != b {
			t.Errorf("asked again before %s", pause)
		}
		if now = now.Add(1); first() != a {
			t.Errorf("not asked again after %s", pause)
		}
		if first() != b {
			t.Error("two questions try a server that is down")
		}
	}
	for range 100 {
		o.failed(a, now)
	}
	if now = now.Add(maxOutage); first() != a {
		t.Errorf("not asked again after %s", maxOutage)
	}
	if !o.answered(a) || first() != a || first() != a {
		t.Error("a server that answers again is not trusted")
	}
}

func TestSlowServerIsHeard(t *testing.T) {
	f := newFixture(t)
	patience := f.resolver.patience
	up := serve(t, 2, 0, func(w mdns.ResponseWriter, m *mdns.Msg) {
		timer := time.NewTimer(3 * patience)
		defer timer.Stop()
		<-timer.C
		records("@ 60 A 192.0.2.1")(w, m)
	})
	s := f.start(via(up), nil)
	if got := s.ask(t, "a.example.", mdns.TypeA); got != "NOERROR A 192.0.2.1 ttl 60" {
		t.Errorf("got %s", got)
	}
}

func TestAllSilent(t *testing.T) {
	f := newFixture(t)
	up := serve(t, 2, 0, silence)
	s := f.start(via(up), nil)
	begin := time.Now()
	got := s.ask(t, "a.example.", mdns.TypeA)
	if took := time.Since(begin); got != "SERVFAIL" || took < f.resolver.limit || took > 2*f.resolver.limit {
		t.Errorf("got %s after %s", got, took)
	}
	if up.count() != 2 {
		t.Errorf("asked %d times, want 2", up.count())
	}
}

// TestHostAsksUs has the host's list of resolvers name our own server, which
// must not ask itself.
func TestHostAsksUs(t *testing.T) {
	f := newFixture(t)
	f.resolver.patience, f.resolver.limit = time.Minute, time.Minute // nothing may wait for a timeout
	s := f.start(forwarding, nil)
	us := &upstream{addr: s.addr}
	f.nameservers(us)
	if got := s.ask(t, "a.example.", mdns.TypeA); got != "SERVFAIL" {
		t.Errorf("no other server: got %s", got)
	}
	f.nameservers(us, serve(t, 2, s.addr.Port(), records("@ 60 A 192.0.2.1")))
	f.clock.Advance(time.Second)
	if got := s.ask(t, "a.example.", mdns.TypeA); got != "NOERROR A 192.0.2.1 ttl 60" {
		t.Errorf("another server: got %s", got)
	}
}

// TestLies sends forged answers before, or instead of, the right one.
func TestLies(t *testing.T) {
	lies := map[string]func(*mdns.Msg){
		"id":       func(m *mdns.Msg) { m.Id++ },
		"name":     func(m *mdns.Msg) { m.Question[0].Name = "b.example." },
		"type":     func(m *mdns.Msg) { m.Question[0].Qtype = mdns.TypeAAAA },
		"class":    func(m *mdns.Msg) { m.Question[0].Qclass = mdns.ClassCHAOS },
		"question": func(m *mdns.Msg) { m.Question = nil },
		"two":      func(m *mdns.Msg) { m.Question = append(m.Question, m.Question[0]) },
		"query":    func(m *mdns.Msg) { m.Response = false },
		"opcode":   func(m *mdns.Msg) { m.Opcode = mdns.OpcodeNotify },
	}
	for name, lie := range lies {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // each waits for a timeout
			f := newFixture(t)
			up := serve(t, 2, 0, func(w mdns.ResponseWriter, m *mdns.Msg) {
				forged := compose(m, mdns.RcodeSuccess, "@ 60 A 192.0.2.66")
				lie(forged)
				w.WriteMsg(forged)
				if m.Question[0].Name == "a.example." {
					records("@ 60 A 192.0.2.1")(w, m)
				}
			})
			s := f.start(via(up), nil)
			if got := s.ask(t, "a.example.", mdns.TypeA); got != "NOERROR A 192.0.2.1 ttl 60" {
				t.Errorf("got %s", got)
			}
			if got := s.ask(t, "only-lies.example.", mdns.TypeA); got != "SERVFAIL" {
				t.Errorf("got %s from lies alone", got)
			}
		})
	}
	t.Run("source", func(t *testing.T) {
		f := newFixture(t)
		forger, err := net.ListenPacket("udp", "127.0.0.3:0")
		if err != nil {
			t.Fatal(err)
		}
		defer forger.Close()
		up := serve(t, 2, 0, func(w mdns.ResponseWriter, m *mdns.Msg) {
			forged, _ := compose(m, mdns.RcodeSuccess, "@ 60 A 192.0.2.66").Pack()
			forger.WriteTo(forged, w.RemoteAddr())
			records("@ 60 A 192.0.2.1")(w, m)
		})
		s := f.start(via(up), nil)
		if got := s.ask(t, "a.example.", mdns.TypeA); got != "NOERROR A 192.0.2.1 ttl 60" {
			t.Errorf("got %s", got)
		}
	})
}

func TestPortsAndIDsAreRandom(t *testing.T) {
	f := newFixture(t)
	up := serve(t, 2, 0, records("@ 60 A 192.0.2.1"))
	s := f.start(via(up), nil)
	const questions = 60
	for i := range questions {
		s.ask(t, fmt.Sprintf("n%d.example.", i), mdns.TypeA)
	}
	ids, ports, steps := map[uint16]bool{}, map[uint16]bool{}, map[int]bool{}
	up.mu.Lock()
	defer up.mu.Unlock()
	for i, m := range up.asked {
		ids[m.Id], ports[up.from[i].Port()] = true, true
		if i > 0 {
			steps[int(up.from[i].Port())-int(up.from[i-1].Port())] = true
		}
	}
	if len(ids) < questions-5 || len(ports) < questions-5 || len(steps) < questions-10 {
		t.Errorf("%d questions had %d ids, %d ports, %d steps between ports", questions, len(ids), len(ports), len(steps))
	}
}

func TestTCPWhenTruncated(t *testing.T) {
	var lines []string
	for i := range 200 {
		lines = append(lines, fmt.Sprintf("@ 60 A 192.0.2.%d", i))
	}
	f := newFixture(t)
	up := serve(t, 2, 0, func(w mdns.ResponseWriter, m *mdns.Msg) {
		r := compose(m, mdns.RcodeSuccess, lines...)
		if w.LocalAddr().Network() == "udp" {
			r.Answer, r.Truncated = r.Answer[:1], true
		}
		w.WriteMsg(r)
	})
	s := f.start(via(up), nil)
	if got := s.ask(t, "big.example.", mdns.TypeA); got != "NOERROR truncated" {
		t.Errorf("by UDP: got %s", got)
	}
	got := s.exchange(t, "tcp", new(mdns.Msg).SetQuestion("big.example.", mdns.TypeA))
	if len(got.Answer) != 200 || got.Truncated {
		t.Errorf("by TCP: %d records, truncated: %t", len(got.Answer), got.Truncated)
	}
	if up.count() != 2 {
		t.Errorf("upstream was asked %d times, want once by UDP and once by TCP", up.count())
	}
}

func TestOversizedDatagram(t *testing.T) {
	long := strings.Repeat("x", 250)
	var lines []string
	for i := range 20 {
		lines = append(lines, fmt.Sprintf("@ 60 TXT %d%s", i, long))
	}
	f := newFixture(t)
	s := f.start(via(serve(t, 2, 0, records(lines...))), nil) // more than 4096 bytes, whatever was asked for
	got := s.exchange(t, "tcp", new(mdns.Msg).SetQuestion("big.example.", mdns.TypeTXT))
	if len(got.Answer) != 20 {
		t.Errorf("%d records", len(got.Answer))
	}
}

func TestServerWithoutEDNS(t *testing.T) {
	for name, handler := range map[string]func(mdns.ResponseWriter, *mdns.Msg){
		"form error": code(mdns.RcodeFormatError),
		"bare header": func(w mdns.ResponseWriter, m *mdns.Msg) {
			w.WriteMsg(&mdns.Msg{MsgHdr: compose(m, mdns.RcodeFormatError).MsgHdr})
		},
		"not implemented": code(mdns.RcodeNotImplemented),
		"bad version":     code(mdns.RcodeBadVers),
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			up := serve(t, 2, 0, func(w mdns.ResponseWriter, m *mdns.Msg) {
				if m.IsEdns0() != nil {
					handler(w, m)
				} else {
					records("@ 60 A 192.0.2.1")(w, m)
				}
			})
			s := f.start(via(up), nil)
			if got := s.ask(t, "a.example.", mdns.TypeA); got != "NOERROR A 192.0.2.1 ttl 60" {
				t.Errorf("got %s", got)
			}
		})
	}
}

// TestEDNS is what is said about EDNS to either side.
func TestEDNS(t *testing.T) {
	f := newFixture(t)
	up := serve(t, 2, 0, func(w mdns.ResponseWriter, m *mdns.Msg) {
		r := compose(m, mdns.RcodeSuccess, "@ 60 A 192.0.2.1")
		r.AuthenticatedData, r.Authoritative = true, true
		w.WriteMsg(r)
	})
	s := f.start(via(up), leases{"alpha": addrs("192.168.122.9")})
	for _, name := range []string{"alpha.", "a.example.", "a.example."} { // ours, fetched, kept
		plain := s.exchange(t, "udp", new(mdns.Msg).SetQuestion(name, mdns.TypeA))
		if plain.IsEdns0() != nil || len(plain.Answer) != 1 {
			t.Errorf("%s: without EDNS: %v", name, plain)
		}
		m := new(mdns.Msg).SetQuestion(name, mdns.TypeA).SetEdns0(4096, true)
		m.CheckingDisabled = true
		got := s.exchange(t, "udp", m)
		opt := got.IsEdns0()
		if opt == nil || opt.UDPSize() != maxUDP || !opt.Do() || len(got.Answer) != 1 || len(got.Extra) != 1 {
			t.Fatalf("%s: with EDNS: %v", name, got)
		}
		if got.AuthenticatedData || !got.CheckingDisabled || !got.RecursionAvailable || got.Authoritative != (name == "alpha.") {
			t.Errorf("%s: flags: %v", name, got.MsgHdr)
		}
	}
	up.mu.Lock()
	if len(up.asked) != 2 { // with DNSSEC and without
		t.Fatalf("asked %d times", len(up.asked))
	}
	for i, secure := range []bool{false, true} {
		opt := up.asked[i].IsEdns0()
		if opt == nil || opt.UDPSize() != maxUDP || opt.Do() != secure || up.asked[i].CheckingDisabled != secure {
			t.Errorf("upstream was asked: %v", up.asked[i])
		}
	}
	up.mu.Unlock()

	m := new(mdns.Msg).SetQuestion("alpha.", mdns.TypeA).SetEdns0(1232, false)
	m.IsEdns0().SetVersion(1)
	if got := s.exchange(t, "udp", m); got.Rcode != mdns.RcodeBadVers || len(got.Answer) != 0 {
		t.Errorf("EDNS version 1: %v", got)
	}
}

func TestOneFlightForManyClients(t *testing.T) {
	f := newFixture(t)
	up, release := hold(t)
	f.resolver.patience, f.resolver.limit = 5*time.Second, 10*time.Second
	s := f.start(via(up), nil)
	var wg sync.WaitGroup
	answers := make([]string, 50)
	for i := range answers {
		wg.Go(func() { answers[i] = s.ask(t, "a.example.", mdns.TypeA) })
	}
	lab.Await(t, "50 queries wait", func() bool { return f.resolver.waiting.count() == 50 })
	release()
	wg.Wait()
	for _, got := range answers {
		if got != "NOERROR A 192.0.2.1 ttl 60" {
			t.Errorf("got %s", got)
		}
	}
	if up.count() != 1 {
		t.Errorf("upstream was asked %d times", up.count())
	}
}

func TestTooManyInFlight(t *testing.T) {
	f := newFixture(t)
	up, release := hold(t)
	f.resolver.patience, f.resolver.limit = 5*time.Second, 10*time.Second
	s := f.start(via(up), leases{"alpha": addrs("192.168.122.9")})
	var wg sync.WaitGroup
	for i := range maxWaitingOfClient {
		wg.Go(func() { s.ask(t, fmt.Sprintf("n%d.example.", i), mdns.TypeA) })
	}
	lab.Await(t, "the client's share is used up", func() bool { return s.waiting.count() == maxWaitingOfClient })
	for network, want := range map[string]string{"udp": "SERVFAIL", "tcp": "SERVFAIL"} {
		if got := short(s.exchange(t, network, new(mdns.Msg).SetQuestion("more.example.", mdns.TypeA))); got != want {
			t.Errorf("by %s: got %s, want %s", network, got, want)
		}
	}
	if got := s.ask(t, "alpha.", mdns.TypeA); got != "NOERROR A 192.168.122.9" {
		t.Errorf("own name meanwhile: %s", got)
	}
	release()
	wg.Wait()
	if got := s.ask(t, "more.example.", mdns.TypeA); got != "NOERROR A 192.0.2.1 ttl 60" {
		t.Errorf("afterwards: got %s", got)
	}
}

// TestFlightLimit has two networks' clients ask more than may be asked at once.
func TestFlightLimit(t *testing.T) {
	f := newFixture(t)
	f.resolver.maxFlights = 3
	up, release := hold(t)
	f.resolver.patience, f.resolver.limit = 5*time.Second, 10*time.Second
	a, b := f.start(via(up), nil), f.start(via(up), nil)
	var wg sync.WaitGroup
	for i, s := range []*server{a, b, a, b} {
		wg.Go(func() { s.ask(t, fmt.Sprintf("n%d.example.", i%3), mdns.TypeA) }) // 0 twice
	}
	lab.Await(t, "questions are asked", func() bool { return up.count() == 3 && f.resolver.waiting.count() == 4 })
	if got := b.ask(t, "more.example.", mdns.TypeA); got != "SERVFAIL" {
		t.Errorf("got %s", got)
	}
	release()
	wg.Wait()
	if got := b.ask(t, "more.example.", mdns.TypeA); got != "NOERROR A 192.0.2.1 ttl 60" {
		t.Errorf("afterwards: got %s", got)
	}
}

func TestFollowsResolvConf(t *testing.T) {
	f := newFixture(t)
	one := serve(t, 2, 0, records("@ 60 A 192.0.2.1"))
	two := serve(t, 3, one.addr.Port(), records("@ 60 A 192.0.2.2"))
	s := f.start(forwarding, nil)
	ask := func(want string) {
		t.Helper()
		if got := s.ask(t, "a.example.", mdns.TypeA); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	f.nameservers(one)
	ask("NOERROR A 192.0.2.1 ttl 60")
	f.nameservers(two, one)
	f.clock.Advance(999 * time.Millisecond)
	ask("NOERROR A 192.0.2.1 ttl 60") // not looked yet
	f.clock.Advance(time.Millisecond)
	ask("NOERROR A 192.0.2.2 ttl 60") // and nothing kept from the old servers
	if one.count() != 1 || two.count() != 1 {
		t.Errorf("asked %d and %d times", one.count(), two.count())
	}
}

func TestParseResolvConf(t *testing.T) {
	for text, want := range map[string]string{
		"": "127.0.0.1:53",
		"# nameserver 10.0.0.1\nsearch lan\nnameserver\nnameserver x\n":                         "127.0.0.1:53",
		"nameserver 10.0.0.1\nnameserver\t::1 # two\n nameserver fe80::1%eth0\noptions edns0\n": "10.0.0.1:53 [::1]:53 [fe80::1%eth0]:53",
		strings.Repeat("nameserver 10.0.0.1\n", 20):                                             strings.TrimSpace(strings.Repeat("10.0.0.1:53 ", maxNameservers)),
	} {
		var got []string
		for _, a := range parseResolvConf([]byte(text), 53) {
			got = append(got, a.String())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
	}
}

// TestTwoNetworks has one network ask the other about its guests.
func TestTwoNetworks(t *testing.T) {
	f := newFixture(t)
	a := f.start(Config{Name: "a", Domain: "a.lan", LocalOnly: true}, leases{"alpha": addrs("10.0.0.1")})
	c := forwarding
	c.Forwarders = []Forwarder{{Domain: "a.lan", Addr: a.addr}}
	b := f.start(c, nil)
	if got := b.ask(t, "alpha.a.lan.", mdns.TypeA); got != "NOERROR A 10.0.0.1" {
		t.Errorf("got %s", got)
	}
	// And when they ask each other, the question ends nevertheless.
	c = a.Config()
	c.LocalOnly, c.Forwarders = false, []Forwarder{{Addr: b.addr}}
	if err := a.Reconfigure(c); err != nil {
		t.Fatal(err)
	}
	if got := b.ask(t, "round.a.lan.", mdns.TypeA); got != "SERVFAIL" {
		t.Errorf("got %s", got)
	}
}

func TestCloseWhileWaiting(t *testing.T) {
	f := newFixture(t)
	f.resolver.limit = time.Minute
	up := serve(t, 2, 0, silence)
	s := f.start(via(up), nil)
	conn, err := mdns.Dial("udp", s.addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for i := range 10 {
		if err := conn.WriteMsg(new(mdns.Msg).SetQuestion(fmt.Sprintf("n%d.example.", i), mdns.TypeA)); err != nil {
			t.Fatal(err)
		}
	}
	lab.Await(t, "queries wait", func() bool { return s.waiting.count() == 10 })
	s.Close()
	if n := f.resolver.waiting.count(); n != 0 {
		t.Errorf("%d queries still wait", n)
	}
	f.resolver.Close()
	if got := f.resolver.resolve(t.Context(), new(query), newUpstreams([]netip.AddrPort{up.addr})); got.code != serverFailure {
		t.Errorf("closed resolver: code %d", got.code)
	}
}

func TestCacheIsBounded(t *testing.T) {
	now := time.Unix(0, 0)
	c := newCache(3, 10000)
	for _, k := range []string{"a", "b", "c"} {
		c.put(k, reply{}, time.Hour, now)
	}
	c.get([]byte("a"), now)
	c.put("d", reply{}, time.Hour, now)
	has := func(want ...string) {
		t.Helper()
		var got []string
		for k := range c.entries {
			got = append(got, k)
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("kept are %v, want %v", got, want)
		}
	}
	has("a", "c", "d")
	c.put("big", reply{body: make([]byte, 9400)}, time.Hour, now)
	has("big", "d")
	c.put("a", reply{}, time.Hour, now)
	has("a", "big")
	c.put("huge", reply{body: make([]byte, 20000)}, time.Hour, now)
	has()
	if c.bytes != 0 || c.order.Len() != 0 {
		t.Errorf("empty cache counts %d bytes, %d entries", c.bytes, c.order.Len())
	}
}
