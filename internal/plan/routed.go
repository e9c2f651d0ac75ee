package plan

import (
	"encoding/hex"
	"math/bits"
	"net/netip"

	"viaduct/internal/guestsvc/dhcp4"
	"viaduct/internal/guestsvc/dhcp6"
	"viaduct/internal/guestsvc/ra"
	"viaduct/internal/hoststate"
	"viaduct/internal/netdef"
)

// A routed network has no bridge. Each guest is at the end of a link of two,
// whose other end has the guest's gateway and a route to the guest. What the
// firewall knows by the bridge elsewhere it knows here by the set of the
// network's links.

// peers is the set of the links of a routed network.
func peers(n *netdef.Network) hoststate.Set {
	return hoststate.Set{Table: Filter, Name: "peers_" + hex.EncodeToString(n.UUID[:4]), Fields: byIn}
}

func addRouted(f *Fragment, n *netdef.Network, facts Facts) {
	set := peers(n)
	f.Own.Add(set)
	f.Shared.Add(baseFilter()...)
	for _, p := range facts.Passes {
		f.Shared.Add(p)
	}
	for _, p := range facts.Ports {
		if p.Routed == nil {
			continue
		}
		f.Own.Add(hoststate.Element{Table: Filter, Set: set.Name, Fields: []hoststate.Value{hoststate.IfName(p.Link)}})
		addPortMTU(f, n, p)
		zone := zoneOf(n, p)
		addIPv6(f, zone, facts)
		limit(f, p.Link, p.Def.Bandwidth, nil)
		addRoutedLink(f, n, p, facts)
		addZone(f, zone, set)
		putIntoZone(f, n, p.Link, facts)
		addPortService(f, n, p)
		if !facts.NoIPv6 {
			addPortServices6(f, n, p)
		}
	}
	addPortGuards(f, n, facts.Ports, nil)
}

// zoneOf is the network as it would be if the port were all of it: its link for
// the bridge, and the guest's addresses for subnets.
func zoneOf(n *netdef.Network, p Port) *netdef.Network {
	zone := *n
	zone.Bridge.Name, zone.IPs = p.Link, nil
	for _, a := range p.Routed.Addresses {
		zone.IPs = append(zone.IPs, netdef.IP{Address: a.Addr(), PrefixLen: a.Bits()})
	}
	return &zone
}

// addRoutedLink plans the link itself, the routes behind it, and the host's
// answering for the guest on the uplink.
func addRoutedLink(f *Fragment, n *netdef.Network, p Port, facts Facts) {
	f.Own.Add(hoststate.LinkUp{Link: p.Link},
		// The guest may take its neighbours for neighbours on its own link: the
		// host answers for them.
		hoststate.Sysctl{Name: "net/ipv4/conf/" + p.Link + "/proxy_arp", Value: "1", Link: p.Link})
	for _, g := range p.Routed.Gateways {
		length := g.BitLen()
		if g.IsLinkLocalUnicast() {
			length = 64
		}
		f.Own.Add(hoststate.Address{Link: p.Link, Prefix: netip.PrefixFrom(g, length)})
	}
	for _, a := range p.Routed.Addresses {
		f.Own.Add(hoststate.Route{Dst: a.Masked(), Link: p.Link, Metric: p.Routed.Metric})
		if n.Forward.Mode == netdef.ModeNone {
			continue
		}
		if a.Addr().Is4() {
			f.Shared.Add(hoststate.Sysctl{Name: "net/ipv4/ip_forward", Value: "1"})
		}
		for _, part := range answerable(a) {
			addAnswer(f, p.Routed.Uplink, part, facts)
		}
	}
}

// addZone hangs the port's chains into the base chains. Guests of the network
// reach each other as on a bridge.
func addZone(f *Fragment, zone *netdef.Network, set hoststate.Set) {
	link := zone.Bridge.Name
	hang(f, mapInput, link, hoststate.Jump, filterChain("input_"+link, routedInputRules()...))
	if zone.Forward.Mode == netdef.ModeOpen {
		return
	}
	toPeer := rule(hoststate.InSet{Fields: byOut, Set: set.Name})
	fromPeer := rule(hoststate.InSet{Fields: byIn, Set: set.Name})
	leaving := leavingRules(zone)
	leaving[0] = accepted(hoststate.Return, toPeer...) // in place of what stays on the bridge
	hang(f, mapFrom, link, hoststate.Jump, filterChain("from_"+link, leaving...))
	entering := append([]hoststate.Rule{accepted(hoststate.Accept, fromPeer...)}, enteringRules(zone)...)
	hang(f, mapTo, link, hoststate.Goto, filterChain("to_"+link, entering...))
	if zone.Forward.Mode == netdef.ModeNAT {
		f.Shared.Add(baseNAT()...)
		rules := append([]hoststate.Rule{rule(hoststate.InSet{Fields: byOut, Set: set.Name}, verdict(hoststate.Return))}, natRules(zone)...)
		hang(f, mapNAT, link, hoststate.Goto, filterChain("nat_"+link, rules...))
	}
}

