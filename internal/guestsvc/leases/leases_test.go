package leases

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"viaduct/internal/netdef"
	"viaduct/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memJournal keeps changes in memory, and replays them as a restart would.
type memJournal struct {
	mu      sync.Mutex
	changes []store.LeaseChange
	fail    error
}

func (j *memJournal) Append(c store.LeaseChange, done func(error)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.fail == nil {
		j.changes = append(j.changes, c)
	}
	err := j.fail
	go done(err)
}

func (j *memJournal) leases() []netdef.Lease {
	j.mu.Lock()
	defer j.mu.Unlock()
	byKey := map[string]netdef.Lease{}
	for _, c := range j.changes {
		key := c.Lease.Network.String() + c.Lease.Addr.String()
		delete(byKey, key)
		if !c.Removed {
			byKey[key] = c.Lease
		}
	}
	return slices.Collect(maps.Values(byKey))
}

type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

var network = netdef.UUID{1}

func lease(addr string, mac byte, name string, expiry time.Time) netdef.Lease {
	return netdef.Lease{
		Network: network, Addr: netip.MustParseAddr(addr), PrefixLen: 24,
		MAC: netdef.MAC{0x52, 0x54, 0, 0, 0, mac}, Hostname: name, Expiry: expiry,
	}
}

func put(t *testing.T, table *Table, l netdef.Lease) error {
	t.Helper()
	done := make(chan error, 1)
	table.Put(l, func(err error) { done <- err })
	return <-done
}

func setup() (*memJournal, *clock, *DB) {
	j, c := &memJournal{}, &clock{time.Unix(1_700_000_000, 0)}
	return j, c, New(j, nil, c.now)
}

func addrs(s ...string) []netip.Addr {
	var a []netip.Addr
	for _, x := range s {
		a = append(a, netip.MustParseAddr(x))
	}
	return a
}

func TestLeaseIsFoundEveryWay(t *testing.T) {
	_, c, db := setup()
	table := db.Table(network)
	l := lease("192.168.122.9", 9, "Web", c.t.Add(time.Hour))
	l.ClientID = []byte{0xff, 1, 2, 3}
	if err := put(t, table, l); err != nil {
		t.Fatal(err)
	}
	if got, ok := table.ByAddr(l.Addr); !ok || cmp.Diff(l, got, cmp.Comparer(eqAddr)) != "" {
		t.Errorf("ByAddr = %v, %v", got, ok)
	}
	if got, ok := table.ByClient(l.ClientID, netdef.MAC{7}); !ok || got.Addr != l.Addr {
		t.Errorf("ByClient = %v, %v", got, ok)
	}
	if _, ok := table.ByClient(nil, l.MAC); ok {
		t.Error("a client with an identifier was found by its MAC alone")
	}
	if got := table.LookupName("wEB"); !slices.Equal(got, addrs("192.168.122.9")) {
		t.Errorf("LookupName = %v", got)
	}
	if got, ok := table.LookupAddr(l.Addr); !ok || got != "Web" {
		t.Errorf("LookupAddr = %q, %v", got, ok)
	}
}

func eqAddr(a, b netip.Addr) bool { return a == b }

func TestEndedLeaseIsKnownButNotShown(t *testing.T) {
	_, c, db := setup()
	table := db.Table(network)
	l := lease("192.168.122.9", 9, "web", c.t.Add(time.Hour))
	if err := put(t, table, l); err != nil {
		t.Fatal(err)
	}
	c.t = c.t.Add(time.Hour)
	if len(table.All()) != 0 || len(table.Known()) != 1 {
		t.Errorf("All = %v, Known = %v", table.All(), table.Known())
	}
	if got := table.LookupName("web"); got != nil {
		t.Errorf("LookupName = %v", got)
	}
	if _, ok := table.LookupAddr(l.Addr); ok {
		t.Error("LookupAddr answers for a lease that has ended")
	}
	if got, ok := table.ByClient(nil, l.MAC); !ok || got.Addr != l.Addr {
		t.Errorf("ByClient = %v, %v: the guest would not find its old address", got, ok)
	}
}

