package nft

import (
	"testing"
	"time"
)

// TestGathers has the writer wait for company only if some is on its way, and
// then no longer than that is worth.
func TestGathers(t *testing.T) {
	a := &Applier{requests: make(chan *request), done: make(chan struct{})}
	for _, c := range []struct {
		name   string
		coming int           // requests said to be on their way
		come   int           // those that come, beside the first
		cost   time.Duration // of the last transaction
		want   int
	}{
		{"nobody else", 0, 0, time.Hour, 1},
		{"all that come at once", maxMerged, maxMerged - 1, time.Hour, maxMerged},
		{"one that never comes", 1, 0, time.Millisecond, 1},
	} {
		a.cost = c.cost
		a.Expect(c.coming)
		go func() {
			for range c.come {
				a.requests <- &request{}
			}
		}()
		if got := a.gather(&request{}); len(got) != c.want {
			t.Errorf("%s: %d requests, not %d", c.name, len(got), c.want)
		}
		a.Expect(-c.coming)
	}
	a.Expect(1)
	close(a.done)
	if got := a.gather(&request{}); len(got) != 1 {
		t.Errorf("at the end: %d requests", len(got))
	}
}
