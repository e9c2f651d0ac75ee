package dhcp6

import (
	"net/netip"
	"testing"

	"viaduct/internal/guestsvc/leases"
)

// TestEveryAddressIsGivenOnce fills a pool and compares with what may be given.
func TestEveryAddressIsGivenOnce(t *testing.T) {
	c := testConfig()
	c.Ranges = append(c.Ranges, Range{First: addr("2001:db8:7::fdff:ffff:ffff:ff7f"), Last: addr("2001:db8:7::fdff:ffff:ffff:ffff")})
	p, now := known{}.state(t, c)
	never := map[netip.Addr]bool{addr("2001:db8:7::"): true, addr("2001:db8:7::1"): true, addr("2001:db8:7::10"): true}
	got := map[netip.Addr]bool{}
	for i := uint32(0); ; i++ {
		key := leases.DUIDKey(duid(1), i)
		a, ok := p.Pick([]byte(key), now)
		if !ok {
			break
		}
		if never[a] || got[a] {
			t.Fatalf("%v was given", a)
		}
		got[a] = true
		p.Offer(a, key, now)
	}
	// 0 to 20 in hexadecimal, without the three above, and one before the anycast addresses.
	if want := 0x21 - len(never) + 1; len(got) != want {
		t.Errorf("%d addresses were given, want %d", len(got), want)
	}
}

func TestAddressIsStable(t *testing.T) {
	p, now := known{}.state(t, bigConfig())
	same := map[netip.Addr]int{}
	for i := range uint32(1000) {
		key := leases.DUIDKey(duid(byte(i)), i)
		a, _ := p.Pick([]byte(key), now)
		if b, _ := p.Pick([]byte(key), now); a != b {
			t.Fatalf("first %v, then %v", a, b)
		}
		same[a]++
	}
	if len(same) < 980 {
		t.Errorf("1000 clients hash to %d addresses of 65536", len(same))
	}
}
