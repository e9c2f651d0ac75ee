package lab

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Loss is what a stream of numbered packets experienced.
type Loss struct {
	Sent, Received int
	// Lost are the numbers of packets that did not come back, the first
	// thousand of them.
	Lost []uint64
	// Unsent counts packets that the kernel refused to send (no route, link
	// down); they are in Lost too.
	Unsent int
	// Duplicates counts packets that came more than once.
	Duplicates int
	// Gap is the longest time between two packets that came, in order of coming.
	Gap time.Duration
}

func (l Loss) String() string {
	return fmt.Sprintf("%d sent, %d received, %d lost, longest gap %v", l.Sent, l.Received, l.Sent-l.Received, l.Gap)
}

// maxLost bounds the list in Loss.
const maxLost = 1000

// straggle is how long after the last packet sent an answer may take.
const straggle = 500 * time.Millisecond

// stream sends numbered packets at an interval and keeps account of those
// that come, which another goroutine reports.
type stream struct {
	stop chan struct{}
	sent chan struct{} // closed when sending has ended

	arrivals progress

	mu       sync.Mutex
	loss     Loss
	arrived  map[uint64]bool
	last     time.Time
	complete chan struct{} // closed when sending has ended and all came
	sentAll  bool
}

// newStream starts sending in the node.
func (n *Node) newStream(interval time.Duration, send func(number uint64) error) *stream {
	s := &stream{
		stop: make(chan struct{}), sent: make(chan struct{}), complete: make(chan struct{}),
		arrived: make(map[uint64]bool),
	}
	n.goUntilEnd(func() {
		defer close(s.sent)
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for number := uint64(0); ; number++ {
			select {
			case <-ticker.C:
				s.note(send(number))
			case <-s.stop:
				return
			}
		}
	})
	forget := n.atEnd(func() { s.halt() })
	n.goUntilEnd(func() { <-s.sent; forget() })
	return s
}

// halt ends sending; it may be called more than once.
func (s *stream) halt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.stop:
	default:
		close(s.stop)
	}
}

// note counts a packet that was sent, or could not be.
func (s *stream) note(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loss.Sent++
	if err != nil {
		s.loss.Unsent++
	}
}

// came counts an arrival.
func (s *stream) came(number uint64) {
	if s.count(number) {
		s.arrivals.add(1)
	}
}

func (s *stream) count(number uint64) (first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.arrived[number] {
		s.loss.Duplicates++
		return false
	}
	now := time.Now()
	if s.loss.Received > 0 {
		s.loss.Gap = max(s.loss.Gap, now.Sub(s.last))
	}
	s.last = now
	s.arrived[number] = true
	s.loss.Received++
	s.checkComplete()
	return true
}

func (s *stream) checkComplete() {
	if s.sentAll && s.loss.Received == s.loss.Sent {
		select {
		case <-s.complete:
		default:
			close(s.complete)
		}
	}
}

// Await waits until that many more packets have come back.
func (s *stream) Await(ctx context.Context, packets int) error {
	return s.arrivals.await(ctx, int64(packets))
}

// Sent is how many packets were sent so far.
func (s *stream) Sent() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.loss.Sent
}

// account ends the stream, waits for stragglers and returns the result.
func (s *stream) account() Loss {
	s.halt()
	<-s.sent
	s.mu.Lock()
	s.sentAll = true
	s.checkComplete()
	s.mu.Unlock()
	select {
	case <-s.complete:
	case <-time.After(straggle):
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	loss := s.loss
	for number := uint64(0); number < uint64(loss.Sent) && len(loss.Lost) < maxLost; number++ {
		if !s.arrived[number] {
			loss.Lost = append(loss.Lost, number)
		}
	}
	return loss
}