func TestClientIdentifierMadeOfTheMACIsTheMAC(t *testing.T) {
	mac := netdef.MAC{2, 3, 4, 5, 6, 7}
	if ClientKey(nil, mac) == ClientKey(append([]byte{1}, mac[:]...), netdef.MAC{9}) {
		t.Error("an identifier made of another guest's MAC passes for it")
	}
	if ClientKey(nil, mac) != ClientKey(append([]byte{1}, mac[:]...), mac) {
		t.Error("the identifier 01+MAC is another client than the MAC")
	}
	if ClientKey([]byte(mac[:]), mac) == ClientKey(nil, mac) {
		t.Error("any identifier passes for the MAC")
	}
}

func TestNamesAreNotStolen(t *testing.T) {
	_, c, db := setup()
	table := db.Table(network)
	hour := c.t.Add(time.Hour)
	for _, l := range []netdef.Lease{
		lease("192.168.122.5", 5, "web", hour),
		lease("192.168.122.6", 6, "WEB", hour),
		lease("fd00::5", 5, "web", hour),
	} {
		if err := put(t, table, l); err != nil {
			t.Fatal(err)
		}
	}
	if got := table.LookupName("web"); !slices.Equal(got, addrs("192.168.122.5", "fd00::5")) {
		t.Errorf("web = %v, want both addresses of the first guest", got)
	}
	if l, ok := table.ByAddr(netip.MustParseAddr("192.168.122.6")); !ok || l.Hostname != "" {
		t.Errorf("second guest: %v, %v, want a lease without a name", l, ok)
	}

	// Once the first is gone, the name is free.
	c.t = hour
	second := lease("192.168.122.6", 6, "WEB", hour.Add(time.Hour))
	if got := table.NameFor(second); got != "WEB" {
		t.Errorf("NameFor = %q", got)
	}
	if err := put(t, table, second); err != nil {
		t.Fatal(err)
	}
	if got := table.LookupName("web"); !slices.Equal(got, addrs("192.168.122.6")) {
		t.Errorf("web = %v", got)
	}
	if l, _ := table.ByAddr(netip.MustParseAddr("192.168.122.5")); l.Hostname != "" {
		t.Errorf("the first guest kept the name %q", l.Hostname)
	}
}

func TestReservedNamesBelongToTheirAddress(t *testing.T) {
	j, c, db := setup()
	table := db.Table(network)
	hour := c.t.Add(time.Hour)
	if err := put(t, table, lease("192.168.122.5", 5, "db", hour)); err != nil {
		t.Fatal(err)
	}
	reserved := netip.MustParseAddr("192.168.122.50")
	table.ReserveNames(IPv4, map[string]netip.Addr{"DB": reserved})
	if got, ok := table.LookupAddr(netip.MustParseAddr("192.168.122.5")); ok {
		t.Errorf("the squatter kept %q", got)
	}
	if err := put(t, table, lease("192.168.122.5", 5, "db", hour)); err != nil {
		t.Fatal(err)
	}
	if got := table.LookupName("db"); got != nil {
		t.Errorf("db = %v", got)
	}
	if err := put(t, table, lease("192.168.122.50", 50, "db", hour)); err != nil {
		t.Fatal(err)
	}
	for _, table := range []*Table{table, New(j, j.leases(), c.now).Table(network)} {
		if got := table.LookupName("db"); !slices.Equal(got, []netip.Addr{reserved}) {
			t.Errorf("db = %v", got)
		}
	}
}

// lease6 is a lease of an IPv6 address to a client whose MAC is not known.
func lease6(addr string, duid string, iaid uint32, name string, expiry time.Time) netdef.Lease {
	return netdef.Lease{
		Network: network, Addr: netip.MustParseAddr(addr), PrefixLen: 64, ClientID: []byte(duid), IAID: iaid,
		Hostname: name, Expiry: expiry,
	}
}

func TestIdentityAssociationHasOneAddress(t *testing.T) {
	j, c, db := setup()
	table := db.Table(network)
	hour := c.t.Add(time.Hour)
	for _, l := range []netdef.Lease{
		lease6("fd00::5", "duid", 1, "", hour), lease6("fd00::6", "duid", 2, "", hour),
		lease6("fd00::7", "other", 1, "", hour), lease6("fd00::8", "duid", 1, "", hour),
	} {
		if err := put(t, table, l); err != nil {
			t.Fatal(err)
		}
	}
	for _, table := range []*Table{table, New(j, j.leases(), c.now).Table(network)} {
		if n := len(table.All()); n != 3 {
			t.Errorf("%d leases, want 3", n)
		}
		for _, want := range []struct {
			duid string
			iaid uint32
			addr string
		}{{"duid", 1, "fd00::8"}, {"duid", 2, "fd00::6"}, {"other", 1, "fd00::7"}} {
			if l, ok := table.ByDUID([]byte(want.duid), want.iaid); !ok || l.Addr.String() != want.addr {
				t.Errorf("%s %d has %v, %v", want.duid, want.iaid, l.Addr, ok)
			}
		}
		if _, ok := table.ByDUID([]byte("other"), 2); ok {
			t.Error("an association without a lease has one")
		}
	}
}

