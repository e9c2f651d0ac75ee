// Package plan turns network definitions into the state a host should have.
// It is pure: no I/O, no clock, no randomness, so that the same definition and
// facts always give the same plan, and a plan can be shown before it is
// carried out.
package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"viaduct/internal/hoststate"
	"viaduct/internal/netdef"
)

// Facts are what a plan needs to know about the host besides the definition.
type Facts struct {
	// DNSPort is the port that DNS is served on: 53, or another one, reached by
	// a redirect, where a foreign program holds 53 on all addresses.
	DNSPort uint16
	// Ports are the links that are ports of the network's bridge, or should
	// become so again.
	Ports []Port
	// Taps are the links of ports that Viaduct makes itself.
	Taps []Tap
	// BridgeMTU is the MTU of a bridge of the host's that the ports are in, in
	// bytes; 0 while there is none.
	BridgeMTU int
	// Passes are the foreign chains that have to let our packets through.
	Passes []hoststate.Pass
	// Firewalld is what is known of the host's firewalld.
	Firewalld hoststate.Firewalld
	// Placed are those of the network's links that somebody else has put into a
	// zone of firewalld's.
	Placed []string
	// Uplinks are the host's links that may lead out: all that are no ports and not ours.
	Uplinks []string
	// RALinks are those of them that have routes from router advertisements.
	RALinks []string
	// ForceForwarding says that the kernel can forward IPv6 on single links.
	ForceForwarding bool
	// NoIPv6 says that the kernel runs without IPv6.
	NoIPv6 bool
	// LiveRename says that the kernel gives links another name while they are up.
	LiveRename bool
	// Leases are the addresses that guests hold from the network, if the host
	// answers elsewhere for those.
	Leases []netip.Addr
	// NoVLANs says that the kernel's bridges know no VLANs. It is given if AsksForVLANs.
	NoVLANs bool
	// Dnsmasq says when and how dnsmasq serves guests.
	Dnsmasq Dnsmasq
	// Translated says that guests' connections may have the host's address, since
	// the network has been in NAT mode.
	Translated bool
}

// Port is a link in a network's bridge.
type Port struct {
	Link string
	// Guest says that the link ends in a guest (tap, veth, vif) and not in a
	// wire, so that it cannot be part of a loop through another switch.
	Guest bool
	// Plugged says that Viaduct puts it there, and so sets it up. Other ports
	// are set up by whoever made them.
	Plugged bool
	// Def is what the port has, with what its port group and its network say
	// filled in. Of a link that nobody declared only the UUID is known.
	Def netdef.Port
	// Guard says which frames the guest may send; nil lets everything pass.
	Guard *netdef.Guard
	// Leases are the addresses that the guest holds from the network, if its
	// guard is to learn them.
	Leases []netip.Addr
	// MTU in bytes is set on a plugged link; 0 leaves it the network's.
	MTU int
	// Routed says what is behind the link, in a network whose ports are routed.
	Routed *netdef.Routed
}

// Tap is a link that Viaduct makes for a port, as long as the port exists,
// whether or not the network is active.
type Tap struct {
	Link  string
	Port  netdef.UUID
	Owner uint32 // the uid of the user who may attach a guest
	MAC   netdef.MAC
	// Plug says what the link is: on a device of the host's a macvtap, else a tap.
	Plug netdef.Plug
}

// PortMAC is the address of the host's end of a link that Viaduct plugs: of all
// addresses the one that a bridge, or another program that chooses the lowest,
// takes last. Xen's own scripts use it too.
var PortMAC = hoststate.MAC{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff}

// Fragment is one network's part of the host.
type Fragment struct {
	// Own objects belong to this network alone. Two networks that claim the
	// same key are an error.
	Own hoststate.State
	// Shared objects serve all networks that list them, in the same state, and
	// last as long as one does.
	Shared hoststate.State
}

// All is the fragment as one state.
func (f Fragment) All() hoststate.State {
	all := make(hoststate.State, len(f.Own)+len(f.Shared))
	for k, o := range f.Own {
		all[k] = o
	}
	for k, o := range f.Shared {
		all[k] = o
	}
	return all
}

