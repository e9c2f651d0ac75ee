package lab

import (
	"context"
	"fmt"
	"sync"
)

// progress is a count that grows, and that others wait for.
type progress struct {
	mu      sync.Mutex
	count   int64
	changed chan struct{} // closed at the next change; nil if nobody waits
}

func (p *progress) add(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count += n
	if p.changed != nil {
		close(p.changed)
		p.changed = nil
	}
}

// await waits until the count has grown by n since the call.
func (p *progress) await(ctx context.Context, n int64) error {
	p.mu.Lock()
	goal := p.count + n
	p.mu.Unlock()
	for {
		p.mu.Lock()
		count := p.count
		if p.changed == nil {
			p.changed = make(chan struct{})
		}
		changed := p.changed
		p.mu.Unlock()
		if count >= goal {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%d of %d arrived: %w", n-(goal-count), n, ctx.Err())
		}
	}
}
