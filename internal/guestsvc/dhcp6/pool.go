package dhcp6

import (
	"container/heap"
	"encoding/binary"
	"hash/fnv"
	"math/bits"
	"net/netip"
	"slices"
	"time"

	"viaduct/internal/guestsvc/leases"
)

const (
	// offerTime is for how long an advertised address is kept for its client.
	offerTime = 60 * time.Second
	// stealTime is after what time an offer is given up if there is no other
	// address left: a client that means it has answered by then.
	stealTime = 5 * time.Second
	// quarantineTime is for how long a declined address is not given out.
	quarantineTime = 10 * time.Minute
	// resyncTime is how often an exhausted pool looks whether leases were
	// removed by others.
	resyncTime = 5 * time.Second

	maxOffers     = 4096
	maxQuarantine = 1024
)

// span is a part of the pool: the addresses of one range.
type span struct {
	first netip.Addr
	size  uint32
	// base is the pool's index of the first address.
	base uint32
	of   Range
}

// newSpans puts ranges in order and cuts off what the one before has already.
func newSpans(ranges []Range) []span {
	sorted := slices.Clone(ranges)
	slices.SortStableFunc(sorted, func(a, b Range) int { return a.First.Compare(b.First) })
	var spans []span
	var base uint32
	var taken netip.Addr // the last address so far
	for _, r := range sorted {
		first := r.First
		if taken.IsValid() && first.Compare(taken) <= 0 {
			first = taken.Next()
		}
		if !first.IsValid() || r.Last.Less(first) {
			continue
		}
		n, _ := distance(first, r.Last) // checked by Config.check
		spans = append(spans, span{first: first, size: n + 1, base: base, of: r})
		base += n + 1
		taken = r.Last
	}
	return spans
}

// distance is how far b is after a, if that is less than maxPool.
func distance(a, b netip.Addr) (uint32, bool) {
	a16, b16 := a.As16(), b.As16()
	low, borrow := bits.Sub64(binary.BigEndian.Uint64(b16[8:]), binary.BigEndian.Uint64(a16[8:]), 0)
	high, borrow := bits.Sub64(binary.BigEndian.Uint64(b16[:]), binary.BigEndian.Uint64(a16[:]), borrow)
	if borrow != 0 || high != 0 || low >= maxPool {
		return 0, false
	}
	return uint32(low), true
}

// advance is the address n after a.
func advance(a netip.Addr, n uint32) netip.Addr {
	b := a.As16()
	low, carry := bits.Add64(binary.BigEndian.Uint64(b[8:]), uint64(n), 0)
	binary.BigEndian.PutUint64(b[8:], low)
	binary.BigEndian.PutUint64(b[:], binary.BigEndian.Uint64(b[:])+carry)
	return netip.AddrFrom16(b)
}

// indexOf is the pool's index of an address.
func (s *settings) indexOf(a netip.Addr) (uint32, bool) {
	for _, sp := range s.spans {
		if n, ok := distance(sp.first, a); ok && n < sp.size {
			return sp.base + n, true
		}
	}
	return 0, false
}

// spanOf is the part of the pool that an index is in.
func (s *settings) spanOf(index uint32) span {
	for _, sp := range s.spans {
		if index-sp.base < sp.size {
			return sp
		}
	}
	panic("dhcp6: index outside the pool")
}

func (s *settings) addrOf(index uint32) netip.Addr {
	sp := s.spanOf(index)
	return advance(sp.first, index-sp.base)
}

func (s *settings) poolSize() uint32 {
	if len(s.spans) == 0 {
		return 0
	}
	last := s.spans[len(s.spans)-1]
	return last.base + last.size
}

// pool knows which addresses are free. The lease table is the truth about
// leases; the pool adds what is offered or quarantined and keeps an order in
// which free addresses are found fast: those never used by a search through a
// bitmap, and the one whose lease ended first by a heap.
type pool struct {
	*settings
	leases      *leases.Table
	offers      holds
	quarantined holds
	// offerTo finds the offer for a client by its key, see leases.DUIDKey.
	offerTo map[string]*hold

	// used has a bit for every address that is held in any way, or may not be given.
	used     []uint64
	ends     endHeap
	endOf    map[uint32]*end
	resynced time.Time
}

