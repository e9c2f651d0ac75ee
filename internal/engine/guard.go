package engine

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"viaduct/internal/netdef"
	"viaduct/internal/plan"
)

// learns reports whether guests of the network may use the addresses that they
// have leases of, so that a lease is a change of what the host has. The
// definition is the one to be in effect.
func learns(def *netdef.Network, ports []port) bool {
	if def == nil {
		return false
	}
	guards := plan.GuardsOf(def)
	return slices.ContainsFunc(ports, func(p port) bool {
		g := guards.Of(p.def.MAC, p.guard)
		return g != nil && g.Learn
	})
}

// answersLeases reports whether the host answers elsewhere for guests that have
// leases. The definition is the one to be in effect, or nil.
func answersLeases(def *netdef.Network) bool { return def != nil && plan.AnswersLeases(def) }

// leaseWait bounds how long a guest waits for its lease because the host is
// slow to let the address pass.
const leaseWait = time.Second

// learner lets guests use what they lease. One look at a network serves all
// leases that came in the meantime.
type learner struct {
	mu      sync.Mutex
	waiting map[netdef.UUID][]func() // by network, whom to tell
	expiry  map[netdef.UUID]*time.Timer
	closed  bool
}

// leaseKept is told of each lease that is on disk, and calls known once the
// guest may use the address.
func (e *Engine) leaseKept(l netdef.Lease, known func()) {
	if !e.concerned(l) {
		known()
		return
	}
	var once sync.Once
	tell := func() { once.Do(known) }
	if !e.learn(l.Network, tell) {
		tell()
		return
	}
	time.AfterFunc(leaseWait, tell)
}

// learn has a look at a network now, for the sake of its leases, and tells
// then. It is false if the engine has ended.
func (e *Engine) learn(id netdef.UUID, tell func()) bool {
	h := &e.learning
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	under := h.waiting[id] != nil
	if h.waiting == nil {
		h.waiting, h.expiry = map[netdef.UUID][]func(){}, map[netdef.UUID]*time.Timer{}
	}
	h.waiting[id] = append(h.waiting[id], tell)
	if under {
		return true
	}
	e.tasks.Add(1)
	go func() {
		defer e.tasks.Done()
		e.relearn(id)
	}()
	return true
}

// relearn makes the host follow the leases of a network, until nobody waits.
func (e *Engine) relearn(id netdef.UUID) {
	h := &e.learning
	for {
		n, err := e.seize(id)
		h.mu.Lock()
		told := h.waiting[id]
		h.waiting[id] = []func(){}
		if len(told) == 0 || err != nil {
			delete(h.waiting, id)
		}
		h.mu.Unlock()
		if err == nil {
			if len(told) > 0 {
				if _, err := e.reconcile(context.Background(), n); err != nil {
					e.Log.Error("let guests use their leases", "network", n.name, "error", err)
				}
			}
			n.busy.Unlock()
		}
		for _, tell := range told {
			tell()
		}
		if len(told) == 0 || err != nil {
			return
		}
	}
}

// awaitExpiry has a look at the network again when the next of the addresses
// that its guests may use is no longer theirs. It needs n.busy.
func (e *Engine) awaitExpiry(n *network) {
	e.mu.Lock()
	live, known := n.live, e.filtering.bound(n.ports)
	e.mu.Unlock()
	h := &e.learning
	h.mu.Lock()
	defer h.mu.Unlock()
	if t := h.expiry[n.id]; t != nil {
		t.Stop()
		delete(h.expiry, n.id)
	}
	if h.closed || !learns(live, known) && !answersLeases(live) {
		return
	}
	var next time.Time
	for _, l := range e.Options.Leases.Table(n.id).All() {
		if !l.Expiry.IsZero() && (next.IsZero() || l.Expiry.Before(next)) {
			next = l.Expiry
		}
	}
	if next.IsZero() {
		return
	}
	if h.expiry == nil {
		h.expiry = map[netdef.UUID]*time.Timer{}
	}
	h.expiry[n.id] = time.AfterFunc(time.Until(next), func() { e.learn(n.id, func() {}) })
}

// close stops waiting.
func (h *learner) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for _, t := range h.expiry {
		t.Stop()
	}
}

// concerned reports whether the lease changes what a guest may send: one that
// is renewed does not.
func (e *Engine) concerned(l netdef.Lease) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := e.networks[l.Network]
	if n == nil || n.live == nil {
		return false
	}
	ended := l.Expired(time.Now())
	if answersLeases(n.live) {
		settings, _ := n.live.Settings()
		if _, answered := n.fragment.Own[plan.AnswerKey(settings, l.Addr)]; answered == ended {
			return true
		}
	}
	guards := plan.GuardsOf(n.live)
	for _, p := range e.filtering.bound(n.ports) {
		if p.def.MAC != l.MAC || p.name == "" {
			continue
		}
		g := guards.Of(p.def.MAC, p.guard)
		if g == nil || !g.Learn {
			continue
		}
		if _, may := n.fragment.Own[plan.UseKey(p.name, l.Addr, g)]; may == ended {
			return true
		}
	}
	return false
}

// leasesOf are the addresses that a guest holds.
func leasesOf(held []netdef.Lease, guest netdef.MAC) []netip.Addr {
	var addrs []netip.Addr
	for _, l := range held {
		if l.MAC == guest {
			addrs = append(addrs, l.Addr)
		}
	}
	return addrs
}