// Alias marks a link as made by Viaduct for the network with this UUID.
func Alias(id netdef.UUID) string { return "viaduct " + id.String() }

// PortAlias marks a tap as made by Viaduct for the port with this UUID.
func PortAlias(id netdef.UUID) string { return "viaduct port " + id.String() }

// Taps plans what a network has even while it is not active: the taps, so that
// guests that hold them find their way back when it is started again.
func Taps(n *netdef.Network, facts Facts) Fragment {
	f := Fragment{Own: hoststate.State{}}
	for _, t := range facts.Taps {
		if t.Plug.Type == netdef.PlugDirect {
			f.Own.Add(hoststate.Macvtap{
				Name: t.Link, Alias: PortAlias(t.Port), Device: t.Plug.Dev, Mode: t.Plug.Mode, MAC: hoststate.MAC(t.MAC), Owner: t.Owner,
			})
			continue
		}
		f.Own.Add(hoststate.Tap{Name: t.Link, Alias: PortAlias(t.Port), Owner: t.Owner, MTU: cmp.Or(n.MTU, facts.BridgeMTU, defaultMTU)})
	}
	return f
}

// defaultMTU is that of Ethernet, in bytes.
const defaultMTU = 1500

// Network plans a network: what the host has while the network is active. The
// definition is complete (bridge name, MAC and UUID chosen) and has passed
// Check.
func Network(n *netdef.Network, facts Facts) (Fragment, error) {
	settings, err := n.Settings()
	if err != nil {
		return Fragment{}, err
	}
	own := n.OwnsBridge()
	if n.UUID.IsZero() || own && (n.Bridge.Name == "" || n.MAC.IsZero()) {
		return Fragment{}, fmt.Errorf("plan network '%s': bridge name, MAC address or UUID not chosen", n.Name)
	}
	if err := Check(n); err != nil {
		return Fragment{}, err
	}
	if facts.NoVLANs && needsVLANs(n, facts.Ports) {
		return Fragment{}, NoVLANs(n)
	}
	if facts.DNSPort == 0 {
		facts.DNSPort = dnsPort
	}
	f := Taps(n, facts)
	f.Shared = hoststate.State{}
	if settings.Routed {
		addRouted(&f, n, facts)
		return f, nil
	}
	addPorts(&f, n, facts)
	addPortSettings(&f, n, facts.Ports)
	addLimits(&f, n, facts)
	if !own {
		if settings.Pass {
			addPassing(&f, n.Bridge.Name, facts)
		}
		addPortGuards(&f, n, facts.Ports, nil)
		return f, nil
	}
	bridge := n.Bridge.Name
	stp := needsSTP(n, facts.Ports)

	f.Own.Add(hoststate.Bridge{
		Name:         bridge,
		Alias:        Alias(n.UUID),
		MAC:          hoststate.MAC(n.MAC),
		MTU:          n.MTU,
		STP:          stp,
		ForwardDelay: forwardDelay(n, stp),
		HelloTime:    100 * settings.HelloTime,
		MaxAge:       100 * settings.MaxAge,
		Rename:       facts.LiveRename,
		VLANs:        filtersVLANs(n, facts),
	}, hoststate.LinkUp{Link: bridge})

	// Should the bridge get another MAC address, guests hear of it at once.
	f.Own.Add(hoststate.Sysctl{Name: "net/ipv4/conf/" + bridge + "/arp_notify", Value: "1", Link: bridge})
	addIPv6(&f, n, facts)
	for _, ip := range n.IPs {
		f.Own.Add(hoststate.Address{Link: bridge, Prefix: ip.Prefix()})
	}
	for _, r := range n.Routes {
		f.Own.Add(route(n, r))
	}
	if n.Forward.Mode != netdef.ModeNone && hasFamily(n, netip.Addr.Is4) {
		f.Shared.Add(hoststate.Sysctl{Name: "net/ipv4/ip_forward", Value: "1"})
	}
	addFirewall(&f, n, facts)
	putIntoZone(&f, n, n.Bridge.Name, facts)
	addAnswers(&f, n, settings.Answer, facts)
	var loop []hoststate.Rule
	if !stp && !n.Bridge.STPOff {
		loop = addLoopGuard(&f, n)
	}
	addPortGuards(&f, n, facts.Ports, loop)
	if err := addServices(&f, n, facts); err != nil {
		return Fragment{}, err
	}
	return f, nil
}

