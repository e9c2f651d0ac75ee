package engine

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"viaduct/internal/netdef"
	"viaduct/internal/plan"
	"viaduct/internal/store"
)

// filtering is what libvirt's nwfilter language says on this host: filters, and
// which links of guests are bound to one. A bound link's port has the guard
// that its filter means.
type filtering struct {
	changing sync.Mutex // held by the one change under way

	mu       sync.RWMutex
	filters  map[string]*netdef.Filter // by name, stock ones included
	bindings map[string]binding        // by link
}

type binding struct {
	def   *netdef.FilterBinding
	guard *netdef.Guard
}

// recallFilters reads what the store has kept. Bindings of links that are gone
// are forgotten: their guests have ended meanwhile.
func (e *Engine) recallFilters() {
	f := &e.filtering
	f.mu.Lock()
	defer f.mu.Unlock()
	f.filters, f.bindings = map[string]*netdef.Filter{}, map[string]binding{}
	for _, s := range netdef.StockFilters() {
		f.filters[s.Name] = s
	}
	defs, errs := e.Store.Filters()
	for _, err := range errs {
		e.Log.Error("read filter", "error", err)
	}
	for _, d := range defs {
		filter, err := netdef.ParseFilter(d.XML)
		switch {
		case err != nil:
			e.Log.Error("read filter", "path", d.Path, "error", err)
		case f.filters[filter.Name] != nil:
			e.Log.Error("a filter of that name exists already", "path", d.Path, "filter", filter.Name)
		default:
			f.filters[filter.Name] = filter
		}
	}
	for _, xml := range e.Store.Host().FilterBindings {
		b, err := netdef.ParseFilterBinding([]byte(xml))
		if err != nil {
			e.Log.Error("read filter binding", "error", err)
			continue
		}
		if _, exists := e.Host.Link(b.Port); !exists {
			continue
		}
		filter := f.filters[b.Ref.Filter]
		if filter == nil {
			e.Log.Error("the filter of a guest is gone", "link", b.Port, "filter", b.Ref.Filter)
			continue
		}
		g, err := b.Guard(filter, f.find)
		if err != nil {
			e.Log.Error("enforce filter", "link", b.Port, "error", err)
			continue
		}
		f.bindings[b.Port] = binding{b, g}
	}
}

// find finds a filter by name. It needs f.mu.
func (f *filtering) find(name string) (*netdef.Filter, bool) {
	filter, ok := f.filters[name]
	return filter, ok
}

// bound gives ports the guards of their links' filters in place of their own.
func (f *filtering) bound(ports []port) []port {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if len(f.bindings) == 0 {
		return ports
	}
	ports = slices.Clone(ports)
	for i, p := range ports {
		if b, ok := f.bindings[p.name]; ok {
			ports[i].guard = b.guard
			if p.def.MAC.IsZero() {
				ports[i].def.MAC = b.guard.MAC
			}
		}
	}
	return ports
}

