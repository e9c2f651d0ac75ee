package engine

import (
	"context"
	"slices"
	"time"

	"viaduct/internal/hoststate"
	"viaduct/internal/netdef"
	"viaduct/internal/plan"
)

// port is a link that is, or was, in a network's bridge. The index tells it
// from a later link of the same name.
type port struct {
	name  string
	index int
	mac   hoststate.MAC
	// plugged says that Viaduct was asked to put it there, so it is put back
	// if it leaves. Other links are somebody else's and may come and go.
	plugged bool
}

// guestKinds are the kinds of links whose other end is a guest. What is
// missing here, such as a physical device or a VLAN on one, may lead to
// another switch. Xen's links have no kind, but Viaduct is asked to plug those.
var guestKinds = map[string]bool{"tun": true, "veth": true, "macvtap": true}

// facts collects what a plan needs to know of the host. All known ports are
// wanted in the bridge: notePorts has forgotten those that left on purpose.
// One that is in a foreign bridge now is not taken out of it.
func (e *Engine) facts(n *network, dnsPort uint16) plan.Facts {
	e.mu.Lock()
	known := n.ports
	e.mu.Unlock()
	f := plan.Facts{DNSPort: dnsPort, NoIPv6: e.NoIPv6, ForceForwarding: e.ForceForwarding, Passes: e.Host.Passes()}
	for _, l := range e.Host.Uplinks() {
		f.Uplinks = append(f.Uplinks, l.Name)
		if l.RA {
			f.RALinks = append(f.RALinks, l.Name)
		}
	}
	for _, p := range known {
		if l, ok := e.Host.Link(p.name); ok && l.Index == p.index && e.ours(n, l.Master) {
			f.Ports = append(f.Ports, plan.Port{Link: l.Name, Guest: p.plugged || guestKinds[l.Kind], Plugged: p.plugged})
		}
	}
	return f
}

// ours reports whether a port of that bridge, "" for none, may be plugged into
// the network.
func (e *Engine) ours(n *network, bridge string) bool {
	if bridge == "" {
		return true
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, d := range n.definitions() {
		if d != nil && d.Bridge.Name == bridge {
			return true
		}
	}
	return false
}

// portsIn lists the links in a bridge, and of the known ports those that
// Viaduct plugged and that exist still.
func (e *Engine) portsIn(bridge string, known []port) []port {
	var ports []port
	for _, l := range e.Host.Ports(bridge) {
		ports = append(ports, port{name: l.Name, index: l.Index, mac: l.MAC})
	}
	for _, k := range known {
		if !k.plugged {
			continue
		}
		i := slices.IndexFunc(ports, func(p port) bool { return p.name == k.name && p.index == k.index })
		if i >= 0 {
			ports[i].plugged = true
		} else if l, ok := e.Host.Link(k.name); ok && l.Index == k.index {
			ports = append(ports, k)
		}
	}
	return ports
}

// notePorts remembers which links are in the network's bridge. A link that
// left while the bridge is there was taken on purpose and is forgotten; while
// the bridge is gone, its ports stay remembered, to be plugged in again.
func (e *Engine) notePorts(n *network, bridge string) {
	if _, exists := e.Host.Link(bridge); !exists {
		return
	}
	e.mu.Lock()
	known := n.ports
	e.mu.Unlock()
	ports := e.portsIn(bridge, known)
	if slices.Equal(ports, known) {
		return
	}
	e.mu.Lock()
	n.ports = ports
	e.mu.Unlock()
	if err := e.Store.PutStatus(e.status(n)); err != nil {
		e.Log.Warn("keep the ports of a network", "network", n.name, "error", err)
	}
}

// Plug makes a guest's link a port of the network and keeps it there until
// Unplug or until the link is gone. A link that does not exist yet is waited
// for that long. Plugging a link again changes nothing.
func (e *Engine) Plug(ctx context.Context, id netdef.UUID, link string, wait time.Duration) error {
	if err := e.awaitLink(ctx, link, wait); err != nil {
		return err
	}
	n, err := e.seize(id)
	if err != nil {
		return err
	}
	defer n.busy.Unlock()
	e.mu.Lock()
	live := n.live
	e.mu.Unlock()
	if live == nil {
		return netdef.Errorf(netdef.ErrOperationInvalid, "network '%s' is not active", n.name)
	}
	l, ok := e.Host.Link(link)
	switch {
	case !ok:
		return noLink(link)
	case l.Master != "" && l.Master != live.Bridge.Name:
		return netdef.Errorf(netdef.ErrOperationInvalid, "link '%s' is a port of bridge '%s' already", link, l.Master)
	}
	want := port{name: l.Name, index: l.Index, mac: l.MAC, plugged: true}
	return e.changePorts(ctx, n, func(ports []port) []port {
		ports = slices.DeleteFunc(ports, func(p port) bool { return p.name == link })
		return append(ports, want)
	})
}

func noLink(name string) error {
	return netdef.Errorf(netdef.ErrInternal, "link '%s' does not exist", name)
}

// awaitLink waits until the host has a link of that name, or the time is over.
func (e *Engine) awaitLink(ctx context.Context, name string, wait time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		e.mu.Lock()
		changed := e.changed
		e.mu.Unlock()
		if _, ok := e.Host.Link(name); ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return noLink(name)
		}
	}
}

// Unplug takes a link out of the network that it is in. It is no error if it
// is in none, or gone.
func (e *Engine) Unplug(ctx context.Context, link string) error {
	named := func(p port) bool { return p.name == link }
	e.mu.Lock()
	var in []netdef.UUID
	for id, n := range e.networks {
		if slices.ContainsFunc(n.ports, named) {
			in = append(in, id)
		}
	}
	e.mu.Unlock()
	for _, id := range in {
		n, err := e.seize(id)
		if err != nil {
			continue // it has ended, and its ports with it
		}
		err = e.changePorts(ctx, n, func(ports []port) []port { return slices.DeleteFunc(ports, named) })
		n.busy.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// changePorts changes what is known of a network's ports and makes the host
// follow. On error both are as before. The caller holds n.busy.
func (e *Engine) changePorts(ctx context.Context, n *network, change func([]port) []port) error {
	e.mu.Lock()
	before := n.ports
	n.ports = change(slices.Clone(before))
	active := n.live != nil
	e.mu.Unlock()
	if !active {
		return errAs(netdef.ErrInternal, e.keepInactive(n))
	}
	err := e.Store.PutStatus(e.status(n))
	if err == nil {
		_, err = e.reconcile(ctx, n)
	}
	if err != nil {
		e.mu.Lock()
		n.ports = before
		e.mu.Unlock()
		if undo := e.Store.PutStatus(e.status(n)); undo != nil {
			e.Log.Warn("keep the ports of a network", "network", n.name, "error", undo)
		}
	}
	return opError(err)
}
