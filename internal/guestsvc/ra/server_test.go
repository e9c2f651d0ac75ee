package ra

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mdlayher/ndp"

	"viaduct/internal/netdef"
)

// quiet is long enough for the first advertisements to be over.
const quiet = initialAdverts * maxInitialInterval

// settle lets time pass and returns what was sent meanwhile.
func settle(l *testLink, d time.Duration) []sending {
	time.Sleep(d)
	synctest.Wait()
	return l.take()
}

func TestUnsolicitedSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		_, l := startTest(t, testConfig())
		sent := settle(l, 24*time.Hour)
		if !sent[0].at.Equal(start) {
			t.Errorf("the first came after %v", sent[0].at.Sub(start))
		}
		gaps := map[time.Duration]bool{}
		for i, s := range sent[1:] {
			gap := s.at.Sub(sent[i].at)
			gaps[gap] = true
			lo, hi := DefaultInterval/3, DefaultInterval
			if i+1 < initialAdverts {
				lo, hi = minDelayBetween, maxInitialInterval
			}
			if gap < lo || gap > hi || s.to != allNodes {
				t.Errorf("advertisement %d to %s after %v, want %v to %v", i+1, s.to, gap, lo, hi)
			}
		}
		if len(sent) < 24*6 || len(gaps) < len(sent)/2 {
			t.Errorf("%d advertisements in a day, %d different times between them", len(sent), len(gaps))
		}
	})
}

func TestSolicitationIsAnsweredToItsGuest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, l := startTest(t, testConfig())
		settle(l, quiet)
		delays := map[time.Duration]bool{}
		for range 20 {
			asked := time.Now()
			l.solicit(guestLL)
			l.solicit(guestLL) // one answer is enough
			sent := settle(l, maxAnswerDelay)
			if len(sent) != 1 || sent[0].to != guestLL {
				t.Fatalf("answers: %v", sent)
			}
			delays[sent[0].at.Sub(asked)] = true
		}
		if len(delays) < 10 {
			t.Errorf("answered after %v: no random delay", delays)
		}
	})
}

func TestSolicitationWithoutAddressIsAnsweredToAll(t *testing.T) {
	for _, from := range []netip.Addr{netip.IPv6Unspecified(), addr("fd00:1::5")} {
		synctest.Test(t, func(t *testing.T) {
			_, l := startTest(t, testConfig())
			settle(l, quiet)
			var times []time.Time
			// Guests that ask all the time bring about one each 3 s or less.
			for range 300 {
				l.solicit(from)
				for _, s := range settle(l, 100*time.Millisecond) {
					if s.to != allNodes {
						t.Fatalf("answered to %s", s.to)
					}
					times = append(times, s.at)
				}
			}
			for i, at := range times[1:] {
				if gap := at.Sub(times[i]); gap < minDelayBetween || gap > minDelayBetween+maxAnswerDelay {
					t.Errorf("%v between answers to all", gap)
				}
			}
			if len(times) < 30/4 {
				t.Errorf("%d answers in 30 s", len(times))
			}
		})
	}
}

func TestManyGuestsAtOnceAreAnsweredWithOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, l := startTest(t, testConfig())
		settle(l, quiet)
		for i := range 5000 {
			l.solicit(netip.AddrFrom16([16]byte{0xfe, 0x80, 14: byte(i >> 8), 15: byte(i)}))
		}
		sent := settle(l, minDelayBetween+2*maxAnswerDelay)
		all := 0
		for _, s := range sent {
			if s.to == allNodes {
				all++
			}
		}
		if all != 1 || len(sent) > maxAnswers+1 {
			t.Errorf("%d advertisements, %d to all", len(sent), all)
		}
	})
}

func TestForeignBytesAreNotAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, l := startTest(t, testConfig())
		settle(l, quiet)
		for _, b := range [][]byte{nil, {133}, {134, 0, 0, 0, 0, 0, 0, 0}, {133, 0, 0, 0, 0, 0, 0, 0, 1, 0}} {
			l.in <- heard{guestLL, b}
		}
		if sent := settle(l, maxAnswerDelay); len(sent) > 0 {
			t.Errorf("answered: %v", sent)
		}
	})
}

func TestReconfigureTellsAtOnceWhatChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, l := startTest(t, testConfig())
		settle(l, quiet)
		moved := change(func(c *Config) {
			c.Prefixes = []Prefix{slaac("fd00:2::/64")}
			c.RDNSS = []netip.Addr{addr("fd00:2::1")}
			c.RouterLifetime = 0
		})
		if err := s.Reconfigure(moved); err != nil {
			t.Fatal(err)
		}
		if n := len(l.take()); n != 1 {
			t.Fatalf("%d advertisements at once", n)
		}
		// A second change before the first was said often enough takes nothing back.
		moved.Prefixes = append(moved.Prefixes, slaac("fd00:3::/64"))
		if err := s.Reconfigure(moved); err != nil {
			t.Fatal(err)
		}
		sent := settle(l, quiet)
		if len(sent) != initialAdverts {
			t.Fatalf("%d advertisements after a change", len(sent))
		}
		for _, s := range sent {
			if s.m.RouterLifetime != 0 {
				t.Errorf("router lifetime %v", s.m.RouterLifetime)
			}
			valid := map[netip.Addr]time.Duration{}
			for _, p := range find[*ndp.PrefixInformation](s.m) {
				valid[p.Prefix] = p.ValidLifetime
			}
			if len(valid) != 3 || valid[addr("fd00:1::")] != 0 || valid[addr("fd00:2::")] != DefaultValid || valid[addr("fd00:3::")] != DefaultValid {
				t.Errorf("prefixes %v", valid)
			}
			servers := find[*ndp.RecursiveDNSServer](s.m)
			if len(servers) != 2 || servers[0].Servers[0] != addr("fd00:2::1") || servers[0].Lifetime == 0 ||
				servers[1].Servers[0] != addr("fd00:1::1") || servers[1].Lifetime != 0 {
				t.Errorf("servers %+v", servers)
			}
		}
		for _, s := range settle(l, DefaultInterval) {
			if n := len(find[*ndp.PrefixInformation](s.m)); n != 2 {
				t.Errorf("%d prefixes when all was said", n)
			}
		}
	})
}

func TestRefusedReconfigureChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, l := startTest(t, testConfig())
		settle(l, quiet)
		for name, f := range map[string]func(*Config){
			"other network": func(c *Config) { c.Network = netdef.UUID{2} },
			"other bridge":  func(c *Config) { c.Bridge = "virbr1" },
			"other source":  func(c *Config) { c.Source = addr("fe80::1") },
			"bad mtu":       func(c *Config) { c.MTU = 576 },
		} {
			if err := s.Reconfigure(change(f)); err == nil {
				t.Errorf("%s: accepted", name)
			}
		}
		if sent := l.take(); len(sent) > 0 {
			t.Errorf("sent %v", sent)
		}
	})
}

func TestCloseTakesAllBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, l := startTest(t, change(func(c *Config) {
			c.Managed = true
			c.Routes = []RouteInfo{{Prefix: prefix("fd00:9::/48")}}
		}))
		settle(l, quiet)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		sent := l.take()
		if len(sent) != 1 || sent[0].to != allNodes {
			t.Fatalf("sent %v", sent)
		}
		m := sent[0].m
		if m.RouterLifetime != 0 || m.ManagedConfiguration {
			t.Errorf("last advertisement: %+v", m)
		}
		p, r := find[*ndp.PrefixInformation](m), find[*ndp.RouteInformation](m)
		dns, search := find[*ndp.RecursiveDNSServer](m), find[*ndp.DNSSearchList](m)
		if len(p) != 1 || p[0].ValidLifetime != 0 || p[0].PreferredLifetime != 0 || !p[0].OnLink || !p[0].AutonomousAddressConfiguration ||
			len(r) != 1 || r[0].RouteLifetime != 0 || len(dns) != 1 || dns[0].Lifetime != 0 || len(search) != 1 || search[0].Lifetime != 0 {
			t.Errorf("last advertisement's options: %+v %+v %+v %+v", p, r, dns, search)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if s.Wake(); len(settle(l, time.Hour)) > 0 {
			t.Error("sent something after the end")
		}
	})
}

func TestLeaveIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, l := startTest(t, testConfig())
		settle(l, quiet)
		if err := s.Leave(); err != nil {
			t.Fatal(err)
		}
		if sent := settle(l, time.Hour); len(sent) > 0 {
			t.Errorf("sent %v", sent)
		}
	})
}

// TestLinkThatCannotSend has the link back by a guest that asks, by a wake and
// by itself.
func TestLinkThatCannotSend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, l := startTest(t, testConfig())
		settle(l, quiet)
		broken := errors.New("no such address")
		revive := map[string]func(){
			"guest":  func() { l.solicit(netip.IPv6Unspecified()) },
			"wake":   s.Wake,
			"itself": func() { time.Sleep(DefaultInterval) },
		}
		for _, how := range []string{"guest", "wake", "itself"} {
			l.setFail(broken)
			if sent := settle(l, 10*DefaultInterval); len(sent) > 0 {
				t.Fatalf("sent %v", sent)
			}
			l.setFail(nil)
			revive[how]()
			if sent := settle(l, maxAnswerDelay); len(sent) == 0 || slices.ContainsFunc(sent, func(s sending) bool { return s.to != allNodes }) {
				t.Errorf("revived by %s: sent %v", how, sent)
			}
			settle(l, quiet)
		}
	})
}

func TestFailuresAreTriedMoreAndMoreSeldom(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	var s schedule
	s.setInterval(DefaultInterval)
	s.restart(now)
	tries := 0
	for end := now.Add(24 * time.Hour); now.Before(end); now = s.wake() {
		if all, _ := s.due(now); all {
			tries++
			s.sent(false, now)
		}
	}
	if most := int(24*time.Hour/(DefaultInterval/2)) + 8; tries > most {
		t.Errorf("%d tries in a day, more than %d", tries, most)
	}
	if s.quick != initialAdverts {
		t.Errorf("%d of the first advertisements are left", s.quick)
	}
}

func TestStartRefusesWhatCannotBeAdvertised(t *testing.T) {
	l := newTestLink()
	if s, err := Start(change(func(c *Config) { c.Interval = time.Second }), Deps{Conn: l}); err == nil {
		s.Close()
		t.Error("started")
	}
	select {
	case <-l.quit:
	default:
		t.Error("the connection is open")
	}
}
