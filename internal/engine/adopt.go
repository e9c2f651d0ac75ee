package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"

	"viaduct/internal/host"
	"viaduct/internal/hoststate"
	"viaduct/internal/netdef"
	"viaduct/internal/plan"
	"viaduct/internal/store"
)

// together bounds how many networks are brought up at the same time. Their
// firewall changes merge into few transactions; the rest the kernel does one
// at a time anyway.
const together = 16

// Run loads what the store has, adopts what is active on the host, brings up
// what is marked autostart, and then keeps watching the host until the context
// ends or Close is called. It returns once all of that but the watching is done.
func (e *Engine) Run(ctx context.Context) error {
	ctx, e.stop = context.WithCancel(ctx)
	e.sysctls = e.Store.Host().Sysctls
	first := e.load()
	if err := e.adopt(ctx); err != nil {
		return fmt.Errorf("adopt networks: %w", err)
	}
	if first && e.Default {
		if err := e.makeDefault(ctx); err != nil {
			e.Log.Error("make the default network", "error", err)
		}
	}
	if !e.Store.AutostartedThisBoot() {
		e.autostart(ctx)
		if err := e.Store.MarkAutostarted(); err != nil {
			return err
		}
	}
	e.tasks.Add(1)
	go func() {
		defer e.tasks.Done()
		e.watch(ctx)
	}()
	return nil
}

