// Package outbox keeps replies to guests until what they promise is on disk.
// The journal says when, from its own goroutine, which must not wait for a
// socket; another one sends all replies that have become ready since it last
// looked. One sync of the disk makes many ready at once.
package outbox

import "sync"

// Box is an outbox for messages of one type. Its methods may be called from
// any goroutine.
type Box[T any] struct {
	limit int

	mu     sync.Mutex
	inside int // places that are taken
	ready  []T
	closed bool
	wake   chan struct{} // holds one token while there is something to do
}

// New makes an outbox with so many places. What takes one only has to wait
// for the disk, so the limit says how far the disk may fall behind.
func New[T any](limit int) *Box[T] {
	return &Box[T]{limit: limit, wake: make(chan struct{}, 1)}
}

// Enter takes a place for a message that will be ready later. It reports
// false if there is none.
func (b *Box[T]) Enter() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.inside >= b.limit {
		return false
	}
	b.inside++
	return true
}

// Ready hands over the message for which a place was taken. It does not wait.
func (b *Box[T]) Ready(message T) {
	b.mu.Lock()
	b.ready = append(b.ready, message)
	b.mu.Unlock()
	b.signal()
}

// Send calls send for every message that is ready, in order, until the outbox
// is closed. Messages that are not ready by then are forgotten.
func (b *Box[T]) Send(send func(T)) {
	for {
		messages, closed := b.take()
		if closed {
			return
		}
		for _, m := range messages {
			send(m)
		}
		if len(messages) == 0 {
			<-b.wake
		}
	}
}

// take takes what is ready and frees its places.
func (b *Box[T]) take() (messages []T, closed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	messages, b.ready = b.ready, nil
	b.inside -= len(messages)
	return messages, b.closed
}

// Close ends Send.
func (b *Box[T]) Close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.signal()
}

func (b *Box[T]) signal() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}
