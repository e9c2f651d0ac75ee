package dns

import "sync"

// gate bounds how many are inside at once, in total and of each kind.
type gate[K comparable] struct {
	total, each int

	mu     sync.Mutex
	inside int
	of     map[K]int
}

func newGate[K comparable](total, each int) *gate[K] {
	return &gate[K]{total: total, each: each, of: map[K]int{}}
}

// enter reports whether there was room; if so, leave must follow.
func (g *gate[K]) enter(k K) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.inside >= g.total || g.of[k] >= g.each {
		return false
	}
	g.inside++
	g.of[k]++
	return true
}

func (g *gate[K]) leave(k K) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	if g.of[k]--; g.of[k] == 0 {
		delete(g.of, k)
	}
}

// enterBoth enters two gates or none. The function returned leaves both.
func enterBoth[A, B comparable](a *gate[A], ka A, b *gate[B], kb B) (leave func(), ok bool) {
	if !a.enter(ka) {
		return nil, false
	}
	if !b.enter(kb) {
		a.leave(ka)
		return nil, false
	}
	return func() {
		a.leave(ka)
		b.leave(kb)
	}, true
}
