package plan

import (
	"net/netip"
	"slices"

	"viaduct/internal/hoststate"
	"viaduct/internal/netdef"
)

// GuardARP is one of the tables in which guests are guarded. Frames of a port of
// a bridge are seen in the bridge family, before the bridge learns from them.
// What comes by a routed link never passes there: its packets are seen before
// they are routed, and its ARP in this family of its own.
var GuardARP = hoststate.TableRef{Family: hoststate.ARPFamily, Name: "viaduct"}

const (
	mapGuarded = "guarded"      // by incoming link, to the chain of its guest
	mapToPorts = "ports_to"     // frames by outgoing port
	setUses4   = "uses4"        // port and address: the guest there may use it
	setUses6   = "uses6"        // the same in IPv6
	setBehind4 = "behind4"      // addresses that are behind routed links
	setBehind6 = "behind6"      // the same in IPv6
	arpFormat  = 0x000108000604 // Ethernet and IPv4 addresses
)

var (
	bySource4    = []hoststate.Field{hoststate.FieldIIFName, hoststate.FieldSAddr4}
	bySource6    = []hoststate.Field{hoststate.FieldIIFName, hoststate.FieldSAddr6}
	byARPSender  = []hoststate.Field{hoststate.FieldIIFName, hoststate.FieldARPSender}
	byNDTarget   = []hoststate.Field{hoststate.FieldIIFName, hoststate.FieldNDTarget}
	unspecified4 = netip.MustParsePrefix("0.0.0.0/32")
	unspecified6 = netip.MustParsePrefix("::/128")
	linkLocals   = netip.MustParsePrefix("fe80::/10")
)

// EtherTypes (IEEE 802 Numbers).
const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherRARP = 0x8035
	etherVLAN = 0x8100
	etherQinQ = 0x88a8
	etherIPv6 = 0x86dd
)

var etherTypes = map[netdef.EtherType]uint64{
	netdef.EtherIPv4: etherIPv4, netdef.EtherIPv6: etherIPv6, netdef.EtherARP: etherARP, netdef.EtherRARP: etherRARP,
}

// ICMPv6 types (RFC 4861).
const (
	routerSolicitation    = 133
	routerAdvertisement   = 134
	neighbourSolicitation = 135
	neighbourAdvert       = 136
	redirect              = 137
)

// guarded is a guarded port with what its guest may call its own.
type guarded struct {
	*netdef.Guard
	link string
	mac  netdef.MAC
	// addrs are single addresses, which come and go as elements of sets.
	addrs []netip.Addr
	// prefixes are the others.
	prefixes []netip.Prefix
	// gateways are the host's own addresses, which no guest may use.
	gateways []netip.Addr
}

// Guards are what a network says of the guards of its ports.
type Guards struct {
	byDefault *netdef.Guard
	routed    bool
}

// GuardsOf reads what the definition says.
func GuardsOf(n *netdef.Network) Guards {
	s, err := n.Settings()
	if err != nil { // such a definition is not valid
		return Guards{}
	}
	return Guards{s.Guard, s.Routed}
}

// Of is the guard of a port: its own, or else its network's if the guest is
// known by its MAC. It is nil if everything passes.
func (d Guards) Of(guest netdef.MAC, own *netdef.Guard) *netdef.Guard {
	g := own
	if g == nil && !guest.IsZero() {
		g = d.byDefault
	}
	if g != nil && d.routed && !g.Routed {
		g = g.Clone()
		g.Routed = true
	}
	return g
}

// UseKey is the element that lets a guest behind a guarded link use an address.
func UseKey(link string, a netip.Addr, g *netdef.Guard) hoststate.Key {
	table := Guard
	if g.Routed {
		table = Filter
	}
	return use(table, link, a).Key()
}

func use(table hoststate.TableRef, link string, a netip.Addr) hoststate.Element {
	set := setUses4
	if a.Is6() {
		set = setUses6
	}
	return hoststate.Element{Table: table, Set: set, Fields: []hoststate.Value{hoststate.IfName(link), hoststate.Addr(a)}}
}

