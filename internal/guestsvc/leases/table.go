package leases

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"viaduct/internal/netdef"
	"viaduct/internal/store"
)

// ErrFull is the cause when a network has MaxPerNetwork leases already.
var ErrFull = errors.New("too many leases in this network")

// Table holds the leases of one network. Its methods may be called from any
// goroutine. A lease that ended stays known, so that a guest that comes back
// finds its old address, until somebody else gets the address.
type Table struct {
	network netdef.UUID
	journal Journal
	now     func() time.Time
	watch   watcher // may be nil

	mu     sync.RWMutex
	byAddr map[netip.Addr]netdef.Lease
	// byClient finds the address of a client by its ClientKey, or its DUIDKey.
	byClient map[string]netip.Addr
	// byName finds the addresses of a guest by its name in lower case.
	byName map[string][]netip.Addr
	// reserved holds, for each family, the names in lower case that belong to
	// one of its addresses alone.
	reserved map[Family]map[string]netip.Addr
	// evicted is when a full table was last searched for leases that have ended.
	evicted time.Time
}

func newTable(network netdef.UUID, j Journal, now func() time.Time) *Table {
	return &Table{
		network: network, journal: j, now: now,
		byAddr: map[netip.Addr]netdef.Lease{}, byClient: map[string]netip.Addr{}, byName: map[string][]netip.Addr{},
		reserved: map[Family]map[string]netip.Addr{},
	}
}

// Family is that of an address. Each has a DHCP server with reservations of its own.
type Family uint8

// The families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

func familyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// ClientKey is what tells a DHCPv4 client from others (RFC 2131 section 4.2):
// its client identifier, or its MAC if it sends none. An identifier that is
// made of the MAC counts as none, so that a boot loader and the system that
// it loads are one client.
func ClientKey(clientID []byte, mac netdef.MAC) string {
	const ethernet = 1 // the hardware type before the MAC in such an identifier
	if len(clientID) == 0 || len(clientID) == 1+len(mac) && clientID[0] == ethernet && [6]byte(clientID[1:]) == mac {
		return "mac " + string(mac[:])
	}
	return "id " + string(clientID)
}

// DUIDKey is what tells an IPv6 client's identity association from others (RFC
// 8415 section 4.2): an address is leased to the pair of the client's DUID and
// the number that the client gave to the association.
func DUIDKey(duid []byte, iaid uint32) string {
	return "ia " + string(binary.BigEndian.AppendUint32(nil, iaid)) + string(duid)
}

// clientKey is the key of the client that a lease is for; "" if it does not say.
func clientKey(l netdef.Lease) string {
	switch {
	case l.Addr.Is4():
		return ClientKey(l.ClientID, l.MAC)
	case len(l.ClientID) > 0:
		return DUIDKey(l.ClientID, l.IAID)
	}
	return ""
}

func (t *Table) expired(l netdef.Lease) bool { return l.Expired(t.now()) }

// ByAddr returns the lease of an address, even one that has ended.
func (t *Table) ByAddr(addr netip.Addr) (netdef.Lease, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	l, ok := t.byAddr[addr]
	return l, ok
}

// ByClient returns the IPv4 lease of a client, even one that has ended.
func (t *Table) ByClient(clientID []byte, mac netdef.MAC) (netdef.Lease, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	addr, ok := t.byClient[ClientKey(clientID, mac)]
	if !ok {
		return netdef.Lease{}, false
	}
	return t.byAddr[addr], true
}

// ByDUID returns the IPv6 lease of a client's identity association, even one
// that has ended.
func (t *Table) ByDUID(duid []byte, iaid uint32) (netdef.Lease, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	addr, ok := t.byClient[DUIDKey(duid, iaid)]
	if !ok {
		return netdef.Lease{}, false
	}
	return t.byAddr[addr], true
}

// All returns the leases in force, sorted by address.
func (t *Table) All() []netdef.Lease {
	return slices.DeleteFunc(t.Known(), t.expired)
}

