package plan

import (
	"slices"

	"viaduct/internal/hoststate"
	"viaduct/internal/netdef"
)

// addPortSettings plans how a bridge treats the ports that somebody declared,
// whoever makes their links. Of other links nobody knows what they are for.
func addPortSettings(f *Fragment, n *netdef.Network, ports []Port) {
	for _, p := range ports {
		if n.Bridge.Name == "" || p.Guard != nil && p.Guard.Routed {
			continue
		}
		flags := hoststate.PortFlags{Link: p.Link, Bridge: n.Bridge.Name, Isolated: p.Def.Isolated == netdef.Yes}
		if managed(n) && !p.Def.MAC.IsZero() {
			flags.NoLearning, flags.NoFlood = true, true
			f.Own.Add(hoststate.Station{Link: p.Link, Bridge: n.Bridge.Name, MAC: hoststate.MAC(p.Def.MAC)})
		}
		if !flags.Plain() {
			f.Own.Add(flags)
		}
		if p.Def.VLAN != nil {
			f.Own.Add(portVLANs(p.Link, n.Bridge.Name, p.Def.VLAN))
		}
	}
}

// portVLANs says in which VLANs a guest is: one alone is that of all that it
// sends, without tags of its own. Of several, or of a trunk, the guest sees the
// tags, and the native one is that of frames without.
func portVLANs(link, bridge string, v *netdef.VLAN) hoststate.PortVLANs {
	var ranges []hoststate.VLANRange
	for _, tag := range v.Tags {
		r := hoststate.VLANRange{First: tag.ID, Last: tag.ID}
		switch {
		case tag.NativeMode != "":
			r.PVID, r.Untagged = true, tag.NativeMode == nativeUntagged
		case v.Trunk != netdef.Yes:
			r.PVID, r.Untagged = true, true
		}
		if !slices.ContainsFunc(ranges, func(other hoststate.VLANRange) bool { return other.First == tag.ID }) {
			ranges = append(ranges, r)
		}
	}
	return hoststate.NewPortVLANs(link, bridge, ranges...)
}

// nativeUntagged says of a VLAN that its frames reach the guest without a tag,
// as the guest sends them.
const nativeUntagged = "untagged"

// managed reports whether the network's bridge is told where guests are, and
// does not learn it.
func managed(n *netdef.Network) bool { return n.Bridge.MacTableManager == "libvirt" }

// filtersVLANs reports whether a bridge of ours filters by VLAN. As with libvirt
// one does that is told where guests are, if the kernel can.
func filtersVLANs(n *netdef.Network, facts Facts) bool {
	return keepsVLANsApart(n, facts.Ports) || managed(n) && !facts.NoVLANs
}

// AsksForVLANs reports whether Facts.NoVLANs matters to the network.
func AsksForVLANs(n *netdef.Network, ports []Port) bool { return managed(n) || needsVLANs(n, ports) }

// NoVLANs says that the kernel lacks what VLANs of a network's guests need.
func NoVLANs(n *netdef.Network) error {
	return netdef.Errorf(netdef.ErrConfigUnsupported, "network '%s' needs bridges that know VLANs, which this kernel's do not (CONFIG_BRIDGE_VLAN_FILTERING)", n.Name)
}

// keepsVLANsApart reports whether a bridge of ours has to filter by VLAN. What
// is in no VLAN of its own is then in the first, the host included.
func keepsVLANsApart(n *netdef.Network, ports []Port) bool {
	return slices.ContainsFunc(ports, func(p Port) bool { return p.Def.VLAN != nil })
}

// needsVLANs reports whether the host's bridges have to know VLANs for the
// network and its ports.
func needsVLANs(n *netdef.Network, ports []Port) bool {
	switch {
	case !bridged(n), n.VirtualPort != nil && n.VirtualPort.Type == "openvswitch":
		return false
	case keepsVLANsApart(n, ports), n.VLAN != nil:
		return true
	}
	return anyGroup(n, func(g netdef.PortGroup) bool { return g.VLAN != nil })
}

// bridged reports whether the network's guests are in a bridge, ours or the host's.
func bridged(n *netdef.Network) bool {
	return n.OwnsBridge() || n.Forward.Mode == netdef.ModeBridge && n.Bridge.Name != ""
}

// CheckVLAN refuses tags that no bridge takes: 0 means none, and 4095 is
// reserved (IEEE 802.1Q, table 9-2).
func CheckVLAN(v *netdef.VLAN) error {
	if v == nil {
		return nil
	}
	for _, tag := range v.Tags {
		if tag.ID < 1 || tag.ID > 4094 {
			return netdef.Errorf(netdef.ErrConfigUnsupported, "vlan tag id %d cannot be used on a bridge (1 to 4094)", tag.ID)
		}
	}
	return nil
}

// checkVLANs is CheckVLAN for all tags that a network gives its guests.
func checkVLANs(n *netdef.Network) error {
	if !bridged(n) {
		return nil
	}
	err := CheckVLAN(n.VLAN)
	for _, g := range n.PortGroups {
		if err == nil {
			err = CheckVLAN(g.VLAN)
		}
	}
	return err
}
