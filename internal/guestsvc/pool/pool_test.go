package pool

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"viaduct/internal/guestsvc/leases"
	"viaduct/internal/netdef"
	"viaduct/internal/store"
)

var start = time.Unix(1_700_000_000, 0)

// nowhere is a journal that is always written.
type nowhere struct{}

func (nowhere) Append(_ store.LeaseChange, done func(error)) { done(nil) }

func newTable(now func() time.Time) *leases.Table {
	return leases.New(nowhere{}, nil, now).Table(netdef.UUID{1})
}

func keyOf(l netdef.Lease) string { return leases.ClientKey(l.ClientID, l.MAC) }

func newPool(s *Space) (*Pool, *leases.Table) {
	table := newTable(func() time.Time { return start })
	return New(s, table, keyOf, start), table
}

// large are a /16 by ranges that overlap, without four addresses.
func large() *Space {
	roles := []netip.Addr{addr("10.9.0.0"), addr("10.9.0.1"), addr("10.9.255.255")}
	return NewSpace(ranges("10.9.128.0", "10.9.255.255", "10.9.0.0", "10.9.200.0", "10.9.3.0", "10.9.4.0"), roles, []netip.Addr{addr("10.9.7.7")})
}

func randomMAC(rng *rand.Rand) netdef.MAC {
	v := rng.Uint64()
	return netdef.MAC{2, byte(v), byte(v >> 8), byte(v >> 16), byte(v >> 24), byte(v >> 32)}
}

func TestPoolGivesEachAddressOnce(t *testing.T) {
	s := large()
	p, table := newPool(s)
	const want = 1<<16 - 4
	rng := rand.New(rand.NewPCG(1, 2))
	seen := map[netip.Addr]bool{}
	var slowest time.Duration
	for {
		mac := randomMAC(rng)
		began := time.Now()
		a, ok := p.Pick(mac[:], start)
		slowest = max(slowest, time.Since(began))
		if !ok {
			break
		}
		if seen[a] || !s.Open(a) {
			t.Fatalf("%v was picked after %d others", a, len(seen))
		}
		seen[a] = true
		table.Put(netdef.Lease{Addr: a, MAC: mac, Expiry: start.Add(time.Hour)}, func(error) {})
		p.Settle(a)
	}
	if len(seen) != want {
		t.Errorf("%d addresses were picked, want %d", len(seen), want)
	}
	t.Logf("slowest pick: %v", slowest)
}

// TestPoolAgreesWithTruth does random things and compares what the pool picks,
// and that it finds nothing, with a look at every address.
func TestPoolAgreesWithTruth(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	now := start
	table := newTable(func() time.Time { return now })
	s := NewSpace(ranges("192.168.122.2", "192.168.122.20"), []netip.Addr{addr("192.168.122.7")}, []netip.Addr{addr("192.168.122.9")})
	p := New(s, table, keyOf, now)
	for i := range 20000 {
		p.Expire(now)
		mac := netdef.MAC{2, byte(rng.IntN(30))}
		a := advance(addr("192.168.122.0"), rng.Uint32N(22))
		switch rng.IntN(8) {
		case 0:
			p.Withdraw(p.OfferOf(a))
		case 1:
			p.Quarantine(a, now)
		case 2:
			table.Remove(a, func(error) {})
			p.Settle(a)
		case 3:
			now = now.Add(time.Duration(rng.IntN(300)) * time.Second)
		default:
			a, ok := p.Pick(mac[:], now)
			if !ok {
				for n := range s.Size() {
					if _, held := p.Holder(s.at(n), now); !held && s.Open(s.at(n)) {
						t.Fatalf("step %d: nothing picked, but %v is free", i, s.at(n))
					}
				}
				break
			}
			if l, known := table.ByAddr(a); !s.Open(a) || known && !l.Expired(now) {
				t.Fatalf("step %d: %v was picked", i, a)
			}
			if rng.IntN(2) == 0 {
				p.Offer(a, leases.ClientKey(nil, mac), now)
				break
			}
			p.Withdraw(p.OfferOf(a))
			former, _ := table.ByClient(nil, mac)
			l := netdef.Lease{Addr: a, MAC: mac, Expiry: now.Add(time.Duration(rng.IntN(600)) * time.Second)}
			if rng.IntN(10) == 0 {
				l.Expiry = time.Time{}
			}
			table.Put(l, func(error) {})
			p.Settle(a, former.Addr)
		}
		for key, h := range p.offerTo {
			if p.OfferOf(h.Addr) != h || h.Key != key {
				t.Fatalf("step %d: the offer of %v is not where it belongs", i, h.Addr)
			}
		}
	}
}

