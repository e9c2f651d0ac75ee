package engine

import (
	"context"
	"errors"
	"fmt"

	"viaduct/internal/host"
	"viaduct/internal/hoststate"
	"viaduct/internal/netdef"
	"viaduct/internal/plan"
	"viaduct/internal/store"
)

// difference is what turns the host as observed into what next says, looking
// at the objects of old and next only. What old shares with other networks is
// not removed here, see sweep.
func (e *Engine) difference(old, next plan.Fragment) []hoststate.Op {
	want := next.All()
	keys := want.Keys()
	for k := range old.Own {
		if _, ok := want[k]; !ok {
			keys = append(keys, k)
		}
	}
	return host.Diff(want, e.Host.Observe(keys))
}

// transition takes a network from one fragment to another and makes the host
// follow. It is the only way in which the host changes for a network: a start
// comes from the empty fragment, a stop goes to it, healing stays where it is.
// On error the host and the engine are as before. The caller holds n.busy.
func (e *Engine) transition(ctx context.Context, n *network, next plan.Fragment) ([]hoststate.Op, error) {
	e.mu.Lock()
	old := n.fragment
	err := e.claim(n, old, next)
	e.mu.Unlock()
	if err != nil {
		return nil, err
	}

	e.sharing.RLock()
	err = e.keepSysctls(next)
	var ops []hoststate.Op
	if err == nil {
		ops = e.difference(old, next)
		err = e.Host.Apply(ctx, ops)
	}
	e.sharing.RUnlock()
	if err == nil && len(ops) > 0 {
		e.Log.Debug("applied", "network", n.name, "operations", hoststate.FormatOps(ops))
	}

	e.mu.Lock()
	unused := next
	if err == nil {
		n.fragment = next
		unused = old
	}
	swept := e.release(n, unused, n.fragment)
	e.mu.Unlock()

	if swept {
		if sweepErr := e.sweep(ctx); sweepErr != nil {
			e.Log.Error("remove what no network uses any more", "error", sweepErr)
		}
	}
	return ops, err
}

// claim registers next's objects, on top of old's which are registered
// already. It needs e.mu.
func (e *Engine) claim(n *network, old, next plan.Fragment) error {
	for k := range next.Own {
		if other := e.claims[k]; other != nil && other != n {
			return netdef.Errorf(netdef.ErrInternal, "%s is already in use by network '%s'", k, other.name)
		}
	}
	for k, o := range next.Shared {
		if s, ok := e.shared[k]; ok && !hoststate.Equal(s.object, o) {
			return fmt.Errorf("plan network '%s': %s differs from what other networks share", n.name, k)
		}
	}
	for k := range next.Own {
		e.claims[k] = n
	}
	for k, o := range next.Shared {
		if _, had := old.Shared[k]; had {
			continue
		}
		s := e.shared[k]
		e.shared[k] = sharedObject{object: o, users: s.users + 1}
	}
	return nil
}

// release gives up the objects of unused that kept does not have, and reports
// whether a shared one has no user left. It needs e.mu.
func (e *Engine) release(n *network, unused, kept plan.Fragment) bool {
	for k := range unused.Own {
		if _, ok := kept.Own[k]; !ok && e.claims[k] == n {
			delete(e.claims, k)
		}
	}
	idle := false
	for k := range unused.Shared {
		if _, ok := kept.Shared[k]; ok {
			continue
		}
		s := e.shared[k]
		s.users--
		e.shared[k] = s
		idle = idle || s.users == 0
	}
	return idle
}

// keepSysctls records what the host's own settings were before we change them,
// so that they can be put back even after a crash.
func (e *Engine) keepSysctls(f plan.Fragment) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	changed := false
	for k, o := range f.Shared {
		s, ok := o.(hoststate.Sysctl)
		if !ok {
			continue
		}
		if _, known := e.sysctls[s.Name]; known {
			continue
		}
		was, ok := e.Host.Observe([]hoststate.Key{k})[k].(hoststate.Sysctl)
		if !ok {
			return fmt.Errorf("read sysctl %s: this kernel does not have it", s.Name)
		}
		e.sysctls[s.Name] = store.SysctlRecord{Old: was.Value, Set: s.Value}
		changed = true
	}
	if !changed {
		return nil
	}
	return e.putHostState()
}

// putHostState needs e.mu.
func (e *Engine) putHostState() error {
	return e.Store.UpdateHost(func(h *store.HostState) {
		h.Sysctls = make(map[string]store.SysctlRecord, len(e.sysctls))
		for k, v := range e.sysctls {
			h.Sysctls[k] = v
		}
	})
}

// sweep removes shared objects that no network uses any more, and puts back
// the host's settings that nobody else has changed since.
func (e *Engine) sweep(ctx context.Context) error {
	e.sharing.Lock()
	defer e.sharing.Unlock()
	e.mu.Lock()
	var idle []hoststate.Key
	for k, s := range e.shared {
		if s.users == 0 {
			idle = append(idle, k)
			delete(e.shared, k)
		}
	}
	var back []hoststate.Op
	for name, r := range e.sysctls {
		k := hoststate.SysctlKey(name)
		if e.shared[k].users > 0 {
			continue
		}
		now, ok := e.Host.Observe([]hoststate.Key{k})[k].(hoststate.Sysctl)
		if ok && now.Value == r.Set && r.Old != r.Set {
			back = append(back, hoststate.Op{Verb: hoststate.Change, Old: now, New: hoststate.Sysctl{Name: name, Value: r.Old}})
		}
		delete(e.sysctls, name)
	}
	e.mu.Unlock()

	observed := e.Host.Observe(idle)
	for k := range observed {
		if k.Kind == hoststate.KindSysctl {
			delete(observed, k)
		}
	}
	ops := append(back, host.Diff(nil, observed)...)
	if err := e.Host.Apply(ctx, ops); err != nil {
		return err
	}
	// The record of the old values goes last: a crash before this repeats the work.
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.putHostState()
}

// reconcile brings an active network back to what its definition says. It
// returns what had to be done. The caller holds n.busy.
func (e *Engine) reconcile(ctx context.Context, n *network) ([]hoststate.Op, error) {
	e.mu.Lock()
	live, dnsPort := n.live, n.dnsPort
	e.mu.Unlock()
	if live == nil {
		return nil, nil
	}
	next, err := plan.Network(live, e.facts(n, dnsPort))
	if err != nil {
		return nil, err
	}
	return e.transition(ctx, n, next)
}

// opError says which operation on the host failed, in a client's words.
func opError(err error) error {
	var op *host.OpError
	if errors.As(err, &op) {
		return netdef.Errorf(netdef.ErrInternal, "%s: %w", op.Op, op.Err)
	}
	return errAs(netdef.ErrInternal, err)
}
