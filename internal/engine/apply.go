package engine

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"viaduct/internal/hook"
	"viaduct/internal/hoststate"
	"viaduct/internal/netdef"
	"viaduct/internal/plan"
	"viaduct/internal/store"
)

// File is a definition, and what to call it in errors.
type File struct {
	Name string `json:"name"`
	XML  string `json:"xml"`
}

// ApplyOptions say how definitions are applied.
type ApplyOptions struct {
	// Plan only tells what would be done.
	Plan bool
	// Prune removes persistent networks that no file describes.
	Prune bool
	// Confirm takes the change back after this time unless Confirm is called
	// for one of its networks. It is for one network alone.
	Confirm time.Duration
}

// The ends that a network can come to by Apply.
const (
	AppliedAdded     = "added"
	AppliedChanged   = "changed"
	AppliedUnchanged = "unchanged"
	AppliedRemoved   = "removed"
)

// Applied is what became of one network.
type Applied struct {
	Name   string      `json:"name"`
	UUID   netdef.UUID `json:"uuid"`
	Result string      `json:"result"`
	// Operations are what is to be done on the host, in a plan.
	Operations []string `json:"operations,omitempty"`
}

// ApplyReport is what became of all networks, sorted by name.
type ApplyReport struct {
	Networks []Applied `json:"networks"`
	// Deadline is when the change is taken back unless it is confirmed.
	Deadline *time.Time `json:"deadline,omitempty"`
}

// Apply makes networks equal to their definitions, in place: active ones are
// changed while they run, inactive ones stay so, and unknown ones are defined
// and started. It happens for all of them or for none, also if the daemon dies
// in between: the next one takes back what was not finished.
func (e *Engine) Apply(ctx context.Context, files []File, o ApplyOptions) (ApplyReport, error) {
	defs, err := e.readFiles(files)
	if err != nil {
		return ApplyReport{}, err
	}
	if o.Confirm != 0 && (len(defs) != 1 || o.Prune) {
		return ApplyReport{}, netdef.Errorf(netdef.ErrInvalidArg, "only a change of one network can wait to be confirmed")
	}
	if len(defs) != 1 || o.Prune {
		// Several networks are held at a time by one change alone, so no two
		// can wait for each other.
		e.applying.Lock()
		defer e.applying.Unlock()
	}
	moves, err := e.enlist(defs, o.Prune)
	if err != nil {
		return ApplyReport{}, err
	}
	defer func() { e.dismissAll(moves) }()
	if o.Plan {
		return e.planMoves(moves)
	}
	return e.carry(context.WithoutCancel(ctx), moves, o.Confirm)
}

// readStrictly is read without libvirt's leniency about elements that nobody
// knows: one that is misspelt would take away what the network had by it.
func (e *Engine) readStrictly(xml []byte) (*netdef.Network, error) {
	def, err := e.read(xml)
	if err == nil {
		err = netdef.ValidateNetwork(xml) // the schema says least of what is wrong
	}
	return def, err
}

// readFiles reads definitions, sorted by name.
func (e *Engine) readFiles(files []File) ([]*netdef.Network, error) {
	var defs []*netdef.Network
	for _, f := range files {
		def, err := e.readStrictly([]byte(f.XML))
		var known *netdef.Error
		if errors.As(err, &known) && f.Name != "" {
			placed := *known
			placed.Where = strings.TrimSuffix(f.Name+": "+known.Where, ": ")
			err = &placed
		}
		if err != nil {
			return nil, err
		}
		twin := func(d *netdef.Network) bool {
			return d.Name == def.Name || d.UUID == def.UUID && !d.UUID.IsZero()
		}
		if slices.ContainsFunc(defs, twin) {
			return nil, netdef.Errorf(netdef.ErrOperationFailed, "network '%s' is described twice", def.Name)
		}
		defs = append(defs, def)
	}
	slices.SortFunc(defs, func(a, b *netdef.Network) int { return cmp.Compare(a.Name, b.Name) })
	return defs, nil
}

// target is what a network is to be: active with live, persistent with config,
// gone without either.
type target struct {
	live, config *netdef.Network
	autostart    bool
}

// move takes a network, whose busy lock is held, to a target.
type move struct {
	n  *network
	to target
}

