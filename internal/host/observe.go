package host

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"viaduct/internal/hoststate"
)

// What we create is recognisably ours.
const (
	// aliasPrefix begins the alias of our links.
	aliasPrefix = "viaduct"
	// ownGroup is the device group of our bridges. Unlike an alias a group is
	// set in the moment of creation, so that a bridge is ours even if we die
	// before it has its alias.
	ownGroup = 0x76696164 // "viad"
	// ownProtocol is the protocol number of our routes.
	ownProtocol = 86
)

// kindBridge is the kind that the kernel gives bridge links.
const kindBridge = "bridge"

// metricIPv6 is what the kernel makes of metric 0 for IPv6 (IP6_RT_PRIO_USER).
const metricIPv6 = 1024

// ours reports whether the link is one that Viaduct made.
func (l link) ours() bool { return l.group == ownGroup || strings.HasPrefix(l.alias, aliasPrefix) }

func (l link) bridge() hoststate.Bridge {
	b := hoststate.Bridge{Name: l.name, Alias: l.alias, MAC: l.mac, MTU: l.mtu, STP: l.stp, VLANs: l.filters}
	if b.STP {
		b.ForwardDelay = l.forwardDelay
	}
	if l.helloTime != defaultHelloTime {
		b.HelloTime = l.helloTime
	}
	if l.maxAge != defaultMaxAge {
		b.MaxAge = l.maxAge
	}
	return b
}

// observe returns the named object if it exists, as it was when the mirror was
// last brought up to date. It knows the kinds of linkApplier.
func (m *mirror) observe(key hoststate.Key) (hoststate.Object, bool) {
	switch key.Kind {
	case hoststate.KindClaim:
		l, ok := m.links[m.names[key.Name]]
		return hoststate.Claim{Bridge: l.name, Alias: l.alias}, ok && l.kind == kindBridge && l.ours()
	case hoststate.KindBridge:
		l, ok := m.links[m.names[key.Name]]
		b := l.bridge()
		b.PortMTU = m.smallestMTU(l.index)
		return b, ok && l.kind == kindBridge && l.ours()
	case hoststate.KindTap:
		l, ok := m.links[m.names[key.Name]]
		return l.tap(), ok && l.ownTap()
	case hoststate.KindMacvtap:
		l, ok := m.links[m.names[key.Name]]
		if !ok || !l.ownMacvtap() {
			return nil, false
		}
		return m.macvtap(l), true
	case hoststate.KindMTU:
		l, ok := m.links[m.names[key.Name]]
		return hoststate.LinkMTU{Link: l.name, MTU: l.mtu}, ok
	case hoststate.KindLinkUp:
		l, ok := m.links[m.names[key.Name]]
		return hoststate.LinkUp{Link: l.name}, ok && l.up
	case hoststate.KindMember:
		name, bridge, _ := strings.Cut(key.Name, " ")
		l, ok := m.links[m.names[name]]
		master, enslaved := m.links[l.master]
		return hoststate.Member{Link: name, Bridge: bridge, MAC: l.mac}, ok && enslaved && master.name == bridge
	case hoststate.KindPortFlags:
		l, bridge, ok := m.bridgeMember(key)
		flags := l.portFlags(bridge.name)
		return flags, ok && !flags.Plain()
	case hoststate.KindPortVLANs:
		l, bridge, ok := m.bridgeMember(key)
		return l.portVLANs(bridge.name), ok
	case hoststate.KindAddress:
		name, text, _ := strings.Cut(key.Name, " ")
		prefix, err := netip.ParsePrefix(text)
		_, ok := m.addrs[address{index: m.names[name], prefix: prefix}]
		return hoststate.Address{Link: name, Prefix: prefix}, ok && err == nil
	case hoststate.KindRoute:
		r, err := parseRouteKey(key.Name)
		if err != nil {
			return nil, false
		}
		info, ok := m.routes[routeIDOf(r, m.names[r.Link])]
		r.Via = info.via
		return r, ok && info.protocol == ownProtocol
	}
	return nil, false
}

// parseRouteKey is the inverse of hoststate.Route.Key, but for the next hop
// that is no part of the key.
func parseRouteKey(name string) (r hoststate.Route, err error) {
	dst, rest, _ := strings.Cut(name, " metric ")
	metric, name, _ := strings.Cut(rest, " on ")
	if r.Dst, err = netip.ParsePrefix(dst); err != nil {
		return r, err
	}
	r.Link = name
	r.Metric, err = strconv.Atoi(metric)
	return r, err
}

// routeIDOf is where the mirror has the route.
func routeIDOf(r hoststate.Route, index int) routeID {
	id := routeID{table: unix.RT_TABLE_MAIN, dst: r.Dst, metric: uint32(r.Metric), index: index}
	if r.Dst.Addr().Is6() && r.Metric == 0 {
		id.metric = metricIPv6
	}
	return id
}

// ownRoute is the route as a wanted one would be, and whether it is ours.
func (m *mirror) ownRoute(id routeID, info routeInfo) (hoststate.Route, bool) {
	r := hoststate.Route{Dst: id.dst, Via: info.via, Link: m.links[id.index].name, Metric: int(id.metric)}
	if id.dst.Addr().Is6() && id.metric == metricIPv6 {
		r.Metric = 0
	}
	return r, info.protocol == ownProtocol && id.table == unix.RT_TABLE_MAIN
}

