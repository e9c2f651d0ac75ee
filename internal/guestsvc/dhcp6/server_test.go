package dhcp6

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"viaduct/internal/guestsvc/pool"
)

func TestLifeOfAGuest(t *testing.T) {
	r := newRig(t, testConfig())
	a := r.obtain(1, named("web", 0))
	if got := r.table.LookupName("web"); !slices.Equal(got, []netip.Addr{a}) {
		t.Errorf("web = %v, want %v", got, a)
	}
	l, _ := r.table.ByAddr(a)
	if !l.Expiry.Equal(start.Add(time.Hour)) || l.PrefixLen != 64 || !bytes.Equal(l.ClientID, duid(1)) || l.IAID != 1 ||
		l.MAC.String() != "52:54:00:00:00:01" {
		t.Errorf("lease %+v", l)
	}

	r.clock.Advance(30 * time.Minute)
	if got := given(r.ask(packet(t, renew, 1, na(1, a.String()), server(ourDUID), named("web", 0)))); got != a {
		t.Errorf("renewed, it has %v", got)
	}
	if l, _ := r.table.ByAddr(a); !l.Expiry.Equal(start.Add(90 * time.Minute)) {
		t.Errorf("renewed until %v", l.Expiry)
	}

	released := r.ask(packet(t, release, 1, na(1, a.String()), server(ourDUID)))
	if s := released.Options.Status(); s == nil || s.StatusCode != iana.StatusSuccess {
		t.Errorf("release: %v", released)
	}
	if all := r.table.All(); len(all) != 0 {
		t.Errorf("after the release: %v", all)
	}
	if got := r.obtain(1); got != a {
		t.Errorf("came back and got %v instead of %v", got, a)
	}
}

func TestGuestComesBackLongAfter(t *testing.T) {
	r := newRig(t, testConfig())
	a := given(r.ask(packet(t, solicit, 1, rapid, na(1, "2001:db8:7::17"))))
	r.clock.Advance(100 * time.Hour)
	if r.obtain(2) == a {
		t.Error("the address of a lease that ended went to a new guest although others were unused")
	}
	if got := r.obtain(1); got != a || a != addr("2001:db8:7::17") {
		t.Errorf("came back and got %v instead of %v", got, a)
	}
}

// TestNoReplyBeforeTheLeasesAreOnDisk is the promise that a lease survives a
// crash: with two associations, the second write counts as much as the first.
func TestNoReplyBeforeTheLeasesAreOnDisk(t *testing.T) {
	for name, ask := range map[string]func() *dhcpv6.Message{
		"request": func() *dhcpv6.Message { return packet(t, request, 1, na(1), na(2), server(ourDUID)) },
		"solicit": func() *dhcpv6.Message { return packet(t, solicit, 1, rapid, na(1), na(2)) },
		"renew": func() *dhcpv6.Message {
			return packet(t, renew, 1, na(1, "2001:db8:7::7"), na(2, "2001:db8:7::8"), server(ourDUID))
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, testConfig())
			r.journal.Hold()
			p := ask()
			r.send(p)
			// Others are served meanwhile: this is answered although it came later.
			r.settled()
			if other := given(r.ask(packet(t, solicit, 2, na(1)))); !other.IsValid() {
				t.Error("nothing advertised to another guest")
			}
			if n := r.journal.Waiting(); n != 2 {
				t.Fatalf("%d changes wait for the disk", n)
			}
			r.silent()
			r.journal.Flush(1)
			r.settled()
			r.silent()
			r.journal.Flush(1)
			if reply := r.receive(); reply.MessageType != dhcpv6.MessageTypeReply || reply.TransactionID != p.TransactionID ||
				len(reply.Options.IANA()) != 2 || !given(reply).IsValid() {
				t.Errorf("after the writes: %v", reply)
			}
			r.settled()
			r.silent()
		})
	}
}

func TestNoReplyIfTheDiskFails(t *testing.T) {
	r := newRig(t, testConfig())
	r.journal.Fail(errors.New("no space left on device"))
	for _, p := range []*dhcpv6.Message{
		packet(t, request, 1, na(1), server(ourDUID)), packet(t, solicit, 2, rapid, na(1)), packet(t, rebind, 3, na(1, "2001:db8:7::7")),
	} {
		r.send(p)
		r.settled()
		r.silent()
	}
}

func TestWritesInFlightAreBounded(t *testing.T) {
	r := newRig(t, bigConfig())
	r.journal.Hold()
	for i := range uint32(2 * maxInFlight) {
		r.send(packet(t, request, 1, na(i), server(ourDUID)))
	}
	r.settled()
	if n := r.journal.Waiting(); n != maxInFlight {
		t.Errorf("%d leases wait for the disk, want %d", n, maxInFlight)
	}
	r.journal.Flush(maxInFlight)
	for range maxInFlight {
		r.receive()
	}
	r.journal.Release()
	r.obtain(9)
}

