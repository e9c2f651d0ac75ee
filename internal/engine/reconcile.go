package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"

	"viaduct/internal/host"
	"viaduct/internal/hoststate"
	"viaduct/internal/netdef"
	"viaduct/internal/plan"
	"viaduct/internal/store"
)

// difference is what turns the host as observed into what next says, looking
// at the objects of old and next only. What old shares with other networks is
// not removed here, see sweep.
func (e *Engine) difference(old, next plan.Fragment) (shared, own []hoststate.Op) {
	keys := next.Own.Keys()
	for k := range old.Own {
		if _, ok := next.Own[k]; !ok {
			keys = append(keys, k)
		}
	}
	shared = host.Diff(next.Shared, e.Host.Observe(next.Shared.Keys()))
	return shared, host.Diff(next.Own, e.Host.Observe(keys))
}

// transition takes a network from one fragment to another and makes the host
// follow. It is the only way in which the host changes for a network: a start
// comes from the empty fragment, a stop goes to it, healing stays where it is.
// On error the network on the host and in the engine is as before. The caller
// holds n.busy.
func (e *Engine) transition(ctx context.Context, n *network, next plan.Fragment) ([]hoststate.Op, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	// From here on whoever asked may leave: half a network is of no use to anybody.
	ctx = context.WithoutCancel(ctx)
	old, err := e.begin(n, next)
	if err != nil {
		return nil, err
	}
	ops, err := e.carryOut(ctx, old, next)
	if err == nil && len(ops) > 0 && e.Log.Enabled(ctx, slog.LevelDebug) {
		e.Log.Debug("applied", "network", n.name, "operations", hoststate.FormatOps(ops))
	}

	e.mu.Lock()
	unused := next
	if err == nil {
		n.fragment = next
		unused = old
	}
	e.release(n, unused, n.fragment)
	e.moving--
	e.idle.Broadcast()
	e.mu.Unlock()

	if err == nil {
		e.awaitExpiry(n)
	}
	if err := e.sweep(ctx); err != nil {
		e.Log.Error("remove what no network uses any more", "error", err)
	}
	return ops, err
}

// begin claims what a transition needs and returns what the network has so far.
func (e *Engine) begin(n *network, next plan.Fragment) (old plan.Fragment, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for e.sweeping {
		e.idle.Wait()
	}
	if e.closed {
		return old, errors.New("the engine has ended")
	}
	if err := e.claim(n, n.fragment, next); err != nil {
		return old, err
	}
	e.moving++
	return n.fragment, nil
}

// carryOut makes the host follow. What networks share comes first and by
// itself: should the rest fail and be undone, another network may use it already.
func (e *Engine) carryOut(ctx context.Context, old, next plan.Fragment) ([]hoststate.Op, error) {
	if err := e.keepSysctls(next); err != nil {
		return nil, err
	}
	shared, own := e.difference(old, next)
	if len(shared) > 0 {
		var err error
		if shared, err = e.makeShared(ctx, next); err != nil {
			return shared, err
		}
	}
	return append(shared, own...), e.Host.Apply(ctx, own)
}

// makeShared makes what is missing of the objects that networks share.
func (e *Engine) makeShared(ctx context.Context, f plan.Fragment) ([]hoststate.Op, error) {
	e.making.Lock()
	defer e.making.Unlock()
	ops := host.Diff(f.Shared, e.Host.Observe(f.Shared.Keys()))
	return ops, e.Host.Apply(ctx, ops)
}

// claim registers next's objects and subnets, on top of old's which are
// registered already. It needs e.mu.
func (e *Engine) claim(n *network, old, next plan.Fragment) error {
	for k := range next.Own {
		if other := e.claims[k]; other != nil && other != n {
			return netdef.Errorf(netdef.ErrInternal, "%s is already in use by network '%s'", k, other.name)
		}
	}
	wanted := subnets(next)
	for _, p := range wanted {
		if other := e.subnetUser(p, n); other != nil {
			return netdef.Errorf(netdef.ErrInternal, "Network is already in use by interface %s", other.definition().Bridge.Name)
		}
	}
	for k, o := range next.Shared {
		if s := e.shared[k]; s.users > 0 && !hoststate.Equal(s.object, o) {
			return fmt.Errorf("plan network '%s': %s differs from what other networks share", n.name, k)
		}
	}
	for k := range next.Own {
		e.claims[k] = n
	}
	n.subnets = append(subnets(old), wanted...)
	for k, o := range next.Shared {
		s := e.shared[k]
		if s.users > 0 {
			o = s.object
			next.Shared[k] = o // one copy in memory serves all networks
		}
		if _, had := old.Shared[k]; !had {
			e.shared[k] = sharedObject{object: o, users: s.users + 1}
		}
	}
	return nil
}

