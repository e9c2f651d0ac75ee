package plan

import (
	"net/netip"
	"slices"

	"viaduct/internal/hoststate"
	"viaduct/internal/netdef"
)

// closedGuests are the guests of a network that are reached from outside only as
// the network's settings say, each once.
func closedGuests(n *netdef.Network) (guests []netip.Prefix, settings netdef.Settings) {
	settings, err := n.Settings()
	if err != nil {
		return nil, settings // a definition with such settings is never planned
	}
	for _, i := range settings.Inbound {
		if !slices.Contains(guests, i.To) && slices.ContainsFunc(subnets(n), i.To.Overlaps) {
			guests = append(guests, i.To)
		}
	}
	return guests, settings
}

// inboundRules let in what may begin connections to guests that are closed
// otherwise, and answers to what they began.
func inboundRules(n *netdef.Network) []hoststate.Rule {
	guests, settings := closedGuests(n)
	var rules []hoststate.Rule
	for _, g := range guests {
		rules = append(rules, accepted(hoststate.Accept, hoststate.Destination{Prefix: g}, hoststate.CTState{Established: true, Related: true}))
	}
	for _, i := range settings.Inbound {
		if i.Nothing || !slices.Contains(guests, i.To) {
			continue
		}
		r := rule(hoststate.Destination{Prefix: i.To})
		if dev := n.Forward.Dev(); dev != "" {
			r = append(r, hoststate.InIface{Name: dev})
		}
		if i.From.IsValid() {
			r = append(r, hoststate.Source{Prefix: i.From})
		}
		switch i.Protocol {
		case "tcp":
			r = append(r, hoststate.L4Proto{Proto: hoststate.TCP})
		case "udp":
			r = append(r, hoststate.L4Proto{Proto: hoststate.UDP})
		case "icmp":
			proto := hoststate.ICMP
			if i.To.Addr().Is6() {
				proto = hoststate.ICMPv6
			}
			r = append(r, hoststate.L4Proto{Proto: proto})
		}
		if i.FirstPort > 0 {
			r = append(r, hoststate.DPort{First: i.FirstPort, Last: i.LastPort})
		}
		rules = append(rules, accepted(hoststate.Accept, r...))
	}
	for _, g := range guests {
		rules = append(rules, refused(dropInbound, hoststate.Destination{Prefix: g}))
	}
	return rules
}

// answersOnly keep guests that are closed from going on with a connection that
// was begun from outside and has been forbidden since: the kernel would take
// what they send for the beginning of one.
func answersOnly(n *netdef.Network) []hoststate.Rule {
	guests, _ := closedGuests(n)
	var rules []hoststate.Rule
	for _, g := range guests {
		tcp := rule(hoststate.Source{Prefix: g}, hoststate.L4Proto{Proto: hoststate.TCP}, hoststate.CTState{New: true})
		rules = append(rules, refused(dropOut, append(tcp, hoststate.SYN{Not: true})...))
	}
	return rules
}