// routedInputRules are inputRules for the end of a link of two: the DHCP server
// reads from a packet socket, and neighbour discovery and ping have to pass.
func routedInputRules() []hoststate.Rule {
	return []hoststate.Rule{
		rule(hoststate.L4Proto{Proto: hoststate.UDP}, hoststate.DPort{First: dhcp4Port}, verdict(hoststate.Drop)),
		accepted(hoststate.Accept, hoststate.L4Proto{Proto: hoststate.ICMPv6}),
		accepted(hoststate.Accept, hoststate.NFProto{Version: 6}, hoststate.L4Proto{Proto: hoststate.UDP}, hoststate.DPort{First: dhcp6Port}),
	}
}

// addPortService plans the DHCP server at the end of the link, which knows one
// guest. The subnet that it tells of is the smallest that has the guest and its
// gateway in it. Guests that have little in common with theirs need a
// configuration of their own, since few DHCP clients take a gateway that is in
// no subnet.
func addPortService(f *Fragment, n *netdef.Network, p Port) {
	gateway := p.Routed.Gateway(netip.Addr.Is4)
	var guest netip.Addr
	for _, a := range p.Routed.Addresses {
		if a.Addr().Is4() && a.IsSingleIP() {
			guest = a.Addr()
			break
		}
	}
	const shortest = 8
	if !guest.IsValid() || !gateway.IsValid() || p.Def.MAC.IsZero() || common(guest, gateway) < shortest {
		return
	}
	c := dhcp4.Config{
		Network: n.UUID, Name: n.Name, Bridge: p.Link, Address: netip.PrefixFrom(gateway, common(guest, gateway)),
		Domain: n.Domain.Name, MTU: n.MTU, Router: []netip.Addr{gateway},
		Hosts: []dhcp4.Host{{MAC: p.Def.MAC, Name: p.Routed.HostName, Addr: guest}},
	}
	for _, fw := range n.DNS.Forwarders {
		if fw.Domain == "" && fw.Addr.Is4() && (fw.Port == 0 || fw.Port == dnsPort) {
			c.DNS = append(c.DNS, fw.Addr)
		}
	}
	f.Own.Add(hoststate.Service{Type: ServiceDHCP4, Network: n.UUID.String(), Link: p.Link, Config: c})
}

// addPortServices6 tells the guest at the end of the link that the host is its
// router, which of its networks are for it to make addresses in, and by DHCPv6
// the first of its single addresses.
func addPortServices6(f *Fragment, n *netdef.Network, p Port) {
	gateway := p.Routed.Gateway(netip.Addr.Is6)
	if !gateway.IsLinkLocalUnicast() {
		return // what is no link-local address cannot advertise a router
	}
	c := ra.Config{Network: n.UUID, Name: n.Name, Bridge: p.Link, Source: gateway, MTU: n.MTU}
	if n.Forward.Mode != netdef.ModeNone {
		c.RouterLifetime = ra.DefaultRouterLifetime
	}
	var guest netip.Addr
	for _, a := range p.Routed.Addresses {
		switch {
		case a.Addr().Is4():
		case a.IsSingleIP() && !guest.IsValid() && a.Addr() != subnet6(a.Addr()).Addr(): // that one is every router's
			guest = a.Addr()
			c.Managed = true
		case a.Bits() == 64:
			c.Prefixes = append(c.Prefixes, ra.Prefix{Prefix: a.Masked(), OnLink: true, Autonomous: true})
		}
	}
	f.Own.Add(hoststate.Service{Type: ServiceRA, Network: n.UUID.String(), Link: p.Link, Config: c})
	if guest.IsValid() {
		f.Own.Add(hoststate.Service{Type: ServiceDHCP6, Network: n.UUID.String(), Link: p.Link, Config: dhcp6.Config{
			Network: n.UUID, Name: n.Name, Bridge: p.Link, Address: subnet6(guest), Domain: n.Domain.Name,
			Ranges: []dhcp6.Range{{First: guest, Last: guest}},
		}})
	}
}

// subnet6 is the subnet of an IPv6 address, as its first one.
func subnet6(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, 64).Masked() }

// common is the length of the longest prefix that contains both addresses and in
// which neither is the first or the last one.
func common(a, b netip.Addr) int {
	x, y := toUint(a), toUint(b)
	for length := bits.LeadingZeros32(x ^ y); length > 0; length-- {
		host := uint32(1)<<(32-length) - 1
		ends := func(v uint32) bool { return v&host == 0 || v&host == host }
		if !ends(x) && !ends(y) {
			return length
		}
	}
	return 0
}

func toUint(a netip.Addr) uint32 {
	b := a.As4()
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}