func newGuarded(n *netdef.Network, p Port, guard *netdef.Guard) guarded {
	g := guarded{Guard: guard, link: p.Link, mac: p.Def.MAC}
	if !guard.MAC.IsZero() {
		g.mac = guard.MAC
	}
	for _, prefix := range guard.Prefixes {
		g.add(prefix)
	}
	for _, ip := range n.IPs {
		g.gateways = append(g.gateways, ip.Address)
		if !guard.Learn {
			continue
		}
		if !ip.HasDHCP() {
			// Nobody gives out addresses, so guests choose them.
			g.add(ip.Prefix().Masked())
		}
		for _, h := range ip.Hosts {
			if mac, err := netdef.ParseMAC(h.MAC); err == nil && mac == g.mac && h.IP.IsValid() {
				g.add(single(h.IP))
			}
		}
	}
	if hasFamily(n, netip.Addr.Is6) {
		g.gateways = append(g.gateways, linkLocal(n.MAC))
	}
	if guard.Learn {
		for _, a := range p.Leases {
			g.add(single(a))
		}
	}
	if p.Routed != nil {
		g.gateways = append(g.gateways, p.Routed.Gateways...)
		if guard.Learn {
			for _, a := range p.Routed.Addresses {
				g.add(a.Masked())
			}
		}
	}
	return g
}

func (g *guarded) add(p netip.Prefix) {
	switch {
	case !p.IsSingleIP():
		g.prefixes = append(g.prefixes, p)
	case !slices.Contains(g.addrs, p.Addr()):
		g.addrs = append(g.addrs, p.Addr())
	}
}

// prefixesOf are the prefixes of a family.
func (g guarded) prefixesOf(is func(netip.Addr) bool) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(g.prefixes), func(p netip.Prefix) bool { return !is(p.Addr()) })
}

func (g guarded) gatewaysOf(is func(netip.Addr) bool) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(g.gateways), func(a netip.Addr) bool { return !is(a) })
}

func etherIs(number uint64) hoststate.Is {
	return hoststate.Is{Field: hoststate.FieldProtocol, Number: number}
}

func udpFrom(ether uint64, port uint64) []hoststate.Expr {
	return []hoststate.Expr{etherIs(ether), hoststate.L4Proto{Proto: hoststate.UDP}, hoststate.Is{Field: hoststate.FieldSPort, Number: port}}
}

func icmp6(kind uint64, more ...hoststate.Expr) []hoststate.Expr {
	return append([]hoststate.Expr{etherIs(etherIPv6), hoststate.L4Proto{Proto: hoststate.ICMPv6},
		hoststate.Is{Field: hoststate.FieldICMP6Type, Number: kind}}, more...)
}

// frameRules are about the frame whatever is in it. They only drop.
func (g guarded) frameRules() []hoststate.Rule {
	var rules []hoststate.Rule
	if len(g.Only) > 0 {
		rules = append(rules, g.onlyRule())
	}
	if g.NoMACSpoof {
		rules = append(rules, dropped(dropMAC, hoststate.EtherSource{MAC: hoststate.MAC(g.mac), Not: true}))
	}
	return rules
}

// onlyRule drops all protocols but those that are listed.
func (g guarded) onlyRule() hoststate.Rule {
	var others []hoststate.Expr
	for _, t := range g.Only {
		others = append(others, hoststate.Is{Field: hoststate.FieldProtocol, Number: etherTypes[t], Not: true})
	}
	return dropped(dropProtocol, others...)
}