func TestSameGuestSameAddressEvenIfForgotten(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	same, total := 0, 200
	first, _ := newPool(large())
	again, _ := newPool(large())
	macs := make([]netdef.MAC, total)
	got := map[netdef.MAC]netip.Addr{}
	for i := range macs {
		macs[i] = randomMAC(rng)
		a, _ := first.Pick(macs[i][:], start)
		first.Offer(a, string(macs[i][:]), start)
		got[macs[i]] = a
	}
	rng.Shuffle(total, func(i, j int) { macs[i], macs[j] = macs[j], macs[i] })
	for _, mac := range macs {
		a, _ := again.Pick(mac[:], start)
		again.Offer(a, string(mac[:]), start)
		if a == got[mac] {
			same++
		}
	}
	if same < total*9/10 {
		t.Errorf("%d of %d guests got their former address in another order", same, total)
	}
}

func TestLostLeasesAreFoundWhenThePoolIsExhausted(t *testing.T) {
	only := addr("2001:db8:7::5")
	p, table := newPool(NewSpace([]Range{{First: only, Last: only}}, nil, nil))
	table.Put(netdef.Lease{Addr: only, MAC: netdef.MAC{2}, Expiry: start.Add(time.Hour)}, func(error) {})
	p.Settle(only)
	table.Remove(only, func(error) {}) // by another hand
	if a, ok := p.Pick(nil, start); ok {
		t.Errorf("got %v without looking", a)
	}
	if a, ok := p.Pick(nil, start.Add(ResyncTime)); !ok || a != only {
		t.Errorf("got %v, %v", a, ok)
	}
}

func TestHoldsAreBounded(t *testing.T) {
	p, _ := newPool(large())
	for i := range uint32(2 * MaxOffers) {
		p.Offer(p.space.at(i), string(binary.BigEndian.AppendUint32(nil, i)), start)
	}
	if offered, _ := p.Held(); offered != MaxOffers || len(p.offerTo) != MaxOffers {
		t.Errorf("%d offers to %d clients", offered, len(p.offerTo))
	}
	for i := range uint32(2 * MaxQuarantine) {
		p.Quarantine(p.space.at(i), start)
	}
	if _, quarantined := p.Held(); quarantined != MaxQuarantine {
		t.Errorf("%d addresses in quarantine", quarantined)
	}
	p.Expire(start.Add(QuarantineTime))
	if offered, quarantined := p.Held(); offered+quarantined+len(p.offerTo) != 0 {
		t.Errorf("%d offers and %d addresses in quarantine after their time", offered, quarantined)
	}
}

// TestInherit changes the space under offers.
func TestInherit(t *testing.T) {
	old, _ := newPool(NewSpace(ranges("10.0.0.2", "10.0.0.9"), nil, nil))
	stays, reserved, goes := addr("10.0.0.2"), addr("10.0.0.3"), addr("10.0.0.4")
	for _, a := range []netip.Addr{stays, reserved, goes} {
		old.Offer(a, "key of "+a.String(), start).Ready = true
	}
	old.Quarantine(addr("10.0.0.9"), start)
	p, _ := newPool(NewSpace(ranges("10.0.0.2", "10.0.0.3", "10.0.0.9", "10.0.0.9"), nil, []netip.Addr{reserved}))
	p.Inherit(old)
	for _, a := range []netip.Addr{stays, reserved} {
		if h := p.OfferTo("key of " + a.String()); h == nil || h.Addr != a || !h.Ready {
			t.Errorf("the offer of %v: %v", a, h)
		}
	}
	if p.OfferOf(goes) != nil {
		t.Errorf("%v is still offered", goes)
	}
	if a, ok := p.Pick(nil, start); ok {
		t.Errorf("%v was picked, but all are offered or in use", a)
	}
}

func BenchmarkPickInAFullPool(b *testing.B) {
	p, table := newPool(large())
	rng := rand.New(rand.NewPCG(1, 2))
	for range 1<<16 - 10 {
		mac := randomMAC(rng)
		a, _ := p.Pick(mac[:], start)
		table.Put(netdef.Lease{Addr: a, MAC: mac, Expiry: start.Add(time.Hour)}, func(error) {})
		p.Settle(a)
	}
	for b.Loop() {
		mac := randomMAC(rng)
		p.Pick(mac[:], start)
	}
}
