package engine

import (
	"bytes"
	"cmp"
	"slices"
	"strings"

	"viaduct/internal/host"
	"viaduct/internal/hoststate"
	"viaduct/internal/netdef"
	"viaduct/internal/plan"
)

// Origin says how a port came into its network.
type Origin string

// The origins.
const (
	OriginTap     Origin = "tap"     // Viaduct made its link
	OriginPlugged Origin = "plugged" // Viaduct was asked to plug it in
	OriginForeign Origin = "foreign" // another program made it and puts it into the bridge
)

// Port is what a list of ports shows of one.
type Port struct {
	UUID netdef.UUID `json:"uuid"`
	// Link is its link's name; "" while a link that others make is yet to come.
	Link   string `json:"link"`
	Origin Origin `json:"origin"`
	// Declared says that somebody asked for the port, rather than just putting a
	// link into the bridge.
	Declared bool `json:"-"`
	// Group is the port group that the port has its settings from; "" for none.
	Group string `json:"group,omitempty"`
	// MAC is the guest's address, where it is known.
	MAC netdef.MAC `json:"mac,omitzero"`
	// Owner is the uid of the user who may attach a guest to a tap.
	Owner *uint32 `json:"owner,omitempty"`
	// MTU of the link in bytes, 0 while there is none.
	MTU int `json:"mtu,omitempty"`
	// Active says that the link is in the network's bridge now.
	Active bool `json:"active"`
	// FromGuest and ToGuest are what the kernel counted since the link was made.
	FromGuest Traffic `json:"fromGuest"`
	ToGuest   Traffic `json:"toGuest"`
	// Def is all that the port has, what it has from its port group and its
	// network included.
	Def netdef.Port `json:"-"`
}

// Traffic is what went in one direction.
type Traffic = host.Traffic

// NetworkCounters are what the kernel counted of a network: over the ports that
// it has now, since their links were made, and between the network and the
// host, since the bridge was made. What passes the host on its way out of the
// network, or into it, counts as the host's.
type NetworkCounters struct {
	FromGuests Traffic `json:"fromGuests"`
	ToGuests   Traffic `json:"toGuests"`
	ToHost     Traffic `json:"toHost"`
	FromHost   Traffic `json:"fromHost"`
	// Refused are packets that the network's rules did not let pass between it
	// and others, since the rules were written.
	Refused host.Drops `json:"refused,omitempty"`
}

// dropped is what rules have dropped, as far as it can be read.
func (e *Engine) dropped(chains []hoststate.Chain) host.Drops {
	drops, err := e.Host.Dropped(chains...)
	if err != nil {
		e.Log.Warn("read what rules have dropped", "error", err)
	}
	return drops
}

// Ports lists the ports of a network, sorted by name.
func (e *Engine) Ports(id netdef.UUID) ([]Port, error) {
	n, err := e.seize(id)
	if err != nil {
		return nil, err
	}
	defer n.busy.Unlock()
	var list []Port
	for _, p := range e.currentPorts(n) {
		list = append(list, e.show(n, p))
	}
	slices.SortFunc(list, func(a, b Port) int {
		return cmp.Or(strings.Compare(a.Link, b.Link), bytes.Compare(a.UUID[:], b.UUID[:]))
	})
	return list, nil
}