// rules4 drop what a guest must not offer to others by IPv4, accept what comes
// from its own addresses and drop the rest.
func (g guarded) rules4() []hoststate.Rule {
	var rules []hoststate.Rule
	if g.NoMACSpoof {
		// Who speaks of another's lease could end it.
		rules = append(rules, dropped(dropMAC, etherIs(etherIPv4), hoststate.L4Proto{Proto: hoststate.UDP}, hoststate.DPort{First: dhcp4Port},
			hoststate.Is{Field: hoststate.FieldDHCPClient, Number: hoststate.MAC(g.mac).Number(), Not: true}))
	}
	if g.NoDHCPServer {
		rules = append(rules, dropped(dropServer, udpFrom(etherIPv4, dhcp4Port)...))
	}
	if !g.NoIPSpoof {
		return rules
	}
	for _, a := range g.gatewaysOf(netip.Addr.Is4) {
		rules = append(rules, dropped(dropAddress, hoststate.Source{Prefix: single(a)}))
	}
	rules = append(rules, rule(hoststate.InSet{Fields: bySource4, Set: setUses4}, verdict(hoststate.Accept)))
	for _, p := range g.prefixesOf(netip.Addr.Is4) {
		rules = append(rules, rule(hoststate.Source{Prefix: p}, verdict(hoststate.Accept)))
	}
	if g.AllowDHCP {
		rules = append(rules, rule(hoststate.Source{Prefix: unspecified4}, hoststate.L4Proto{Proto: hoststate.UDP},
			hoststate.DPort{First: dhcp4Port}, verdict(hoststate.Accept)))
	}
	return append(rules, dropped(dropAddress, etherIs(etherIPv4)))
}

// rulesARP do the same for what ARP says of the sender. A guest that asks
// whether an address is free has none (RFC 5227).
func (g guarded) rulesARP() []hoststate.Rule {
	if !g.NoARPSpoof {
		return nil
	}
	rules := []hoststate.Rule{
		dropped(dropARP, etherIs(etherARP), hoststate.Is{Field: hoststate.FieldARPFormat, Number: arpFormat, Not: true}),
		dropped(dropARP, hoststate.Is{Field: hoststate.FieldARPSenderMAC, Number: hoststate.MAC(g.mac).Number(), Not: true}),
	}
	for _, a := range g.gatewaysOf(netip.Addr.Is4) {
		rules = append(rules, dropped(dropARP, hoststate.Within{Field: hoststate.FieldARPSender, Prefix: single(a)}))
	}
	rules = append(rules, rule(hoststate.InSet{Fields: byARPSender, Set: setUses4}, verdict(hoststate.Accept)),
		rule(hoststate.Within{Field: hoststate.FieldARPSender, Prefix: unspecified4}, verdict(hoststate.Accept)))
	for _, p := range g.prefixesOf(netip.Addr.Is4) {
		rules = append(rules, rule(hoststate.Within{Field: hoststate.FieldARPSender, Prefix: p}, verdict(hoststate.Accept)))
	}
	return append(rules, dropped(dropARP, etherIs(etherARP)))
}

// rulesND drop neighbour discovery that speaks of other addresses than the
// guest's. A message without options is told by its length; one with options
// has to begin with the link-layer address, since that is where a rule can see it.
func (g guarded) rulesND() []hoststate.Rule {
	if !g.NoARPSpoof {
		return nil
	}
	number := hoststate.MAC(g.mac).Number()
	var rules []hoststate.Rule
	for _, m := range []struct {
		kind, bare, option   uint64
		optionAt, linkAddrAt hoststate.Field
	}{
		{neighbourAdvert, 24, 0x0201, hoststate.FieldNDOption, hoststate.FieldNDOptionMAC},
		{neighbourSolicitation, 24, 0x0101, hoststate.FieldNDOption, hoststate.FieldNDOptionMAC},
		{routerSolicitation, 8, 0x0101, hoststate.FieldRSOption, hoststate.FieldRSOptionMAC},
	} {
		about := icmp6(m.kind, hoststate.Is{Field: hoststate.FieldLength6, Number: m.bare, Not: true})
		if m.kind != neighbourAdvert {
			// From no address nobody learns; these may carry a nonce instead (RFC 7527).
			about = append(about, hoststate.Source{Prefix: unspecified6, Not: true})
		}
		about = slices.Clip(about)
		rules = append(rules, dropped(dropND, append(about, hoststate.Is{Field: m.optionAt, Number: m.option, Not: true})...),
			dropped(dropND, append(about, hoststate.Is{Field: m.linkAddrAt, Number: number, Not: true})...))
	}
	for _, a := range g.gatewaysOf(netip.Addr.Is6) {
		rules = append(rules, dropped(dropND, icmp6(neighbourAdvert, hoststate.Within{Field: hoststate.FieldNDTarget, Prefix: single(a)})...))
	}
	other := icmp6(neighbourAdvert, hoststate.Within{Field: hoststate.FieldNDTarget, Prefix: linkLocals, Not: true})
	for _, p := range g.prefixesOf(netip.Addr.Is6) {
		other = append(other, hoststate.Within{Field: hoststate.FieldNDTarget, Prefix: p, Not: true})
	}
	rules = append(rules, dropped(dropND, append(other, hoststate.InSet{Fields: byNDTarget, Set: setUses6, Not: true})...))
	if !g.NoIPSpoof {
		other := icmp6(neighbourSolicitation)
		for _, p := range append([]netip.Prefix{unspecified6, linkLocals}, g.prefixesOf(netip.Addr.Is6)...) {
			other = append(other, hoststate.Source{Prefix: p, Not: true})
		}
		rules = append(rules, dropped(dropND, append(other, hoststate.InSet{Fields: bySource6, Set: setUses6, Not: true})...))
	}
	return rules
}

