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
)

// together bounds how many networks are brought up at the same time. Their
// firewall changes merge into few transactions; the rest the kernel does one
// at a time anyway.
const together = 16

// Run takes up the networks that are active on the host, loads what the store
// has defined, brings up what is marked autostart, and then keeps watching the
// host until the context ends or Close is called. It returns once all of that
// but the watching is done.
func (e *Engine) Run(ctx context.Context) error {
	ctx, e.stop = context.WithCancel(ctx)
	e.recallSysctls()
	e.recallFilters()
	// Networks may stand on them.
	e.recallUplinks(ctx)
	// What is active counts more than what is defined: a definition that was
	// edited meanwhile and does not fit to it any more is left aside.
	active, inactive, understood := e.recall()
	aside, first := e.load(active)
	keeping, all := e.recallPorts(inactive, aside)
	if err := e.adopt(ctx, append(active, keeping...), understood && all); err != nil {
		return fmt.Errorf("adopt networks: %w", err)
	}
	e.recallUndos(ctx)
	if first {
		if err := e.makeDefault(ctx); err != nil {
			e.Log.Error("make the default network", "error", err)
		}
	}
	if !e.Store.AutostartedThisBoot() {
		e.autostart(ctx)
		if err := ctx.Err(); err != nil {
			return err // the rest is for the next daemon to start
		}
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

// adopt takes over the networks that are active, and removes from the host
// what is ours but belongs to none: a start or a change that did not finish.
func (e *Engine) adopt(ctx context.Context, active []adopted, understood bool) error {
	wanted := hoststate.State{}
	for _, a := range active {
		maps.Copy(wanted, a.want.All())
	}
	if !understood {
		e.Log.Warn("some networks are not understood, so nothing left behind is removed from the host")
		e.mu.Lock()
		e.strangers = true
		e.mu.Unlock()
	} else if err := e.removeOrphans(ctx, wanted); err != nil {
		e.Log.Error("remove what was left behind", "error", err)
	}
	inParallel(active, func(a adopted) {
		a.busy.Lock()
		defer a.busy.Unlock()
		if _, err := e.transition(ctx, a.network, a.want); err != nil {
			e.Log.Error("adopt network", "network", a.name, "error", err)
			e.healLater(ctx, a.network)
			return
		}
		e.Log.Info("adopted network", "network", a.name)
	})
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := e.sweep(ctx); err != nil {
		e.Log.Error("remove what no network uses any more", "error", err)
	}
	return nil
}

// removeOrphans removes what is ours on the host but not wanted. Sysctls are
// put back by sweep, which knows what they were.
func (e *Engine) removeOrphans(ctx context.Context, wanted hoststate.State) error {
	orphans := hoststate.State{}
	uplinks := e.uplinkServices()
	for k, o := range e.Host.Owned() {
		if _, ok := wanted[k]; !ok && !uplinks[k] {
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
	inParallel(list, func(n *network) {
		var known *netdef.Error
		err := e.Start(ctx, n.id)
		if err != nil && !(errors.As(err, &known) && known.Code == netdef.ErrOperationInvalid) {
			e.Log.Error("autostart network", "network", n.name, "error", err)
		}
	})
}

// inParallel calls f for each network, several at a time, and waits for all.
func inParallel[N any](list []N, f func(N)) {
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
