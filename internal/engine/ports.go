package engine

import (
	"context"
	"slices"
	"time"

	"viaduct/internal/host"
	"viaduct/internal/hoststate"
	"viaduct/internal/netdef"
	"viaduct/internal/plan"
)

// port is a link that is, or was, in a network's bridge. The index tells it
// from a later link of the same name, but for those that Viaduct makes.
type port struct {
	id    netdef.UUID
	name  string
	index int
	mac   hoststate.MAC
	// plugged says that Viaduct was asked to put it there, so it is put back
	// if it leaves. Other links are somebody else's and may come and go.
	plugged bool
	// made says that Viaduct makes the link: a tap for a guest with that
	// address, to which that user may attach it.
	made  bool
	owner uint32
	guest netdef.MAC
}

// is reports whether the port is that link.
func (p port) is(l host.Link) bool {
	if p.made {
		return l.Alias == plan.PortAlias(p.id)
	}
	return l.Name == p.name && l.Index == p.index
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
		l, exists := e.Host.Link(p.name)
		if exists && !p.is(l) || !exists && !p.made {
			continue
		}
		if p.made {
			f.Taps = append(f.Taps, plan.Tap{Link: p.name, Port: p.id, Owner: p.owner})
		}
		if e.ours(n, l.Master) {
			f.Ports = append(f.Ports, plan.Port{Link: p.name, Guest: p.plugged || guestKinds[l.Kind], Plugged: p.plugged})
		}
	}
	return f
}

// inactive is what the network has on the host while it is not active.
func (e *Engine) inactive(n *network) plan.Fragment {
	e.mu.Lock()
	config := n.config
	e.mu.Unlock()
	if config == nil {
		return plan.Fragment{}
	}
	return plan.Taps(config, e.facts(n, 0).Taps)
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
// Viaduct plugged and that exist still, or that it can make again.
func (e *Engine) portsIn(bridge string, known []port) []port {
	var ports []port
	for _, l := range e.Host.Ports(bridge) {
		p := port{id: netdef.NewUUID(), name: l.Name, index: l.Index}
		if i := slices.IndexFunc(known, func(k port) bool { return k.is(l) }); i >= 0 {
			p = known[i]
		}
		if !p.made {
			p.mac = l.MAC
		}
		ports = append(ports, p)
	}
	for _, k := range known {
		if !k.plugged || slices.ContainsFunc(ports, func(p port) bool { return p.id == k.id }) {
			continue
		}
		if l, ok := e.Host.Link(k.name); k.made || ok && k.is(l) {
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
	want := port{id: netdef.NewUUID(), name: l.Name, index: l.Index, mac: l.MAC, plugged: true}
	return e.changePorts(ctx, n, func(ports []port) []port {
		for _, p := range ports {
			if p.is(l) {
				want.id = p.id
			}
		}
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
// is in none, or gone. A port that Viaduct made stays; that is for DeletePort.
func (e *Engine) Unplug(ctx context.Context, link string) error {
	named := func(p port) bool { return p.name == link && !p.made }
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
	keep := func() error { return e.Store.PutStatus(e.status(n)) }
	if !active {
		keep = func() error { return e.keepInactive(n) }
	}
	err := keep()
	switch {
	case err != nil:
	case active:
		_, err = e.reconcile(ctx, n)
	default:
		_, err = e.transition(ctx, n, e.inactive(n))
	}
	if err != nil {
		e.mu.Lock()
		n.ports = before
		e.mu.Unlock()
		if undo := keep(); undo != nil {
			e.Log.Warn("keep the ports of a network", "network", n.name, "error", undo)
		}
	}
	return opError(err)
}