// rules6 are rules4 for IPv6. Guests choose link-local addresses as they like
// (RFC 7217), so any passes but the host's.
func (g guarded) rules6() []hoststate.Rule {
	var rules []hoststate.Rule
	if g.NoDHCPServer {
		rules = append(rules, dropped(dropServer, udpFrom(etherIPv6, dhcp6Port)...))
	}
	if g.NoRA {
		rules = append(rules, dropped(dropRouter, icmp6(routerAdvertisement)...))
	}
	if g.NoRA || g.NoARPSpoof {
		rules = append(rules, dropped(dropRouter, icmp6(redirect)...))
	}
	rules = append(rules, g.rulesND()...)
	if !g.NoIPSpoof {
		return rules
	}
	for _, a := range g.gatewaysOf(netip.Addr.Is6) {
		rules = append(rules, dropped(dropAddress, hoststate.Source{Prefix: single(a)}))
	}
	rules = append(rules, rule(hoststate.InSet{Fields: bySource6, Set: setUses6}, verdict(hoststate.Accept)),
		rule(hoststate.Source{Prefix: unspecified6}, hoststate.L4Proto{Proto: hoststate.ICMPv6}, verdict(hoststate.Accept)))
	for _, p := range append([]netip.Prefix{linkLocals}, g.prefixesOf(netip.Addr.Is6)...) {
		rules = append(rules, rule(hoststate.Source{Prefix: p}, verdict(hoststate.Accept)))
	}
	return append(rules, dropped(dropAddress, etherIs(etherIPv6)))
}

// rules are those of all protocols but ARP, the most frequent one first.
func (g guarded) rules() []hoststate.Rule {
	rules := append(g.frameRules(), g.rules4()...)
	if g.NoIPSpoof || g.NoARPSpoof {
		// The kernel looks behind one VLAN tag. Behind two, addresses would go unseen.
		rules = append(rules, dropped(dropTags, etherIs(etherVLAN)), dropped(dropTags, etherIs(etherQinQ)))
	}
	return append(rules, g.rules6()...)
}

// addPortGuards hangs a chain behind each port that is guarded; what its guest
// may send does not depend on how many guests there are. On a bridge that is
// guarded against loops the port's chain begins with that, and the others have
// only that. loop is nil if the bridge is not.
func addPortGuards(f *Fragment, n *netdef.Network, ports []Port, loop []hoststate.Rule) {
	guards := GuardsOf(n)
	for _, p := range ports {
		guard := guards.Of(p.Def.MAC, p.Guard)
		switch {
		case guard == nil && loop != nil:
			hang(f, mapPorts, p.Link, hoststate.Goto, portChain(p.Link, loop))
		case guard == nil:
		case guard.Routed:
			addRoutedGuard(f, newGuarded(n, p, guard))
		default:
			addBridgedGuard(f, newGuarded(n, p, guard), loop)
		}
	}
}

