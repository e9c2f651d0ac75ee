package plan

import (
	"net/netip"

	"viaduct/internal/hoststate"
	"viaduct/internal/netdef"
)

// The tables that hold all our rules. What a packet costs does not depend on
// how many networks there are: each base chain makes one look-up in a map by
// link name and then walks one small chain.
var (
	Filter = hoststate.TableRef{Family: hoststate.Inet, Name: "viaduct"}
	Guard  = hoststate.TableRef{Family: hoststate.BridgeFamily, Name: "viaduct"}
)

// Tables are all tables that belong to Viaduct.
var Tables = []hoststate.TableRef{Filter, Guard, GuardARP}

const (
	dnsPort   = 53
	dhcp4Port = 67
	tftpPort  = 69
	dhcp6Port = 547

	// filterPriority puts our chains before those of others, which look at the
	// mark that ours set.
	filterPriority = -10
)

// The maps of the inet table lead from a link to the chain of its network.
const (
	mapInput     = "input_from"    // packets for the host, by incoming link
	mapFrom      = "forward_from"  // forwarded packets, by incoming link
	mapTo        = "forward_to"    // forwarded packets, by outgoing link
	mapNAT       = "nat_from"      // first packets of forwarded connections, by incoming link
	mapRedirect  = "redirect_from" // connections to the host, by incoming link
	setServices  = "services"      // by address and port, what is served to one network only
	setServices6 = "services6"     // the same in IPv6
)

func rule(exprs ...hoststate.Expr) hoststate.Rule { return exprs }

// accepted ends a rule that lets a packet through, as far as we are concerned:
// the mark lets it through the chains of others, where a Pass is.
func accepted(k hoststate.VerdictKind, matches ...hoststate.Expr) hoststate.Rule {
	return append(matches, hoststate.Mark{Bits: hoststate.PassMark}, verdict(k))
}

func verdict(k hoststate.VerdictKind) hoststate.Verdict { return hoststate.Verdict{Kind: k} }

var (
	byIn       = []hoststate.Field{hoststate.FieldIIFName}
	byOut      = []hoststate.Field{hoststate.FieldOIFName}
	byService  = []hoststate.Field{hoststate.FieldDAddr4, hoststate.FieldDPort}
	byService6 = []hoststate.Field{hoststate.FieldDAddr6, hoststate.FieldDPort}
	transports = []hoststate.Proto{hoststate.TCP, hoststate.UDP}

	broadcast  = netip.MustParsePrefix("255.255.255.255/32")
	multicast  = netip.MustParsePrefix("224.0.0.0/4")
	multicast6 = netip.MustParsePrefix("ff00::/8")
)

func verdictMap(name string, fields []hoststate.Field) hoststate.Set {
	return hoststate.Set{Table: Filter, Name: name, Fields: fields, Verdicts: true}
}

func filterChain(name string, rules ...hoststate.Rule) hoststate.Chain {
	return hoststate.Chain{Table: Filter, Name: name, Rules: rules}
}

func baseChain(name string, hook hoststate.Hook, rules ...hoststate.Rule) hoststate.Chain {
	return hoststate.Chain{Table: Filter, Name: name, Hook: &hook, Rules: rules}
}

// baseFilter is what every network with a firewall shares. In the forward
// chain the map by incoming link comes first and only returns what may leave;
// the map by outgoing link decides what may enter. So no connection, however
// established, passes without both networks' own chains.
func baseFilter() []hoststate.Object {
	input := []hoststate.Rule{
		rule(hoststate.InIface{Name: "lo"}, verdict(hoststate.Accept)),
		rule(hoststate.VMap{Fields: byIn, Map: mapInput}),
	}
	for _, proto := range transports {
		input = append(input,
			rule(hoststate.L4Proto{Proto: proto}, hoststate.VMap{Fields: byService, Map: setServices}),
			rule(hoststate.L4Proto{Proto: proto}, hoststate.VMap{Fields: byService6, Map: setServices6}))
	}
	return []hoststate.Object{
		hoststate.Table{Ref: Filter},
		verdictMap(mapInput, byIn), verdictMap(mapFrom, byIn), verdictMap(mapTo, byOut),
		verdictMap(setServices, byService), verdictMap(setServices6, byService6),
		baseChain("input", hoststate.Hook{Type: "filter", Hook: "input", Priority: filterPriority}, input...),
		baseChain("forward", hoststate.Hook{Type: "filter", Hook: "forward", Priority: filterPriority},
			rule(hoststate.VMap{Fields: byIn, Map: mapFrom}),
			rule(hoststate.VMap{Fields: byOut, Map: mapTo})),
	}
}

