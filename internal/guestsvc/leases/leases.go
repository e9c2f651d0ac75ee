// Package leases remembers which guest holds which address. The tables live
// in memory, where every DHCP message and every name query asks them; a
// journal makes each change durable before the guest is told.
package leases

import (
	"slices"
	"sync"
	"time"

	"viaduct/internal/netdef"
	"viaduct/internal/store"
)

// MaxPerNetwork bounds the leases remembered for one network, so that guests
// that keep inventing identities cannot exhaust the memory of the host.
const MaxPerNetwork = 1 << 18

// Journal makes changes durable. *store.Journal is one.
type Journal interface {
	// Append queues a change. Changes reach the disk in the order in which
	// they were appended. done is called once, from another goroutine: with
	// nil when the change is on disk, with the cause when it will not be.
	Append(c store.LeaseChange, done func(error))
}

// DB holds the lease tables of all networks.
type DB struct {
	journal Journal
	now     func() time.Time

	mu     sync.Mutex
	tables map[netdef.UUID]*Table
	watch  watcher
}

// watcher is told of a lease that is durable, and calls known when whoever
// recorded it may hear of that.
type watcher func(l netdef.Lease, known func())

// Watch makes w be told of each lease before whoever recorded it, and so before
// the guest. It comes before the first use of a table.
func (db *DB) Watch(w func(l netdef.Lease, known func())) {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.watch = w
	for _, t := range db.tables {
		t.watch = w
	}
}

// New makes the tables from the leases that the journal kept. now tells the
// time by which leases expire.
func New(j Journal, initial []netdef.Lease, now func() time.Time) *DB {
	db := &DB{journal: j, now: now, tables: map[netdef.UUID]*Table{}}
	// Where two claim the same name, the one that ended first has lost it.
	for _, l := range slices.SortedStableFunc(slices.Values(initial), byExpiry) {
		t := db.Table(l.Network)
		if old, moved := t.clientAddr(l); moved && old != l.Addr {
			t.drop(old)
		}
		t.keep(l)
	}
	return db
}

func byExpiry(a, b netdef.Lease) int {
	switch {
	case a.Expiry.IsZero() && b.Expiry.IsZero():
		return 0
	case a.Expiry.IsZero():
		return 1
	case b.Expiry.IsZero():
		return -1
	}
	return a.Expiry.Compare(b.Expiry)
}

// Table returns the table of a network, an empty one if nothing is known of it.
func (db *DB) Table(network netdef.UUID) *Table {
	db.mu.Lock()
	defer db.mu.Unlock()
	t := db.tables[network]
	if t == nil {
		t = newTable(network, db.journal, db.now)
		t.watch = db.watch
		db.tables[network] = t
	}
	return t
}

// Drop forgets all leases of a network, when it is undefined. The forgetting
// becomes durable in time; until then a crash brings back leases that no
// network asks for.
func (db *DB) Drop(network netdef.UUID) {
	db.mu.Lock()
	t := db.tables[network]
	delete(db.tables, network)
	db.mu.Unlock()
	if t != nil {
		t.clear()
	}
}
