package plan

import (
	"cmp"
	"slices"

	"viaduct/internal/hoststate"
	"viaduct/internal/netdef"
)

// addLimits plans bandwidth. Directions are the guests': what is inbound to
// them leaves the host, by the bridge or by a port. On a bridge that is all
// that the host sends into the network, its own or from elsewhere; what guests
// send each other, or others in the LAN of a host's bridge, does not pass there,
// as with libvirt. Ports are limited on links that are ours to set up; whoever
// makes a link of his own limits it himself.
func addLimits(f *Fragment, n *netdef.Network, facts Facts) {
	if n.Forward.Mode.OwnsBridge() || facts.BridgeMTU > 0 {
		limit(f, n.Bridge.Name, n.Bandwidth, floors(facts.Ports))
	}
	for _, p := range facts.Ports {
		switch {
		case !p.Plugged || p.Def.Bandwidth == nil:
		case p.Def.Plug.Type == netdef.PlugDirect:
			// The host's side of a macvtap is not the other end of the guest's
			// wire, but the guest's own.
			limit(f, p.Link, &netdef.Bandwidth{Inbound: p.Def.Bandwidth.Outbound, Outbound: p.Def.Bandwidth.Inbound}, nil)
		default:
			limit(f, p.Link, p.Def.Bandwidth, nil)
		}
	}
}

// limit limits a link in both directions. Floors are parts of what leaves it.
func limit(f *Fragment, link string, b *netdef.Bandwidth, floors []hoststate.Floor) {
	if b == nil {
		return
	}
	for _, direction := range []struct {
		rate     *netdef.Rate
		incoming bool
		floors   []hoststate.Floor
	}{{b.Inbound, false, floors}, {b.Outbound, true, nil}} {
		if r := direction.rate; r != nil && r.Average > 0 {
			s := shaper(*r)
			s.Link, s.Incoming, s.Floors = link, direction.incoming, direction.floors
			f.Own.Add(s)
		}
	}
}

// defaultBurst is how long a burst lasts that is not given, in parts of a second.
const defaultBurst = 100

// shaper is a rate in the kernel's units. As with libvirt a burst goes at the
// peak, so without one it never shows.
func shaper(r netdef.Rate) hoststate.Shaper {
	s := hoststate.Shaper{Average: bytes(r.Average), Burst: bytes(r.Burst)}
	s.Peak = max(s.Average, bytes(r.Peak))
	s.Burst = cmp.Or(s.Burst, max(s.Average/defaultBurst, minBurst))
	return s
}

// minBurst is two Ethernet frames, in bytes.
const minBurst = 2 * 1600

// maxKiB is more than any link carries in a second, and fits into 64 bits as bytes.
const maxKiB = 1 << 40

// bytes are so many KiB.
func bytes(kib uint64) uint64 { return min(kib, maxKiB) << 10 }

// floors are what ports are guaranteed of what the host sends into the network.
func floors(ports []Port) []hoststate.Floor {
	var list []hoststate.Floor
	for _, p := range ports {
		if b := p.Def.Bandwidth; b != nil && b.Inbound != nil && b.Inbound.Floor > 0 && b.ClassID > 0 && !p.Def.MAC.IsZero() {
			list = append(list, hoststate.Floor{Class: uint16(min(b.ClassID, 1<<16-1)), MAC: hoststate.MAC(p.Def.MAC), Rate: bytes(b.Inbound.Floor)})
		}
	}
	slices.SortFunc(list, func(a, b hoststate.Floor) int { return cmp.Compare(a.Class, b.Class) })
	return list
}