// addPorts puts links into the network's bridge and sets up those that Viaduct
// plugs. What others put into a bridge of the host's is no business of ours,
// and a macvtap needs no bridge.
func addPorts(f *Fragment, n *netdef.Network, facts Facts) {
	for _, p := range facts.Ports {
		if p.Plugged || p.Guard != nil && p.Guard.Routed {
			f.Own.Add(hoststate.LinkUp{Link: p.Link})
		}
		if p.Guard != nil && p.Guard.Routed || n.Bridge.Name == "" || !p.Plugged && !n.Forward.Mode.OwnsBridge() {
			continue
		}
		member := hoststate.Member{Link: p.Link, Bridge: n.Bridge.Name}
		if p.Plugged {
			member.MAC = PortMAC
		}
		f.Own.Add(member)
		addPortMTU(f, n, p)
		if p.Plugged && !facts.NoIPv6 && !made(f, p) {
			// Or the link has an address of its own by which the guest reaches the host.
			f.Own.Add(ipv6Sysctl(p.Link, "disable_ipv6", "1"))
		}
	}
}

// addPortMTU gives a link that was plugged in the MTU that it is to have. Taps
// are made with it.
func addPortMTU(f *Fragment, n *netdef.Network, p Port) {
	mtu := cmp.Or(p.MTU, n.MTU)
	if p.Plugged && !made(f, p) && mtu != 0 {
		f.Own.Add(hoststate.LinkMTU{Link: p.Link, MTU: mtu})
	}
}

// made reports whether the port's link is one that Viaduct makes.
func made(f *Fragment, p Port) bool {
	_, made := f.Own[hoststate.TapKey(p.Link)]
	return made
}

// needsSTP decides whether the kernel runs the spanning tree protocol on the
// bridge. With it a new port carries nothing for twice the forward delay, four
// seconds at the least, which makes guests miss their first DHCP answers. A
// bridge that has only guests on it gets the guard against loops instead,
// unless the definition asks for a delay that means real STP.
func needsSTP(n *netdef.Network, ports []Port) bool {
	if n.Bridge.STPOff {
		return false
	}
	if n.Bridge.Delay >= 2 {
		return true
	}
	for _, p := range ports {
		if !p.Guest {
			return true
		}
	}
	return false
}

// forwardDelay is in hundredths of a second. The kernel accepts 2 s to 30 s
// with STP on.
func forwardDelay(n *netdef.Network, stp bool) int {
	if !stp {
		return 0
	}
	return 100 * min(max(n.Bridge.Delay, 2), 30)
}

// subnets are the prefixes of the network, masked.
func subnets(n *netdef.Network) []netip.Prefix {
	var s []netip.Prefix
	for _, ip := range n.IPs {
		s = append(s, ip.Prefix().Masked())
	}
	return s
}

// hasFamily reports whether the network has an address of the family.
func hasFamily(n *netdef.Network, is func(netip.Addr) bool) bool {
	return slices.ContainsFunc(n.IPs, func(ip netdef.IP) bool { return is(ip.Address) })
}

// route is a static route through the network's bridge.
func route(n *netdef.Network, r netdef.Route) hoststate.Route {
	out := hoststate.Route{Dst: r.Prefix(), Via: r.Gateway, Link: n.Bridge.Name, Metric: r.Metric}
	if r.Address.Is6() && r.Metric == defaultMetric6 {
		out.Metric = 0 // what the kernel takes anyway reads back as not given
	}
	return out
}

// defaultMetric6 is the metric of IPv6 routes that are given none.
const defaultMetric6 = 1024
