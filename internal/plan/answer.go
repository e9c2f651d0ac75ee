package plan

import (
	"net/netip"
	"slices"

	"viaduct/internal/hoststate"
	"viaduct/internal/netdef"
)

// addAnswer makes the host answer for a guest's address, or IPv4 network of
// addresses, on a link. It answers at once: to wait first, as the kernel would,
// leaves time to somebody who knows better, and there is nobody.
func addAnswer(f *Fragment, link string, a netip.Prefix, facts Facts) {
	v6, one := a.Addr().Is6(), a.IsSingleIP()
	switch {
	case link == "" || v6 && (facts.NoIPv6 || !one): // IPv6 answers for single addresses alone
		return
	case one:
		f.Own.Add(hoststate.Proxy{Link: link, Addr: a.Addr()})
	default:
		// For whatever the host has a route to by another link.
		f.Shared.Add(hoststate.Sysctl{Name: "net/ipv4/conf/" + link + "/proxy_arp", Value: "1", Link: link})
	}
	version := "ipv4"
	if v6 {
		version = "ipv6"
		f.Shared.Add(ipv6Sysctl(link, "proxy_ndp", "1"))
		if facts.ForceForwarding {
			// Only a router on that link answers for others.
			f.Shared.Add(ipv6Sysctl(link, "forwarding", "1"))
		}
	}
	f.Shared.Add(hoststate.Sysctl{Name: "net/" + version + "/neigh/" + link + "/proxy_delay", Value: "0", Link: link})
}

// answerable is a network of a guest's in the parts that addAnswer answers for: an
// IPv6 network that is not too large by its addresses.
func answerable(network netip.Prefix) []netip.Prefix {
	if network.Addr().Is4() || network.IsSingleIP() || !isWhole(network) {
		return []netip.Prefix{network}
	}
	var list []netip.Prefix
	for a := network.Masked().Addr(); network.Contains(a); a = a.Next() {
		list = append(list, single(a))
	}
	return list
}

// answeredWhole is the size up to which the host answers for all addresses of a
// subnet. In larger ones it answers for those that DHCP has given away or keeps
// for somebody.
const answeredWhole = 1 << 10

// isWhole reports whether the host answers for all addresses of the subnet.
func isWhole(subnet netip.Prefix) bool {
	return 1<<min(subnet.Addr().BitLen()-subnet.Bits(), 30) <= answeredWhole
}

// Answers reports whether the host answers elsewhere for guests of the network.
func Answers(n *netdef.Network) bool {
	s, err := n.Settings()
	return err == nil && s.Answer != ""
}

// AnswersLeases reports whether the host answers elsewhere for those guests of
// the network that have leases, so that a lease is a change of what it has.
func AnswersLeases(n *netdef.Network) bool {
	return Answers(n) && slices.ContainsFunc(subnets(n), func(p netip.Prefix) bool { return !isWhole(p) })
}

// AnswerKey is the host's answering for an address of the network's. The
// settings are the network's.
func AnswerKey(s netdef.Settings, a netip.Addr) hoststate.Key {
	return hoststate.Proxy{Link: s.Answer, Addr: a}.Key()
}

// addAnswers makes the host answer for the network's guests on the link that
// its settings name, once that is there. Guests whose addresses are translated
// are nobody's neighbours.
func addAnswers(f *Fragment, n *netdef.Network, link string, facts Facts) {
	if !slices.Contains(facts.Uplinks, link) {
		return
	}
	for _, ip := range n.IPs {
		if translated(n, ip.Subnet()) {
			continue
		}
		for _, a := range answered(ip, facts.Leases) {
			addAnswer(f, link, single(a), facts)
		}
	}
}

// answered are the addresses of a subnet for which the host answers.
func answered(ip netdef.IP, leases []netip.Addr) []netip.Addr {
	subnet := ip.Subnet()
	list := []netip.Addr{ip.Address}
	if !isWhole(subnet) {
		for _, h := range ip.Hosts {
			list = append(list, h.IP)
		}
		return slices.DeleteFunc(append(list, leases...), func(a netip.Addr) bool { return !subnet.Contains(a) })
	}
	inner := subnet.Addr().BitLen()-subnet.Bits() > 1
	for a := subnet.Addr(); subnet.Contains(a); a = a.Next() {
		first, last := a == subnet.Addr(), !subnet.Contains(a.Next()) && a.Is4()
		if !inner || !first && !last {
			list = append(list, a)
		}
	}
	return list
}