func newPool(s *settings, table *leases.Table, now time.Time) *pool {
	p := &pool{
		settings: s, leases: table, offers: newHolds(), quarantined: newHolds(),
		offerTo: map[string]*hold{}, resynced: now,
	}
	p.sort()
	return p
}

// sort makes bitmap and heap anew from what is held.
func (p *pool) sort() {
	size := p.poolSize()
	p.used = make([]uint64, (size+63)/64)
	p.ends, p.endOf = nil, map[uint32]*end{}
	if tail := size % 64; tail != 0 {
		p.used[len(p.used)-1] = ^uint64(0) << tail
	}
	for i := range size {
		if !p.inRanges(p.addrOf(i)) {
			p.used[i/64] |= 1 << (i % 64)
		}
	}
	for _, l := range p.leases.Known() {
		p.settle(l.Addr)
	}
	for _, kept := range []*holds{&p.offers, &p.quarantined} {
		for _, h := range kept.byAddr {
			p.settle(h.addr)
		}
	}
}

// inherit takes over offers and quarantined addresses from the pool of former settings.
func (p *pool) inherit(old *pool) {
	for h := old.offers.oldest; h != nil; h = h.next {
		if p.inRanges(h.addr) || p.hostAt[h.addr] != nil {
			p.keepOffer(&hold{addr: h.addr, key: h.key, since: h.since})
		}
	}
	for h := old.quarantined.oldest; h != nil; h = h.next {
		p.quarantined.add(&hold{addr: h.addr, since: h.since})
	}
	p.sort()
}

