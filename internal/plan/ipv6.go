package plan

import (
	"net/netip"
	"slices"

	"viaduct/internal/hoststate"
	"viaduct/internal/netdef"
)

func ipv6Sysctl(link, name, value string) hoststate.Sysctl {
	return hoststate.Sysctl{Name: "net/ipv6/conf/" + link + "/" + name, Value: value, Link: link}
}

// ForceForwarding names the setting by which the kernel forwards IPv6 on one
// link, whatever the setting for all links is (Linux 6.17).
func ForceForwarding(link string) hoststate.Key {
	return ipv6Sysctl(link, "force_forwarding", "1").Key()
}

// addIPv6 says how the kernel treats IPv6 on the bridge and, if guests may
// leave their network, on the links that lead out.
func addIPv6(f *Fragment, n *netdef.Network, facts Facts) {
	if facts.NoIPv6 {
		return
	}
	bridge := n.Bridge.Name
	// Without an IPv6 address of its own the bridge stays out of IPv6, and it
	// never listens to router advertisements of guests.
	disabled := "1"
	if hasFamily(n, netip.Addr.Is6) {
		disabled = "0"
	}
	f.Own.Add(ipv6Sysctl(bridge, "disable_ipv6", disabled), ipv6Sysctl(bridge, "accept_ra", "0"), ipv6Sysctl(bridge, "autoconf", "0"))
	if disabled == "0" {
		// The link-local address is in the plan, see linkLocal.
		f.Own.Add(ipv6Sysctl(bridge, "addr_gen_mode", "1"), ipv6Sysctl(bridge, "ndisc_notify", "1"))
	}
	if disabled == "1" || n.Forward.Mode == netdef.ModeNone {
		return
	}
	uplinks := facts.Uplinks
	if dev := n.Forward.Dev(); dev != "" {
		uplinks = slices.DeleteFunc(slices.Clone(uplinks), func(l string) bool { return l != dev })
	}
	// A host on which a link forwards takes itself for a router and drops what it
	// learned from other routers, its own way out included, unless told to keep
	// listening: accept_ra 2, before forwarding is turned on.
	for _, l := range facts.RALinks {
		f.Shared.Add(ipv6Sysctl(l, "accept_ra", "2"))
	}
	if !facts.ForceForwarding {
		f.Shared.Add(hoststate.Sysctl{Name: "net/ipv6/conf/all/forwarding", Value: "1"})
		return
	}
	// A packet is forwarded by the setting of the link it came in by, so the way
	// back needs it on the uplinks. On the bridge the host is a router in all
	// respects: if it did not say so in neighbour discovery too, guests would
	// drop their route to it (RFC 4861 section 7.2.5).
	f.Own.Add(ipv6Sysctl(bridge, "force_forwarding", "1"), ipv6Sysctl(bridge, "forwarding", "1"))
	for _, l := range uplinks {
		f.Shared.Add(ipv6Sysctl(l, "force_forwarding", "1"))
	}
}
