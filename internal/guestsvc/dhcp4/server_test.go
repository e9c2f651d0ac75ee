package dhcp4

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"viaduct/internal/guestsvc/guestsvctest"
	"viaduct/internal/guestsvc/pool"
	"viaduct/internal/netdef"
)

func textLog(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

// silent fails if the server says anything; what was sent before must be settled.
func (r *rig) silent() {
	r.t.Helper()
	select {
	case f := <-r.wire.out:
		r.t.Fatalf("unexpected reply %x", f)
	default:
	}
}

func TestLifeOfAGuest(t *testing.T) {
	r := newRig(t, testConfig(), answering{})
	a := r.obtain(guest(1), named("web"))
	if got := r.table.LookupName("web"); !slices.Equal(got, []netip.Addr{a}) {
		t.Errorf("web = %v, want %v", got, a)
	}
	l, _ := r.table.ByAddr(a)
	if want := start.Add(time.Hour); !l.Expiry.Equal(want) || l.PrefixLen != 24 || l.MAC != guest(1) {
		t.Errorf("lease %+v", l)
	}

	r.clock.Advance(30 * time.Minute)
	ack := r.ask(packet(t, request, guest(1), ciaddr(a.String()), named("web")))
	if ack.MessageType() != dhcpv4.MessageTypeAck {
		t.Errorf("renewal: %v", ack)
	}
	if l, _ := r.table.ByAddr(a); !l.Expiry.Equal(start.Add(90 * time.Minute)) {
		t.Errorf("renewed until %v", l.Expiry)
	}

	r.send(packet(t, released, guest(1), ciaddr(a.String()), server("192.168.122.1")))
	r.settled()
	if all := r.table.All(); len(all) != 0 {
		t.Errorf("after the release: %v", all)
	}
	if got := r.obtain(guest(1)); got != a {
		t.Errorf("came back and got %v instead of %v", got, a)
	}
}

func TestGuestComesBackLongAfter(t *testing.T) {
	r := newRig(t, testConfig(), nil)
	a := r.obtain(guest(1), requestedFirst("192.168.122.17"))
	r.clock.Advance(100 * time.Hour)
	if r.obtain(guest(2)) == a {
		t.Error("the address of a lease that ended went to a new guest although others were unused")
	}
	if got := r.obtain(guest(1)); got != a {
		t.Errorf("came back and got %v instead of %v", got, a)
	}
}

// requestedFirst wishes for an address in the DISCOVER.
func requestedFirst(a string) mod {
	return func(p *dhcpv4.DHCPv4) {
		if p.MessageType() == discover {
			requested(a)(p)
		}
	}
}

// TestNoAckBeforeTheLeaseIsOnDisk is the promise that a lease survives a crash.
func TestNoAckBeforeTheLeaseIsOnDisk(t *testing.T) {
	r := newRig(t, testConfig(), nil)
	offer := r.ask(packet(t, discover, guest(1)))
	r.journal.Hold()
	selecting := packet(t, request, guest(1), requested(offer.YourIPAddr.String()), server("192.168.122.1"))
	r.send(selecting)
	// Others are served meanwhile: this is answered although it came later.
	r.settled()
	if other := r.ask(packet(t, discover, guest(2))); other.MessageType() != dhcpv4.MessageTypeOffer ||
		other.YourIPAddr.Equal(offer.YourIPAddr) {
		t.Errorf("offer to another guest: %v", other)
	}
	if r.journal.Waiting() != 1 {
		t.Fatalf("%d changes wait for the disk", r.journal.Waiting())
	}
	r.silent()
	r.journal.Release()
	if ack := r.receive(); ack.MessageType() != dhcpv4.MessageTypeAck || ack.TransactionID != selecting.TransactionID {
		t.Errorf("after the write: %v", ack)
	}
	r.settled()
	r.silent()
}

func TestNoAckIfTheDiskFails(t *testing.T) {
	r := newRig(t, testConfig(), nil)
	r.journal.Fail(errors.New("no space left on device"))
	synced := r.obtainRequest(guest(1))
	r.send(synced)
	r.settled()
	r.silent()
}

// obtainRequest is the REQUEST for an address that was offered.
func (r *rig) obtainRequest(mac netdef.MAC) *dhcpv4.DHCPv4 {
	offer := r.ask(packet(r.t, discover, mac))
	return packet(r.t, request, mac, requested(offer.YourIPAddr.String()), server("192.168.122.1"))
}

func TestWritesInFlightAreBounded(t *testing.T) {
	c := bigConfig()
	r := newRig(t, c, nil)
	r.journal.Hold()
	rng := rand.New(rand.NewPCG(1, 2))
	for range 2 * maxInFlight {
		r.send(packet(t, request, randomMAC(rng), requested(fmt.Sprintf("10.9.%d.%d", 1+rng.IntN(60), rng.IntN(256)))))
	}
	r.send(packet(t, inform, guest(1), ciaddr("10.9.0.7")))
	for r.receive().MessageType() != dhcpv4.MessageTypeAck { // the NAKs of addresses drawn twice come first
	}
	if n := r.journal.Waiting(); n > maxInFlight {
		t.Errorf("%d leases wait for the disk, more than %d", n, maxInFlight)
	}
	r.journal.Release()
	for range maxInFlight {
		r.receive()
	}
	if got := r.ask(packet(t, request, guest(9), requested("10.9.99.9"))); got.MessageType() != dhcpv4.MessageTypeAck {
		t.Errorf("afterwards: %v", got)
	}
}

func TestAnotherServerIsChosen(t *testing.T) {
	c := testConfig()
	c.Ranges[0] = Range{First: addr("192.168.122.5"), Last: addr("192.168.122.5")}
	r := newRig(t, c, nil)
	r.ask(packet(t, discover, guest(1)))
	r.send(packet(t, discover, guest(2)))
	r.settled()
	r.silent() // the only address is offered
	r.send(packet(t, request, guest(1), requested("192.168.122.77"), server("192.168.122.9")))
	if got := r.obtain(guest(2)); got != addr("192.168.122.5") {
		t.Errorf("got %v", got)
	}
}

func TestDeclinedAddressIsKeptBack(t *testing.T) {
	r := newRig(t, testConfig(), nil)
	a := r.obtain(guest(1))
	r.send(packet(t, decline, guest(1), requested(a.String()), server("192.168.122.1")))
	r.settled()
	if _, ok := r.table.ByAddr(a); ok {
		t.Error("the declined lease is still there")
	}
	b := r.obtain(guest(1))
	if b == a {
		t.Error("the declined address was given again")
	}
	if got := r.ask(packet(t, request, guest(3), requested(a.String()))); got.MessageType() != dhcpv4.MessageTypeNak {
		t.Errorf("request of the declined address: %v", got)
	}
	r.clock.Advance(pool.QuarantineTime)
	if got := r.ask(packet(t, request, guest(3), requested(a.String()))); got.MessageType() != dhcpv4.MessageTypeAck {
		t.Errorf("request after the quarantine: %v", got)
	}
}

func TestConflictIsSeenBeforeTheOffer(t *testing.T) {
	squatter := netdef.MAC{2, 9, 9, 9, 9, 9}
	uses := answering{}
	r := newRig(t, testConfig(), uses)
	first := addr(fresh)
	uses[first], uses[first.Next()] = squatter, squatter
	if got := r.obtain(guest(1)); got != first.Next().Next() {
		t.Errorf("got %v, want the third candidate", got)
	}
	// An address that answers with the guest's own MAC is no conflict.
	uses[addr("192.168.122.17")] = guest(2)
	if got := r.obtain(guest(2), requestedFirst("192.168.122.17")); got != addr("192.168.122.17") {
		t.Errorf("got %v", got)
	}
}

func TestConflictsEverywhereEndTheSearch(t *testing.T) {
	uses := answering{}
	for a := addr("192.168.122.2"); a != addr("192.168.122.21"); a = a.Next() {
		uses[a] = netdef.MAC{2, 9, 9, 9, 9, 9}
	}
	r := newRig(t, testConfig(), uses)
	r.send(packet(t, discover, guest(1)))
	r.settled()
	r.silent()
	r.server.mu.Lock()
	defer r.server.mu.Unlock()
	if _, n := r.server.state.Held(); n != maxConflicts {
		t.Errorf("%d addresses were tried, want %d", n, maxConflicts)
	}
}

// waiting is a Prober whose answers the test gives.
type waiting chan func(netdef.MAC)

func (w waiting) Probe(_ netip.Addr, answer func(netdef.MAC)) { w <- answer }

func TestProbeDelaysNobodyElse(t *testing.T) {
	prober := make(waiting, 8)
	r := newRig(t, testConfig(), prober)
	discovery := packet(t, discover, guest(1))
	r.send(discovery)
	answer := <-prober
	r.send(discovery) // said again while the probe runs
	if got := r.ask(packet(t, request, guest(2), requested("192.168.122.15"))); got.MessageType() != dhcpv4.MessageTypeAck {
		t.Errorf("another guest: %v", got)
	}
	r.silent()
	answer(netdef.MAC{})
	offer := r.receive()
	if offer.MessageType() != dhcpv4.MessageTypeOffer || offer.TransactionID != discovery.TransactionID {
		t.Errorf("after the probe: %v", offer)
	}
	r.settled()
	r.silent()
	// A guest that comes back is not made to wait.
	if got := r.ask(packet(t, discover, guest(2))); got.MessageType() != dhcpv4.MessageTypeOffer {
		t.Errorf("a guest that has a lease: %v", got)
	}
	if len(prober) != 0 {
		t.Error("the address of a lease was probed")
	}
	// A probe that ends after the server is of no consequence.
	r.send(packet(t, discover, guest(3)))
	answer = <-prober
	r.server.Close()
	answer(netdef.MAC{})
}

func TestReconfigureKeepsWhatItCan(t *testing.T) {
	r := newRig(t, testConfig(), nil)
	kept := r.obtain(guest(1), requestedFirst("192.168.122.7"))
	r.obtain(guest(2), requestedFirst("192.168.122.19"))
	offer := r.ask(packet(t, discover, guest(3), requested("192.168.122.8")))
	gone := r.obtain(guest(4), requestedFirst("192.168.122.9"), named("mail"))
	r.send(packet(t, decline, guest(4), requested(gone.String()), server("192.168.122.1")))
	r.settled()

	c := testConfig()
	c.Ranges = []Range{{First: addr("192.168.122.5"), Last: addr("192.168.122.10")}}
	c.Hosts = append(c.Hosts, Host{MAC: guest(77), Name: "web", Addr: addr("192.168.122.77")})
	if err := r.server.Reconfigure(c); err != nil {
		t.Fatal(err)
	}
	if got := r.ask(packet(t, request, guest(1), ciaddr(kept.String()))); got.MessageType() != dhcpv4.MessageTypeAck {
		t.Errorf("renewal within the new range: %v", got)
	}
	if got := r.ask(packet(t, request, guest(2), ciaddr("192.168.122.19"))); got.MessageType() != dhcpv4.MessageTypeNak {
		t.Errorf("renewal outside the new range: %v", got)
	}
	for n, a := range map[byte]string{5: "192.168.122.8", 6: gone.String()} {
		if got := r.ask(packet(t, request, guest(n), requested(a))); got.MessageType() != dhcpv4.MessageTypeNak {
			t.Errorf("%s, offered or declined before, was given to another: %v", a, got)
		}
	}
	selecting := packet(t, request, guest(3), requested(offer.YourIPAddr.String()), server("192.168.122.1"))
	if got := r.ask(selecting); got.MessageType() != dhcpv4.MessageTypeAck {
		t.Errorf("the offer from before: %v", got)
	}
	if got := r.obtain(guest(77)); got != addr("192.168.122.77") {
		t.Errorf("the new reservation got %v", got)
	}

	for name, change := range map[string]func(*Config){
		"invalid": func(c *Config) { c.MTU = -1 }, "other bridge": func(c *Config) { c.Bridge = "virbr1" },
	} {
		c := testConfig()
		change(&c)
		if err := r.server.Reconfigure(c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if got := r.ask(packet(t, discover, guest(77))); given(got.YourIPAddr) != addr("192.168.122.77") {
		t.Errorf("a refused configuration took effect: %v", got)
	}
}

func TestRestartKnowsTheLeases(t *testing.T) {
	r := newRig(t, testConfig(), nil)
	a := r.obtain(guest(1), requestedFirst("192.168.122.13"))
	if err := r.server.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.server.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	r.start(testConfig(), nil)
	if got := r.ask(packet(t, request, guest(2), requested(a.String()))); got.MessageType() != dhcpv4.MessageTypeNak {
		t.Errorf("the address of guest 1 was given to guest 2: %v", got)
	}
	if got := r.obtain(guest(1)); got != a {
		t.Errorf("got %v, had %v", got, a)
	}
}

func TestCloseWithAWriteInFlight(t *testing.T) {
	r := newRig(t, testConfig(), nil)
	req := r.obtainRequest(guest(1))
	r.journal.Hold()
	r.send(req)
	r.settled()
	if err := r.server.Close(); err != nil {
		t.Fatal(err)
	}
	r.journal.Release()
}

func TestFramesOfOthersAreIgnored(t *testing.T) {
	r := newRig(t, testConfig(), nil)
	p := packet(t, discover, guest(1)).ToBytes()
	good := testDatagram(p)
	for _, change := range []func(*datagram){
		func(d *datagram) { d.dstMAC = guest(9) },
		func(d *datagram) { d.srcMAC = bridge },
		func(d *datagram) { d.dst = netip.MustParseAddrPort("192.168.122.9:67") },
		func(d *datagram) { d.payload = d.payload[:100] },
		func(d *datagram) { d.payload = nil },
	} {
		d := good
		change(&d)
		r.wire.in <- appendFrame(nil, d)
	}
	r.settled()
	r.silent()
	for _, to := range []string{"255.255.255.255:67", "192.168.122.1:67", "192.168.122.255:67"} {
		d := good
		d.dst = netip.MustParseAddrPort(to)
		r.wire.in <- appendFrame(nil, d)
		if got := r.receive(); got.MessageType() != dhcpv4.MessageTypeOffer {
			t.Errorf("to %s: %v", to, got)
		}
	}
}

// TestFlood has a guest invent other guests as fast as it can.
func TestFlood(t *testing.T) {
	for _, in := range []struct {
		name   string
		config Config
	}{{"in a /16", bigConfig()}, {"in a small range", testConfig()}} {
		t.Run(in.name, func(t *testing.T) {
			r := newRig(t, in.config, answering{})
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
			for range 50000 {
				r.server.receive(appendFrame(nil, testDatagram(packet(t, discover, randomMAC(rng)).ToBytes())))
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
			now := r.clock.Now()
			m := parse(t, packet(t, discover, guest(1)))
			v := decide(r.server.state, m, now)
			r.server.mu.Unlock()
			if v.action != actOffer {
				t.Errorf("a guest in the flood: %v", v)
			}
			r.server.Close()
			<-drained
		})
	}
}

func TestLogNamesTheConflict(t *testing.T) {
	var out bytes.Buffer
	uses := answering{addr(fresh): netdef.MAC{2, 9, 9, 9, 9, 9}}
	w := newWire()
	s, err := Start(testConfig(), Deps{Frames: w, Prober: uses, Leases: newRigTable(), Now: guestsvctest.NewClock(start).Now, Log: textLog(&out)})
	if err != nil {
		t.Fatal(err)
	}
	s.receive(appendFrame(nil, testDatagram(packet(t, discover, guest(1)).ToBytes())))
	s.Close()
	for _, want := range []string{"level=WARN", "in use", "network=default", "address=" + fresh, "mac=02:09:09:09:09:09"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, out.String())
		}
	}
}

func TestReaderSurvivesErrors(t *testing.T) {
	conn := &failing{wire: newWire(), left: maxReadFailures}
	conn.in <- []byte("frame")
	var got []byte
	done := make(chan error, 1)
	go func() { done <- readFrames(conn, make([]byte, 64), func(f []byte) { got = f; conn.Close() }) }()
	if err := <-done; err != nil || string(got) != "frame" {
		t.Errorf("read %q, %v", got, err)
	}
	conn = &failing{wire: newWire(), left: maxReadFailures + 1}
	if err := readFrames(conn, make([]byte, 64), func([]byte) {}); !errors.Is(err, errDown) {
		t.Errorf("a connection that fails for good: %v", err)
	}
}

var errDown = errors.New("network is down")

// failing is a wire that fails some times first.
type failing struct {
	*wire
	left int
}

func (f *failing) ReadFrame(buf []byte) (int, error) {
	if f.left--; f.left >= 0 {
		return 0, errDown
	}
	return f.wire.ReadFrame(buf)
}

func TestARPProber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		p := NewARPProber(w, ProbeWait)
		defer p.Close()
		a := addr("192.168.122.5")
		answers := make(chan netdef.MAC, 2)
		began := time.Now()
		p.Probe(a, func(mac netdef.MAC) { answers <- mac })
		p.Probe(a, func(mac netdef.MAC) { answers <- mac })
		if got := <-answers; !got.IsZero() || time.Since(began) != ProbeWait {
			t.Errorf("nobody there: %v after %v", got, time.Since(began))
		}
		<-answers
		if len(w.out) != 1 {
			t.Errorf("%d probes for one question", len(w.out))
		}

		p.Probe(a, func(mac netdef.MAC) { answers <- mac })
		reply := slices.Clone(<-w.out)
		copy(reply[ethernetHeader+8:], append(mac(3), a.AsSlice()...))
		w.in <- reply
		if got := <-answers; got != guest(3) {
			t.Errorf("answered by %v", got)
		}

		for i := range uint32(maxProbes) {
			p.Probe(netip.AddrFrom4([4]byte{0, 0, byte(i >> 8), byte(i)}), func(netdef.MAC) {})
		}
		p.Probe(a, func(mac netdef.MAC) { answers <- mac })
		select {
		case <-answers:
		default:
			t.Error("a probe beyond the limit was not answered at once")
		}
	})
}

func TestARPProberAnswersAllWhenItEnds(t *testing.T) {
	p := NewARPProber(newWire(), ProbeWait)
	answers := make(chan netdef.MAC, 2)
	p.Probe(addr("192.168.122.5"), func(mac netdef.MAC) { answers <- mac })
	p.Close()
	<-answers
	p.Probe(addr("192.168.122.5"), func(mac netdef.MAC) { answers <- mac })
	<-answers
}

// BenchmarkExchange is DISCOVER to ACK without disk and kernel.
func BenchmarkExchange(b *testing.B) {
	r := newRig(b, bigConfig(), nil)
	rng := rand.New(rand.NewPCG(1, 2))
	b.ReportAllocs()
	for b.Loop() {
		r.obtainAny(randomMAC(rng))
	}
}

// obtainAny gets a lease from any configuration.
func (r *rig) obtainAny(mac netdef.MAC) {
	offer := r.ask(packet(r.t, discover, mac))
	r.ask(packet(r.t, request, mac, requested(offer.YourIPAddr.String()), server(offer.ServerIdentifier().String())))
}
