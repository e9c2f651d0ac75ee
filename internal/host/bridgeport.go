package host

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"viaduct/internal/hoststate"
)

// Numbers of linux/if_link.h and linux/if_bridge.h that x/sys lacks.
const (
	brVLANFiltering = 7  // IFLA_BR_VLAN_FILTERING
	brDefaultPVID   = 39 // IFLA_BR_VLAN_DEFAULT_PVID

	infoSlaveKind, infoSlaveData = 4, 5 // IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA

	portLearning, portFlood, portIsolated = 8, 9, 33 // IFLA_BRPORT_*

	bridgeVLANInfo = 2 // IFLA_BRIDGE_VLAN_INFO
	vlanInfoLen    = 4 // sizeof(struct bridge_vlan_info)

	vlanPVID, vlanUntagged       = 1 << 1, 1 << 2 // BRIDGE_VLAN_INFO_*
	vlanRangeBegin, vlanRangeEnd = 1 << 3, 1 << 4

	extVLANRanges = 1 << 2 // RTEXT_FILTER_BRVLAN_COMPRESSED
)

// portFlags is how a bridge treats a port.
type portFlags struct{ isolated, noLearning, noFlood bool }

// decode reads IFLA_PROTINFO or IFLA_INFO_SLAVE_DATA of a bridge's port.
func (f *portFlags) decode(d *netlink.AttributeDecoder) error {
	for d.Next() {
		switch d.Type() {
		case portIsolated:
			f.isolated = d.Uint8() != 0
		case portLearning:
			f.noLearning = d.Uint8() == 0
		case portFlood:
			f.noFlood = d.Uint8() == 0
		}
	}
	return nil
}

// bridgePort is what a bridge tells of one of its ports.
type bridgePort struct {
	index int
	flags portFlags
	vlans string // see link.vlans
}

// decodeBridgePort reads an RTM_NEWLINK of the family AF_BRIDGE. It reports
// false for one that is not about a port.
func decodeBridgePort(b []byte) (p bridgePort, ok bool, err error) {
	if len(b) < ifinfoLen {
		return p, false, errShort
	}
	if b[0] != unix.AF_BRIDGE {
		return p, false, nil
	}
	p.index = int(int32(binary.NativeEndian.Uint32(b[4:])))
	d, err := netlink.NewAttributeDecoder(b[ifinfoLen:])
	if err != nil {
		return p, false, err
	}
	for d.Next() {
		switch d.Type() {
		case unix.IFLA_PROTINFO:
			ok = true
			d.Nested(p.flags.decode)
		case unix.IFLA_AF_SPEC:
			d.Nested(func(d *netlink.AttributeDecoder) error {
				var vlans strings.Builder
				for d.Next() {
					if d.Type() == bridgeVLANInfo && len(d.Bytes()) == vlanInfoLen {
						vlans.Write(d.Bytes())
					}
				}
				p.vlans = vlans.String()
				return nil
			})
		}
	}
	return p, ok, d.Err()
}

// ranges are the VLANs of a port as wanted ones would be.
func vlanRanges(list string) []hoststate.VLANRange {
	var ranges []hoststate.VLANRange
	first := uint16(0)
	for b := []byte(list); len(b) >= vlanInfoLen; b = b[vlanInfoLen:] {
		flags, id := binary.NativeEndian.Uint16(b), binary.NativeEndian.Uint16(b[2:])
		if flags&vlanRangeBegin != 0 {
			first = id
			continue
		}
		r := hoststate.VLANRange{First: id, Last: id, PVID: flags&vlanPVID != 0, Untagged: flags&vlanUntagged != 0}
		if flags&vlanRangeEnd != 0 && first <= id {
			r.First = first
		}
		ranges = append(ranges, r)
	}
	return ranges
}