// enlist takes the busy locks of the networks that definitions are about, makes
// those that there are not yet, and completes the definitions.
func (e *Engine) enlist(defs []*netdef.Network, prune bool) (moves []move, err error) {
	defer func() {
		if err != nil {
			e.dismissAll(moves)
			moves = nil
		}
	}()
	for _, def := range defs {
		n, err := e.hold(def)
		if err != nil {
			return moves, err
		}
		moves = append(moves, move{n: n, to: target{config: def, live: def}})
	}
	listed := map[*network]bool{}
	for _, m := range moves {
		listed[m.n] = true
	}
	if prune {
		for _, n := range e.unlisted(listed) {
			moves = append(moves, move{n: n})
			listed[n] = true
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for i, m := range moves {
		if w := e.awaited[m.n.id]; w != nil {
			return moves, netdef.Errorf(netdef.ErrOperationInvalid, "network '%s' has a change that awaits confirmation", m.n.name)
		}
		def := m.to.config
		if def == nil {
			continue
		}
		if err := e.complete(m.n, def, listed); err != nil {
			return moves, err
		}
		to := &moves[i].to
		to.autostart = m.n.autostart
		switch {
		case m.n.live == nil && m.n.config != nil:
			to.live = nil
		case m.n.live != nil && m.n.config == nil:
			to.config = nil
		}
	}
	slices.SortFunc(moves, func(a, b move) int { return cmp.Compare(a.n.name, b.n.name) })
	return moves, nil
}

// hold finds or makes the network of a definition and takes its busy lock. The
// definition is pending from then on. One without a UUID is about the network
// of its name.
func (e *Engine) hold(def *netdef.Network) (*network, error) {
	for {
		e.mu.Lock()
		if n := e.names[def.Name]; n != nil && def.UUID.IsZero() {
			def.UUID = n.id
		}
		n, err := e.match(def)
		if err == nil && n == nil {
			if def.UUID.IsZero() {
				def.UUID = netdef.NewUUID()
			}
			n = &network{id: def.UUID, name: def.Name, pending: def}
			n.busy.Lock() // nobody else knows it yet
			e.add(n)
			e.mu.Unlock()
			return n, nil
		}
		e.mu.Unlock()
		if err != nil {
			return nil, err
		}
		n.busy.Lock()
		e.mu.Lock()
		gone := n.gone
		if !gone {
			n.pending = def
		}
		e.mu.Unlock()
		if !gone {
			return n, nil
		}
		n.busy.Unlock()
	}
}

// unlisted takes the busy locks of the persistent networks that are not listed.
func (e *Engine) unlisted(listed map[*network]bool) []*network {
	e.mu.Lock()
	all := slices.Collect(maps.Values(e.networks))
	e.mu.Unlock()
	var held []*network
	for _, n := range all {
		if listed[n] {
			continue
		}
		n.busy.Lock()
		e.mu.Lock()
		persistent := !n.gone && n.config != nil
		e.mu.Unlock()
		if persistent {
			held = append(held, n)
		} else {
			n.busy.Unlock()
		}
	}
	return held
}

func (e *Engine) dismissAll(moves []move) {
	for _, m := range moves {
		e.dismiss(m.n)
	}
}

// carry carries moves out. What the networks were before is on disk until all
// is done, and beyond that until the change is confirmed.
func (e *Engine) carry(ctx context.Context, moves []move, confirm time.Duration) (ApplyReport, error) {
	report, back := ApplyReport{Networks: []Applied{}}, make([]move, len(moves))
	undo := store.Undo{ID: netdef.NewUUID()}
	changes := false
	for i, m := range moves {
		back[i] = move{m.n, e.present(m.n)}
		undo.Networks = append(undo.Networks, before(back[i]))
		result := m.result(back[i].to)
		changes = changes || result != AppliedUnchanged
		report.Networks = append(report.Networks, Applied{Name: m.n.name, UUID: m.n.id, Result: result})
	}
	if !changes {
		return report, nil
	}
	if err := e.Store.PutUndo(undo); err != nil {
		return report, errAs(netdef.ErrInternal, err)
	}
	err := e.settle(ctx, moves)
	if err == nil && confirm > 0 {
		undo.Deadline, undo.Within = time.Now().Add(confirm), confirm
		report.Deadline = &undo.Deadline
		err = errAs(netdef.ErrInternal, e.Store.PutUndo(undo))
	} else if err == nil {
		err = errAs(netdef.ErrInternal, e.Store.DeleteUndo(undo.ID))
	}
	if err == nil {
		if confirm > 0 {
			e.await(undo)
		}
		return report, nil
	}
	for i := range back {
		back[i].n = moves[i].n
		moves[i].n = e.revive(back[i])
		back[i].n = moves[i].n
	}
	undone := e.settle(ctx, back)
	if undone == nil {
		undone = e.Store.DeleteUndo(undo.ID)
	}
	if undone != nil { // the next daemon tries again
		e.Log.Error("take back a change that failed", "error", undone)
	}
	return report, err
}

// result says what the move makes of a network that is as from says.
func (m move) result(from target) string {
	switch {
	case m.to.live == nil && m.to.config == nil:
		return AppliedRemoved
	case from.live == nil && from.config == nil:
		return AppliedAdded
	case same(from.live, m.to.live) && same(from.config, m.to.config):
		return AppliedUnchanged
	}
	return AppliedChanged
}

func same(a, b *netdef.Network) bool {
	if a == nil || b == nil || a == b {
		return a == b
	}
	return a.Format(netdef.FormatOptions{}) == b.Format(netdef.FormatOptions{})
}

// present is what the network is now.
func (e *Engine) present(n *network) target {
	e.mu.Lock()
	defer e.mu.Unlock()
	return target{live: n.live, config: n.config, autostart: n.autostart}
}

// revive is the move's network, or, if that is gone meanwhile, another one in
// its place, so that it can become again what it was.
func (e *Engine) revive(m move) *network {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !m.n.gone {
		return m.n
	}
	n := &network{id: m.n.id, name: m.n.name, pending: cmp.Or(m.to.live, m.to.config)}
	n.busy.Lock() // nobody else knows it yet
	e.add(n)
	m.n.busy.Unlock()
	return n
}

// settle carries moves out in such an order that what one network gives up can
// be taken by another. Networks are forgotten last, when nothing can fail any
// more that would want them back with their leases.
func (e *Engine) settle(ctx context.Context, moves []move) error {
	waiting := slices.Clone(moves)
	for len(waiting) > 0 {
		i := slices.IndexFunc(waiting, func(m move) bool { return !e.blocked(m, waiting) })
		if i < 0 {
			// Each waits for another, so one has to let go first. Its guests are
			// plugged in again when its turn comes.
			held := slices.IndexFunc(waiting, func(m move) bool { return m.n.live != nil })
			if err := e.letGo(ctx, waiting[held].n); err != nil {
				return err
			}
			continue
		}
		if err := e.carryOne(ctx, waiting[i]); err != nil {
			return err
		}
		waiting = slices.Delete(waiting, i, i+1)
	}
	for _, m := range moves {
		if err := e.forgetOne(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

// blocked reports whether the move needs a bridge's name or a subnet that
// another network has as long as it has not moved.
func (e *Engine) blocked(m move, waiting []move) bool {
	if m.to.live == nil {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.ContainsFunc(waiting, func(other move) bool {
		return other.n != m.n && other.n.live != nil && collide(m.to.live, other.n.live)
	})
}

// collide reports whether two networks cannot be active together.
func collide(a, b *netdef.Network) bool {
	if a.Bridge.Name != "" && a.Bridge.Name == b.Bridge.Name {
		return true
	}
	return slices.ContainsFunc(a.IPs, func(x netdef.IP) bool {
		return slices.ContainsFunc(b.IPs, func(y netdef.IP) bool { return x.Prefix().Masked().Overlaps(y.Prefix().Masked()) })
	})
}

// carryOne makes a network what it is to be, but for forgetting it.
func (e *Engine) carryOne(ctx context.Context, m move) error {
	n, to := m.n, m.to
	if to.config != nil && !same(n.config, to.config) {
		if err := e.persist(n, to.config); err != nil {
			return err
		}
		e.events.send(n, EventDefined)
	}
	if to.config != nil && to.autostart != n.autostart {
		if err := e.markAutostart(n, to.autostart); err != nil {
			return err
		}
	}
	switch {
	case to.live == nil && n.live == nil, same(n.live, to.live):
		return nil
	case to.live == nil:
		return e.letGo(ctx, n)
	case n.live == nil:
		return e.bringUp(ctx, n, to.live)
	}
	if err := e.change(ctx, n, to.live); err != nil {
		return err
	}
	e.tellHook(ctx, n, hook.Updated, n.live, nil)
	return nil
}

// forgetOne takes a network's persistence away, if it is to have none.
func (e *Engine) forgetOne(ctx context.Context, m move) error {
	switch {
	case m.to.config == nil && m.n.config != nil:
		return e.undefine(ctx, m.n)
	case m.to.config == nil && m.to.live == nil:
		e.Options.Leases.Drop(m.n.id) // a transient one that was taken down
	}
	return nil
}

// planMoves tells what moves would do, each on top of those before it.
func (e *Engine) planMoves(moves []move) (ApplyReport, error) {
	report := ApplyReport{Networks: []Applied{}}
	for _, m := range moves {
		next, old := plan.Fragment{}, m.n.fragment
		if m.to.live != nil {
			if len(moves) == 1 {
				if err := e.collisions(m.n, m.to.live); err != nil {
					return report, err
				}
			}
			dnsPort, err := e.portForDNS(m.n, m.to.live)
			if err != nil {
				return report, err
			}
			if m.n.live != nil {
				e.notePorts(m.n, m.n.live)
			}
			if err := keepsFloors(m.to.live, m.n.ports); err != nil {
				return report, err
			}
			if next, err = plan.Network(m.to.live, e.facts(m.n, m.to.live, dnsPort)); err != nil {
				return report, errAs(netdef.ErrInternal, err)
			}
		}
		shared, own := e.difference(old, next)
		a := Applied{Name: m.n.name, UUID: m.n.id, Result: m.result(e.present(m.n))}
		for line := range strings.Lines(hoststate.FormatOps(append(shared, own...))) {
			a.Operations = append(a.Operations, strings.TrimSuffix(line, "\n"))
		}
		report.Networks = append(report.Networks, a)
	}
	return report, nil
}
