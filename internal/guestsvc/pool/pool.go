package pool

import (
	"container/heap"
	"hash/fnv"
	"math/bits"
	"net/netip"
	"time"

	"viaduct/internal/guestsvc/leases"
	"viaduct/internal/netdef"
)

const (
	// OfferTime is for how long an offered address is kept for its client.
	OfferTime = 60 * time.Second
	// StealTime is after what time an offer is given up if there is no other
	// address left: a client that means it has answered by then.
	StealTime = 5 * time.Second
	// QuarantineTime is for how long an address that somebody uses without a
	// lease is not given out.
	QuarantineTime = 10 * time.Minute
	// ResyncTime is how often an exhausted pool looks whether leases were
	// removed by others.
	ResyncTime = 5 * time.Second

	// MaxOffers is how many offers are kept, MaxQuarantine how many addresses
	// that somebody uses; the oldest give way.
	MaxOffers     = 4096
	MaxQuarantine = 1024
)

// Pool knows which addresses are free. The lease table is the truth about
// leases; the pool adds what is offered or quarantined and keeps an order in
// which free addresses are found fast: those never used by a search through a
// bitmap, and the one whose lease ended first by a heap. It is not safe for
// use by several goroutines at once.
type Pool struct {
	space       *Space
	table       *leases.Table
	keyOf       func(netdef.Lease) string
	offers      holds
	quarantined holds
	// offerTo finds the offer for a client by its key.
	offerTo map[string]*Offer

	// used has a bit for every address that is held in any way, or may not be given.
	used     []uint64
	ends     endHeap
	endOf    map[uint32]*end
	resynced time.Time
}

// New makes the pool of a space. A lease is of the client whose key keyOf says.
func New(space *Space, table *leases.Table, keyOf func(netdef.Lease) string, now time.Time) *Pool {
	p := &Pool{
		space: space, table: table, keyOf: keyOf, offers: newHolds(), quarantined: newHolds(),
		offerTo: map[string]*Offer{}, resynced: now,
	}
	p.sort()
	return p
}

// sort makes bitmap and heap anew from what is held.
func (p *Pool) sort() {
	size := p.space.Size()
	p.used = make([]uint64, (uint64(size)+63)/64)
	p.ends, p.endOf = nil, map[uint32]*end{}
	if tail := size % 64; tail != 0 {
		p.used[len(p.used)-1] = ^uint64(0) << tail
	}
	for _, closed := range []map[netip.Addr]bool{p.space.roles, p.space.reserved} {
		for a := range closed {
			if _, i, ok := p.space.find(a); ok {
				p.used[i/64] |= 1 << (i % 64)
			}
		}
	}
	for _, l := range p.table.Known() {
		p.settle(l.Addr)
	}
	for _, kept := range []*holds{&p.offers, &p.quarantined} {
		for a := range kept.byAddr {
			p.settle(a)
		}
	}
}

// Inherit takes over offers and quarantined addresses from the pool of former
// settings, as far as they are among the addresses that there are now.
func (p *Pool) Inherit(old *Pool) {
	for h := old.offers.oldest; h != nil; h = h.next {
		if p.space.Open(h.Addr) || p.space.reserved[h.Addr] {
			p.keepOffer(&Offer{Addr: h.Addr, Key: h.Key, Ready: h.Ready, since: h.since})
		}
	}
	for h := old.quarantined.oldest; h != nil; h = h.next {
		p.quarantined.add(&Offer{Addr: h.Addr, since: h.since})
	}
	p.sort()
}

// Settle has to be called with the addresses whose leases have changed.
func (p *Pool) Settle(addrs ...netip.Addr) {
	for _, a := range addrs {
		p.settle(a)
	}
}

// settle brings bitmap and heap up to date with how an address is held.
func (p *Pool) settle(a netip.Addr) {
	_, i, ok := p.space.find(a)
	if !ok || !p.space.Open(a) {
		return
	}
	l, leased := p.table.ByAddr(a)
	held := p.offers.byAddr[a] != nil || p.quarantined.byAddr[a] != nil
	if leased || held {
		p.used[i/64] |= 1 << (i % 64)
	} else {
		p.used[i/64] &^= 1 << (i % 64)
	}
	e := p.endOf[i]
	switch ends := leased && !held && !l.Expiry.IsZero(); {
	case ends && e == nil:
		e = &end{number: i, at: l.Expiry}
		p.endOf[i] = e
		heap.Push(&p.ends, e)
	case ends:
		e.at = l.Expiry
		heap.Fix(&p.ends, e.pos)
	case e != nil:
		heap.Remove(&p.ends, e.pos)
		delete(p.endOf, i)
	}
}

// Expire gives up what was held for its time.
func (p *Pool) Expire(now time.Time) {
	for h := p.offers.oldest; h != nil && now.Sub(h.since) >= OfferTime; h = p.offers.oldest {
		p.Withdraw(h)
	}
	for h := p.quarantined.oldest; h != nil && now.Sub(h.since) >= QuarantineTime; h = p.quarantined.oldest {
		p.quarantined.remove(h)
		p.settle(h.Addr)
	}
}

