package engine

import (
	"math"
	"slices"

	"viaduct/internal/netdef"
)

// allocate completes a port that joins a network which has these ports already:
// what it inherits, where it is connected, and its share of the bandwidth. The
// checks, their order and their wording are libvirt's.
func allocate(n *netdef.Network, p *port, others []port) error {
	def := &p.def
	if err := def.Inherit(n); err != nil {
		return err
	}
	if err := checkVirtualPort(n, def.VirtualPort); err != nil {
		return err
	}
	var err error
	if def.Plug, err = choosePlug(n, def.VirtualPort, others); err != nil {
		return err
	}
	if def.Bandwidth != nil {
		def.Bandwidth.ClassID = 0 // it is for us to choose
	}
	if err := share(n, p, def.Bandwidth, others); err != nil {
		return err
	}
	return def.VirtualPort.Complete()
}

// virtualPorts says which types of virtual ports fit to a plug, and how the
// network of one that does not is described.
var virtualPorts = map[netdef.PlugType]struct {
	types []string
	which string
}{
	netdef.PlugNetwork:    {nil, "uses IP forwarding"},
	netdef.PlugBridge:     {[]string{"openvswitch"}, "uses a bridge device"},
	netdef.PlugDirect:     {[]string{"802.1Qbg", "802.1Qbh"}, "uses a macvtap device"},
	netdef.PlugHostdevPCI: {[]string{"802.1Qbg", "802.1Qbh"}, "uses an SR-IOV Virtual Function via PCI passthrough"},
}

func checkVirtualPort(n *netdef.Network, v *netdef.VirtualPort) error {
	fits := virtualPorts[plugType(n)]
	if v == nil || slices.Contains(fits.types, v.Type) {
		return nil
	}
	typ := v.Type
	if typ == "" {
		typ = "none"
	}
	return netdef.Errorf(netdef.ErrConfigUnsupported, "<virtualport type='%s'> not supported for network '%s' which %s", typ, n.Name, fits.which)
}

// plugType is the way in which all ports of the network are connected.
func plugType(n *netdef.Network) netdef.PlugType {
	switch {
	case n.OwnsBridge():
		return netdef.PlugNetwork
	case n.Forward.Mode.OwnsBridge(): // but the ports are routed, which libvirt has no word for
		return netdef.PlugNone
	case n.Forward.Mode == netdef.ModeHostdev:
		return netdef.PlugHostdevPCI
	case n.Forward.Mode == netdef.ModeBridge && n.Bridge.Name != "":
		return netdef.PlugBridge
	}
	return netdef.PlugDirect
}

// choosePlug says where a port is to be connected.
func choosePlug(n *netdef.Network, v *netdef.VirtualPort, others []port) (netdef.Plug, error) {
	plug := netdef.Plug{Type: plugType(n)}
	f := n.Forward
	switch plug.Type {
	case netdef.PlugDirect:
		if len(f.Interfaces) == 0 {
			return plug, netdef.Errorf(netdef.ErrInternal, "network '%s' uses a direct mode, but has no forward dev and no interface pool", n.Name)
		}
		plug.Mode = string(f.Mode)
		i := leastUsed(len(f.Interfaces), func(i int, p netdef.Plug) bool { return p.Dev == f.Interfaces[i] }, others, exclusive(n, v))
		if i < 0 {
			return plug, noneFree(n)
		}
		plug.Dev = f.Interfaces[i]
	case netdef.PlugHostdevPCI:
		plug.Managed, plug.DriverName, plug.DriverModel = f.Managed, f.DriverName, f.DriverModel
		if plug.Managed == netdef.Unset {
			plug.Managed = netdef.No
		}
		i := leastUsed(len(f.Addresses), func(i int, p netdef.Plug) bool { return p.Address == f.Addresses[i] }, others, true)
		if i < 0 {
			return plug, noneFree(n)
		}
		plug.Address = f.Addresses[i]
	default:
		plug.Bridge, plug.MacTableManager = n.Bridge.Name, n.Bridge.MacTableManager
	}
	return plug, nil
}

// exclusive reports whether a device of the pool serves one port only.
func exclusive(n *netdef.Network, v *netdef.VirtualPort) bool {
	mode := n.Forward.Mode
	return mode == netdef.ModePassthrough || mode == netdef.ModePrivate && v != nil && v.Type == "802.1Qbh"
}

func noneFree(n *netdef.Network) error {
	return netdef.Errorf(netdef.ErrInternal, "network '%s' requires exclusive access to interfaces, but none are available", n.Name)
}

// leastUsed is the first device of a pool that the fewest ports use, or -1 if
// only an unused one will do and there is none.
func leastUsed(devices int, uses func(device int, p netdef.Plug) bool, ports []port, unused bool) int {
	best, least := -1, len(ports)+1
	for i := range devices {
		users := 0
		for _, p := range ports {
			if p.declared && uses(i, p.def.Plug) {
				users++
			}
		}
		if users < least {
			best, least = i, users
		}
	}
	if unused && least > 0 {
		return -1
	}
	return best
}

