package hoststate

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// PortFlags is how a bridge treats one of its ports otherwise than others: at
// least one of them is set.
type PortFlags struct {
	Link   string
	Bridge string
	// Isolated says that nothing passes between the port and others that are
	// isolated too.
	Isolated bool
	// NoLearning says that the bridge does not learn from the port's frames
	// where stations are.
	NoLearning bool
	// NoFlood says that frames to stations that the bridge does not know are
	// not sent to the port.
	NoFlood bool
}

// PortFlagsKey names the flags of a link's membership in a bridge.
func PortFlagsKey(link, bridge string) Key { return Key{KindPortFlags, link + " " + bridge} }

// Key implements Object.
func (f PortFlags) Key() Key { return PortFlagsKey(f.Link, f.Bridge) }

// Text implements Object.
func (f PortFlags) Text() string {
	var s strings.Builder
	fmt.Fprintf(&s, "port %s of bridge %s:", f.Link, f.Bridge)
	for _, flag := range []struct {
		on   bool
		name string
	}{{f.Isolated, "isolated"}, {f.NoLearning, "no learning"}, {f.NoFlood, "no flooding"}} {
		if flag.on {
			s.WriteString(" " + flag.name)
		}
	}
	return s.String()
}

// Plain reports whether the port is as it was when it joined. Then there is
// nothing to observe.
func (f PortFlags) Plain() bool { return !f.Isolated && !f.NoLearning && !f.NoFlood }

// Container implements Contained.
func (f PortFlags) Container() Key { return BridgeKey(f.Bridge) }

// VLANRange is some VLANs that a port of a bridge is in.
type VLANRange struct {
	First, Last uint16
	// PVID says that what the guest sends without a tag is in this VLAN. Only
	// one of a port has it.
	PVID bool
	// Untagged says that frames lose their tag on their way to the guest.
	Untagged bool
}

// PortVLANs is all VLANs that a port of a bridge is in, where that filters by
// them. It is made by NewPortVLANs.
type PortVLANs struct {
	Link   string
	Bridge string
	VLANs  []VLANRange // sorted and as few as possible
}

// NewPortVLANs puts the ranges, which do not overlap, in the one order and form
// in which they are compared.
func NewPortVLANs(link, bridge string, ranges ...VLANRange) PortVLANs {
	list := slices.Clone(ranges)
	slices.SortFunc(list, func(a, b VLANRange) int { return cmp.Compare(a.First, b.First) })
	p := PortVLANs{Link: link, Bridge: bridge}
	for _, r := range list {
		if last := len(p.VLANs) - 1; last >= 0 {
			l := &p.VLANs[last]
			if l.Last+1 == r.First && l.PVID == r.PVID && l.Untagged == r.Untagged && !r.PVID {
				l.Last = r.Last
				continue
			}
		}
		p.VLANs = append(p.VLANs, r)
	}
	return p
}

// PortVLANsKey names the VLANs of a link's membership in a bridge.
func PortVLANsKey(link, bridge string) Key { return Key{KindPortVLANs, link + " " + bridge} }

// Key implements Object.
func (p PortVLANs) Key() Key { return PortVLANsKey(p.Link, p.Bridge) }

// Text implements Object.
func (p PortVLANs) Text() string {
	var s strings.Builder
	fmt.Fprintf(&s, "port %s of bridge %s: vlan", p.Link, p.Bridge)
	for i, r := range p.VLANs {
		if i > 0 {
			s.WriteByte(',')
		}
		fmt.Fprintf(&s, " %d", r.First)
		if r.Last != r.First {
			fmt.Fprintf(&s, "-%d", r.Last)
		}
		if r.PVID {
			s.WriteString(" pvid")
		}
		if r.Untagged {
			s.WriteString(" untagged")
		}
	}
	if len(p.VLANs) == 0 {
		s.WriteString(" none")
	}
	return s.String()
}

// Container implements Contained.
func (p PortVLANs) Container() Key { return BridgeKey(p.Bridge) }