func TestAnotherServerIsChosen(t *testing.T) {
	c := testConfig()
	c.Ranges[0] = Range{First: addr("2001:db8:7::5"), Last: addr("2001:db8:7::5")}
	r := newRig(t, c)
	r.ask(packet(t, solicit, 1, na(1)))
	if got := given(r.ask(packet(t, solicit, 2, na(1)))); got.IsValid() {
		t.Errorf("%v is offered twice", got)
	}
	r.send(packet(t, request, 1, na(1, "2001:db8:7::77"), server([]byte{0, 4, 'o'})))
	if got := r.obtain(2); got != addr("2001:db8:7::5") {
		t.Errorf("got %v", got)
	}
}

func TestDeclinedAddressIsKeptBack(t *testing.T) {
	r := newRig(t, testConfig())
	a := r.obtain(1)
	r.ask(packet(t, decline, 1, na(1, a.String()), server(ourDUID)))
	if _, ok := r.table.ByAddr(a); ok {
		t.Error("the declined lease is still there")
	}
	if b := r.obtain(1); b == a {
		t.Error("the declined address was given again")
	}
	if got := given(r.ask(packet(t, renew, 3, na(1, a.String()), server(ourDUID)))); got.IsValid() {
		t.Errorf("renewal of the declined address: %v", got)
	}
	r.clock.Advance(pool.QuarantineTime)
	if got := given(r.ask(packet(t, renew, 3, na(1, a.String()), server(ourDUID)))); got != a {
		t.Errorf("after the quarantine: %v", got)
	}
}

