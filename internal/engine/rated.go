package engine

import (
	"cmp"
	"context"
	"slices"

	"viaduct/internal/netdef"
)

// RatedPort is a port whose limits another program's store says.
type RatedPort struct {
	Network, UUID netdef.UUID
	// Link is its link's name.
	Link string
	// Key is where the store says it, and Rate what it said when that was last
	// made the port's limits.
	Key, Rate string
}

// RatedPorts lists the ports that were created with a PortSpec.RateKey.
func (e *Engine) RatedPorts() []RatedPort {
	e.mu.Lock()
	defer e.mu.Unlock()
	var list []RatedPort
	for _, n := range e.networks {
		for _, p := range n.ports {
			if p.rateKey != "" {
				list = append(list, RatedPort{Network: n.id, UUID: p.def.UUID, Link: p.name, Key: p.rateKey, Rate: p.rate})
			}
		}
	}
	return list
}

// SetPortRate makes these the limits of a port, and remembers that they are what
// the store says now: p.Rate. Without any the port has its port group's. What the
// port is guaranteed it keeps.
func (e *Engine) SetPortRate(ctx context.Context, p RatedPort, limits *netdef.Bandwidth) error {
	n, err := e.seize(p.Network)
	if err != nil {
		return err
	}
	defer n.busy.Unlock()
	e.mu.Lock()
	def := n.definition()
	e.mu.Unlock()
	old, err := e.findPort(n, p.UUID.String())
	if err != nil {
		return err
	}
	limited := netdef.Port{Group: old.def.Group, Bandwidth: limits}
	if err := limited.Inherit(def); err != nil {
		return err
	}
	if was := old.def.Bandwidth; floor(was) > 0 {
		b := cmp.Or(limited.Bandwidth, &netdef.Bandwidth{})
		in := *cmp.Or(b.Inbound, &netdef.Rate{})
		in.Floor = was.Inbound.Floor
		limited.Bandwidth = &netdef.Bandwidth{Inbound: &in, Outbound: b.Outbound, ClassID: was.ClassID}
	}
	return e.changePorts(ctx, n, func(ports []port) []port {
		if i := slices.IndexFunc(ports, func(q port) bool { return q.def.UUID == p.UUID }); i >= 0 {
			ports[i].def = *ports[i].def.Clone()
			ports[i].def.Bandwidth, ports[i].rate = limited.Bandwidth, p.Rate
		}
		return ports
	})
}