// owned returns our bridges, taps and routes.
func (m *mirror) owned() hoststate.State {
	s := hoststate.State{}
	m.now(func() {
		for _, l := range m.links {
			switch {
			case l.kind == kindBridge && l.ours():
				s.Add(l.bridge())
			case l.ownTap():
				s.Add(l.tap())
			case l.ownMacvtap():
				s.Add(m.macvtap(l))
			}
		}
		for id, info := range m.routes {
			if r, ours := m.ownRoute(id, info); ours {
				s.Add(r)
			}
		}
	})
	return s
}

// restore lists what brings back the objects that vanish when a link is removed
// or taken down. There may be more in it than has vanished.
func (m *mirror) restore(name string) []hoststate.Op {
	s := hoststate.State{}
	m.now(func() {
		index, ok := m.names[name]
		if !ok {
			return
		}
		for a := range m.addrs {
			if a.index == index && !a.peer.IsValid() && canCollide(a.prefix) {
				s.Add(hoststate.Address{Link: name, Prefix: a.prefix})
			}
		}
		for id, info := range m.routes {
			if r, ours := m.ownRoute(id, info); ours && id.index == index {
				s.Add(r)
			}
		}
		for port := range m.ports[index] {
			l := m.links[port]
			s.Add(hoststate.Member{Link: l.name, Bridge: name, MAC: l.mac})
			if f := l.portFlags(name); !f.Plain() {
				s.Add(f)
			}
			if v := l.portVLANs(name); !hoststate.Equal(v, m.links[index].plainVLANs(l.name)) && m.links[index].filters {
				s.Add(v)
			}
		}
	})
	return Diff(s, nil)
}

// export is the link as other packages see it.
func (m *mirror) export(l link) Link {
	return Link{
		Index: l.index, Name: l.name, Kind: l.kind, Alias: l.alias, MAC: l.mac, MTU: l.mtu,
		Master: m.links[l.master].name, Device: m.links[int(l.device)].name, Up: l.up, FiltersVLANs: l.filters,
	}
}

// named returns the link of that name.
func (m *mirror) named(name string) (found Link, ok bool) {
	m.now(func() {
		var l link
		if l, ok = m.links[m.names[name]]; ok {
			found = m.export(l)
		}
	})
	return found, ok
}

// smallestMTU is the smallest MTU of a bridge's ports, 0 without any. The
// mirror is locked.
func (m *mirror) smallestMTU(bridge int) int {
	smallest := 0
	for port := range m.ports[bridge] {
		if mtu := m.links[port].mtu; smallest == 0 || mtu < smallest {
			smallest = mtu
		}
	}
	return smallest
}

// portsOf lists the ports of a bridge, sorted by name.
func (m *mirror) portsOf(bridge string) []Link {
	var ports []Link
	m.now(func() {
		if index, ok := m.names[bridge]; ok {
			for port := range m.ports[index] {
				ports = append(ports, m.export(m.links[port]))
			}
		}
	})
	slices.SortFunc(ports, func(a, b Link) int { return cmp.Compare(a.Name, b.Name) })
	return ports
}

// inventory lists everything, in no particular order. Default routes, and for
// IPv6 what is link-local or multicast, cannot collide with a network and are
// left out.
func (m *mirror) inventory() (inv Inventory) {
	m.now(func() {
		inv.Links = make([]Link, 0, len(m.links))
		inv.Addresses = make([]LinkPrefix, 0, len(m.addrs))
		inv.Routes = make([]LinkPrefix, 0, len(m.routes))
		for _, l := range m.links {
			inv.Links = append(inv.Links, m.export(l))
		}
		for a := range m.addrs {
			if p := a.covers(); canCollide(p) {
				inv.Addresses = append(inv.Addresses, LinkPrefix{m.links[a.index].name, p})
			}
		}
		for id := range m.routes {
			if canCollide(id.dst) {
				inv.Routes = append(inv.Routes, LinkPrefix{m.links[id.index].name, id.dst})
			}
		}
	})
	return inv
}

// uplinks lists the links that may lead out.
func (m *mirror) uplinks() []Uplink {
	var list []Uplink
	m.now(func() {
		ra := map[int]bool{}
		for id, info := range m.routes {
			if info.protocol == unix.RTPROT_RA {
				ra[id.index] = true
			}
		}
		for _, l := range m.links {
			if l.master == 0 && l.name != "lo" && l.kind != kindMacvtap && !l.ours() {
				list = append(list, Uplink{Name: l.name, RA: ra[l.index]})
			}
		}
	})
	slices.SortFunc(list, func(a, b Uplink) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// overlapping lists the addresses and routes of the inventory that overlap
// with one of the prefixes, addresses first, and the gateways that they contain.
func (m *mirror) overlapping(prefixes []netip.Prefix) []LinkPrefix {
	var found []LinkPrefix
	check := func(index int, p netip.Prefix) {
		if canCollide(p) && slices.ContainsFunc(prefixes, p.Overlaps) {
			found = append(found, LinkPrefix{m.links[index].name, p})
		}
	}
	m.now(func() {
		for a := range m.addrs {
			check(a.index, a.covers())
		}
		for id, info := range m.routes {
			check(id.index, id.dst)
			if info.via.IsValid() {
				check(id.index, netip.PrefixFrom(info.via, info.via.BitLen()))
			}
		}
	})
	return found
}

// covers is the prefix that the link shares with others by this address; on a
// point-to-point link the prefix length belongs to the other end.
func (a address) covers() netip.Prefix {
	if a.peer.IsValid() {
		return netip.PrefixFrom(a.prefix.Addr(), a.prefix.Addr().BitLen())
	}
	return a.prefix
}

// canCollide reports whether a network could want the same addresses.
func canCollide(p netip.Prefix) bool {
	a := p.Addr()
	return p.Bits() > 0 && (a.Is4() || !a.IsLinkLocalUnicast() && !a.IsMulticast())
}