func TestReconfigure(t *testing.T) {
	r := newRig(t, testConfig())
	a := r.obtain(1)
	offered := given(r.ask(packet(t, solicit, 2, na(1))))
	c := testConfig()
	c.Hosts = append(c.Hosts, Host{DUID: duid(77), Addr: addr("2001:db8:7::77")})
	c.DNS = []netip.Addr{addr("2001:db8:7::53")}
	if err := r.server.Reconfigure(c); err != nil {
		t.Fatal(err)
	}
	if got := given(r.ask(packet(t, renew, 1, na(1, a.String()), server(ourDUID)))); got != a {
		t.Errorf("the lease became %v", got)
	}
	if got := given(r.ask(packet(t, request, 2, na(1), server(ourDUID)))); got != offered {
		t.Errorf("the offer of %v became %v", offered, got)
	}
	if got := r.obtain(77); got != addr("2001:db8:7::77") {
		t.Errorf("the new reservation got %v", got)
	}
	if dns := r.ask(packet(t, inform, 1)).Options.DNS(); len(dns) != 1 || dns[0].String() != "2001:db8:7::53" {
		t.Errorf("dns %v", dns)
	}
	for name, change := range map[string]func(*Config){
		"invalid": func(c *Config) { c.Lease = -1 }, "other bridge": func(c *Config) { c.Bridge = "virbr1" },
		"other network": func(c *Config) { c.Network[0]++ },
	} {
		c := testConfig()
		change(&c)
		if err := r.server.Reconfigure(c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if got := given(r.ask(packet(t, solicit, 77, na(1)))); got != addr("2001:db8:7::77") {
		t.Errorf("a refused configuration took effect: %v", got)
	}
}

func TestRestartKnowsTheLeases(t *testing.T) {
	r := newRig(t, testConfig())
	a := given(r.ask(packet(t, solicit, 1, rapid, na(1, "2001:db8:7::13"))))
	if err := r.server.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.server.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	r.start(testConfig(), io.Discard)
	if got := given(r.ask(packet(t, request, 2, na(1, a.String()), server(ourDUID)))); got == a || !got.IsValid() {
		t.Errorf("guest 2 got %v, guest 1 has %v", got, a)
	}
	if got := r.obtain(1); got != a {
		t.Errorf("got %v, had %v", got, a)
	}
}

func TestCloseWithAWriteInFlight(t *testing.T) {
	r := newRig(t, testConfig())
	r.journal.Hold()
	r.send(packet(t, request, 1, na(1), server(ourDUID)))
	r.settled()
	if err := r.server.Close(); err != nil {
		t.Fatal(err)
	}
	r.journal.Flush(1)
}

func TestMessagesOfOthersAreIgnored(t *testing.T) {
	r := newRig(t, testConfig())
	good := packet(t, solicit, 1, na(1)).ToBytes()
	for _, d := range []datagram{
		{good, addr("2001:db8:8::5"), true}, {good, addr("::"), true}, {good[:20], linkLocal(1), true}, {nil, linkLocal(1), true},
		{good, linkLocal(1), false},
	} {
		r.wire.in <- d
	}
	r.settled()
	r.silent()
	for _, from := range []netip.Addr{linkLocal(1), addr("2001:db8:7::99")} {
		r.wire.in <- datagram{good, from, true}
		select {
		case d := <-r.wire.out:
			if d.peer != from {
				t.Errorf("a reply to %v went to %v", from, d.peer)
			}
		case <-time.After(patience):
			t.Fatalf("no reply to %v", from)
		}
	}
}

func TestStartRefusesABadConfiguration(t *testing.T) {
	w := newWire()
	if _, err := Start(Config{Name: "x"}, Deps{Conn: w, DUID: ourDUID}); err == nil {
		t.Fatal("no error")
	}
	select {
	case <-w.quit:
	default:
		t.Error("the connection stays open")
	}
}

// TestFlood has a guest invent other guests as fast as it can.
func TestFlood(t *testing.T) {
	for _, in := range []struct {
		name   string
		config Config
	}{{"in a large range", bigConfig()}, {"in a small range", testConfig()}} {
		t.Run(in.name, func(t *testing.T) {
			r := newRig(t, in.config)
			drained := make(chan struct{})
			go func() {
				defer close(drained)
				for {
					select {
					case <-r.wire.out:
					case <-r.wire.quit:
						return
					}
				}
			}()
			rng := rand.New(rand.NewPCG(1, 2))
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			for range 20000 {
				mods := make([]mod, maxIAs)
				for i := range mods {
					mods[i] = na(rng.Uint32())
				}
				r.server.receive(packet(t, solicit, byte(rng.Uint32()), mods...).ToBytes(), linkLocal(1), true)
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			r.server.mu.Lock()
			offers, _ := r.server.state.Held()
			r.server.mu.Unlock()
			if offers > pool.MaxOffers {
				t.Errorf("%d offers are kept, more than %d", offers, pool.MaxOffers)
			}
			if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 8<<20 {
				t.Errorf("the flood takes %d KiB", grown>>10)
			}
			// While it goes on, a real guest gets its address.
			r.clock.Advance(pool.StealTime)
			r.server.mu.Lock()
			m, err := parseMessage(packet(t, solicit, 1, na(1)).ToBytes(), linkLocal(1), true)
			if err != nil {
				t.Fatal(err)
			}
			a := r.server.state.answer(m, r.clock.Now())
			r.server.mu.Unlock()
			if !a.gives() {
				t.Errorf("a guest in the flood: %v", a)
			}
			r.server.Close()
			<-drained
		})
	}
}

func TestLogNamesWhatIsWrong(t *testing.T) {
	var out bytes.Buffer
	r := newRig(t, testConfig())
	r.server.Close()
	c := testConfig()
	c.Ranges[0].First = c.Ranges[0].Last
	r.start(c, &out)
	a := r.obtain(1)
	r.ask(packet(t, decline, 1, na(1, a.String()), server(ourDUID)))
	r.ask(packet(t, solicit, 2, na(1)))
	r.server.Close()
	for _, want := range []string{
		"level=WARN", "network=default", "in use by somebody", "address=" + a.String(), `"declined by"=00020000000901`,
		"no free address", "client=00020000000902",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, out.String())
		}
	}
}

func TestReaderSurvivesErrors(t *testing.T) {
	for _, c := range []struct {
		failures int
		answers  bool
	}{{maxReadFailures, true}, {maxReadFailures + 1, false}} {
		r := newRig(t, testConfig())
		r.server.Close()
		w := newWire()
		w.in <- datagram{packet(t, inform, 1).ToBytes(), linkLocal(1), true}
		s, err := Start(testConfig(), Deps{
			Conn: &failing{wire: w, left: c.failures}, Leases: r.table, DUID: ourDUID, Now: r.clock.Now, Log: r.server.deps.Log,
		})
		if err != nil {
			t.Fatal(err)
		}
		if c.answers {
			<-w.out
		}
		s.Close()
		if len(w.in) > 0 == c.answers {
			t.Errorf("after %d failures %d messages are unread", c.failures, len(w.in))
		}
	}
}

var errDown = errors.New("network is down")

// failing is a wire that fails some times first.
type failing struct {
	*wire
	left int
}

func (f *failing) ReadPacket(buf []byte) (int, netip.Addr, bool, error) {
	if f.left--; f.left >= 0 {
		return 0, netip.Addr{}, false, errDown
	}
	return f.wire.ReadPacket(buf)
}

// BenchmarkExchange is solicit to reply without disk and kernel.
func BenchmarkExchange(b *testing.B) {
	r := newRig(b, bigConfig())
	b.ReportAllocs()
	for i := uint32(0); b.Loop(); i++ {
		a := given(r.ask(packet(b, solicit, 1, na(i))))
		r.ask(packet(b, request, 1, na(i, a.String()), server(ourDUID)))
	}
}
