package nft

import (
	"fmt"
	"maps"
	"slices"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"viaduct/internal/host/nl"
	"viaduct/internal/hoststate"
)

// The phases of a transaction. What the kernel wants to see first comes first:
// chains before the rules and elements that jump to them, and the other way
// round for what goes. So operations may come in any order.
const (
	phaseClear = iota // tables that are replaced whole
	phaseTable
	phaseSet
	phaseChain
	phaseRules
	phaseElement
	phaseDeleteElement
	phaseFlush
	phaseDeleteChain
	phaseDeleteSet
	phaseDeleteTable
	phases
)

// step is one message of a transaction and the operation it is for.
type step struct {
	msg message
	op  int
	// gone marks the removal of what may not be there any more, which is as good.
	gone bool
}

// table is what the mirror knows of one of our tables that exists.
type table struct {
	flags nftables.TableFlags
	owner uint32 // port id of the owner's socket
}

// view is the mirror with changes that are not made yet.
type view struct {
	mirror  *mirror
	changed hoststate.State // a nil object is one that goes
	tables  map[hoststate.TableRef]table
	// newTable is the flags of tables that are created.
	newTable nftables.TableFlags
	// nextSet numbers the sets of a transaction.
	nextSet uint32
}

func (v *view) get(k hoststate.Key) hoststate.Object {
	if o, ok := v.changed[k]; ok {
		return o
	}
	return v.mirror.objects[k]
}

// tableOf is the table that an object of the firewall is in.
func tableOf(o hoststate.Object) hoststate.TableRef {
	switch o := o.(type) {
	case hoststate.Table:
		return o.Ref
	case hoststate.Set:
		return o.Table
	case hoststate.Chain:
		return o.Table
	case hoststate.Element:
		return o.Table
	}
	return hoststate.TableRef{}
}

// contents lists all that is in a table, and the table, in creation order.
func (v *view) contents(t hoststate.TableRef) []hoststate.Object {
	s := hoststate.State{}
	for k, o := range v.mirror.objects {
		if _, changed := v.changed[k]; !changed && tableOf(o) == t {
			s[k] = o
		}
	}
	for k, o := range v.changed {
		if o != nil && tableOf(o) == t {
			s[k] = o
		}
	}
	list := make([]hoststate.Object, 0, len(s))
	for _, k := range s.Keys() {
		list = append(list, s[k])
	}
	return list
}

// planner turns the operations of one request into steps.
type planner struct {
	view    *view
	steps   [phases][]step
	rebuild map[hoststate.TableRef]int // the operation that makes it necessary
}

// plan lists the steps of a request and notes in the view what they change.
func (v *view) plan(ops []hoststate.Op) ([]step, error) {
	p := &planner{view: v, rebuild: map[hoststate.TableRef]int{}}
	last := make(map[hoststate.Key]int, len(ops))
	for i, op := range ops {
		last[op.Key()] = i
	}
	for i, op := range ops {
		if last[op.Key()] != i {
			continue // a later operation has the final say about the object
		}
		var err error
		if op.Verb == hoststate.Delete {
			err = p.remove(i, op.Old)
		} else {
			err = p.put(i, op.New)
		}
		if err != nil {
			return nil, &hoststate.OpError{Op: op, Err: err}
		}
	}
	for t, i := range p.rebuild {
		if err := p.rebuildTable(t, i); err != nil {
			return nil, &hoststate.OpError{Op: ops[i], Err: err}
		}
	}
	return slices.Concat(p.steps[:]...), nil
}

func (p *planner) step(phase, op int, m message) {
	p.steps[phase] = append(p.steps[phase], step{msg: m, op: op})
}

func (p *planner) stepGone(phase, op int, m message) {
	p.steps[phase] = append(p.steps[phase], step{msg: m, op: op, gone: true})
}

// put makes an object be as given, whether it exists or not.
func (p *planner) put(op int, o hoststate.Object) error {
	have := p.view.get(o.Key())
	if have != nil && !changesInPlace(have, o) {
		p.rebuild[tableOf(o)] = op
	}
	p.view.changed[o.Key()] = o
	return p.create(op, o, have)
}

// create writes the steps that make an object be as given. Have is what there
// is of it, or nil.
func (p *planner) create(op int, o, have hoststate.Object) error {
	switch o := o.(type) {
	case hoststate.Table:
		p.step(phaseTable, op, addTable(o.Ref, p.view.enter(o.Ref)))
	case hoststate.Set:
		p.view.nextSet++
		m, err := addSet(o, p.view.nextSet)
		p.step(phaseSet, op, m)
		return err
	case hoststate.Chain:
		m, err := addChain(o)
		if err != nil {
			return err
		}
		p.step(phaseChain, op, m)
		p.step(phaseRules, op, flushChain(o))
		for _, r := range o.Rules {
			m, err := addRule(o, r)
			if err != nil {
				return err
			}
			p.step(phaseRules, op, m)
		}
	case hoststate.Element:
		// The kernel has no way to change an element, but nobody sees the
		// moment between the two halves of a transaction.
		if have != nil && !hoststate.Equal(have, o) {
			m, err := elementMessage(unix.NFT_MSG_DELSETELEM, o)
			if err != nil {
				return err
			}
			p.stepGone(phaseElement, op, m)
		}
		m, err := elementMessage(unix.NFT_MSG_NEWSETELEM, o)
		p.step(phaseElement, op, m)
		return err
	default:
		return fmt.Errorf("%T is not part of the firewall", o)
	}
	return nil
}

