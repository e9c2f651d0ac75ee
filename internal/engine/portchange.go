package engine

import (
	"context"
	"reflect"
	"slices"

	"viaduct/internal/netdef"
	"viaduct/internal/plan"
)

// SetPortBandwidth replaces the limits of a port while its guest runs; nil
// takes them away.
func (e *Engine) SetPortBandwidth(ctx context.Context, id netdef.UUID, ref string, b *netdef.Bandwidth) error {
	return e.changePort(ctx, id, ref, func(n *network, p *port) error {
		want := unclassed(b)
		if floor(want) == floor(p.def.Bandwidth) && want != nil && p.def.Bandwidth != nil {
			want.ClassID = p.def.Bandwidth.ClassID
			p.def.Bandwidth = want
			return nil
		}
		return share(n.live, p, want, n.ports)
	})
}

// UpdatePort replaces what a port is to have while its guest runs: all that the
// description says beside the guest's MAC address and where it is connected, and
// its guard, if one is given.
func (e *Engine) UpdatePort(ctx context.Context, id netdef.UUID, ref string, def netdef.Port, guard *netdef.Guard) error {
	return e.changePort(ctx, id, ref, func(n *network, p *port) error {
		if def.UUID != p.def.UUID || def.MAC != p.def.MAC {
			return netdef.Errorf(netdef.ErrOperationUnsupported, "port %s of %s cannot become port %s of %s: delete it and create another",
				p.def.UUID, p.def.MAC, def.UUID, def.MAC)
		}
		if n.live.PortGroup(def.Group) == nil && def.Group != "" {
			return netdef.Errorf(netdef.ErrInvalidArg, "network '%s' has no port group '%s'", n.name, def.Group)
		}
		if guard != nil {
			if err := plan.CheckGuard(n.live, guard); err != nil {
				return err
			}
			p.guard = guard.Clone()
		}
		old := p.def
		p.def = *def.Clone()
		if err := allocate(n.live, p, n.ports); err != nil {
			return err
		}
		p.def.Plug = old.Plug
		if b := p.def.Bandwidth; b != nil && old.Bandwidth != nil && floor(b) == floor(old.Bandwidth) {
			b.ClassID = old.Bandwidth.ClassID
		}
		return e.checkVLAN(n.live, &p.def, false)
	})
}

// changePort changes a port that somebody declared, and those that have been made
// of it, of which only what they have of it changes.
func (e *Engine) changePort(ctx context.Context, id netdef.UUID, ref string, change func(*network, *port) error) error {
	n, err := e.seizeActive(id)
	if err != nil {
		return err
	}
	defer n.busy.Unlock()
	old, err := e.findPort(n, ref)
	if err != nil {
		return err
	}
	if !old.declared {
		return notDeclared(n, old)
	}
	want := old
	want.def = *old.def.Clone()
	if err := change(n, &want); err != nil {
		return err
	}
	changed := map[netdef.UUID]port{want.def.UUID: want}
	become := func(ports []port) []port {
		for i := range ports {
			if p, ok := changed[ports[i].def.UUID]; ok {
				ports[i] = p
			}
		}
		return ports
	}
	for _, p := range n.ports {
		if p.pattern != old.def.UUID {
			continue
		}
		p.def = *p.def.Clone()
		if err := p.follow(n, old, want, become(slices.Clone(n.ports))); err != nil {
			return err
		}
		changed[p.def.UUID] = p
	}
	for _, p := range changed {
		if p.plugged {
			if err := plan.CheckPort(&p.def); err != nil {
				return err
			}
		}
	}
	return e.changePorts(ctx, n, become)
}

// follow makes a port that was made of another have what that one has now,
// where it had what that one had before. All are the network's ports as they are to be.
func (p *port) follow(n *network, old, now port, all []port) error {
	now.def = *now.def.Clone()
	followed(&p.def.Group, old.def.Group, now.def.Group)
	followed(&p.def.VirtualPort, old.def.VirtualPort, now.def.VirtualPort)
	followed(&p.def.VLAN, old.def.VLAN, now.def.VLAN)
	followed(&p.def.Isolated, old.def.Isolated, now.def.Isolated)
	followed(&p.def.TrustGuestRxFilters, old.def.TrustGuestRxFilters, now.def.TrustGuestRxFilters)
	if old.guard == nil || reflect.DeepEqual(p.guard, old.guard) {
		p.guard = now.guard.Clone()
	}
	if reflect.DeepEqual(unclassed(p.def.Bandwidth), unclassed(old.def.Bandwidth)) {
		return share(n.live, p, now.def.Bandwidth, all)
	}
	return nil
}

// followed gives a setting that was as another the value that the other has now.
func followed[T any](own *T, before, now T) {
	if reflect.DeepEqual(*own, before) {
		*own = now
	}
}

// unclassed is a bandwidth as it was asked for.
func unclassed(b *netdef.Bandwidth) *netdef.Bandwidth {
	if b == nil {
		return nil
	}
	c := *b
	c.ClassID = 0
	return &c
}