// Filters lists the filters, sorted by name.
func (e *Engine) Filters() []*netdef.Filter {
	f := &e.filtering
	f.mu.RLock()
	defer f.mu.RUnlock()
	var list []*netdef.Filter
	for _, filter := range f.filters {
		list = append(list, filter)
	}
	slices.SortFunc(list, func(a, b *netdef.Filter) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// Filter finds a filter by its UUID.
func (e *Engine) Filter(id netdef.UUID) (*netdef.Filter, error) {
	for _, f := range e.Filters() {
		if f.UUID == id {
			return f, nil
		}
	}
	return nil, netdef.Errorf(netdef.ErrNoNWFilter, "no nwfilter with matching uuid '%s'", id)
}

// FilterByName finds a filter by its name.
func (e *Engine) FilterByName(name string) (*netdef.Filter, error) {
	e.filtering.mu.RLock()
	defer e.filtering.mu.RUnlock()
	if f, ok := e.filtering.find(name); ok {
		return f, nil
	}
	return nil, netdef.Errorf(netdef.ErrNoNWFilter, "no nwfilter with matching name '%s'", name)
}

func stockFilter(id netdef.UUID) bool {
	return slices.ContainsFunc(netdef.StockFilters(), func(s *netdef.Filter) bool { return s.UUID == id })
}

// DefineFilter adds a filter, or replaces one with the same UUID. One that
// cannot be enforced is refused by name, and so is a change of one in use.
func (e *Engine) DefineFilter(xml []byte) (*netdef.Filter, error) {
	want, err := netdef.ParseFilter(xml)
	if err != nil {
		return nil, err
	}
	f := &e.filtering
	f.changing.Lock()
	defer f.changing.Unlock()
	old, _ := e.Filter(want.UUID)
	same, _ := e.FilterByName(want.Name)
	switch {
	case old != nil && old.Name != want.Name:
		return nil, netdef.Errorf(netdef.ErrOperationFailed, "filter with same UUID but different name ('%s') already exists", old.Name)
	case same != nil && same.UUID != want.UUID:
		return nil, netdef.Errorf(netdef.ErrOperationFailed, "filter '%s' already exists with uuid %s", same.Name, same.UUID)
	case old != nil && old.Format() == want.Format():
		return old, nil
	case old != nil && stockFilter(old.UUID):
		return nil, netdef.Errorf(netdef.ErrConfigUnsupported, "filter '%s' is the same on all hosts and cannot be changed: define one of another name", old.Name)
	case old != nil && e.filterUsed(old.Name):
		return nil, netdef.Errorf(netdef.ErrOperationInvalid, "nwfilter is in use")
	}
	if want.UUID.IsZero() {
		want.UUID = netdef.NewUUID()
	}
	f.mu.RLock()
	err = netdef.CheckFilter(want, func(name string) (*netdef.Filter, bool) {
		if name == want.Name {
			return want, true
		}
		return f.find(name)
	})
	f.mu.RUnlock()
	if err != nil {
		return nil, err
	}
	if err := e.Store.PutFilter(want.Name, []byte(want.Format())); err != nil {
		return nil, errAs(netdef.ErrInternal, err)
	}
	f.mu.Lock()
	f.filters[want.Name] = want
	f.mu.Unlock()
	return want, nil
}

// filterUsed reports whether a link is bound to the filter, or another filter
// refers to it.
func (e *Engine) filterUsed(name string) bool {
	e.filtering.mu.RLock()
	defer e.filtering.mu.RUnlock()
	for _, b := range e.filtering.bindings {
		if b.def.Ref.Filter == name {
			return true
		}
	}
	for _, f := range e.filtering.filters {
		if slices.ContainsFunc(f.Entries, func(x netdef.FilterEntry) bool { return x.Ref != nil && x.Ref.Filter == name }) {
			return true
		}
	}
	return false
}

// UndefineFilter forgets a filter that is not in use. Stock filters stay.
func (e *Engine) UndefineFilter(id netdef.UUID) error {
	f := &e.filtering
	f.changing.Lock()
	defer f.changing.Unlock()
	old, err := e.Filter(id)
	switch {
	case err != nil:
		return err
	case e.filterUsed(old.Name):
		return netdef.Errorf(netdef.ErrOperationInvalid, "nwfilter is in use")
	case stockFilter(id):
		return netdef.Errorf(netdef.ErrOperationInvalid, "filter '%s' is there on all hosts and cannot be undefined", old.Name)
	}
	if err := e.Store.DeleteFilter(old.Name); err != nil {
		return errAs(netdef.ErrInternal, err)
	}
	f.mu.Lock()
	delete(f.filters, old.Name)
	f.mu.Unlock()
	return nil
}

// Bindings lists which links are filtered, sorted by link.
func (e *Engine) Bindings() []*netdef.FilterBinding {
	e.filtering.mu.RLock()
	defer e.filtering.mu.RUnlock()
	var list []*netdef.FilterBinding
	for _, b := range e.filtering.bindings {
		list = append(list, b.def)
	}
	slices.SortFunc(list, func(a, b *netdef.FilterBinding) int { return strings.Compare(a.Port, b.Port) })
	return list
}

// Binding is the binding of a link.
func (e *Engine) Binding(link string) (*netdef.FilterBinding, error) {
	e.filtering.mu.RLock()
	defer e.filtering.mu.RUnlock()
	if b, ok := e.filtering.bindings[link]; ok {
		return b.def, nil
	}
	return nil, netdef.Errorf(netdef.ErrNoNWFilterBinding, "no nwfilter binding for port dev '%s'", link)
}

// bindingWait is how long the link of a binding may take to come into a bridge:
// who makes it does that before, but the kernel's word may be on its way still.
const bindingWait = 5 * time.Second

// CreateBinding has a guest's link filtered from now on. When it returns, the
// filter is in effect. Only links in networks of Viaduct's can be.
func (e *Engine) CreateBinding(ctx context.Context, xml []byte) (*netdef.FilterBinding, error) {
	b, err := netdef.ParseFilterBinding(xml)
	if err != nil {
		return nil, err
	}
	b.Ref.SetDefault("MAC", b.MAC.String())
	if _, err := e.mean(b); err != nil {
		return nil, err
	}
	id, err := e.awaitNetworkOf(ctx, b.Port)
	if err != nil {
		return nil, err
	}
	f := &e.filtering
	f.changing.Lock()
	defer f.changing.Unlock()
	guard, err := e.mean(b)
	if err != nil { // things may have changed meanwhile
		return nil, err
	}
	n, err := e.seizeActive(id)
	if err != nil {
		return nil, err
	}
	defer n.busy.Unlock()
	if err := plan.CheckGuard(n.live, guard); err != nil {
		return nil, err
	}
	e.notePorts(n, n.live)
	return b, e.bind(ctx, n, b.Port, &binding{b, guard})
}

// mean is what a binding that is not there yet would mean.
func (e *Engine) mean(b *netdef.FilterBinding) (*netdef.Guard, error) {
	f := &e.filtering
	f.mu.RLock()
	defer f.mu.RUnlock()
	if _, bound := f.bindings[b.Port]; bound {
		return nil, netdef.Errorf(netdef.ErrOperationFailed, "binding '%s' already exists", b.Port)
	}
	filter, known := f.find(b.Ref.Filter)
	if !known {
		return nil, netdef.Errorf(netdef.ErrInternal, "referenced filter '%s' is missing", b.Ref.Filter)
	}
	return b.Guard(filter, f.find)
}

// networkOf is the network in whose bridge a link is, nil if that is in none,
// and the bridge.
func (e *Engine) networkOf(link string) (n *network, bridge string, exists bool) {
	l, exists := e.Host.Link(link)
	if !exists || l.Master == "" {
		return nil, "", exists
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.bridgeUser(l.Master, nil, nil), l.Master, true
}

// awaitNetworkOf is the network in whose bridge a link is, or comes to be.
func (e *Engine) awaitNetworkOf(ctx context.Context, link string) (netdef.UUID, error) {
	ctx, cancel := context.WithTimeout(ctx, bindingWait)
	defer cancel()
	for {
		e.mu.Lock()
		changed := e.changed
		e.mu.Unlock()
		n, bridge, exists := e.networkOf(link)
		switch {
		case n != nil:
			return n.id, nil
		case bridge != "":
			return netdef.UUID{}, netdef.Errorf(netdef.ErrConfigUnsupported,
				"link '%s' is in bridge '%s', which belongs to no network of viaduct, so a filter cannot be enforced there", link, bridge)
		}
		select {
		case <-changed:
			continue
		case <-ctx.Done():
		}
		if !exists {
			return netdef.UUID{}, noLink(link)
		}
		return netdef.UUID{}, netdef.Errorf(netdef.ErrConfigUnsupported, "link '%s' is in no bridge, so a filter cannot be enforced there", link)
	}
}

// bind binds a link, or with nil unbinds it, and makes the host follow. On
// error all is as before. The caller holds n.busy, unless n is nil, and
// filtering.changing.
func (e *Engine) bind(ctx context.Context, n *network, link string, b *binding) error {
	f := &e.filtering
	f.mu.Lock()
	old, had := f.bindings[link]
	set := func(b binding, on bool) {
		delete(f.bindings, link)
		if on {
			f.bindings[link] = b
		}
	}
	if b != nil {
		set(*b, true)
	} else {
		set(binding{}, false)
	}
	f.mu.Unlock()
	err := e.keepBindings()
	if err == nil && n != nil {
		_, err = e.reconcile(ctx, n)
	}
	if err == nil {
		return nil
	}
	f.mu.Lock()
	set(old, had)
	f.mu.Unlock()
	if undo := e.keepBindings(); undo != nil {
		e.Log.Warn("keep filter bindings", "error", undo)
	}
	return opError(err)
}

func (e *Engine) keepBindings() error {
	var list []string
	for _, b := range e.Bindings() {
		list = append(list, b.Format())
	}
	return e.Store.UpdateHost(func(h *store.HostState) { h.FilterBindings = list })
}

// DeleteBinding ends the filtering of a link.
func (e *Engine) DeleteBinding(ctx context.Context, link string) error {
	f := &e.filtering
	f.changing.Lock()
	defer f.changing.Unlock()
	if _, err := e.Binding(link); err != nil {
		return err
	}
	// Its network may be gone by now, or stopped.
	if user, _, _ := e.networkOf(link); user != nil {
		if n, err := e.seizeActive(user.id); err == nil {
			defer n.busy.Unlock()
			return e.bind(ctx, n, link, nil)
		}
	}
	return e.bind(ctx, nil, link, nil)
}
