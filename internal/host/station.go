package host

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"viaduct/internal/host/nl"
	"viaduct/internal/hoststate"
)

// ntfSticky keeps an entry of a bridge at its port (NTF_STICKY).
const ntfSticky = 1 << 6

// stationApplier tells bridges where guests are. What bridges know changes with
// every guest that they learn, so it is asked for and not mirrored. Only
// networks whose bridge does not learn ask.
type stationApplier struct {
	rtnl   *rtnl
	mirror *mirror
}

func (*stationApplier) Kinds() []hoststate.Kind { return []hoststate.Kind{hoststate.KindStation} }

// Owned is empty: stations go with their ports.
func (*stationApplier) Owned() hoststate.State { return hoststate.State{} }

// OneByOne implements sequential.
func (*stationApplier) OneByOne() {}

// fdbEntry is where a bridge has a station for good, in one VLAN.
type fdbEntry struct {
	port int // the index of the link
	mac  hoststate.MAC
	vlan uint16 // 0 for frames of no VLAN
}

// decodeFDB reads an RTM_NEWNEIGH or RTM_DELNEIGH of the family AF_BRIDGE. It is
// not ok if the entry was learned, or is an address of the host's own.
func decodeFDB(b []byte) (e fdbEntry, ok bool) {
	if len(b) < ndmsgLen || b[0] != unix.AF_BRIDGE || binary.NativeEndian.Uint16(b[8:])&unix.NUD_NOARP == 0 {
		return e, false
	}
	e.port = int(int32(binary.NativeEndian.Uint32(b[4:])))
	d, err := netlink.NewAttributeDecoder(b[ndmsgLen:])
	if err != nil {
		return e, false
	}
	for d.Next() {
		switch {
		case d.Type() == unix.NDA_LLADDR && len(d.Bytes()) == len(e.mac):
			copy(e.mac[:], d.Bytes())
			ok = true
		case d.Type() == unix.NDA_VLAN:
			e.vlan = d.Uint16()
		}
	}
	return e, ok && d.Err() == nil
}

// noteStation notes that a bridge has forgotten a station. The caller holds the
// mirror's lock.
func (m *mirror) noteStation(e fdbEntry) {
	l := m.links[e.port]
	if bridge, ok := m.links[l.master]; ok {
		m.changes.Add(hoststate.Station{Link: l.name, Bridge: bridge.name, MAC: e.mac}.Key())
	}
}

// onlyForgotten lets through, of all that the kernel tells of neighbours, only
// what bridges have forgotten.
func onlyForgotten(fd int) error {
	const headerLen = unix.SizeofNlMsghdr
	is := func(typ uint16) uint32 { return uint32(nl.NetworkOrder(typ)) }
	return nl.AttachFilter(fd, []bpf.Instruction{
		bpf.LoadAbsolute{Off: 4, Size: 2}, // the type of the message
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: is(unix.RTM_NEWNEIGH), SkipTrue: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: is(unix.RTM_DELNEIGH), SkipTrue: 2},
		bpf.LoadAbsolute{Off: headerLen, Size: 1}, // its family
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.AF_BRIDGE, SkipTrue: 1},
		bpf.RetConstant{Val: ^uint32(0)},
		bpf.RetConstant{Val: 0},
	})
}

// entries lists the stations that a bridge has for good.
func (a *stationApplier) entries(bridge int) (map[fdbEntry]bool, error) {
	body, err := linkBody(0, 0, 0, func(e *netlink.AttributeEncoder) { e.Uint32(unix.IFLA_MASTER, uint32(bridge)) })
	if err != nil {
		return nil, err
	}
	body[0] = unix.AF_BRIDGE
	msgs, err := a.rtnl.dump(unix.RTM_GETNEIGH, body)
	if err != nil {
		return nil, err
	}
	list := map[fdbEntry]bool{}
	for _, m := range msgs {
		if e, ok := decodeFDB(m.Data); ok {
			list[e] = true
		}
	}
	return list, nil
}

