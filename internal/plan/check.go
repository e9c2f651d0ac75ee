package plan

import (
	"slices"

	"viaduct/internal/netdef"
)

// unapplied lists what a definition may say that Viaduct understands but does
// not put into effect. Such a definition is refused: a guest that is not
// filtered or limited as its admin wrote is worse than one that does not start.
var unapplied = []struct {
	element string
	given   func(n *netdef.Network) bool
}{
	{"<bandwidth> where guests are routed to", func(n *netdef.Network) bool {
		return n.Bandwidth != nil && n.Forward.Mode.OwnsBridge() && !n.OwnsBridge()
	}},
	{"<port isolated='yes'> where guests are in no bridge", func(n *netdef.Network) bool { return n.Isolated == netdef.Yes && !bridged(n) }},
	{"<dnsmasq:options> where guests are not served", func(n *netdef.Network) bool {
		return len(n.DnsmasqOptions) > 0 && !n.Forward.Mode.OwnsBridge()
	}},
}

// unappliedToPorts is the same for a port whose link Viaduct makes or plugs in.
// Who makes a link of his own sets it up too.
var unappliedToPorts = []struct {
	element string
	given   func(p *netdef.Port) bool
}{
	{"<vlan> on a device of the host's", func(p *netdef.Port) bool { return p.VLAN != nil && p.Plug.Type == netdef.PlugDirect }},
	{"<port isolated='yes'> on a device of the host's", func(p *netdef.Port) bool {
		return p.Isolated == netdef.Yes && p.Plug.Type == netdef.PlugDirect
	}},
	{"<virtualport>", func(p *netdef.Port) bool { return p.VirtualPort != nil }},
}

func anyGroup(n *netdef.Network, f func(netdef.PortGroup) bool) bool {
	return slices.ContainsFunc(n.PortGroups, f)
}

// Check refuses a definition that says what Viaduct cannot put into effect,
// naming the element. The error is a *netdef.Error with ErrConfigUnsupported.
func Check(n *netdef.Network) error {
	for _, u := range unapplied {
		if u.given(n) {
			return netdef.Errorf(netdef.ErrConfigUnsupported, "%s in network '%s' cannot be applied by this version of viaduct", u.element, n.Name)
		}
	}
	if err := checkVLANs(n); err != nil {
		return err
	}
	if err := checkReservations(n); err != nil {
		return err
	}
	s, err := n.Settings()
	if err != nil || s.Guard == nil {
		return err
	}
	return CheckGuard(n, s.Guard)
}

// checkReservations refuses addresses that no guest of the subnet could use.
// dnsmasq takes them and never gives them to anybody.
func checkReservations(n *netdef.Network) error {
	for _, ip := range n.IPs {
		for _, h := range ip.Hosts {
			if subnet := ip.Prefix(); h.IP.IsValid() && !subnet.Contains(h.IP) {
				return netdef.Errorf(netdef.ErrConfigUnsupported, "static host address %s is not within network %s/%d in network '%s'",
					h.IP, ip.Address, subnet.Bits(), n.Name)
			}
		}
	}
	return nil
}

// CheckGuard refuses a guard that cannot be put into effect on the ports of a
// network: frames of a macvtap pass no bridge, and addresses that nobody knows
// cannot be told from others.
func CheckGuard(n *netdef.Network, g *netdef.Guard) error {
	checks := g.NoMACSpoof || g.NoIPSpoof || g.NoARPSpoof || g.NoDHCPServer || g.NoRA || len(g.Only) > 0
	settings, err := n.Settings()
	switch {
	case err != nil:
		return err
	case !checks || settings.Routed:
		return nil
	case !n.Forward.Mode.OwnsBridge() && n.Bridge.Name == "":
		return netdef.Errorf(netdef.ErrConfigUnsupported, "ports of network '%s' cannot be guarded: they are in no bridge", n.Name)
	case (g.NoIPSpoof || g.NoARPSpoof) && g.Learn && len(n.IPs) == 0:
		return netdef.Errorf(netdef.ErrConfigUnsupported, "network '%s' has no addresses of which guests could be given some, so a guard has to name the guest's", n.Name)
	}
	return nil
}

// CheckPort refuses what Viaduct cannot put into effect on the link of a port
// that it makes or plugs in, as Check does for a network.
func CheckPort(p *netdef.Port) error {
	for _, u := range unappliedToPorts {
		if u.given(p) {
			return netdef.Errorf(netdef.ErrConfigUnsupported, "%s of port %s cannot be applied by this version of viaduct", u.element, p.UUID)
		}
	}
	return nil
}