// load reads the definitions and reports whether this is the first start. What
// cannot be read is left alone and told.
func (e *Engine) load() (first bool) {
	defs, errs := e.Store.Definitions()
	for _, bad := range errs {
		e.Log.Error("definition left aside", "file", bad.Path, "error", bad.Err)
	}
	for _, d := range defs {
		if err := e.loadOne(d); err != nil {
			e.Log.Error("definition left aside", "file", d.Path, "error", err)
		}
	}
	marks, err := e.Store.Autostarted()
	if err != nil {
		e.Log.Error("read autostart marks", "error", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, name := range marks {
		if n := e.byName(name); n != nil {
			n.autostart = true
		}
	}
	// A first start that was cut short may have left its default network.
	onlyDefault := len(errs) == 0 && (len(defs) == 0 || len(defs) == 1 && defs[0].Name == defaultName)
	return onlyDefault && e.Store.FirstStart()
}

// loadOne takes a definition file in. One written by hand may leave out what
// is chosen at definition; it is then written back complete.
func (e *Engine) loadOne(d store.Definition) error {
	def, err := e.readFile(d)
	if err != nil {
		return err
	}
	given := *def
	n, isNew, err := e.admit(def)
	if err != nil {
		return err
	}
	defer n.busy.Unlock()
	if !isNew {
		return fmt.Errorf("network '%s' is defined in another file too", def.Name)
	}
	if given.UUID != def.UUID || given.MAC != def.MAC || given.Bridge.Name != def.Bridge.Name {
		return e.persist(n, def)
	}
	e.mu.Lock()
	n.config, n.pending = def, nil
	e.mu.Unlock()
	return nil
}

// readFile reads a definition from a file, whose name has to be the network's.
func (e *Engine) readFile(d store.Definition) (*netdef.Network, error) {
	def, err := e.read(d.XML)
	if err != nil {
		return nil, err
	}
	if def.Name != d.Name {
		return nil, fmt.Errorf("file is named %s.xml but defines network '%s'", d.Name, def.Name)
	}
	return def, nil
}

// adopt takes over the networks that are active, and removes from the host
// what is ours but belongs to none: a start or a change that did not finish.
func (e *Engine) adopt(ctx context.Context) error {
	statuses, errs := e.Store.Statuses()
	for _, bad := range errs {
		e.Log.Error("status left aside", "file", bad.Path, "error", bad.Err)
	}
	wanted := hoststate.State{}
	var live []*network
	next := map[*network]plan.Fragment{}
	for _, s := range statuses {
		n, f, err := e.adoptOne(s)
		if err != nil {
			e.Log.Error("status left aside", "network", s.Name, "error", err)
			errs = append(errs, &store.FileError{Name: s.Name, Err: err})
			continue
		}
		if n != nil {
			live = append(live, n)
			next[n] = f
			maps.Copy(wanted, f.All())
		}
	}
	if len(errs) > 0 {
		e.Log.Warn("some networks are not understood, so nothing left behind is removed from the host")
	} else if err := e.removeOrphans(ctx, wanted); err != nil {
		return err
	}
	e.inParallel(live, func(n *network) {
		n.busy.Lock()
		defer n.busy.Unlock()
		if _, err := e.transition(ctx, n, next[n]); err != nil {
			e.Log.Error("adopt network", "network", n.name, "error", err)
			e.healLater(ctx, n)
			return
		}
		e.Log.Info("adopted network", "network", n.name)
	})
	return e.sweep(ctx)
}

// adoptOne registers a network that was active when the last daemon ended, and
// plans it. It returns no network if the status is of one that is not active.
func (e *Engine) adoptOne(s store.Status) (*network, plan.Fragment, error) {
	e.mu.Lock()
	n := e.networks[s.UUID]
	e.mu.Unlock()
	var ports []port
	for _, p := range s.Ports {
		ports = append(ports, port{p.Name, p.Index, hoststate.MAC(p.MAC), p.Plugged})
	}
	if s.Live == "" {
		if n == nil {
			return nil, plan.Fragment{}, e.Store.DeleteStatus(s.Name)
		}
		n.ports = ports
		if s.Next == "" {
			return nil, plan.Fragment{}, nil
		}
		return nil, plan.Fragment{}, e.keepInactive(n)
	}
	def, err := netdef.Parse([]byte(s.Live))
	if err != nil {
		return nil, plan.Fragment{}, err
	}
	if n == nil {
		n = &network{id: def.UUID, name: def.Name}
	}
	n.live, n.dnsPort, n.ports = def, s.DNSPort, ports
	if _, exists := e.Host.Link(def.Bridge.Name); exists {
		n.ports = e.portsIn(def.Bridge.Name, ports)
	}
	f, err := plan.Network(def, e.facts(n, s.DNSPort))
	if err != nil {
		n.live = nil
		return nil, plan.Fragment{}, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.networks[n.id] = n
	if s.Next != "" {
		// A change was under way. What it made and the live definition does not
		// want is removed in the transition that adopts the network.
		if other, err := netdef.Parse([]byte(s.Next)); err == nil {
			if half, err := plan.Network(other, plan.Facts{DNSPort: s.DNSPort, NoIPv6: e.NoIPv6}); err == nil {
				n.fragment = plan.Fragment{Own: half.Own}
			}
		}
	}
	return n, f, nil
}

// removeOrphans removes what is ours on the host but not wanted. Sysctls are
// put back by sweep, which knows what they were.
func (e *Engine) removeOrphans(ctx context.Context, wanted hoststate.State) error {
	orphans := hoststate.State{}
	for k, o := range e.Host.Owned() {
		if _, ok := wanted[k]; !ok {
			orphans[k] = o
		}
	}
	ops := host.Diff(nil, orphans)
	if len(ops) == 0 {
		return nil
	}
	e.Log.Info("removing what was left behind", "operations", hoststate.FormatOps(ops))
	return e.Host.Apply(ctx, ops)
}

// autostart brings up all inactive networks that are marked for it.
func (e *Engine) autostart(ctx context.Context) {
	e.mu.Lock()
	var list []*network
	for _, n := range e.networks {
		if n.autostart && n.live == nil {
			list = append(list, n)
		}
	}
	e.mu.Unlock()
	e.inParallel(list, func(n *network) {
		var known *netdef.Error
		err := e.Start(ctx, n.id)
		if err != nil && !(errors.As(err, &known) && known.Code == netdef.ErrOperationInvalid) {
			e.Log.Error("autostart network", "network", n.name, "error", err)
		}
	})
}

// inParallel calls f for each network, several at a time, and waits for all.
func (e *Engine) inParallel(list []*network, f func(*network)) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, together)
	for _, n := range list {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			f(n)
		})
	}
	wg.Wait()
}
