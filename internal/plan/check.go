package plan

import (
	"viaduct/internal/netdef"
)

// unapplied lists what a definition may say that Viaduct understands but does
// not put into effect. Such a definition is refused: a guest that is not
// filtered or limited as its admin wrote is worse than one that does not start.
var unapplied = []struct {
	element string
	given   func(n *netdef.Network) bool
}{
	{"<network trustGuestRxFilters='yes'>", func(n *netdef.Network) bool { return n.TrustGuestRxFilters == netdef.Yes }},
	{"<forward mode='bridge'>", hasMode(netdef.ModeBridge)},
	{"<forward mode='private'>", hasMode(netdef.ModePrivate)},
	{"<forward mode='vepa'>", hasMode(netdef.ModeVEPA)},
	{"<forward mode='passthrough'>", hasMode(netdef.ModePassthrough)},
	{"<forward mode='hostdev'>", hasMode(netdef.ModeHostdev)},
	{"<bridge zone=>", func(n *netdef.Network) bool { return n.Bridge.Zone != "" }},
	{"<bridge macTableManager='libvirt'>", func(n *netdef.Network) bool { return n.Bridge.MacTableManager == "libvirt" }},
	{"<domain register='yes'>", func(n *netdef.Network) bool { return n.Domain.Register == netdef.Yes }},
	{"<vlan>", func(n *netdef.Network) bool { return n.VLAN != nil }},
	{"<bandwidth>", func(n *netdef.Network) bool { return n.Bandwidth != nil }},
	{"<port isolated='yes'>", func(n *netdef.Network) bool { return n.Isolated == netdef.Yes }},
	{"<tftp>", anyIP(func(ip netdef.IP) bool { return ip.TFTPRoot != "" })},
	{"<virtualport>", func(n *netdef.Network) bool { return n.VirtualPort != nil }},
	{"<portgroup>", func(n *netdef.Network) bool { return len(n.PortGroups) > 0 }},
	{"<dnsmasq:options>", func(n *netdef.Network) bool { return len(n.DnsmasqOptions) > 0 }},
}

func hasMode(m netdef.Mode) func(*netdef.Network) bool {
	return func(n *netdef.Network) bool { return n.Forward.Mode == m }
}

func anyIP(f func(netdef.IP) bool) func(*netdef.Network) bool {
	return func(n *netdef.Network) bool {
		for _, ip := range n.IPs {
			if f(ip) {
				return true
			}
		}
		return false
	}
}

// Check refuses a definition that says what Viaduct cannot put into effect,
// naming the element. The error is a *netdef.Error with ErrConfigUnsupported.
func Check(n *netdef.Network) error {
	for _, u := range unapplied {
		if u.given(n) {
			return netdef.Errorf(netdef.ErrConfigUnsupported, "%s in network '%s' cannot be applied by this version of viaduct", u.element, n.Name)
		}
	}
	return nil
}