// reclaim checks the plug of a port whose guest runs already.
func reclaim(n *netdef.Network, p *port, others []port) error {
	plug := p.def.Plug
	taken := func(same func(netdef.Plug) bool) bool {
		return slices.ContainsFunc(others, func(o port) bool { return o.declared && same(o.def.Plug) })
	}
	switch plug.Type {
	case netdef.PlugDirect:
		if !slices.Contains(n.Forward.Interfaces, plug.Dev) {
			return netdef.Errorf(netdef.ErrInternal, "network '%s' doesn't have dev='%s' in use by network port '%s'", n.Name, plug.Dev, p.def.UUID)
		}
		if exclusive(n, p.def.VirtualPort) && taken(func(o netdef.Plug) bool { return o.Dev == plug.Dev }) {
			return netdef.Errorf(netdef.ErrInternal, "network '%s' claims dev='%s' is already in use by a different port", n.Name, plug.Dev)
		}
	case netdef.PlugHostdevPCI:
		a := plug.Address
		if !slices.Contains(n.Forward.Addresses, a) {
			return netdef.Errorf(netdef.ErrInternal, "network '%s' doesn't have PCI device %s in use by network port", n.Name, a)
		}
		if taken(func(o netdef.Plug) bool { return o.Type == netdef.PlugHostdevPCI && o.Address == a }) {
			return netdef.Errorf(netdef.ErrInternal, "network '%s' claims the PCI device at domain=%d bus=%d slot=%d function=%d "+
				"is already in use by a different network port", n.Name, a.Domain, a.Bus, a.Slot, a.Function)
		}
	default:
		if n.Bridge.Name == "" {
			return netdef.Errorf(netdef.ErrInternal, "Unexpectedly got a network port without a network bridge")
		}
	}
	// The guest runs, so what cannot be guaranteed any more is no reason to
	// leave it without a port.
	if share(n, p, p.def.Bandwidth, others) != nil {
		p.def.Bandwidth.ClassID = 0
	}
	return nil
}

// firstClass is the first class of a port's guaranteed bandwidth: those below
// are the network's own.
const firstClass = 3

// share gives the port a bandwidth, if its network can guarantee what it asks
// for beside what it guarantees to others. A port with a guarantee has a class
// of its own, which it keeps as long as it has one.
func share(n *netdef.Network, p *port, want *netdef.Bandwidth, others []port) error {
	class := uint(0)
	if p.def.Bandwidth != nil {
		class = p.def.Bandwidth.ClassID
	}
	if want != nil {
		b := *want
		b.ClassID = 0
		want = &b
	}
	if asked := floor(want); asked > 0 {
		if !n.Forward.Mode.OwnsBridge() {
			return netdef.Errorf(netdef.ErrOperationUnsupported, "Invalid use of 'floor' on interface with MAC address %s - 'floor' is only supported "+
				"for interface type 'network' with forward type 'nat', 'route', 'open' or none", p.def.MAC)
		}
		if n.Bandwidth == nil || n.Bandwidth.Inbound == nil {
			return netdef.Errorf(netdef.ErrOperationUnsupported, "Invalid use of 'floor' on interface with MAC address %s - network '%s' has no inbound QoS set",
				p.def.MAC, n.Name)
		}
		asking := *p
		asking.def.Bandwidth = want
		all, classes := []port{asking}, map[uint]bool{}
		for _, o := range others {
			if o.def.UUID != p.def.UUID && o.def.Bandwidth != nil {
				all = append(all, o)
				classes[o.def.Bandwidth.ClassID] = true
			}
		}
		in := n.Bandwidth.Inbound
		limit, which := in.Average, "average"
		if in.Peak > 0 {
			limit, which = in.Peak, "peak"
		}
		if sum := guaranteed(all); sum > limit {
			return netdef.Errorf(netdef.ErrOperationInvalid, "Cannot plug '%s' interface into '%s' because new combined inbound floor=%d "+
				"would overcommit %s=%d on network '%s'", p.def.MAC, n.Bridge.Name, sum, which, limit, n.Name)
		}
		for class < firstClass || classes[class] {
			class = max(class+1, firstClass)
		}
		want.ClassID = class
	}
	p.def.Bandwidth = want
	return nil
}

// guaranteed is what the ports are guaranteed together, in KiB/s. A port that
// others are made of keeps a share for them: it counts for what they do not have
// of it. The two links of one interface, that of Xen's driver and that of the
// emulated NIC, are used one at a time, and have one share.
func guaranteed(ports []port) uint64 {
	shares := map[netdef.UUID]map[netdef.MAC]uint64{} // of ports that were made of others, by those
	for _, p := range ports {
		if !p.pattern.IsZero() {
			if shares[p.pattern] == nil {
				shares[p.pattern] = map[netdef.MAC]uint64{}
			}
			shares[p.pattern][p.def.MAC] = max(shares[p.pattern][p.def.MAC], floor(p.def.Bandwidth))
		}
	}
	sum := uint64(0)
	add := func(n uint64) { sum += min(n, math.MaxUint64-sum) }
	for _, p := range ports {
		if kept := floor(p.def.Bandwidth); p.pattern.IsZero() {
			for _, taken := range shares[p.def.UUID] {
				kept -= min(kept, taken)
			}
			add(kept)
		}
	}
	for _, taken := range shares {
		for _, share := range taken {
			add(share)
		}
	}
	return sum
}

// keepsFloors refuses a definition under which the ports of a network could not
// be given what they are guaranteed.
func keepsFloors(n *netdef.Network, ports []port) error {
	for i, p := range ports {
		if b := p.def.Bandwidth; floor(b) == 0 || b.ClassID == 0 { // 0: it is not kept anyway, see reclaim
			continue
		}
		p.def = *p.def.Clone()
		if err := share(n, &p, p.def.Bandwidth, ports[:i]); err != nil {
			return err
		}
	}
	return nil
}

// floor is what a bandwidth guarantees, in KiB/s.
func floor(b *netdef.Bandwidth) uint64 {
	if b == nil || b.Inbound == nil {
		return 0
	}
	return b.Inbound.Floor
}
