package netdef

import (
	"net/netip"
	"strconv"
	"strings"
)

// Inbound is what may begin connections to guests from outside their network:
//
//	<viaduct:inbound to='192.0.2.9' from='198.51.100.0/24' protocol='tcp' port='22'/>
//	<viaduct:inbound to='192.0.2.10' allow='no'/>
//
// Guests whose addresses are named by one or more are reached by nothing else,
// but for answers to what they begin themselves. Others are reached as the
// forward mode says. Where the kernel has tracked no connections before, it does
// not know who began those that there are: TCP connections of guests that are
// named then end with the first such element.
type Inbound struct {
	To netip.Prefix // the guests
	// From is who may begin; an invalid one stands for anybody.
	From netip.Prefix
	// Protocol is "tcp", "udp", "icmp" (ICMPv6 in IPv6), or "" for all.
	Protocol string
	// FirstPort and LastPort are of TCP or UDP; 0 for all.
	FirstPort, LastPort uint16
	// Nothing says that the element only closes the guests.
	Nothing bool
}

func (r *reader) inbound(e *element) Inbound {
	i := Inbound{To: r.prefix(e, "to"), From: r.prefix(e, "from"), Protocol: r.choice(e, "protocol", "tcp", "udp", "icmp")}
	r.refuse(!i.To.IsValid(), e, ErrXML, "missing attribute 'to' of element '%s' in network '%s'", e.qname(), r.network)
	r.refuse(i.To.IsValid() && i.From.IsValid() && i.To.Addr().Is4() != i.From.Addr().Is4(), e, ErrXML,
		"'to' and 'from' of element '%s' in network '%s' are not of the same family", e.qname(), r.network)
	i.Nothing = r.choice(e, "allow", "yes", "no") == "no"
	r.refuse(i.Nothing && (i.From.IsValid() || i.Protocol != ""), e, ErrXML,
		"element '%s' in network '%s' cannot have both allow='no' and what is allowed", e.qname(), r.network)
	text, given := e.lookup("port")
	if !given {
		return i
	}
	r.refuse(i.Protocol != "tcp" && i.Protocol != "udp", e, ErrXML, "attribute 'port' of element '%s' in network '%s' needs protocol='tcp' or 'udp'", e.qname(), r.network)
	first, last, isRange := strings.Cut(text, "-")
	if !isRange {
		last = first
	}
	var ok [2]bool
	i.FirstPort, ok[0] = portNumber(first)
	i.LastPort, ok[1] = portNumber(last)
	r.refuse(!ok[0] || !ok[1] || i.FirstPort > i.LastPort, e, ErrXML, "Invalid value '%s' of attribute 'port' in element '%s': no port, and no range of ports", text, e.qname())
	return i
}

// portNumber reads a port from 1 on.
func portNumber(text string) (uint16, bool) {
	n, err := strconv.ParseUint(text, 10, 16)
	return uint16(n), err == nil && n > 0
}

// checkInbound refuses elements that cannot mean anything in the network.
func (n *Network) checkInbound(s Settings) *Error {
	if len(s.Inbound) == 0 {
		return nil
	}
	switch n.Forward.Mode {
	case ModeNAT, ModeRoute:
	default:
		return Errorf(ErrConfigUnsupported, "<inbound> in network '%s' has no meaning, since Viaduct forwards nothing to its guests", n.Name)
	}
	for _, i := range s.Inbound {
		if s.Routed {
			break // its ports say which addresses there are
		}
		if !n.hasGuest(i.To) {
			return Errorf(ErrConfigUnsupported, "<inbound> in network '%s' names %s, which is in none of its subnets", n.Name, i.To)
		}
	}
	return nil
}

// hasGuest reports whether a network of addresses is in a subnet of n's.
func (n *Network) hasGuest(p netip.Prefix) bool {
	for _, ip := range n.IPs {
		if subnet := ip.Subnet(); subnet.Contains(p.Addr()) && subnet.Bits() <= p.Bits() {
			return true
		}
	}
	return false
}
