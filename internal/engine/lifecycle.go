package engine

import (
	"context"
	"net/netip"
	"slices"

	"viaduct/internal/hook"
	"viaduct/internal/netdef"
	"viaduct/internal/plan"
	"viaduct/internal/store"
)

// Start brings a defined network up.
func (e *Engine) Start(ctx context.Context, id netdef.UUID) error {
	n, err := e.seize(id)
	if err != nil {
		return err
	}
	defer n.busy.Unlock()
	e.mu.Lock()
	active, config := n.live != nil, n.config
	e.mu.Unlock()
	if active {
		return netdef.Errorf(netdef.ErrOperationInvalid, "network is already active")
	}
	return e.bringUp(ctx, n, config)
}

// bringUp makes the definition live. The caller holds n.busy.
func (e *Engine) bringUp(ctx context.Context, n *network, def *netdef.Network) error {
	if err := plan.Check(def); err != nil {
		return err
	}
	if err := e.checkZone(n, def); err != nil {
		return err
	}
	if err := e.collisions(n, def); err != nil {
		return err
	}
	def, err := e.withPool(def)
	if err != nil {
		return err
	}
	dnsPort, err := e.chooseDNSPort(def)
	if err != nil {
		return err
	}
	next, err := plan.Network(def, e.facts(n, def, dnsPort))
	if err != nil {
		return errAs(netdef.ErrInternal, err)
	}
	if err := e.hook(ctx, n, hook.Start, def, nil); err != nil {
		return err
	}
	status := e.status(n)
	status.DNSPort, status.Next = dnsPort, def.Format(netdef.FormatOptions{})
	if err := e.Store.PutStatus(status); err != nil {
		return errAs(netdef.ErrInternal, err)
	}
	if _, err := e.transition(ctx, n, next); err != nil {
		if undo := e.keepInactive(n); undo != nil {
			e.Log.Error("restore status of network that did not start", "network", n.name, "error", undo)
		}
		return opError(err)
	}
	// What was started is finished, whether or not whoever asked still waits.
	ctx = context.WithoutCancel(ctx)
	ports := e.portsOn(def, n.ports)
	e.mu.Lock()
	n.setLive(def, dnsPort)
	n.ports = ports
	status = e.statusLocked(n)
	e.mu.Unlock()
	if err := e.Store.PutStatus(status); err != nil {
		// The next daemon would take it for half built.
		if undo := e.tearDown(ctx, n); undo != nil {
			e.Log.Error("stop network whose status cannot be kept", "network", n.name, "error", undo)
		}
		return errAs(netdef.ErrInternal, err)
	}
	if err := e.hook(ctx, n, hook.Started, def, nil); err != nil {
		e.abandon(ctx, n)
		return err
	}
	e.events.send(n, EventStarted)
	if blockers := e.blockers(def); len(blockers) > 0 {
		e.Log.Warn("a firewall of another program may drop what guests send or get, and offers no place for our rules",
			"network", n.name, "chains", blockers)
	}
	return nil
}

// abandon undoes a start that is refused when all is there already.
func (e *Engine) abandon(ctx context.Context, n *network) {
	err := e.tearDown(ctx, n)
	if err == nil {
		err = e.keepInactive(n)
	}
	if err != nil {
		e.Log.Error("stop network that must not start", "network", n.name, "error", err)
	}
}

// Destroy stops an active network. A transient one is gone afterwards.
func (e *Engine) Destroy(ctx context.Context, id netdef.UUID) error {
	n, err := e.seize(id)
	if err != nil {
		return err
	}
	defer n.busy.Unlock()
	e.mu.Lock()
	active := n.live != nil
	e.mu.Unlock()
	if !active {
		return netdef.Errorf(netdef.ErrOperationInvalid, "network '%s' is not active", n.name)
	}
	return e.takeDown(ctx, n)
}

// takeDown makes the network inactive; a transient one is gone. The caller
// holds n.busy.
func (e *Engine) takeDown(ctx context.Context, n *network) error {
	if err := e.letGo(ctx, n); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if n.config == nil {
		// Nobody can take the name before all that belonged to it is gone and told.
		e.Options.Leases.Drop(n.id)
		e.remove(n)
	}
	return nil
}