// baseNAT is what networks with masquerading share.
func baseNAT() []hoststate.Object {
	return []hoststate.Object{
		verdictMap(mapNAT, byIn),
		baseChain("postrouting", hoststate.Hook{Type: "nat", Hook: "postrouting", Priority: 100},
			rule(hoststate.VMap{Fields: byIn, Map: mapNAT})),
	}
}

// baseRedirect is what networks share whose DNS is not on port 53.
func baseRedirect() []hoststate.Object {
	return []hoststate.Object{
		verdictMap(mapRedirect, byIn),
		baseChain("prerouting", hoststate.Hook{Type: "nat", Hook: "prerouting", Priority: -100},
			rule(hoststate.VMap{Fields: byIn, Map: mapRedirect})),
	}
}

// hang adds a chain of the network and the map element that leads to it.
func hang(f *Fragment, mapName, link string, how hoststate.VerdictKind, chain hoststate.Chain) {
	f.Own.Add(chain, hoststate.Element{
		Table: chain.Table, Set: mapName, Fields: []hoststate.Value{hoststate.IfName(link)},
		Verdict: &hoststate.Verdict{Kind: how, Chain: chain.Name},
	})
}

func addFirewall(f *Fragment, n *netdef.Network, facts Facts) {
	link := n.Bridge.Name
	f.Shared.Add(baseFilter()...)
	for _, p := range facts.Passes {
		f.Shared.Add(p)
	}
	hang(f, mapInput, link, hoststate.Jump, filterChain("input_"+link, inputRules(n, facts)...))
	addServiceGuard(f, n, facts)
	if n.Forward.Mode != netdef.ModeOpen {
		hang(f, mapFrom, link, hoststate.Jump, leavingChain(link, leavingRules(n)...))
		hang(f, mapTo, link, hoststate.Goto, enteringChain(link, enteringRules(n)...))
	}
	switch {
	case n.Forward.Mode == netdef.ModeNAT:
		f.Shared.Add(baseNAT()...)
		hang(f, mapNAT, link, hoststate.Goto, filterChain("nat_"+link, natRules(n)...))
	case facts.Translated && n.Forward.Mode != netdef.ModeNone:
		// Tried: with the last chain for translation, or the last rule that asks
		// about connections, the kernel also gives up translating those that go
		// on. So both stay, but nothing leads to the rule.
		f.Shared.Add(baseNAT()...)
		f.Own.Add(filterChain("nat_"+link, rule(hoststate.CTState{Established: true, Related: true})))
	}
	if ServesDNS(n) && facts.DNSPort != dnsPort {
		f.Shared.Add(baseRedirect()...)
		hang(f, mapRedirect, link, hoststate.Goto, filterChain("redirect_"+link, redirectRules(n, facts)...))
	}
}

// addPassing lets what goes from port to port of a bridge of the host's past
// foreign chains, if there are some. Networks on the same bridge share it.
func addPassing(f *Fragment, bridge string, facts Facts) {
	if len(facts.Passes) == 0 {
		return
	}
	f.Shared.Add(baseFilter()...)
	for _, p := range facts.Passes {
		f.Shared.Add(p)
	}
	chain := filterChain("from_"+bridge, accepted(hoststate.Accept, hoststate.OutIface{Name: bridge}))
	f.Shared.Add(chain, hoststate.Element{
		Table: Filter, Set: mapFrom, Fields: []hoststate.Value{hoststate.IfName(bridge)}, Verdict: &hoststate.Verdict{Kind: hoststate.Jump, Chain: chain.Name},
	})
}