// currentPorts is what is known of the network's ports after a look at the
// host. It needs n.busy.
func (e *Engine) currentPorts(n *network) []port {
	if n.live != nil {
		e.notePorts(n, n.live)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return n.ports
}

// show is the port with what was counted of it. It needs n.busy.
func (e *Engine) show(n *network, p port) Port {
	s := e.outline(n, p)
	if s.MTU == 0 {
		return s
	}
	if c, err := e.Host.Counters(p.name); err == nil { // else it has just gone
		s.FromGuest, s.ToGuest = c.In, c.Out
	}
	from, to := plan.PortDroppers(p.name)
	s.FromGuest.AddDrops(e.dropped(from))
	s.ToGuest.AddDrops(e.dropped(to))
	return s
}

// outline is the port without what was counted of it, which the kernel would
// have to be asked for. It needs n.busy.
func (e *Engine) outline(n *network, p port) Port {
	def := e.describe(n, p)
	s := Port{UUID: p.def.UUID, Link: p.name, Origin: OriginForeign, Group: p.def.Group, MAC: p.def.MAC, Declared: p.declared, Def: def}
	switch {
	case p.made:
		s.Origin, s.Owner = OriginTap, &p.owner
	case p.plugged:
		s.Origin = OriginPlugged
	}
	if n.live != nil && plugType(n.live) == netdef.PlugHostdevPCI {
		s.Active = true // the guest has the device
	}
	l, ok := e.Host.Link(p.name)
	if !ok || !p.is(l) {
		return s
	}
	s.MTU = l.MTU
	s.Active = n.live != nil && l.Master == n.live.Bridge.Name && (l.Master != "" || l.Up)
	return s
}

// Counters tells what went over an active network.
func (e *Engine) Counters(id netdef.UUID) (NetworkCounters, error) {
	var sum NetworkCounters
	n, err := e.seizeActive(id)
	if err != nil {
		return sum, err
	}
	defer n.busy.Unlock()
	if n.live.OwnsBridge() {
		bridge, err := e.Host.Counters(n.live.Bridge.Name)
		if err != nil {
			return sum, errAs(netdef.ErrInternal, err)
		}
		sum.ToHost, sum.FromHost = bridge.In, bridge.Out
		sum.Refused = e.dropped(plan.NetworkDroppers(n.live))
	}
	for _, p := range e.currentPorts(n) {
		if l, ok := e.Host.Link(p.name); !ok || !p.is(l) {
			continue
		}
		if c, err := e.Host.Counters(p.name); err == nil { // else it has just gone
			sum.FromGuests.Add(c.In)
			sum.ToGuests.Add(c.Out)
		}
		from, to := plan.PortDroppers(p.name)
		sum.FromGuests.AddDrops(e.dropped(from))
		sum.ToGuests.AddDrops(e.dropped(to))
	}
	return sum, nil
}

// findPort finds a port by UUID or by the name of its link. It needs n.busy.
func (e *Engine) findPort(n *network, ref string) (port, error) {
	known := e.currentPorts(n)
	is := func(p port) bool { return p.name == ref }
	missing := netdef.Errorf(netdef.ErrNoNetworkPort, "network '%s' has no port '%s'", n.name, ref)
	if id, err := netdef.ParseUUID(ref); err == nil {
		is = func(p port) bool { return p.def.UUID == id }
		missing = netdef.Errorf(netdef.ErrNoNetworkPort, "Network port with UUID %s does not exist", id)
	}
	if i := slices.IndexFunc(known, is); i >= 0 {
		return known[i], nil
	}
	return port{}, missing
}

// PortXML describes a port as libvirt does. Of a port that nobody told the
// guest of, the link stands for the guest.
func (e *Engine) PortXML(id netdef.UUID, ref string) (string, error) {
	n, err := e.seize(id)
	if err != nil {
		return "", err
	}
	defer n.busy.Unlock()
	p, err := e.findPort(n, ref)
	if err != nil {
		return "", err
	}
	def := e.describe(n, p)
	return def.Format(), nil
}

// describe is all that there is to say about a port. It needs n.busy.
func (e *Engine) describe(n *network, p port) netdef.Port {
	def := *p.def.Clone()
	if !p.declared {
		def.OwnerName, def.OwnerUUID = p.name, def.UUID
	}
	if def.MAC.IsZero() {
		def.MAC = netdef.MAC(p.mac)
	}
	switch d := n.definition(); def.Plug.Type {
	case netdef.PlugNone, netdef.PlugNetwork, netdef.PlugBridge:
		def.Plug = netdef.Plug{Type: plugType(d), Bridge: d.Bridge.Name, MacTableManager: d.Bridge.MacTableManager}
	}
	return def
}

// PortByUUID finds a port of a network.
func (e *Engine) PortByUUID(network, id netdef.UUID) (Port, error) {
	n, err := e.seize(network)
	if err != nil {
		return Port{}, err
	}
	defer n.busy.Unlock()
	p, err := e.findPort(n, id.String())
	if err != nil {
		return Port{}, err
	}
	return e.show(n, p), nil
}
