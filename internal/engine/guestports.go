package engine

import (
	"bytes"
	"cmp"
	"context"
	"slices"

	"viaduct/internal/netdef"
)

// GuestPort is a port that somebody asked for, with all that it is to have.
type GuestPort struct {
	Network netdef.UUID `json:"network"`
	UUID    netdef.UUID `json:"uuid"`
	// Link is its link's name; "" while there is none.
	Link string `json:"link,omitempty"`
	// XML describes the port as libvirt does.
	XML    string         `json:"xml"`
	Guard  *netdef.Guard  `json:"guard,omitempty"`
	Routed *netdef.Routed `json:"routed,omitempty"`
}

// GuestPorts lists the ports, of whatever network, that a guest is to have: by
// its MAC address, its UUID or its name. A zero value finds none.
func (e *Engine) GuestPorts(mac netdef.MAC, guest netdef.UUID, name string) []GuestPort {
	e.mu.Lock()
	defer e.mu.Unlock()
	list := []GuestPort{}
	for _, n := range e.networks {
		for _, p := range n.ports {
			if !p.declared || (mac.IsZero() || p.def.MAC != mac) && (guest.IsZero() || p.def.OwnerUUID != guest) &&
				(name == "" || p.def.OwnerName != name) {
				continue
			}
			list = append(list, GuestPort{Network: n.id, UUID: p.def.UUID, Link: p.name, XML: p.def.Format(), Guard: p.guard, Routed: p.routed})
		}
	}
	slices.SortFunc(list, func(a, b GuestPort) int {
		return cmp.Or(bytes.Compare(a.Network[:], b.Network[:]), bytes.Compare(a.UUID[:], b.UUID[:]))
	})
	return list
}

// Bridges lists the host's bridges, whoever made them, by name.
func (e *Engine) Bridges() []string {
	names := []string{}
	for _, l := range e.Host.Inventory().Links {
		if l.Kind == kindBridge {
			names = append(names, l.Name)
		}
	}
	slices.Sort(names)
	return names
}

// Release stops a transient network that nobody has a port in any more. It is
// no error if somebody has, or if the network is persistent.
func (e *Engine) Release(ctx context.Context, id netdef.UUID) error {
	n, err := e.seize(id)
	if err != nil {
		return err
	}
	defer n.busy.Unlock()
	ports := e.currentPorts(n)
	e.mu.Lock()
	needed := n.live == nil || n.config != nil || slices.ContainsFunc(ports, func(p port) bool { return p.declared })
	e.mu.Unlock()
	if needed {
		return nil
	}
	return e.takeDown(ctx, n)
}
