package dhcp4

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"viaduct/internal/guestsvc/guestsvctest"
	"viaduct/internal/guestsvc/leases"
	"viaduct/internal/guestsvc/pool"
	"viaduct/internal/netdef"
)

func newRigTable() *leases.Table {
	return leases.New(&guestsvctest.Journal{}, nil, func() time.Time { return start }).Table(network)
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
	r.clock.Advance(pool.ResyncTime)
	if got := r.obtain(guest(2)); got != addr("192.168.122.5") {
		t.Errorf("got %v", got)
	}
}
