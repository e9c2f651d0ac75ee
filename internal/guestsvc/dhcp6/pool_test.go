package dhcp6

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"viaduct/internal/guestsvc/leases"
	"viaduct/internal/netdef"
)

func TestIndexes(t *testing.T) {
	c := testConfig()
	c.Address = netip.MustParsePrefix("2001:db8::1/32")
	c.Ranges = []Range{
		{First: addr("2001:db8:7::fffe"), Last: addr("2001:db8:7::1:2")},
		{First: addr("2001:db8:6:ffff:ffff:ffff:ffff:fffe"), Last: addr("2001:db8:7::3")}, // over the border of 64 bits
		{First: addr("2001:db8:7::2"), Last: addr("2001:db8:7::5")},                       // overlaps
		{First: addr("2001:db8:7::3"), Last: addr("2001:db8:7::4")},                       // inside
	}
	s := testSettings(t, c)
	want := []string{
		"2001:db8:6:ffff:ffff:ffff:ffff:fffe", "2001:db8:6:ffff:ffff:ffff:ffff:ffff",
		"2001:db8:7::", "2001:db8:7::1", "2001:db8:7::2", "2001:db8:7::3", "2001:db8:7::4", "2001:db8:7::5",
		"2001:db8:7::fffe", "2001:db8:7::ffff", "2001:db8:7::1:0", "2001:db8:7::1:1", "2001:db8:7::1:2",
	}
	if got := s.poolSize(); got != uint32(len(want)) {
		t.Fatalf("%d addresses, want %d", got, len(want))
	}
	for i, a := range want {
		if got := s.addrOf(uint32(i)); got != addr(a) {
			t.Errorf("address %d = %v, want %s", i, got, a)
		}
		if got, ok := s.indexOf(addr(a)); !ok || got != uint32(i) {
			t.Errorf("index of %s = %d, %v, want %d", a, got, ok, i)
		}
	}
	for _, a := range []string{"2001:db8:7::6", "2001:db8:7::fffd", "2001:db8:7::1:3", "::", "192.0.2.1"} {
		if i, ok := s.indexOf(addr(a)); ok {
			t.Errorf("index of %s = %d", a, i)
		}
	}
}

// TestEveryAddressIsGivenOnce fills a pool and compares with what may be given.
func TestEveryAddressIsGivenOnce(t *testing.T) {
	c := testConfig()
	c.Ranges = append(c.Ranges, Range{First: addr("2001:db8:7::fdff:ffff:ffff:ff7f"), Last: addr("2001:db8:7::fdff:ffff:ffff:ffff")})
	p, now := known{}.pool(t, c)
	never := map[netip.Addr]bool{addr("2001:db8:7::"): true, addr("2001:db8:7::1"): true, addr("2001:db8:7::10"): true}
	got := map[netip.Addr]bool{}
	for i := uint32(0); ; i++ {
		key := leases.DUIDKey(duid(1), i)
		a, ok := p.pick(key, now)
		if !ok {
			break
		}
		if never[a] || got[a] {
			t.Fatalf("%v was given", a)
		}
		got[a] = true
		p.offer(a, key, now)
	}
	// 0 to 20 in hexadecimal, without the three above, and one before the anycast addresses.
	if want := 0x21 - len(never) + 1; len(got) != want {
		t.Errorf("%d addresses were given, want %d", len(got), want)
	}
}

func TestAddressIsStable(t *testing.T) {
	p, now := known{}.pool(t, bigConfig())
	same := map[netip.Addr]int{}
	for i := range uint32(1000) {
		key := leases.DUIDKey(duid(byte(i)), i)
		a, _ := p.pick(key, now)
		if b, _ := p.pick(key, now); a != b {
			t.Fatalf("first %v, then %v", a, b)
		}
		same[a]++
	}
	if len(same) < 980 {
		t.Errorf("1000 clients hash to %d addresses of 65536", len(same))
	}
}

func TestLostLeasesAreFoundWhenThePoolIsExhausted(t *testing.T) {
	c := testConfig()
	c.Ranges[0] = Range{First: addr("2001:db8:7::5"), Last: addr("2001:db8:7::5")}
	p, now := known{leases: []netdef.Lease{lease("2001:db8:7::5", 1, time.Hour)}}.pool(t, c)
	p.leases.Remove(addr("2001:db8:7::5"), func(error) {}) // by another hand
	if a, ok := p.pick("key", now); ok {
		t.Errorf("got %v without looking", a)
	}
	if a, ok := p.pick("key", now.Add(resyncTime)); !ok || a != addr("2001:db8:7::5") {
		t.Errorf("got %v, %v", a, ok)
	}
}

func TestHoldsAreBounded(t *testing.T) {
	p, now := known{}.pool(t, bigConfig())
	for i := range uint32(2 * maxOffers) {
		p.offer(p.addrOf(i), string(binary.BigEndian.AppendUint32(nil, i)), now)
	}
	if len(p.offers.byAddr) != maxOffers || len(p.offerTo) != maxOffers {
		t.Errorf("%d offers to %d clients", len(p.offers.byAddr), len(p.offerTo))
	}
	for i := range uint32(2 * maxQuarantine) {
		p.quarantine(p.addrOf(i), now)
	}
	if len(p.quarantined.byAddr) != maxQuarantine {
		t.Errorf("%d addresses in quarantine", len(p.quarantined.byAddr))
	}
	p.expire(now.Add(quarantineTime))
	if n := len(p.offers.byAddr) + len(p.quarantined.byAddr) + len(p.offerTo); n != 0 {
		t.Errorf("%d holds after their time", n)
	}
}

func BenchmarkPickFromAFullPool(b *testing.B) {
	p, now := known{}.pool(b, bigConfig())
	for i := range p.poolSize() {
		p.used[i/64] |= 1 << (i % 64)
	}
	for b.Loop() {
		p.pick("key", now)
	}
}