// enter notes that a table exists and returns its flags. Those of a table that
// is there already stay, since the kernel refuses to change them, but a
// dormant table wakes up.
func (v *view) enter(t hoststate.TableRef) nftables.TableFlags {
	info, ok := v.tables[t]
	if !ok {
		info = table{flags: v.newTable, owner: v.mirror.port}
	}
	info.flags &^= nftables.TableFlagDormant
	v.tables[t] = info
	return info.flags
}

// changesInPlace reports whether the kernel can bring an object from what it
// is to what it has to be. It cannot give a set another key nor move a chain
// to another hook while something refers to them.
func changesInPlace(have, want hoststate.Object) bool {
	switch h := have.(type) {
	case hoststate.Set:
		return hoststate.Equal(have, want)
	case hoststate.Chain:
		w, ok := want.(hoststate.Chain)
		if !ok || h.Hook == nil || w.Hook == nil {
			return ok && h.Hook == w.Hook
		}
		a, b := *h.Hook, *w.Hook
		a.Drop, b.Drop = false, false
		return a == b
	}
	return true
}

// remove makes an object not be there.
func (p *planner) remove(op int, o hoststate.Object) error {
	p.view.changed[o.Key()] = nil
	switch o := o.(type) {
	case hoststate.Table:
		p.stepGone(phaseDeleteTable, op, deleteTable(o.Ref))
		for _, inside := range p.view.contents(o.Ref) {
			p.view.changed[inside.Key()] = nil
		}
		delete(p.view.tables, o.Ref)
	case hoststate.Set:
		p.stepGone(phaseDeleteSet, op, deleteSet(o))
	case hoststate.Chain:
		p.stepGone(phaseFlush, op, flushChain(o))
		p.stepGone(phaseDeleteChain, op, deleteChain(o))
	case hoststate.Element:
		m, err := elementMessage(unix.NFT_MSG_DELSETELEM, o)
		p.stepGone(phaseDeleteElement, op, m)
		return err
	default:
		return fmt.Errorf("%T is not part of the firewall", o)
	}
	return nil
}

// rebuildTable replaces a table whole, within the one transaction. Packets
// meet either the old one or the new one. What packets have put into dynamic
// sets is lost, and what foreigners have put into the table.
func (p *planner) rebuildTable(t hoststate.TableRef, op int) error {
	for phase, steps := range p.steps {
		p.steps[phase] = slices.DeleteFunc(steps, func(s step) bool { return s.msg.about(t) })
	}
	delete(p.view.tables, t)
	p.stepGone(phaseClear, op, deleteTable(t))
	table := hoststate.Table{Ref: t}
	p.view.changed[table.Key()] = table
	for _, o := range p.view.contents(t) {
		o = p.own(o)
		if o == nil {
			continue
		}
		p.view.changed[o.Key()] = o
		if err := p.create(op, o, nil); err != nil {
			return err
		}
	}
	return nil
}

// own is an object without what is foreign in it, or nil if all of it is.
func (p *planner) own(o hoststate.Object) hoststate.Object {
	keep := true
	switch x := o.(type) {
	case hoststate.Set:
		keep = len(x.Fields) > 0
	case hoststate.Chain:
		x.Rules = slices.DeleteFunc(slices.Clone(x.Rules), func(r hoststate.Rule) bool {
			return slices.ContainsFunc(r, func(e hoststate.Expr) bool { _, foreign := e.(foreignRule); return foreign })
		})
		o = x
	case hoststate.Element:
		s, ok := p.view.get(hoststate.SetKey(x.Table, x.Set)).(hoststate.Set)
		keep = ok && fitsIn(x, s)
	}
	if !keep {
		p.view.changed[o.Key()] = nil
		return nil
	}
	return o
}

// about reports whether the message is about something in the table.
func (m message) about(t hoststate.TableRef) bool {
	return m.family == families[t.Family] && nl.String(m.attrs, unix.NFTA_TABLE_NAME) == t.Name
}

// view begins a set of changes on top of the mirror. Only the writer does so,
// and it alone changes the mirror.
func (m *mirror) view(newTable nftables.TableFlags) *view {
	return &view{mirror: m, changed: hoststate.State{}, tables: maps.Clone(m.tables), newTable: newTable}
}

// adopt makes the changes of a view part of the mirror.
func (m *mirror) adopt(v *view) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for k, o := range v.changed {
		if o == nil {
			delete(m.objects, k)
		} else {
			m.objects[k] = o
		}
	}
	m.tables = v.tables
}
