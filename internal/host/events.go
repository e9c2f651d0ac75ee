package host

import (
	"slices"
	"sync"

	"viaduct/internal/hoststate"
)

// maxPendingKeys bounds what is remembered of changes that nobody has
// collected yet; beyond that everything may have changed.
const maxPendingKeys = 1 << 16

// changes merges keys of changed objects until somebody receives them. Adding
// to it never waits for the receiver.
type changes struct {
	out  chan []hoststate.Key
	wake chan struct{}

	mu   sync.Mutex
	keys map[hoststate.Key]struct{}
	all  bool
}

func newChanges() *changes {
	return &changes{
		out:  make(chan []hoststate.Key),
		wake: make(chan struct{}, 1),
		keys: map[hoststate.Key]struct{}{},
	}
}

// add notes changed objects; none at all means that everything may have changed.
func (c *changes) add(keys ...hoststate.Key) {
	c.mu.Lock()
	for _, k := range keys {
		c.keys[k] = struct{}{}
	}
	if len(keys) == 0 || len(c.keys) > maxPendingKeys {
		c.all = true
	}
	if c.all {
		clear(c.keys)
	}
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// take returns what has been noted since the last take, sorted, and whether
// there is anything.
func (c *changes) take() ([]hoststate.Key, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.all && len(c.keys) == 0 {
		return nil, false
	}
	keys := make([]hoststate.Key, 0, len(c.keys))
	for k := range c.keys {
		keys = append(keys, k)
	}
	hoststate.SortKeys(keys)
	clear(c.keys)
	c.all = false
	return keys, true
}

// run delivers what add notes until done is closed. Then it closes the channel.
func (c *changes) run(done <-chan struct{}) {
	defer close(c.out)
	var batch []hoststate.Key
	out := chan []hoststate.Key(nil) // nil while there is nothing to deliver
	for {
		select {
		case <-done:
			return
		case out <- batch:
			out = nil
		case <-c.wake:
			more, ok := c.take()
			if !ok {
				continue
			}
			batch = merge(out != nil, batch, more)
			out = c.out
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