// letGo makes the network inactive. The status says so first: if the daemon
// dies half-way, the next one removes the rest. The caller holds n.busy.
func (e *Engine) letGo(ctx context.Context, n *network) error {
	live := n.live
	ports := e.portsOn(n.live, n.ports)
	e.mu.Lock()
	n.ports = ports
	active := e.statusLocked(n)
	e.mu.Unlock()
	if err := e.keepInactive(n); err != nil {
		return errAs(netdef.ErrInternal, err)
	}
	if err := e.tearDown(ctx, n); err != nil {
		if undo := e.Store.PutStatus(active); undo != nil {
			e.Log.Error("restore status of network that did not stop", "network", n.name, "error", undo)
		}
		return opError(err)
	}
	e.events.send(n, EventStopped)
	e.tellHook(ctx, n, hook.Stopped, live, nil)
	return nil
}

// tearDown takes the network off the host, but for the taps it keeps for its
// guests. The caller holds n.busy.
func (e *Engine) tearDown(ctx context.Context, n *network) error {
	e.mu.Lock()
	taking := n.taking
	e.mu.Unlock()
	if taking {
		return e.leave(ctx, n)
	}
	if _, err := e.transition(ctx, n, e.inactive(n)); err != nil {
		return err
	}
	e.mu.Lock()
	n.live, n.translated = nil, false
	e.mu.Unlock()
	e.healing.forget(n)
	return nil
}

// keepInactive writes the status of a network that is not active, or is about
// to be so. All that is kept of it are its ports: the guests that were plugged
// in are plugged in again at the next start.
func (e *Engine) keepInactive(n *network) error {
	status := e.status(n)
	status.Live = ""
	if !status.Persistent || len(status.Ports) == 0 {
		return e.Store.DeleteStatus(n.name)
	}
	return e.Store.PutStatus(status)
}

// change makes another definition live in place: what does not differ is not touched.
// The caller holds n.busy, and the network is active.
func (e *Engine) change(ctx context.Context, n *network, def *netdef.Network) error {
	if err := plan.Check(def); err != nil {
		return err
	}
	if err := e.checkZone(n, def); err != nil {
		return err
	}
	if err := e.collisions(n, def); err != nil {
		return err
	}
	def, err := e.withPool(def)
	if err != nil {
		return err
	}
	old, oldPort, before := n.live, n.dnsPort, n.fragment
	e.notePorts(n, old)
	if err := keepsFloors(def, n.ports); err != nil {
		return err
	}
	dnsPort, err := e.portForDNS(n, def)
	if err != nil {
		return err
	}
	next, err := plan.Network(def, e.facts(n, def, dnsPort))
	if err != nil {
		return errAs(netdef.ErrInternal, err)
	}
	status := e.status(n)
	status.Next = def.Format(netdef.FormatOptions{})
	if err := e.Store.PutStatus(status); err != nil {
		return errAs(netdef.ErrInternal, err)
	}
	if _, err := e.transition(ctx, n, next); err != nil {
		if undo := e.Store.PutStatus(e.status(n)); undo != nil {
			e.Log.Error("restore status of network that was not changed", "network", n.name, "error", undo)
		}
		return opError(err)
	}
	setLive := func(def *netdef.Network, dnsPort uint16) {
		e.mu.Lock()
		n.setLive(def, dnsPort)
		e.mu.Unlock()
	}
	setLive(def, dnsPort)
	if err := e.Store.PutStatus(e.status(n)); err != nil {
		// The next daemon would go back to the old definition.
		if _, undo := e.transition(context.WithoutCancel(ctx), n, before); undo != nil {
			e.Log.Error("undo change whose status cannot be kept", "network", n.name, "error", undo)
		} else {
			setLive(old, oldPort)
		}
		return errAs(netdef.ErrInternal, err)
	}
	return nil
}

// servesDNSAt reports whether the network's own DNS has its port at the address.
func servesDNSAt(n *netdef.Network, addr netip.Addr) bool {
	return plan.ServesDNS(n) && slices.ContainsFunc(n.IPs, func(ip netdef.IP) bool { return ip.Address == addr })
}

func (e *Engine) status(n *network) store.Status {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.statusLocked(n)
}

// statusLocked is what the store keeps of an active network. It needs e.mu.
func (e *Engine) statusLocked(n *network) store.Status {
	s := store.Status{UUID: n.id, Name: n.name, Persistent: n.config != nil, DNSPort: n.dnsPort, Translated: n.translated, Taking: n.taking}
	if n.live != nil {
		s.Live = n.live.Format(netdef.FormatOptions{})
	}
	for _, p := range n.ports {
		s.Ports = append(s.Ports, p.status())
	}
	return s
}