// encodeVLANs is the list of a request about some VLANs of a port.
func encodeVLANs(e *netlink.AttributeEncoder, r hoststate.VLANRange) {
	flags := uint16(0)
	if r.PVID {
		flags |= vlanPVID
	}
	if r.Untagged {
		flags |= vlanUntagged
	}
	add := func(flags, id uint16) {
		e.Bytes(bridgeVLANInfo, binary.NativeEndian.AppendUint16(binary.NativeEndian.AppendUint16(nil, flags), id))
	}
	if r.First == r.Last {
		add(flags, r.First)
		return
	}
	add(flags|vlanRangeBegin, r.First)
	add(flags|vlanRangeEnd, r.Last)
}

// setPort takes over what a bridge says of a port. The caller holds the lock.
func (m *mirror) setPort(p bridgePort) {
	if l, ok := m.links[p.index]; ok {
		l.flags, l.vlans = p.flags, p.vlans
		m.replaceLink(l)
	}
}

// bridgeMember is the link as a port of the bridge that the key names. The mirror
// is locked.
func (m *mirror) bridgeMember(key hoststate.Key) (l, bridge link, ok bool) {
	name, master, _ := strings.Cut(key.Name, " ")
	l = m.links[m.names[name]]
	bridge = m.links[l.master]
	return l, bridge, l.name == name && l.master != 0 && bridge.name == master
}

func (l link) portFlags(bridge string) hoststate.PortFlags {
	return hoststate.PortFlags{Link: l.name, Bridge: bridge, Isolated: l.flags.isolated, NoLearning: l.flags.noLearning, NoFlood: l.flags.noFlood}
}

func (l link) portVLANs(bridge string) hoststate.PortVLANs {
	return hoststate.NewPortVLANs(l.name, bridge, vlanRanges(l.vlans)...)
}

// plainVLANs are those that a port is in when it joins the bridge that l is.
func (l link) plainVLANs(port string) hoststate.PortVLANs {
	if l.pvid == 0 {
		return hoststate.NewPortVLANs(port, l.name)
	}
	return hoststate.NewPortVLANs(port, l.name, hoststate.VLANRange{First: l.pvid, Last: l.pvid, PVID: true, Untagged: true})
}

// port finds a link that has to be a port of the bridge. Nothing of it is left
// to be undone when it is none any more.
func (a *linkApplier) port(verb hoststate.Verb, key hoststate.Key) (l, bridge link, ok bool, err error) {
	a.mirror.now(func() { l, bridge, ok = a.mirror.bridgeMember(key) })
	if !ok && verb != hoststate.Delete {
		name, master, _ := strings.Cut(key.Name, " ")
		err = fmt.Errorf("link %s is no port of bridge %s: %w", name, master, unix.ENODEV)
	}
	return l, bridge, ok, err
}

// portRequest sends a request about a port to its bridge.
func (a *linkApplier) portRequest(typ netlink.HeaderType, index int, attrs func(*netlink.AttributeEncoder)) error {
	body, err := linkBody(index, 0, 0, attrs)
	if err != nil {
		return err
	}
	body[0] = unix.AF_BRIDGE
	return a.rtnl.do(typ, 0, body)
}

func (a *linkApplier) applyPortFlags(verb hoststate.Verb, f hoststate.PortFlags) error {
	l, _, ok, err := a.port(verb, f.Key())
	if !ok {
		return err
	}
	if verb == hoststate.Delete {
		f = hoststate.PortFlags{Link: f.Link, Bridge: f.Bridge}
	}
	if f == l.portFlags(f.Bridge) {
		return nil
	}
	err = a.portRequest(unix.RTM_SETLINK, l.index, func(e *netlink.AttributeEncoder) {
		e.Nested(unix.IFLA_PROTINFO, func(e *netlink.AttributeEncoder) error {
			e.Uint8(portIsolated, uint8(flag(f.Isolated)))
			e.Uint8(portLearning, uint8(flag(!f.NoLearning)))
			e.Uint8(portFlood, uint8(flag(!f.NoFlood)))
			return nil
		})
	})
	if verb == hoststate.Delete {
		return allow(err, unix.ENODEV, unix.EOPNOTSUPP)
	}
	return err
}