// Offer keeps an address for a client. Any other offer to it is withdrawn.
func (p *Pool) Offer(a netip.Addr, key string, now time.Time) *Offer {
	p.Withdraw(p.offerTo[key])
	p.Withdraw(p.offers.byAddr[a])
	if len(p.offers.byAddr) >= MaxOffers {
		p.Withdraw(p.offers.oldest)
	}
	h := &Offer{Addr: a, Key: key, since: now}
	p.keepOffer(h)
	p.settle(a)
	return h
}

func (p *Pool) keepOffer(h *Offer) {
	p.offers.add(h)
	p.offerTo[h.Key] = h
}

// OfferTo is the offer to the client with a key, nil if there is none.
func (p *Pool) OfferTo(key string) *Offer { return p.offerTo[key] }

// OfferOf is the offer of an address, nil if there is none.
func (p *Pool) OfferOf(a netip.Addr) *Offer { return p.offers.byAddr[a] }

// Withdraw ends an offer. There may be none to end (nil).
func (p *Pool) Withdraw(h *Offer) {
	if h == nil {
		return
	}
	p.offers.remove(h)
	delete(p.offerTo, h.Key)
	p.settle(h.Addr)
}

// Quarantine keeps an address from everybody for a while.
func (p *Pool) Quarantine(a netip.Addr, now time.Time) {
	p.Withdraw(p.offers.byAddr[a])
	if h := p.quarantined.byAddr[a]; h != nil {
		p.quarantined.remove(h)
	}
	if len(p.quarantined.byAddr) >= MaxQuarantine {
		h := p.quarantined.oldest
		p.quarantined.remove(h)
		p.settle(h.Addr)
	}
	p.quarantined.add(&Offer{Addr: a, since: now})
	p.settle(a)
}

// Held is how many addresses are offered, and how many quarantined.
func (p *Pool) Held() (offered, quarantined int) {
	return len(p.offers.byAddr), len(p.quarantined.byAddr)
}

// Holder says who has an address now: the client with the returned key, or
// somebody without a lease if that is "". It ignores reservations.
func (p *Pool) Holder(a netip.Addr, now time.Time) (key string, held bool) {
	if l, ok := p.table.ByAddr(a); ok && !l.Expired(now) {
		return p.keyOf(l), true
	}
	if h := p.quarantined.byAddr[a]; h != nil && now.Sub(h.since) < QuarantineTime {
		return "", true
	}
	if h := p.offers.byAddr[a]; h != nil && now.Sub(h.since) < OfferTime {
		return h.Key, true
	}
	return "", false
}

// FreeFor reports whether nobody but the client has the address.
func (p *Pool) FreeFor(a netip.Addr, key string, now time.Time) bool {
	holder, held := p.Holder(a, now)
	return !held || holder == key && key != ""
}

// Pick chooses an address for a client that has none: one that nobody had
// before, the same for the same seed as long as that is possible, so that a
// guest keeps its address even where its lease is forgotten; then the one that
// is free for the longest time; at last one that was offered or quarantined
// some time ago.
func (p *Pool) Pick(seed []byte, now time.Time) (netip.Addr, bool) {
	if i, ok := p.unused(seed); ok {
		return p.space.at(i), true
	}
	for len(p.ends) > 0 && !now.Before(p.ends[0].at) {
		a := p.space.at(p.ends[0].number)
		if _, held := p.Holder(a, now); !held {
			return a, true
		}
		p.settle(a) // it was renewed by others
	}
	for _, kept := range []*holds{&p.offers, &p.quarantined} {
		for h := kept.oldest; h != nil && now.Sub(h.since) >= StealTime; h = h.next {
			if l, ok := p.table.ByAddr(h.Addr); p.space.Open(h.Addr) && (!ok || l.Expired(now)) {
				return h.Addr, true
			}
		}
	}
	if now.Sub(p.resynced) >= ResyncTime {
		p.resynced = now
		p.sort()
		return p.Pick(seed, now)
	}
	return netip.Addr{}, false
}

// unused finds an address without a bit in the bitmap, beginning where the seed's hash says.
func (p *Pool) unused(seed []byte) (uint32, bool) {
	size := p.space.Size()
	if size == 0 {
		return 0, false
	}
	hash := fnv.New64a()
	hash.Write(seed)
	start := uint32(hash.Sum64() % uint64(size))
	n := uint32(len(p.used))
	word := start / 64
	// The first word is looked at twice: its upper part first, its lower part last.
	for i := range n + 1 {
		free := ^p.used[word]
		if i == 0 {
			free &= ^uint64(0) << (start % 64)
		}
		if free != 0 {
			return word*64 + uint32(bits.TrailingZeros64(free)), true
		}
		if word++; word == n {
			word = 0
		}
	}
	return 0, false
}
