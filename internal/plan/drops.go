package plan

import (
	"viaduct/internal/hoststate"
	"viaduct/internal/netdef"
)

// The reasons why rules drop what they do, as people read them.
const (
	dropOut      = "not allowed out"
	dropIn       = "not allowed in"
	dropInbound  = "not in the guest's inbound settings"
	dropClosed   = "DNS of this network only"
	dropSTP      = "spanning tree"
	dropLoop     = "loop"
	dropProtocol = "protocol not allowed"
	dropMAC      = "not its MAC address"
	dropAddress  = "not its address"
	dropARP      = "not its address in ARP"
	dropND       = "not its address in neighbour discovery"
	dropServer   = "DHCP server"
	dropRouter   = "router advertisement"
	dropTags     = "VLAN tag"
)

// dropped makes a rule that drops, and counts what it dropped for the reason.
func dropped(reason string, matches ...hoststate.Expr) hoststate.Rule {
	return append(matches, hoststate.Counter{}, verdict(hoststate.Drop), hoststate.Because{Reason: reason})
}

// refused makes a rule that drops, counts and tells the sender.
func refused(reason string, matches ...hoststate.Expr) hoststate.Rule {
	return append(matches, hoststate.Counter{}, hoststate.Reject{}, hoststate.Because{Reason: reason})
}

// The chains whose rules drop. All have fixed names, so that their counters are
// found without a plan.

func leavingChain(bridge string, rules ...hoststate.Rule) hoststate.Chain {
	return filterChain("from_"+bridge, rules...)
}

func enteringChain(bridge string, rules ...hoststate.Rule) hoststate.Chain {
	return filterChain("to_"+bridge, rules...)
}

// closedChain is where packets end that are for services of the network's guests and come from others.
func closedChain(bridge string, rules ...hoststate.Rule) hoststate.Chain {
	return filterChain("closed_"+bridge, rules...)
}

// portChain is about what comes from the guest at a port of a bridge.
func portChain(link string, rules []hoststate.Rule) hoststate.Chain {
	return hoststate.Chain{Table: Guard, Name: "port_" + link, Rules: rules}
}

// portChainTo is about what goes to it.
func portChainTo(link string, rules []hoststate.Rule) hoststate.Chain {
	return hoststate.Chain{Table: Guard, Name: "to_" + link, Rules: rules}
}

// routedChain is about what comes from the guest at a routed link.
func routedChain(table hoststate.TableRef, link string, rules []hoststate.Rule) hoststate.Chain {
	return hoststate.Chain{Table: table, Name: "guest_" + link, Rules: rules}
}

// NetworkDroppers are the chains that drop packets for the network's sake,
// whatever port they belong to.
func NetworkDroppers(n *netdef.Network) []hoststate.Chain {
	return []hoststate.Chain{leavingChain(n.Bridge.Name), enteringChain(n.Bridge.Name), closedChain(n.Bridge.Name)}
}

// PortDroppers are the chains that drop what comes from the guest at a port, and
// what goes to it.
func PortDroppers(link string) (from, to []hoststate.Chain) {
	return []hoststate.Chain{portChain(link, nil), routedChain(Filter, link, nil), routedChain(GuardARP, link, nil)},
		[]hoststate.Chain{portChainTo(link, nil)}
}