// Known returns all leases, also those that have ended, sorted by address.
func (t *Table) Known() []netdef.Lease {
	t.mu.RLock()
	all := make([]netdef.Lease, 0, len(t.byAddr))
	for _, l := range t.byAddr {
		all = append(all, l)
	}
	t.mu.RUnlock()
	slices.SortFunc(all, func(a, b netdef.Lease) int { return a.Addr.Compare(b.Addr) })
	return all
}

// Put records a lease in place of any other of its address; done is called
// from another goroutine when that is durable, or will never be. If the
// write fails the lease stays in memory: its address is then kept from others
// although nobody was told about it, which is the safe side. An IPv4 client,
// or an IPv6 client's identity association, has one address, so a lease of
// another address ends its former lease. A hostname that the guest may not
// have (see NameFor) is left out.
func (t *Table) Put(l netdef.Lease, done func(error)) {
	l.Network = t.network
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, known := t.byAddr[l.Addr]; !known && len(t.byAddr) >= MaxPerNetwork && !t.evict() {
		go done(ErrFull)
		return
	}
	if !t.mayHaveName(l) {
		l.Hostname = ""
	}
	if old, ok := t.clientAddr(l); ok && old != l.Addr {
		t.journal.Append(store.LeaseChange{Lease: t.drop(old), Removed: true}, func(error) {})
	}
	t.keep(l)
	// Under the lock, so that the journal has the order that the table has.
	t.journal.Append(store.LeaseChange{Lease: l}, t.announced(l, done))
}

// announced is done, but later for who watches the leases.
func (t *Table) announced(l netdef.Lease, done func(error)) func(error) {
	if t.watch == nil {
		return done
	}
	return func(err error) {
		if err != nil {
			done(err)
			return
		}
		t.watch(l, func() { done(nil) })
	}
}

// Remove forgets the lease of an address; done is called from another
// goroutine when that is durable, or will never be.
func (t *Table) Remove(addr netip.Addr, done func(error)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.byAddr[addr]; !ok {
		go done(nil)
		return
	}
	t.journal.Append(store.LeaseChange{Lease: t.drop(addr), Removed: true}, done)
}

// ReserveNames says which names belong to which address of a family, in place
// of what it said before. No other guest can have such a name: leases that
// have one lose it.
func (t *Table) ReserveNames(family Family, names map[string]netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.reserved[family] = make(map[string]netip.Addr, len(names))
	for name, addr := range names {
		t.reserved[family][strings.ToLower(name)] = addr
	}
	for name := range t.reserved[family] {
		for _, holder := range slices.Clone(t.byName[name]) {
			l := t.byAddr[holder]
			if t.mayHaveName(l) {
				continue
			}
			t.unname(l)
			l.Hostname = ""
			t.byAddr[holder] = l
			t.journal.Append(store.LeaseChange{Lease: l}, func(error) {})
		}
	}
}

// NameFor returns the hostname that the lease would get from Put: its own, or
// "" if that belongs to a reservation or to another guest.
func (t *Table) NameFor(l netdef.Lease) string {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if !t.mayHaveName(l) {
		return ""
	}
	return l.Hostname
}

// LookupName returns the addresses leased to the guest of that name, in any case.
func (t *Table) LookupName(host string) []netip.Addr {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var found []netip.Addr
	for _, addr := range t.byName[strings.ToLower(host)] {
		if !t.expired(t.byAddr[addr]) {
			found = append(found, addr)
		}
	}
	return found
}

// LookupAddr returns the name of the guest that an address is leased to.
func (t *Table) LookupAddr(addr netip.Addr) (string, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	l, ok := t.byAddr[addr]
	if !ok || l.Hostname == "" || t.expired(l) {
		return "", false
	}
	return l.Hostname, true
}