// addServiceGuard closes the network's services to whoever was not accepted before.
func addServiceGuard(f *Fragment, n *netdef.Network, facts Facts) {
	closed := closedChain(n.Bridge.Name, dropped(dropClosed))
	to := &hoststate.Verdict{Kind: hoststate.Goto, Chain: closed.Name}
	service := func(ip netdef.IP, port uint16) {
		set := setServices
		if ip.Address.Is6() {
			set = setServices6
		}
		f.Own.Add(closed, hoststate.Element{
			Table: Filter, Set: set, Fields: []hoststate.Value{hoststate.Addr(ip.Address), hoststate.Port(port)}, Verdict: to,
		})
	}
	for _, ip := range n.IPs {
		for _, port := range dnsPorts(n, facts) {
			service(ip, port)
		}
	}
	for _, ip := range tftpIPs(n) {
		service(ip, tftpPort)
	}
}

// dnsPorts are the ports at the bridge's addresses that belong to the network's DNS.
func dnsPorts(n *netdef.Network, facts Facts) []uint16 {
	switch {
	case !ServesDNS(n):
		return nil
	case facts.DNSPort != dnsPort:
		return []uint16{dnsPort, facts.DNSPort}
	}
	return []uint16{dnsPort}
}

// inputRules let guests reach the services the host has for them. Everything
// else at the host stays what the host's own firewall makes of it.
func inputRules(n *netdef.Network, facts Facts) []hoststate.Rule {
	var rules []hoststate.Rule
	udp := hoststate.L4Proto{Proto: hoststate.UDP}
	switch {
	case servesDHCP4(n) && facts.Dnsmasq.Serves(n):
		rules = append(rules, accepted(hoststate.Accept, udp, hoststate.DPort{First: dhcp4Port}))
	case servesDHCP4(n):
		// The server reads from a packet socket, which sees requests before any
		// rule does. Dropping them here spares guests an ICMP error.
		rules = append(rules, rule(udp, hoststate.DPort{First: dhcp4Port}, verdict(hoststate.Drop)))
	}
	if hasFamily(n, netip.Addr.Is6) {
		// Neighbour discovery, router solicitations and ping; and DHCPv6, whose
		// server hears guests by an ordinary socket.
		rules = append(rules, accepted(hoststate.Accept, hoststate.L4Proto{Proto: hoststate.ICMPv6}),
			accepted(hoststate.Accept, hoststate.NFProto{Version: 6}, hoststate.L4Proto{Proto: hoststate.UDP}, hoststate.DPort{First: dhcp6Port}))
	}
	for _, ip := range n.IPs {
		for _, port := range dnsPorts(n, facts) {
			for _, proto := range transports {
				rules = append(rules, accepted(hoststate.Accept, hoststate.Destination{Prefix: single(ip.Address)},
					hoststate.L4Proto{Proto: proto}, hoststate.DPort{First: port}))
			}
		}
	}
	for _, ip := range tftpIPs(n) {
		rules = append(rules, accepted(hoststate.Accept, hoststate.Destination{Prefix: single(ip.Address)},
			hoststate.L4Proto{Proto: hoststate.UDP}, hoststate.DPort{First: tftpPort}))
	}
	return rules
}

// clampMSS keeps TCP working where links of different MTU meet and somebody
// drops the ICMP messages that say so. Every path through the host is clamped,
// in both directions, since MTUs change without anybody telling us.
var clampMSS = rule(hoststate.SYN{}, hoststate.ClampMSS{})

// leavingRules decide on what guests send through the host. What they return
// goes on to the chain of the network it would enter, if it is ours.
func leavingRules(n *netdef.Network) []hoststate.Rule {
	rules := []hoststate.Rule{accepted(hoststate.Accept, hoststate.OutIface{Name: n.Bridge.Name})}
	if n.Forward.Mode != netdef.ModeNone {
		rules = append(rules, clampMSS)
		rules = append(rules, answersOnly(n)...)
		for _, net := range subnets(n) {
			r := rule(hoststate.Source{Prefix: net})
			if dev := n.Forward.Dev(); dev != "" {
				r = append(r, hoststate.OutIface{Name: dev})
			}
			rules = append(rules, accepted(hoststate.Return, r...))
		}
	}
	return append(rules, refused(dropOut))
}

