package dhcp4

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"viaduct/internal/guestsvc/leases"
	"viaduct/internal/netdef"
)

func newRigTable() *leases.Table {
	return leases.New(&testJournal{}, nil, func() time.Time { return start }).Table(network)
}

// bigConfig serves a whole /16, with ranges that overlap.
func bigConfig() Config {
	c := testConfig()
	c.Address, c.Hosts = netip.MustParsePrefix("10.9.0.1/16"), nil
	c.Ranges = []Range{
		{First: addr("10.9.128.0"), Last: addr("10.9.255.255")},
		{First: addr("10.9.0.0"), Last: addr("10.9.200.0")},
		{First: addr("10.9.3.0"), Last: addr("10.9.4.0")},
	}
	return c
}

func randomMAC(rng *rand.Rand) netdef.MAC {
	v := rng.Uint64()
	return netdef.MAC{2, byte(v), byte(v >> 8), byte(v >> 16), byte(v >> 24), byte(v >> 32)}
}

// TestPoolGivesEachAddressOnce empties a /16.
func TestPoolGivesEachAddressOnce(t *testing.T) {
	s := testSettings(t, bigConfig())
	table := newRigTable()
	p := newPool(s, table, start)
	const want = 1<<16 - 3 // without subnet, broadcast and our own address
	rng := rand.New(rand.NewPCG(1, 2))
	seen := map[netip.Addr]bool{}
	var slowest time.Duration
	for {
		mac := randomMAC(rng)
		began := time.Now()
		a, ok := p.pick(mac, start)
		slowest = max(slowest, time.Since(began))
		if !ok {
			break
		}
		if seen[a] || s.reservedByRole(a) || !s.Address.Contains(a) {
			t.Fatalf("%v was picked after %d others", a, len(seen))
		}
		seen[a] = true
		table.Put(netdef.Lease{Addr: a, MAC: mac, Expiry: start.Add(time.Hour)}, func(error) {})
		p.settle(a)
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
	c := newClock()
	table := leases.New(&testJournal{}, nil, c.now).Table(network)
	s := testSettings(t, testConfig())
	p := newPool(s, table, c.now())
	for i := range 20000 {
		now := c.now()
		p.expire(now)
		mac := guest(byte(rng.IntN(30)))
		a := toAddr(toUint(addr("192.168.122.0")) + rng.Uint32N(22))
		switch rng.IntN(8) {
		case 0:
			if h := p.offers.byAddr[a]; h != nil {
				p.withdraw(h)
			}
		case 1:
			p.quarantine(a, now)
		case 2:
			table.Remove(a, func(error) {})
			p.settle(a)
		case 3:
			c.advance(time.Duration(rng.IntN(300)) * time.Second)
		default:
			a, ok := p.pick(mac, now)
			if !ok {
				for x := s.Ranges[0].First; x != s.Ranges[0].Last.Next(); x = x.Next() {
					if _, held := p.holder(x, now); !held && s.inRanges(x) {
						t.Fatalf("step %d: nothing picked, but %v is free", i, x)
					}
				}
				break
			}
			if l, known := table.ByAddr(a); !s.inRanges(a) || known && !l.Expired(now) {
				t.Fatalf("step %d: %v was picked", i, a)
			}
			if rng.IntN(2) == 0 {
				p.offer(a, leases.ClientKey(nil, mac), now)
				break
			}
			if h := p.offers.byAddr[a]; h != nil {
				p.withdraw(h)
			}
			former, moved := table.ByClient(nil, mac)
			l := netdef.Lease{Addr: a, MAC: mac, Expiry: now.Add(time.Duration(rng.IntN(600)) * time.Second)}
			if rng.IntN(10) == 0 {
				l.Expiry = time.Time{}
			}
			table.Put(l, func(error) {})
			p.settle(a)
			if moved {
				p.settle(former.Addr)
			}
		}
		for key, h := range p.offerTo {
			if p.offers.byAddr[h.addr] != h || h.key != key {
				t.Fatalf("step %d: the offer of %v is not where it belongs", i, h.addr)
			}
		}
	}
}

func TestSameGuestSameAddressEvenIfForgotten(t *testing.T) {
	s := testSettings(t, bigConfig())
	rng := rand.New(rand.NewPCG(5, 6))
	same, total := 0, 200
	first := newPool(s, newRigTable(), start)
	again := newPool(s, newRigTable(), start)
	macs := make([]netdef.MAC, total)
	got := map[netdef.MAC]netip.Addr{}
	for i := range macs {
		macs[i] = randomMAC(rng)
		a, _ := first.pick(macs[i], start)
		first.offer(a, string(macs[i][:]), start)
		got[macs[i]] = a
	}
	rng.Shuffle(total, func(i, j int) { macs[i], macs[j] = macs[j], macs[i] })
	for _, mac := range macs {
		a, _ := again.pick(mac, start)
		again.offer(a, string(mac[:]), start)
		if a == got[mac] {
			same++
		}
	}
	if same < total*9/10 {
		t.Errorf("%d of %d guests got their former address in another order", same, total)
	}
}

func TestForeignRemovalIsNoticedWhenItMatters(t *testing.T) {
	c := testConfig()
	c.Ranges[0] = Range{First: addr("192.168.122.5"), Last: addr("192.168.122.5"), Infinite: true}
	r := newRig(t, c, nil)
	r.obtain(guest(1))
	r.send(packet(t, discover, guest(2)))
	r.settled()
	removed := make(chan error, 1)
	r.table.Remove(addr("192.168.122.5"), func(err error) { removed <- err })
	if err := <-removed; err != nil {
		t.Fatal(err)
	}
	r.clock.advance(resyncTime)
	if got := r.obtain(guest(2)); got != addr("192.168.122.5") {
		t.Errorf("got %v", got)
	}
}

func BenchmarkPickInAFullPool(b *testing.B) {
	s := testSettings(b, bigConfig())
	table := newRigTable()
	p := newPool(s, table, start)
	rng := rand.New(rand.NewPCG(1, 2))
	for range 1<<16 - 10 {
		mac := randomMAC(rng)
		a, _ := p.pick(mac, start)
		table.Put(netdef.Lease{Addr: a, MAC: mac, Expiry: start.Add(time.Hour)}, func(error) {})
		p.settle(a)
	}
	for b.Loop() {
		p.pick(randomMAC(rng), start)
	}
}