// mayHaveName reports whether no reservation and no other guest owns the lease's hostname.
func (t *Table) mayHaveName(l netdef.Lease) bool {
	name := strings.ToLower(l.Hostname)
	if owner, ok := t.reserved[familyOf(l.Addr)][name]; ok {
		return owner == l.Addr
	}
	// A name reserved in the other family alone is that guest's in both.
	for _, names := range t.reserved {
		if owner, ok := names[name]; ok {
			holder, leased := t.byAddr[owner]
			return leased && sameGuest(holder, l)
		}
	}
	for _, addr := range t.byName[name] {
		if holder := t.byAddr[addr]; addr != l.Addr && !sameGuest(holder, l) && !t.expired(holder) {
			return false
		}
	}
	return true
}

// sameGuest reports whether two leases are one guest's: of several addresses,
// say one of each family, which have one name.
func sameGuest(a, b netdef.Lease) bool {
	if a.MAC == b.MAC && !a.MAC.IsZero() {
		return true
	}
	duid := duidOf(a)
	return len(duid) > 0 && bytes.Equal(duid, duidOf(b))
}

// duidOf is the DUID that a lease's client told: an IPv6 client always, an
// IPv4 client within its identifier if that is of the kind of RFC 4361.
func duidOf(l netdef.Lease) []byte {
	const (
		rfc4361 = 255   // the type of such an identifier
		header  = 1 + 4 // type and IAID
	)
	switch {
	case l.Addr.Is6():
		return l.ClientID
	case len(l.ClientID) > header && l.ClientID[0] == rfc4361:
		return l.ClientID[header:]
	}
	return nil
}

// clientAddr is the address that the lease's client holds so far.
func (t *Table) clientAddr(l netdef.Lease) (netip.Addr, bool) {
	addr, ok := t.byClient[clientKey(l)]
	return addr, ok
}

// keep puts a lease into the maps.
func (t *Table) keep(l netdef.Lease) {
	t.drop(l.Addr)
	t.byAddr[l.Addr] = l
	if key := clientKey(l); key != "" {
		t.byClient[key] = l.Addr
	}
	if l.Hostname != "" {
		name := strings.ToLower(l.Hostname)
		// Whoever had the name has lost it: see mayHaveName.
		for _, addr := range t.byName[name] {
			other := t.byAddr[addr]
			if t.reserved[familyOf(addr)][name] != addr && !sameGuest(other, l) {
				t.unname(other)
				other.Hostname = ""
				t.byAddr[addr] = other
			}
		}
		t.byName[name] = append(t.byName[name], l.Addr)
	}
}

// drop takes the lease of an address out of the maps and returns it.
func (t *Table) drop(addr netip.Addr) netdef.Lease {
	l, ok := t.byAddr[addr]
	if !ok {
		return netdef.Lease{}
	}
	delete(t.byAddr, addr)
	if key := clientKey(l); t.byClient[key] == addr {
		delete(t.byClient, key)
	}
	t.unname(l)
	return l
}

func (t *Table) unname(l netdef.Lease) {
	name := strings.ToLower(l.Hostname)
	rest := slices.DeleteFunc(slices.Clone(t.byName[name]), func(a netip.Addr) bool { return a == l.Addr })
	if len(rest) == 0 {
		delete(t.byName, name)
	} else {
		t.byName[name] = rest
	}
}

// evict forgets the leases that have ended, when the table is full. It
// reports whether there were any. It looks at most once a second, since it
// looks at all.
func (t *Table) evict() bool {
	now := t.now()
	if now.Sub(t.evicted) < time.Second {
		return false
	}
	t.evicted = now
	before := len(t.byAddr)
	for addr, l := range t.byAddr {
		if t.expired(l) {
			t.journal.Append(store.LeaseChange{Lease: t.drop(addr), Removed: true}, func(error) {})
		}
	}
	return len(t.byAddr) < before
}

// clear forgets everything.
func (t *Table) clear() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for addr := range t.byAddr {
		t.journal.Append(store.LeaseChange{Lease: t.drop(addr), Removed: true}, func(error) {})
	}
}