// subnets are those of the fragment's addresses. Link-local ones are the same
// on every bridge, and single addresses, which the host has on links of two, may
// be the same too: no neighbours are behind them.
func subnets(f plan.Fragment) []netip.Prefix {
	var list []netip.Prefix
	for _, o := range f.Own {
		if a, ok := o.(hoststate.Address); ok && !a.Prefix.Addr().IsLinkLocalUnicast() && !a.Prefix.IsSingleIP() {
			list = append(list, a.Prefix.Masked())
		}
	}
	return list
}

// subnetUser is another network than n that has, or is about to have, a subnet
// that overlaps with p, unless n has p already. It needs e.mu.
func (e *Engine) subnetUser(p netip.Prefix, n *network) *network {
	if slices.Contains(n.subnets, p) {
		return nil
	}
	for _, other := range e.networks {
		if other != n && slices.ContainsFunc(other.subnets, p.Overlaps) {
			return other
		}
	}
	return nil
}

// release gives up what unused has and kept does not. It needs e.mu.
func (e *Engine) release(n *network, unused, kept plan.Fragment) {
	for k := range unused.Own {
		if _, ok := kept.Own[k]; !ok && e.claims[k] == n {
			delete(e.claims, k)
		}
	}
	n.subnets = subnets(kept)
	for k := range unused.Shared {
		if _, ok := kept.Shared[k]; !ok {
			s := e.shared[k]
			s.users--
			e.shared[k] = s
		}
	}
}

// keepSysctls records what the host's own settings were before we change them,
// so that they can be put back even after a crash.
func (e *Engine) keepSysctls(f plan.Fragment) error {
	e.settings.Lock()
	defer e.settings.Unlock()
	next := maps.Clone(e.sysctls)
	for k, o := range f.Shared {
		s, ok := o.(hoststate.Sysctl)
		if _, known := e.sysctls[s.Name]; !ok || known {
			continue
		}
		was, ok := e.Host.Observe([]hoststate.Key{k})[k].(hoststate.Sysctl)
		if !ok {
			return fmt.Errorf("read sysctl %s: this kernel does not have it", s.Name)
		}
		next[s.Name] = store.SysctlRecord{Old: was.Value, Set: s.Value}
	}
	return e.putSysctls(next)
}

// putSysctls stores the record, if it has changed. It needs e.settings.
func (e *Engine) putSysctls(next map[string]store.SysctlRecord) error {
	if maps.Equal(next, e.sysctls) {
		return nil
	}
	if err := e.Store.UpdateHost(func(h *store.HostState) { h.Sysctls = maps.Clone(next) }); err != nil {
		return err
	}
	e.sysctls = next
	return nil
}

// sweep removes shared objects that no network uses any more, and puts back
// the host's settings that nobody else has changed since. Nothing waits for
// it to get its turn: while other transitions are under way it leaves the work
// to the last of them.
func (e *Engine) sweep(ctx context.Context) error {
	e.mu.Lock()
	var unused []hoststate.Key
	for k, s := range e.shared {
		if s.users == 0 {
			unused = append(unused, k)
		}
	}
	if len(unused) == 0 || e.strangers || e.moving > 0 || e.sweeping {
		e.mu.Unlock()
		return nil
	}
	e.sweeping = true
	e.mu.Unlock()

	err := e.removeUnused(ctx, unused)

	e.mu.Lock()
	defer e.mu.Unlock()
	if err == nil {
		for _, k := range unused {
			delete(e.shared, k)
		}
	}
	e.sweeping = false
	e.idle.Broadcast()
	return err
}

// removeUnused removes shared objects from the host.
func (e *Engine) removeUnused(ctx context.Context, unused []hoststate.Key) error {
	e.settings.Lock()
	defer e.settings.Unlock()
	left := maps.Clone(e.sysctls)
	observed := e.Host.Observe(unused)
	var back []hoststate.Op
	for _, k := range unused {
		if k.Kind != hoststate.KindSysctl {
			continue
		}
		now, ok := observed[k].(hoststate.Sysctl)
		delete(observed, k)
		if r, changed := left[k.Name]; ok && changed && now.Value == r.Set && r.Old != r.Set {
			back = append(back, hoststate.ChangeOp(now, hoststate.Sysctl{Name: k.Name, Value: r.Old}))
		}
		delete(left, k.Name)
	}
	if err := e.Host.Apply(ctx, append(back, host.Diff(nil, observed)...)); err != nil {
		return err
	}
	// The record of the old values goes last: a crash before this repeats the work.
	return e.putSysctls(left)
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
	next, err := plan.Network(live, e.facts(n, live, dnsPort))
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