// translated reports whether guests of the subnet leave with the host's
// address. IPv6 is routed unless NAT is asked for.
func translated(n *netdef.Network, subnet netip.Prefix) bool {
	if n.Forward.Mode != netdef.ModeNAT {
		return false
	}
	return subnet.Addr().Is4() || (n.Forward.NAT != nil && n.Forward.NAT.IPv6 == netdef.Yes)
}

// enteringRules decide on what would reach the guests through the host.
func enteringRules(n *netdef.Network) []hoststate.Rule {
	var rules []hoststate.Rule
	if n.Forward.Mode != netdef.ModeNone {
		rules = append(rules, clampMSS)
		rules = append(rules, inboundRules(n)...)
		for _, net := range subnets(n) {
			var r hoststate.Rule
			if dev := n.Forward.Dev(); dev != "" {
				r = append(r, hoststate.InIface{Name: dev})
			}
			r = append(r, hoststate.Destination{Prefix: net})
			if translated(n, net) {
				r = append(r, hoststate.CTState{Established: true, Related: true})
			}
			rules = append(rules, accepted(hoststate.Accept, r...))
		}
	}
	return append(rules, refused(dropIn))
}

// natRules give guests' connections the host's address. Multicast and
// broadcast keep theirs, and so does what stays within the network.
func natRules(n *netdef.Network) []hoststate.Rule {
	var rules []hoststate.Rule
	untouched := subnets(n)
	if hasFamily(n, netip.Addr.Is4) {
		untouched = append(untouched, multicast, broadcast)
	}
	if hasFamily(n, netip.Addr.Is6) {
		untouched = append(untouched, multicast6)
	}
	for _, net := range untouched {
		rules = append(rules, rule(hoststate.Destination{Prefix: net}, verdict(hoststate.Return)))
	}
	rules = append(rules, exemptions(n)...)
	for _, net := range subnets(n) {
		if !translated(n, net) {
			continue
		}
		match := rule(hoststate.Source{Prefix: net})
		if dev := n.Forward.Dev(); dev != "" {
			match = append(match, hoststate.OutIface{Name: dev})
		}
		for _, proto := range transports {
			r := append(match[:len(match):len(match)], hoststate.L4Proto{Proto: proto})
			rules = append(rules, append(r, translation(n.Forward.NAT, net, true)))
		}
		rules = append(rules, append(match, translation(n.Forward.NAT, net, false)))
	}
	return rules
}

// exemptions let connections keep the guest's address.
func exemptions(n *netdef.Network) []hoststate.Rule {
	settings, err := n.Settings()
	if err != nil {
		return nil // a definition with such settings is never planned
	}
	var rules []hoststate.Rule
	for _, e := range settings.Exempt {
		var r hoststate.Rule
		if e.Source.IsValid() {
			r = append(r, hoststate.Source{Prefix: e.Source})
		}
		if e.Destination.IsValid() {
			r = append(r, hoststate.Destination{Prefix: e.Destination})
		}
		rules = append(rules, append(r, verdict(hoststate.Return)))
	}
	return rules
}

// translation is the statement that rewrites source addresses of the subnet,
// for protocols with ports or without.
func translation(nat *netdef.NAT, subnet netip.Prefix, ports bool) hoststate.Expr {
	var first, last uint16
	if ports {
		// Privileged ports stay the host's own.
		first, last = 1024, 65535
		if nat != nil && (nat.PortStart != 0 || nat.PortEnd != 0) {
			first, last = nat.PortStart, nat.PortEnd
		}
	}
	if nat != nil && nat.AddressStart.IsValid() && subnet.Addr().Is4() {
		return hoststate.SNAT{First: nat.AddressStart, Last: nat.AddressEnd, FirstPort: first, LastPort: last}
	}
	return hoststate.Masquerade{FirstPort: first, LastPort: last}
}

func redirectRules(n *netdef.Network, facts Facts) []hoststate.Rule {
	var rules []hoststate.Rule
	for _, ip := range n.IPs {
		for _, proto := range transports {
			rules = append(rules, rule(hoststate.Destination{Prefix: single(ip.Address)}, hoststate.L4Proto{Proto: proto},
				hoststate.DPort{First: dnsPort}, hoststate.Redirect{Port: facts.DNSPort}))
		}
	}
	return rules
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
