// Package guestsvctest has what the tests of several services need: a clock that
// they move, and a journal of leases that is as slow as they want it.
package guestsvctest

import (
	"sync"
	"time"

	"viaduct/internal/store"
)

// Clock stands still unless it is put forward.
type Clock struct {
	mu sync.Mutex
	t  time.Time
}

// NewClock makes a clock that shows t.
func NewClock(t time.Time) *Clock { return &Clock{t: t} }

// Now is what the clock shows.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

// Advance puts the clock forward.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// Journal is a leases.Journal that makes changes durable at once, unless it
// holds them back or fails.
type Journal struct {
	mu     sync.Mutex
	held   []func(error) // changes not yet on disk
	hold   bool
	failed error
}

// Append implements leases.Journal.
func (j *Journal) Append(_ store.LeaseChange, done func(error)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.hold {
		j.held = append(j.held, done)
		return
	}
	go done(j.failed)
}

// Fail makes what comes from now on fail with err.
func (j *Journal) Fail(err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.failed = err
}

// Hold keeps back what comes from now on.
func (j *Journal) Hold() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.hold = true
}

// Release makes durable what waits, and holds back no more.
func (j *Journal) Release() {
	j.mu.Lock()
	j.hold = false
	n := len(j.held)
	j.mu.Unlock()
	j.Flush(n)
}

// Waiting is how many changes are held back.
func (j *Journal) Waiting() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.held)
}

// Flush makes n of the changes that wait durable, in their order.
func (j *Journal) Flush(n int) {
	j.mu.Lock()
	held := j.held[:n]
	j.held = j.held[n:]
	j.mu.Unlock()
	for _, done := range held {
		done(nil)
	}
}
