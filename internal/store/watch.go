package store

import (
	"context"
	"slices"
	"sync"
)

// Kind says what sort of thing changed.
type Kind string

// The kinds of changes.
const (
	// KindAll says that too much changed to name it all.
	KindAll        Kind = "all"
	KindDefinition Kind = "definition"
	KindAutostart  Kind = "autostart"
	KindStatus     Kind = "status"
	KindHost       Kind = "host"
)

// Change is one thing that changed: put, edited or removed.
type Change struct {
	// Rev is the store's revision after the change. Revisions grow from 1
	// when the store is opened and count every change made through it.
	Rev  uint64
	Kind Kind
	// Name is the network's; "" with KindAll and KindHost.
	Name string
}

// maxPending is how many changes wait for a watcher before they become one of KindAll.
const maxPending = 1024

// watchers counts revisions and tells whoever wants to know.
type watchers struct {
	mu     sync.Mutex
	rev    uint64
	closed bool
	all    map[*watcher]context.CancelFunc
}

// watcher is one Watch: the changes that wait for it, oldest first.
type watcher struct {
	mu      sync.Mutex
	pending []Change
	wake    chan struct{} // holds one token while changes wait
}

// Revision is the number of changes made since the store was opened.
func (s *Store) Revision() uint64 {
	s.watch.mu.Lock()
	defer s.watch.mu.Unlock()
	return s.watch.rev
}

// Watch delivers every change from now on, in the order of revisions, until
// ctx ends or the store is closed; then the channel closes. A slow reader
// delays nobody: changes of the same thing that wait for it become one, with
// the newest revision, and if there are very many they become one of KindAll.
func (s *Store) Watch(ctx context.Context) <-chan Change {
	ch := make(chan Change)
	ctx, cancel := context.WithCancel(ctx)
	w := &watcher{wake: make(chan struct{}, 1)}
	if !s.watch.add(w, cancel) {
		cancel()
	}
	go func() {
		defer close(ch)
		defer cancel()
		defer s.watch.remove(w)
		w.deliver(ctx, ch)
	}()
	return ch
}

func (ws *watchers) add(w *watcher, cancel context.CancelFunc) bool {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.closed {
		return false
	}
	if ws.all == nil {
		ws.all = map[*watcher]context.CancelFunc{}
	}
	ws.all[w] = cancel
	return true
}

func (ws *watchers) remove(w *watcher) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	delete(ws.all, w)
}

// close ends all watches and refuses new ones.
func (ws *watchers) close() {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.closed = true
	for _, cancel := range ws.all {
		cancel()
	}
}

// publish gives a change its revision and lays it before all watchers.
func (ws *watchers) publish(kind Kind, name string) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.rev++
	for w := range ws.all {
		w.add(Change{Rev: ws.rev, Kind: kind, Name: name})
	}
}

func (w *watcher) add(c Change) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case len(w.pending) == 1 && w.pending[0].Kind == KindAll, len(w.pending) == maxPending:
		w.pending = append(w.pending[:0], Change{Rev: c.Rev, Kind: KindAll})
	default:
		same := func(p Change) bool { return p.Kind == c.Kind && p.Name == c.Name }
		w.pending = append(slices.DeleteFunc(w.pending, same), c)
	}
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// next takes the oldest waiting change.
func (w *watcher) next() (Change, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.pending) == 0 {
		return Change{}, false
	}
	c := w.pending[0]
	w.pending = slices.Delete(w.pending, 0, 1)
	return c, true
}

func (w *watcher) deliver(ctx context.Context, ch chan<- Change) {
	for {
		c, ok := w.next()
		if !ok {
			select {
			case <-w.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		select {
		case ch <- c:
		case <-ctx.Done():
			return
		}
	}
}