// Observe reports a station that its bridge has in all VLANs of the port.
func (a *stationApplier) Observe(keys []hoststate.Key) hoststate.State {
	s := hoststate.State{}
	known := map[int]map[fdbEntry]bool{}
	for _, k := range keys {
		station, err := parseStation(k)
		l, bridge, ok := a.member(station)
		if err != nil || !ok {
			continue
		}
		if known[bridge.index] == nil {
			if known[bridge.index], err = a.entries(bridge.index); err != nil {
				continue
			}
		}
		if knows(known[bridge.index], l, station.MAC) {
			s.Add(station)
		}
	}
	return s
}

// knows reports whether a station is in all VLANs of its port.
func knows(entries map[fdbEntry]bool, port link, mac hoststate.MAC) bool {
	if !entries[fdbEntry{port: port.index, mac: mac}] {
		return false
	}
	for _, r := range vlanRanges(port.vlans) {
		for id := int(r.First); id <= int(r.Last); id++ {
			if !entries[fdbEntry{port.index, mac, uint16(id)}] {
				return false
			}
		}
	}
	return true
}

// of lists the stations of a bridge's ports, to bring them back.
func (a *stationApplier) of(bridge string) []hoststate.Op {
	l, ok := a.mirror.link(bridge)
	if !ok {
		return nil
	}
	managed := false
	a.mirror.now(func() {
		for port := range a.mirror.ports[l.index] {
			managed = managed || a.mirror.links[port].flags.noLearning
		}
	})
	if !managed {
		return nil
	}
	entries, err := a.entries(l.index)
	if err != nil {
		return nil
	}
	s := hoststate.State{}
	a.mirror.now(func() {
		for e := range entries {
			if port := a.mirror.links[e.port]; port.master == l.index && e.vlan == 0 {
				s.Add(hoststate.Station{Link: port.name, Bridge: bridge, MAC: e.mac})
			}
		}
	})
	return Diff(s, nil)
}

func parseStation(k hoststate.Key) (s hoststate.Station, err error) {
	words := strings.Fields(k.Name)
	if len(words) != 3 {
		return s, fmt.Errorf("no station: %s", k)
	}
	s.Link, s.Bridge = words[0], words[1]
	_, err = fmt.Sscanf(words[2], "%02x:%02x:%02x:%02x:%02x:%02x", &s.MAC[0], &s.MAC[1], &s.MAC[2], &s.MAC[3], &s.MAC[4], &s.MAC[5])
	return s, err
}

// member finds the port of a station.
func (a *stationApplier) member(s hoststate.Station) (l, bridge link, ok bool) {
	a.mirror.now(func() { l, bridge, ok = a.mirror.bridgeMember(hoststate.MemberKey(s.Link, s.Bridge)) })
	return l, bridge, ok
}

func (a *stationApplier) Apply(_ context.Context, ops []hoststate.Op) error {
	for _, op := range ops {
		if err := a.apply(op); err != nil {
			return &OpError{Op: op, Err: err}
		}
	}
	return nil
}

func (a *stationApplier) apply(op hoststate.Op) error {
	s, ok := op.Object().(hoststate.Station)
	if !ok {
		return fmt.Errorf("not a station: %T", op.Object())
	}
	l, _, member := a.member(s)
	if !member {
		if op.Verb == hoststate.Delete {
			return nil
		}
		return fmt.Errorf("link %s is no port of bridge %s: %w", s.Link, s.Bridge, unix.ENODEV)
	}
	// Without a VLAN it is for all VLANs that the port is in.
	b := append(make([]byte, 0, 64), unix.AF_BRIDGE, 0, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, uint32(l.index))
	b = binary.NativeEndian.AppendUint16(b, unix.NUD_NOARP)
	b = append(b, unix.NTF_MASTER|ntfSticky, 0)
	body, err := appendAttrs(b, func(e *netlink.AttributeEncoder) { e.Bytes(unix.NDA_LLADDR, s.MAC[:]) })
	if err != nil {
		return err
	}
	if op.Verb == hoststate.Delete {
		return allow(a.rtnl.do(unix.RTM_DELNEIGH, 0, body), unix.ENOENT, unix.ENODEV)
	}
	return a.rtnl.do(unix.RTM_NEWNEIGH, netlink.Create|netlink.Replace, body)
}
