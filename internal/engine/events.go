package engine

import (
	"sync"
	"time"
)

// subscriptionBuffer is how many events a subscriber may lag behind.
const subscriptionBuffer = 1024

// Subscription delivers events in the order in which they happened. C is
// closed by Close, when the engine stops, and when the subscriber lags too far
// behind: an event is never left out silently.
type Subscription struct {
	C <-chan Event

	c      chan Event
	origin *broadcaster
}

// Close ends the subscription.
func (s *Subscription) Close() {
	s.origin.mu.Lock()
	defer s.origin.mu.Unlock()
	s.origin.drop(s)
}

type broadcaster struct {
	mu          sync.Mutex
	subscribers map[*Subscription]bool
	closed      bool
}

// Subscribe delivers what happens from now on.
func (e *Engine) Subscribe() *Subscription {
	b := &e.events
	b.mu.Lock()
	defer b.mu.Unlock()
	c := make(chan Event, subscriptionBuffer)
	s := &Subscription{C: c, c: c, origin: b}
	if b.closed {
		close(c)
		return s
	}
	if b.subscribers == nil {
		b.subscribers = map[*Subscription]bool{}
	}
	b.subscribers[s] = true
	return s
}

func (b *broadcaster) send(n *network, t EventType) {
	b.publish(Event{Name: n.name, UUID: n.id, Type: t})
}

// publish sends an event that happens now.
func (b *broadcaster) publish(ev Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	ev.Time = time.Now()
	for s := range b.subscribers {
		select {
		case s.c <- ev:
		default:
			b.drop(s)
		}
	}
}

// drop needs b.mu.
func (b *broadcaster) drop(s *Subscription) {
	if b.subscribers[s] {
		delete(b.subscribers, s)
		close(s.c)
	}
}

func (b *broadcaster) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for s := range b.subscribers {
		b.drop(s)
	}
}
