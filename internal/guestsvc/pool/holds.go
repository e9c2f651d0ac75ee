package pool

import (
	"net/netip"
	"time"
)

// Offer is an address that is promised to a client for some time.
type Offer struct {
	Addr netip.Addr
	// Key is that of the client.
	Key string
	// Ready is for the server to note that the promise was made.
	Ready bool

	since      time.Time
	prev, next *Offer
}

// holds are kept back for the same time each, so the oldest ends first.
type holds struct {
	byAddr         map[netip.Addr]*Offer
	oldest, newest *Offer
}

func newHolds() holds { return holds{byAddr: map[netip.Addr]*Offer{}} }

func (hs *holds) add(h *Offer) {
	hs.byAddr[h.Addr] = h
	h.prev, h.next = hs.newest, nil
	if hs.newest != nil {
		hs.newest.next = h
	} else {
		hs.oldest = h
	}
	hs.newest = h
}

func (hs *holds) remove(h *Offer) {
	delete(hs.byAddr, h.Addr)
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
	number uint32
	at     time.Time
	pos    int // in the heap
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