func addBridgedGuard(f *Fragment, g guarded, loop []hoststate.Rule) {
	f.Shared.Add(baseGuard()...)
	f.Shared.Add(usesSets(Guard)...)
	hang(f, mapPorts, g.link, hoststate.Goto, portChain(g.link, slices.Concat(loop, g.rules(), g.rulesARP())))
	if len(g.Only) > 0 {
		f.Shared.Add(baseGuardTo()...)
		hang(f, mapToPorts, g.link, hoststate.Goto, portChainTo(g.link, []hoststate.Rule{g.onlyRule()}))
	}
	g.addUses(f, Guard)
}

func addRoutedGuard(f *Fragment, g guarded) {
	f.Shared.Add(baseRouted()...)
	hang(f, mapGuarded, g.link, hoststate.Goto, routedChain(Filter, g.link, append(g.rules(), rule(verdict(hoststate.Accept)))))
	hang(f, mapGuarded, g.link, hoststate.Goto, routedChain(GuardARP, g.link, g.rulesARP()))
	g.addUses(f, Filter)
	g.addUses(f, GuardARP)
	for _, a := range g.addrs {
		set := setBehind4
		if a.Is6() {
			set = setBehind6
		}
		f.Own.Add(hoststate.Element{Table: Filter, Set: set, Fields: []hoststate.Value{hoststate.Addr(a)}})
	}
}

// addUses lists the guest's addresses in the sets of a table.
func (g guarded) addUses(f *Fragment, table hoststate.TableRef) {
	for _, a := range g.addrs {
		if a.Is4() || table.Family != hoststate.ARPFamily {
			f.Own.Add(use(table, g.link, a))
		}
	}
}

func usesSets(table hoststate.TableRef) []hoststate.Object {
	sets := []hoststate.Object{hoststate.Set{Table: table, Name: setUses4, Fields: bySource4}}
	if table.Family != hoststate.ARPFamily {
		sets = append(sets, hoststate.Set{Table: table, Name: setUses6, Fields: bySource6})
	}
	return sets
}

// baseGuardTo is what ports share to whose guests not everything is sent.
func baseGuardTo() []hoststate.Object {
	hook := hoststate.Hook{Type: "filter", Hook: "postrouting", Priority: -300}
	return []hoststate.Object{
		hoststate.Set{Table: Guard, Name: mapToPorts, Fields: byOut, Verdicts: true},
		hoststate.Chain{Table: Guard, Name: "postrouting", Hook: &hook, Rules: []hoststate.Rule{
			rule(hoststate.VMap{Fields: byOut, Map: mapToPorts}),
		}},
	}
}

// baseRouted is what guarded links without a bridge share. What passed a
// guest's own chain is accepted there; whoever else uses an address that is
// behind such a link is no guest, or not that one.
func baseRouted() []hoststate.Object {
	raw := hoststate.Hook{Type: "filter", Hook: "prerouting", Priority: -300}
	arp := hoststate.Hook{Type: "filter", Hook: "input", Priority: filterPriority}
	return slices.Concat([]hoststate.Object{
		hoststate.Table{Ref: Filter}, hoststate.Table{Ref: GuardARP},
		verdictMap(mapGuarded, byIn),
		hoststate.Set{Table: GuardARP, Name: mapGuarded, Fields: byIn, Verdicts: true},
		hoststate.Set{Table: Filter, Name: setBehind4, Fields: []hoststate.Field{hoststate.FieldSAddr4}},
		hoststate.Set{Table: Filter, Name: setBehind6, Fields: []hoststate.Field{hoststate.FieldSAddr6}},
		baseChain("unrouted", raw,
			rule(hoststate.VMap{Fields: byIn, Map: mapGuarded}),
			dropped(dropAddress, hoststate.InSet{Fields: []hoststate.Field{hoststate.FieldSAddr4}, Set: setBehind4}),
			dropped(dropAddress, hoststate.InSet{Fields: []hoststate.Field{hoststate.FieldSAddr6}, Set: setBehind6})),
		hoststate.Chain{Table: GuardARP, Name: "received", Hook: &arp, Rules: []hoststate.Rule{rule(hoststate.VMap{Fields: byIn, Map: mapGuarded})}},
	}, usesSets(Filter), usesSets(GuardARP))
}
