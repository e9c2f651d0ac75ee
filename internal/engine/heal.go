package engine

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"viaduct/internal/hoststate"
	"viaduct/internal/plan"
)

// Healing waits a little after a notification, so that what belongs together
// is looked at together. In particular the kernel announces that ports left
// their bridge some 20 ms before it announces that the bridge was deleted, and
// only the second says why.
const (
	healDelay    = 100 * time.Millisecond
	healDelayMax = 30 * time.Second
	// healCalm is how long a network has to stay as it is before the next
	// repair is as quick as the first again.
	healCalm = time.Minute
)

// healer keeps one timer per network that needs a look.
type healer struct {
	mu      sync.Mutex
	pending map[*network]*healing
	closed  bool
}

type healing struct {
	timer *time.Timer // nil while none is set
	delay time.Duration
	last  time.Time // of the last repair
}

// watch brings networks back to what they should be whenever the host tells of
// a change. It returns when the context ends.
func (e *Engine) watch(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case keys, ok := <-e.Host.Events():
			if !ok {
				return
			}
			e.mu.Lock()
			close(e.changed)
			e.changed = make(chan struct{})
			e.mu.Unlock()
			e.healUplinks(ctx, keys)
			for n := range e.affected(keys) {
				if len(keys) == 0 {
					e.healing.hurry(n)
				}
				e.healLater(ctx, n)
			}
		}
	}
}

// affected finds the active networks that objects belong to. No keys at all
// stand for all of them, and what passes are needed concerns all.
func (e *Engine) affected(keys []hoststate.Key) map[*network]bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	found := map[*network]bool{}
	add := func(n *network) {
		if n != nil && n.live != nil {
			found[n] = true
		}
	}
	everyone := slices.ContainsFunc(keys, func(k hoststate.Key) bool { return k.Kind == hoststate.KindPass })
	if everyone || len(keys) == 0 {
		for _, n := range e.networks {
			add(n)
		}
	}
	newLinks := false
	external := map[string][]*network{}
	for _, n := range e.networks {
		if n.live != nil && !n.live.Forward.Mode.OwnsBridge() {
			external[n.live.Bridge.Name] = append(external[n.live.Bridge.Name], n)
		}
	}
	addAll := func(list []*network) {
		for _, n := range list {
			add(n)
		}
	}
	for _, k := range keys {
		switch s, shared := e.shared[k]; {
		case shared && s.users > 0:
			add(e.userOf(k))
		case k.Kind == hoststate.KindMember:
			_, bridge, _ := strings.Cut(k.Name, " ")
			add(e.claims[hoststate.BridgeKey(bridge)])
			addAll(external[bridge])
		case k.Kind == hoststate.KindMacvtap:
			add(e.claims[k])
			addAll(external[""])
		case k.Kind == hoststate.KindBridge:
			add(e.claims[k])
			addAll(external[k.Name])
		case k.Kind == hoststate.KindLinkUp && e.claims[k] == nil:
			newLinks = true
		default:
			add(e.claims[k])
		}
	}
	if newLinks {
		// One that is an uplink concerns the networks that forward IPv6, and those
		// whose guests are answered for there: what is switched off forgets that.
		for _, n := range e.networks {
			if n.live == nil { // and maybe without any definition, about to be gone
				continue
			}
			if _, forwards := n.fragment.Own[plan.ForceForwarding(n.live.Bridge.Name)]; forwards || plan.Answers(n.live) {
				add(n)
			}
		}
	}
	return found
}

// userOf is some active network that uses a shared object. It needs e.mu.
func (e *Engine) userOf(k hoststate.Key) *network {
	for _, n := range e.networks {
		if _, uses := n.fragment.Shared[k]; uses {
			return n
		}
	}
	return nil
}

// healLater has a look at the network soon, if that is not arranged already.
func (e *Engine) healLater(ctx context.Context, n *network) {
	h := &e.healing
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return
	}
	if h.pending == nil {
		h.pending = map[*network]*healing{}
	}
	p := h.pending[n]
	if p == nil {
		p = &healing{delay: healDelay}
		h.pending[n] = p
	}
	if p.timer != nil {
		return
	}
	if time.Since(p.last) > healCalm {
		p.delay = healDelay
	}
	e.tasks.Add(1)
	p.timer = time.AfterFunc(p.delay, func() {
		defer e.tasks.Done()
		h.mu.Lock()
		p.timer = nil
		closed := h.closed
		h.mu.Unlock()
		if !closed {
			e.heal(ctx, n)
		}
	})
}

// heal has a look at the network now.
func (e *Engine) heal(ctx context.Context, n *network) {
	n.busy.Lock()
	defer n.busy.Unlock()
	if ctx.Err() != nil {
		return
	}
	e.mu.Lock()
	live := n.live
	e.mu.Unlock()
	if live == nil {
		e.healing.forget(n)
		return
	}
	e.notePorts(n, live)
	ops, err := e.reconcile(ctx, n)
	switch {
	case err != nil:
		e.Log.Error("bring network back to its definition", "network", n.name, "error", err)
		e.healing.repaired(n)
		e.healLater(ctx, n)
	case len(ops) > 0:
		e.Log.Info("brought network back to its definition", "network", n.name, "operations", hoststate.FormatOps(ops))
		e.notePorts(n, live)
		e.healing.repaired(n)
	default:
		e.healing.calm(n)
	}
}

// repaired makes the next repair wait longer, so that two programs that want
// different things do not keep the host busy.
func (h *healer) repaired(n *network) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.pending[n]
	if p == nil {
		return
	}
	p.delay = min(2*p.delay, healDelayMax)
	p.last = time.Now()
}

// hurry has the next repair come as quick as the first: where everything may
// have changed, as when a firewall has been loaded again, nobody is at odds with us.
func (h *healer) hurry(n *network) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p := h.pending[n]; p != nil {
		p.delay = healDelay
		if p.timer != nil && p.timer.Stop() {
			p.timer.Reset(p.delay)
		}
	}
}

// calm forgets a network that has not needed a repair for a while.
func (h *healer) calm(n *network) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p := h.pending[n]; p != nil && p.timer == nil && time.Since(p.last) > healCalm {
		delete(h.pending, n)
	}
}

func (h *healer) forget(n *network) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p := h.pending[n]; p != nil && p.timer == nil {
		delete(h.pending, n)
	}
}

// close stops the timers that have not fired and calls done for each. Those
// that fire now find it closed.
func (h *healer) close(done func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for _, p := range h.pending {
		if p.timer != nil && p.timer.Stop() {
			done()
		}
	}
}