// applyPortVLANs adds what is missing before it takes away what is too much, so
// that what stays loses nothing.
func (a *linkApplier) applyPortVLANs(verb hoststate.Verb, p hoststate.PortVLANs) error {
	l, bridge, ok, err := a.port(verb, p.Key())
	if !ok {
		return err
	}
	if verb == hoststate.Delete {
		p = bridge.plainVLANs(p.Link)
	}
	change := func(typ netlink.HeaderType, r hoststate.VLANRange) error {
		err := a.portRequest(typ, l.index, func(e *netlink.AttributeEncoder) {
			e.Nested(unix.IFLA_AF_SPEC, func(e *netlink.AttributeEncoder) error {
				encodeVLANs(e, r)
				return nil
			})
		})
		if errors.Is(err, unix.EOPNOTSUPP) {
			return fmt.Errorf("%w: %w", errNoVLANs, err)
		}
		return err
	}
	have := l.portVLANs(p.Bridge).VLANs
	for _, r := range p.VLANs {
		if !slices.Contains(have, r) {
			if err := change(unix.RTM_SETLINK, r); err != nil {
				return err
			}
		}
	}
	for _, r := range surplus(have, p.VLANs) {
		if err := allow(change(unix.RTM_DELLINK, r), unix.ENOENT); err != nil {
			return err
		}
	}
	return nil
}

var errNoVLANs = errors.New("this kernel's bridges know no VLANs (CONFIG_BRIDGE_VLAN_FILTERING)")

// surplus are the VLANs of have that are not in want, whatever their flags.
func surplus(have, want []hoststate.VLANRange) []hoststate.VLANRange {
	var list []hoststate.VLANRange
	for _, h := range have {
		first := int(h.First)
		for _, w := range want { // sorted
			if w.Last < h.First || w.First > h.Last {
				continue
			}
			if int(w.First) > first {
				list = append(list, hoststate.VLANRange{First: uint16(first), Last: w.First - 1})
			}
			first = int(w.Last) + 1
		}
		if first <= int(h.Last) {
			list = append(list, hoststate.VLANRange{First: uint16(first), Last: h.Last})
		}
	}
	return list
}

// probeName is the bridge that is made for a moment to see what bridges can.
const probeName = "viaduct-probe"

// FiltersVLANs implements Host. Every bridge tells it, so the host makes one
// of its own, once, only if it has none.
func (h *kernelHost) FiltersVLANs() bool {
	h.vlansOnce.Do(func() {
		found := false
		h.mirror.now(func() {
			for _, l := range h.mirror.links {
				if l.kind == kindBridge {
					found, h.vlans = true, h.vlans || l.knowsVLANs
				}
			}
		})
		if !found {
			h.vlans = h.probeVLANs() == nil
		}
	})
	return h.vlans
}

func (h *kernelHost) probeVLANs() error {
	body, err := linkBody(0, 0, 0, func(e *netlink.AttributeEncoder) {
		e.String(unix.IFLA_IFNAME, probeName)
		e.Uint32(unix.IFLA_GROUP, ownGroup)
		bridgeInfo(e, func(e *netlink.AttributeEncoder) { e.Uint8(brVLANFiltering, 1) })
	})
	if err != nil {
		return err
	}
	if err := h.rtnl.do(unix.RTM_NEWLINK, netlink.Create|netlink.Excl, body); err != nil {
		return err
	}
	l, ok := h.mirror.link(probeName)
	if !ok {
		return errVanished(probeName)
	}
	if body, err = linkBody(l.index, 0, 0, nil); err != nil {
		return err
	}
	return h.rtnl.do(unix.RTM_DELLINK, 0, body)
}