// settle brings bitmap and heap up to date with how an address is held. It
// must be called after every change.
func (p *pool) settle(a netip.Addr) {
	i, ok := p.indexOf(a)
	if !ok || !p.inRanges(a) {
		return
	}
	l, leased := p.leases.ByAddr(a)
	held := p.offers.byAddr[a] != nil || p.quarantined.byAddr[a] != nil
	if leased || held {
		p.used[i/64] |= 1 << (i % 64)
	} else {
		p.used[i/64] &^= 1 << (i % 64)
	}
	e := p.endOf[i]
	switch ends := leased && !held && !l.Expiry.IsZero(); {
	case ends && e == nil:
		e = &end{index: i, at: l.Expiry}
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

// expire gives up what was held for its time.
func (p *pool) expire(now time.Time) {
	for h := p.offers.oldest; h != nil && now.Sub(h.since) >= offerTime; h = p.offers.oldest {
		p.withdraw(h)
	}
	for h := p.quarantined.oldest; h != nil && now.Sub(h.since) >= quarantineTime; h = p.quarantined.oldest {
		p.quarantined.remove(h)
		p.settle(h.addr)
	}
}

// offer keeps an address for a client. Any other offer to it is withdrawn.
func (p *pool) offer(a netip.Addr, key string, now time.Time) {
	if h := p.offerTo[key]; h != nil {
		p.withdraw(h)
	}
	if h := p.offers.byAddr[a]; h != nil {
		p.withdraw(h)
	}
	if len(p.offers.byAddr) >= maxOffers {
		p.withdraw(p.offers.oldest)
	}
	p.keepOffer(&hold{addr: a, key: key, since: now})
	p.settle(a)
}

func (p *pool) keepOffer(h *hold) {
	p.offers.add(h)
	p.offerTo[h.key] = h
}

// withdraw ends an offer.
func (p *pool) withdraw(h *hold) {
	p.offers.remove(h)
	delete(p.offerTo, h.key)
	p.settle(h.addr)
}

// quarantine keeps an address from everybody for a while.
func (p *pool) quarantine(a netip.Addr, now time.Time) {
	if h := p.offers.byAddr[a]; h != nil {
		p.withdraw(h)
	}
	if h := p.quarantined.byAddr[a]; h != nil {
		p.quarantined.remove(h)
	}
	if len(p.quarantined.byAddr) >= maxQuarantine {
		h := p.quarantined.oldest
		p.quarantined.remove(h)
		p.settle(h.addr)
	}
	p.quarantined.add(&hold{addr: a, since: now})
	p.settle(a)
}

// holder says who has an address now: the client with the returned key, or
// nobody we know of if that is "". It ignores reservations.
func (p *pool) holder(a netip.Addr, now time.Time) (key string, held bool) {
	if l, ok := p.leases.ByAddr(a); ok && !l.Expired(now) {
		return leases.DUIDKey(l.ClientID, l.IAID), true
	}
	if h := p.quarantined.byAddr[a]; h != nil && now.Sub(h.since) < quarantineTime {
		return "", true
	}
	if h := p.offers.byAddr[a]; h != nil && now.Sub(h.since) < offerTime {
		return h.key, true
	}
	return "", false
}

// freeFor reports whether nobody but the client has the address.
func (p *pool) freeFor(a netip.Addr, key string, now time.Time) bool {
	holder, held := p.holder(a, now)
	return !held || holder == key
}

// pick chooses an address for a client that has none: one that nobody had
// before, the same for the same key as long as that is possible, so that a
// guest keeps its address even where its lease is forgotten; then the one that
// is free for the longest time; at last one that was offered or quarantined
// some time ago.
func (p *pool) pick(key string, now time.Time) (netip.Addr, bool) {
	if i, ok := p.unused(key); ok {
		return p.addrOf(i), true
	}
	for len(p.ends) > 0 && !now.Before(p.ends[0].at) {
		a := p.addrOf(p.ends[0].index)
		if _, held := p.holder(a, now); !held {
			return a, true
		}
		p.settle(a) // it was renewed by others
	}
	for _, kept := range []*holds{&p.offers, &p.quarantined} {
		for h := kept.oldest; h != nil && now.Sub(h.since) >= stealTime; h = h.next {
			if l, ok := p.leases.ByAddr(h.addr); p.inRanges(h.addr) && (!ok || l.Expired(now)) {
				return h.addr, true
			}
		}
	}
	if now.Sub(p.resynced) >= resyncTime {
		p.resynced = now
		p.sort()
		return p.pick(key, now)
	}
	return netip.Addr{}, false
}

// unused finds an address without a bit in the bitmap, beginning where the key's hash says.
func (p *pool) unused(key string) (uint32, bool) {
	size := p.poolSize()
	if size == 0 {
		return 0, false
	}
	hash := fnv.New64a()
	hash.Write([]byte(key))
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

// hold is an address that is kept back for some time.
type hold struct {
	addr       netip.Addr
	key        string // of the client it is offered to
	since      time.Time
	prev, next *hold
}

// holds are kept back for the same time each, so the oldest ends first.
type holds struct {
	byAddr         map[netip.Addr]*hold
	oldest, newest *hold
}

func newHolds() holds { return holds{byAddr: map[netip.Addr]*hold{}} }

func (hs *holds) add(h *hold) {
	hs.byAddr[h.addr] = h
	h.prev, h.next = hs.newest, nil
	if hs.newest != nil {
		hs.newest.next = h
	} else {
		hs.oldest = h
	}
	hs.newest = h
}

func (hs *holds) remove(h *hold) {
	delete(hs.byAddr, h.addr)
	if h.prev != nil {
		h.prev.next = h.next
	} else {
		hs.oldest = h.next
	}
	if h.next != nil {
		h.next.prev = h.prev
	} else {
		hs.newest = h.prev
	}
	h.prev, h.next = nil, nil
}

// end is when the lease of an address of the pool ends.
type end struct {
	index uint32
	at    time.Time
	pos   int // in the heap
}

// endHeap has the lease that ends first at its top. It implements heap.Interface.
type endHeap []*end

func (h endHeap) Len() int           { return len(h) }
func (h endHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }

func (h endHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].pos, h[j].pos = i, j
}

// Push implements heap.Interface.
func (h *endHeap) Push(x any) {
	e := x.(*end)
	e.pos = len(*h)
	*h = append(*h, e)
}

// Pop implements heap.Interface.
func (h *endHeap) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return e
}