func TestNamesInBothFamilies(t *testing.T) {
	_, c, db := setup()
	table := db.Table(network)
	hour := c.t.Add(time.Hour)
	withDUID := lease("192.168.122.5", 5, "web", hour)
	withDUID.ClientID = []byte("\xff\x00\x00\x00\x07duid")
	for _, l := range []netdef.Lease{
		withDUID,
		lease6("fd00::5", "duid", 1, "web", hour),  // the same guest, by its DUID
		lease6("fd00::6", "other", 1, "web", hour), // another one
		lease6("fd00::9", "", 0, "web", hour),      // nobody
	} {
		if err := put(t, table, l); err != nil {
			t.Fatal(err)
		}
	}
	if got := table.LookupName("web"); !slices.Equal(got, addrs("192.168.122.5", "fd00::5")) {
		t.Errorf("web = %v", got)
	}

	// Reserved in both families, the name is that of both addresses, although
	// nothing tells that they are one guest's.
	table.ReserveNames(IPv4, map[string]netip.Addr{"db": addrs("192.168.122.50")[0]})
	table.ReserveNames(IPv6, map[string]netip.Addr{"db": addrs("fd00::50")[0]})
	for _, l := range []netdef.Lease{
		lease6("fd00::50", "db", 1, "db", hour), lease("192.168.122.50", 50, "db", hour), lease6("fd00::7", "no", 1, "db", hour),
	} {
		if err := put(t, table, l); err != nil {
			t.Fatal(err)
		}
	}
	if got := table.LookupName("db"); len(got) != 2 || !slices.Contains(got, addrs("fd00::50")[0]) {
		t.Errorf("db = %v", got)
	}

	// Reserved in one, it is its holder's in the other as well, and nobody else's.
	table.ReserveNames(IPv6, nil)
	mine, theirs := lease("fd00::51", 50, "db", hour), lease("fd00::52", 51, "db", hour)
	if table.NameFor(mine) != "db" || table.NameFor(theirs) != "" {
		t.Errorf("NameFor = %q, %q", table.NameFor(mine), table.NameFor(theirs))
	}
}

func TestHostLabel(t *testing.T) {
	for name, want := range map[string]string{
		"web": "web", "Web.example.test": "Web", "web\x00": "web", "a-1": "a-1",
		"": "", ".": "", "-web": "", "web-": "", "we b": "", "we_b": "", "localhost": "", "WPAD.example.test": "",
		strings.Repeat("a", 63): strings.Repeat("a", 63), strings.Repeat("a", 64): "",
	} {
		if got := HostLabel(name); got != want {
			t.Errorf("HostLabel(%q) = %q, want %q", name, got, want)
		}
	}
}

func TestClientMovesToAnotherAddress(t *testing.T) {
	j, c, db := setup()
	table := db.Table(network)
	hour := c.t.Add(time.Hour)
	for _, l := range []netdef.Lease{lease("192.168.122.5", 5, "a", hour), lease("192.168.122.6", 5, "a", hour)} {
		if err := put(t, table, l); err != nil {
			t.Fatal(err)
		}
	}
	for _, table := range []*Table{table, New(j, j.leases(), c.now).Table(network)} {
		if all := table.All(); len(all) != 1 || all[0].Addr.String() != "192.168.122.6" {
			t.Errorf("All = %v, want only the new address", all)
		}
		if got := table.LookupName("a"); !slices.Equal(got, addrs("192.168.122.6")) {
			t.Errorf("a = %v", got)
		}
	}
}

