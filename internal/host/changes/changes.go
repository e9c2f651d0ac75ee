// Package changes passes on which objects on the host have changed, merged until
// somebody receives them.
package changes

import (
	"slices"
	"sync"

	"viaduct/internal/hoststate"
)

// maxPendingKeys bounds what is remembered of changes that nobody has
// collected yet; beyond that everything may have changed.
const maxPendingKeys = 1 << 16

// Box merges keys of changed objects until somebody receives them. Adding
// to it never waits for the receiver.
type Box struct {
	out  chan []hoststate.Key
	wake chan struct{}

	mu   sync.Mutex
	keys map[hoststate.Key]struct{}
	all  bool
}

// New makes an empty box. Run delivers from it.
func New() *Box {
	return &Box{
		out:  make(chan []hoststate.Key),
		wake: make(chan struct{}, 1),
		keys: map[hoststate.Key]struct{}{},
	}
}

// Add notes changed objects; none at all means that everything may have changed.
func (b *Box) Add(keys ...hoststate.Key) {
	b.mu.Lock()
	for _, k := range keys {
		b.keys[k] = struct{}{}
	}
	if len(keys) == 0 || len(b.keys) > maxPendingKeys {
		b.all = true
	}
	if b.all {
		clear(b.keys)
	}
	b.mu.Unlock()
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// Take returns what has been noted since the last call, sorted, and whether
// there is anything.
func (b *Box) Take() ([]hoststate.Key, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.all && len(b.keys) == 0 {
		return nil, false
	}
	keys := make([]hoststate.Key, 0, len(b.keys))
	for k := range b.keys {
		keys = append(keys, k)
	}
	hoststate.SortKeys(keys)
	clear(b.keys)
	b.all = false
	return keys, true
}

// Run delivers what Add notes until done is closed. Then it closes the channel.
func (b *Box) Run(done <-chan struct{}) {
	defer close(b.out)
	var batch []hoststate.Key
	out := chan []hoststate.Key(nil) // nil while there is nothing to deliver
	for {
		select {
		case <-done:
			return
		case out <- batch:
			out = nil
		case <-b.wake:
			more, ok := b.Take()
			if !ok {
				continue
			}
			batch = merge(out != nil, batch, more)
			out = b.out
		}
	}
}

// merge unites two deliveries, the first of which counts only if it is pending.
func merge(pending bool, a, b []hoststate.Key) []hoststate.Key {
	switch {
	case !pending:
		return b
	case len(a) == 0 || len(b) == 0 || len(a)+len(b) > maxPendingKeys:
		return nil
	}
	all := slices.Concat(a, b)
	hoststate.SortKeys(all)
	return slices.Compact(all)
}

// Out is where Run delivers: the keys in order, or none if everything may have changed.
func (b *Box) Out() <-chan []hoststate.Key { return b.out }