func TestRestartKeepsLeasesAndDropForgetsThem(t *testing.T) {
	j, c, db := setup()
	other := netdef.UUID{2}
	for i := range byte(20) {
		l := lease(fmt.Sprintf("192.168.122.%d", 100+i), i, fmt.Sprintf("guest%d", i), c.t.Add(time.Hour))
		if err := put(t, db.Table(network), l); err != nil {
			t.Fatal(err)
		}
	}
	if err := put(t, db.Table(other), lease("10.0.0.1", 1, "", time.Time{})); err != nil {
		t.Fatal(err)
	}
	removed := make(chan error, 1)
	db.Table(network).Remove(netip.MustParseAddr("192.168.122.100"), func(err error) { removed <- err })
	if err := <-removed; err != nil {
		t.Fatal(err)
	}
	again := New(j, j.leases(), c.now)
	if diff := cmp.Diff(db.Table(network).All(), again.Table(network).All(), cmp.Comparer(eqAddr)); diff != "" {
		t.Errorf("after a restart (-before +after):\n%s", diff)
	}
	if n := len(again.Table(network).All()); n != 19 {
		t.Errorf("%d leases after a restart, want 19", n)
	}
	again.Drop(network)
	last := New(j, j.leases(), c.now)
	if n, m := len(last.Table(network).All()), len(last.Table(other).All()); n != 0 || m != 1 {
		t.Errorf("after Drop: %d leases in the dropped network and %d in the other", n, m)
	}
}

func TestFailedWriteIsReported(t *testing.T) {
	j, c, db := setup()
	j.fail = errors.New("no space left on device")
	if err := put(t, db.Table(network), lease("192.168.122.5", 5, "", c.t.Add(time.Hour))); !errors.Is(err, j.fail) {
		t.Errorf("Put reported %v", err)
	}
}

func TestTableIsBounded(t *testing.T) {
	_, c, db := setup()
	table := db.Table(network)
	var wg sync.WaitGroup
	for i := range uint32(MaxPerNetwork) {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], 10<<24+i)
		l := netdef.Lease{Addr: netip.AddrFrom4(a), ClientID: a[:], Expiry: c.t.Add(time.Hour)}
		wg.Add(1)
		table.Put(l, func(error) { wg.Done() })
	}
	wg.Wait()
	more := lease("192.168.122.5", 5, "", c.t.Add(2*time.Hour))
	if err := put(t, table, more); !errors.Is(err, ErrFull) {
		t.Errorf("Put into a full table reported %v", err)
	}
	c.t = c.t.Add(time.Hour)
	if err := put(t, table, more); err != nil {
		t.Errorf("Put after all leases have ended: %v", err)
	}
}

// TestIndexesAgree does random things to a table and compares what it answers
// with a search through all leases.
func TestIndexesAgree(t *testing.T) {
	j, c, db := setup()
	table := db.Table(network)
	rng := rand.New(rand.NewPCG(1, 2))
	names := []string{"", "a", "A", "b", "c"}
	for range 5000 {
		if rng.IntN(50) == 0 { // a restart
			before := table.All()
			table = New(j, j.leases(), c.now).Table(network)
			if diff := cmp.Diff(before, table.All(), cmp.Comparer(eqAddr)); diff != "" {
				t.Fatalf("after a restart (-before +after):\n%s", diff)
			}
		}
		l := lease(fmt.Sprintf("192.168.122.%d", rng.IntN(8)), byte(rng.IntN(8)), names[rng.IntN(len(names))],
			c.t.Add(time.Duration(rng.IntN(10))*time.Second))
		switch rng.IntN(8) {
		case 0:
			done := make(chan error, 1)
			table.Remove(l.Addr, func(err error) { done <- err })
			<-done
		case 1:
			table.ReserveNames(IPv4, map[string]netip.Addr{names[rng.IntN(2)+3]: l.Addr})
		default:
			if err := put(t, table, l); err != nil {
				t.Fatal(err)
			}
		}
		c.t = c.t.Add(time.Duration(rng.IntN(2)) * time.Second)
		for _, name := range names[1:] {
			var want []netip.Addr
			for _, l := range table.All() {
				if strings.EqualFold(l.Hostname, name) {
					want = append(want, l.Addr)
				}
			}
			got := table.LookupName(name)
			slices.SortFunc(got, netip.Addr.Compare)
			if !slices.Equal(got, want) {
				t.Fatalf("LookupName(%q) = %v, want %v", name, got, want)
			}
			if len(want) > 1 {
				t.Fatalf("%v all have the name %q", want, name)
			}
		}
		for _, l := range table.Known() {
			if got, ok := table.ByClient(l.ClientID, l.MAC); !ok || got.Addr != l.Addr || !bytes.Equal(got.ClientID, l.ClientID) {
				t.Fatalf("ByClient of %v = %v, %v", l, got, ok)
			}
		}
	}
}
