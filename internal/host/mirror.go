package host

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"viaduct/internal/host/changes"
	"viaduct/internal/host/nl"
	"viaduct/internal/hoststate"
)

// mirror is a copy of the host's links, addresses and routes. It is read from
// the kernel once and then follows the kernel's notifications.
//
// The notifications are the only source of truth, in the one order in which
// the kernel made the changes. A notification waits in the socket before the
// request that caused it is acknowledged. So whoever asks the mirror first
// lets it catch up with what is waiting there, and then sees everything that
// has happened so far, by our own hand or another's.
//
// A few changes the kernel announces late or, of links that are down, not at
// all; the appliers add those when they have made them.
type mirror struct {
	rtnl    *rtnl
	changes *changes.Box
	sock    *os.File
	raw     syscall.RawConn

	mu     sync.Mutex
	links  map[int]link
	names  map[string]int
	ports  map[int]map[int]struct{} // the links that have a link as their master
	addrs  map[address]struct{}
	routes map[routeID]routeInfo
	stale  bool // notifications were lost and the host not yet read again
	buf    []byte
}

// The multicast groups that tell of changes.
var mirrorGroups = [...]int{
	unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
	unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_TC, unix.RTNLGRP_NEIGH,
}

const (
	// mirrorQueue is how many bytes of notifications the kernel may hold for
	// us. Memory is used only for what is waiting.
	mirrorQueue = 16 << 20
	// maxNotification is the size of the largest notification, in bytes: the
	// kernel makes no larger netlink message of its own.
	maxNotification = 64 << 10
)

// newMirror reads the host and begins to follow it. Changes, own ones too, are
// noted in ch.
func newMirror(r *rtnl, ch *changes.Box) (*mirror, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	m := &mirror{rtnl: r, changes: ch, sock: os.NewFile(uintptr(fd), "rtnetlink"), buf: make([]byte, maxNotification)}
	if err := m.start(fd); err != nil {
		_ = m.sock.Close()
		return nil, fmt.Errorf("observe the host's network: %w", err)
	}
	return m, nil
}

func (m *mirror) start(fd int) (err error) {
	if err := nl.SetReceiveQueue(fd, mirrorQueue); err != nil {
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	if err := onlyForgotten(fd); err != nil {
		return err
	}
	for _, g := range mirrorGroups {
		if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, g); err != nil {
			return err
		}
	}
	if m.raw, err = m.sock.SyscallConn(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.reload(); err != nil {
		return err
	}
	m.changes.Take() // nothing has changed yet
	return nil
}

// follow handles notifications as they come, until the mirror is closed.
func (m *mirror) follow() {
	// The function returns false to be called again when there is more.
	_ = m.raw.Read(func(fd uintptr) bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.receive(int(fd))
		return false
	})
}

func (m *mirror) close() error { return m.sock.Close() }

// now runs f with the mirror as it is now. It waits for nobody.
func (m *mirror) now(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	// It fails when the mirror is closed; then the last known state has to do.
	_ = m.raw.Control(func(fd uintptr) { m.receive(int(fd)) })
	f()
}

// link returns the link called name.
func (m *mirror) link(name string) (l link, ok bool) {
	m.now(func() {
		var index int
		if index, ok = m.names[name]; ok {
			l = m.links[index]
		}
	})
	return l, ok
}

// receive handles all waiting notifications. The caller holds the lock.
func (m *mirror) receive(fd int) {
	for {
		n, from, err := unix.Recvfrom(fd, m.buf, unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOBUFS):
			m.stale = true // notifications were lost
			continue
		case err != nil && m.stale: // nothing is waiting
			if m.stale = m.reload() != nil; m.stale {
				return
			}
			m.changes.Add()
			continue
		case err != nil:
			return
		}
		if sa, ok := from.(*unix.SockaddrNetlink); !ok || sa.Pid != 0 {
			continue // not from the kernel
		}
		msgs, err := syscall.ParseNetlinkMessage(m.buf[:n])
		if err != nil {
			continue
		}
		for _, msg := range msgs {
			m.handle(msg.Header.Type, msg.Header.Flags, msg.Data)
		}
	}
}

// reload reads everything afresh. If it cannot, nothing changes. The caller
// holds the lock.
func (m *mirror) reload() (err error) {
	links, names, ports, addrs, routes := m.links, m.names, m.ports, m.addrs, m.routes
	defer func() {
		if err != nil {
			m.links, m.names, m.ports, m.addrs, m.routes = links, names, ports, addrs, routes
		}
	}()
	m.links, m.names, m.ports = map[int]link{}, map[string]int{}, map[int]map[int]struct{}{}
	m.addrs, m.routes = map[address]struct{}{}, map[routeID]routeInfo{}
	linkReq, err := linkBody(0, 0, 0, func(e *netlink.AttributeEncoder) { e.Uint32(unix.IFLA_EXT_MASK, extSkipStats) })
	if err != nil {
		return err
	}
	portReq, err := linkBody(0, 0, 0, func(e *netlink.AttributeEncoder) { e.Uint32(unix.IFLA_EXT_MASK, extVLANRanges) })
	if err != nil {
		return err
	}
	portReq[0] = unix.AF_BRIDGE
	for _, req := range []struct {
		typ  netlink.HeaderType
		body []byte
	}{
		{unix.RTM_GETLINK, linkReq},
		{unix.RTM_GETLINK, portReq},
		{unix.RTM_GETADDR, make([]byte, ifaddrLen)},
		{unix.RTM_GETROUTE, make([]byte, rtmsgLen)},
	} {
		msgs, err := m.rtnl.dump(req.typ, req.body)
		if err != nil {
			return err
		}
		for _, msg := range msgs {
			m.handle(uint16(msg.Header.Type), 0, msg.Data)
		}
	}
	return nil
}

// handle takes over what one message says. Messages that make no sense are
// passed over: the kernel is newer than we are. The caller holds the lock.
func (m *mirror) handle(typ, flags uint16, body []byte) {
	switch typ {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		if p, isPort, err := decodeBridgePort(body); err == nil && isPort && typ == unix.RTM_NEWLINK {
			m.setPort(p)
		}
		l, whole, err := decodeLink(body)
		switch {
		case err != nil || !whole:
		case typ == unix.RTM_NEWLINK:
			m.setLink(l)
		default:
			m.dropLink(l.index)
		}
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		a, err := decodeAddress(body)
		switch {
		case err != nil:
		case typ == unix.RTM_NEWADDR:
			m.setAddress(a)
		default:
			m.dropAddress(a)
		}
	case unix.RTM_DELNEIGH:
		if e, ok := decodeFDB(body); ok {
			m.noteStation(e)
		}
	case unix.RTM_NEWQDISC, unix.RTM_DELQDISC, unix.RTM_NEWTCLASS, unix.RTM_DELTCLASS, unix.RTM_NEWTFILTER, unix.RTM_DELTFILTER:
		if o, err := decodeTC(body); err == nil {
			m.noteShaper(m.links[o.index])
		}
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		ids, info, err := decodeRoute(body)
		if err != nil || len(ids) == 0 {
			return
		}
		if flags&unix.NLM_F_REPLACE != 0 {
			m.dropRoutes(func(id routeID, _ routeInfo) bool {
				twin := id
				twin.index = ids[0].index
				return twin == ids[0] && !slices.Contains(ids, id)
			})
		}
		for _, id := range ids {
			if typ == unix.RTM_NEWROUTE {
				m.setRoute(id, info)
			} else {
				m.dropRoute(id)
			}
		}
	}
}

// noteShaper notes that what limits the link, or goes round by it, may be
// another than before. That itself is not kept here, see shaperApplier.
func (m *mirror) noteShaper(l link) {
	m.changes.Add(hoststate.ShaperKey(l.name, false), hoststate.ShaperKey(l.name, true))
	if key, ok := l.shapes(); ok {
		m.changes.Add(key)
	}
}

// noteLink notes that the link may be another bridge or tap, up or down, or a
// port of another bridge than before.
func (m *mirror) noteLink(l link) {
	m.changes.Add(hoststate.BridgeKey(l.name), hoststate.LinkUp{Link: l.name}.Key())
	m.noteUplink(l)
	m.noteUplink(m.links[l.master])
	if l.kind == kindTap {
		m.changes.Add(hoststate.TapKey(l.name))
	}
	if key, ok := l.shapes(); ok {
		m.changes.Add(key)
	}
	if l.kind == kindMacvtap {
		m.changes.Add(hoststate.MacvtapKey(l.name))
	}
	if master, ok := m.links[l.master]; ok {
		m.changes.Add(hoststate.MemberKey(l.name, master.name), hoststate.PortFlagsKey(l.name, master.name),
			hoststate.PortVLANsKey(l.name, master.name))
	}
}

// noteUplink notes that a bridge that may be an uplink has lost something.
func (m *mirror) noteUplink(l link) {
	if l.kind == kindBridge && !l.ours() {
		m.changes.Add(hoststate.UplinkKey(l.name))
	}
}

// setLink takes over what the kernel says of a link. Which VLANs it is in, its
// bridge tells.
func (m *mirror) setLink(l link) {
	if old := m.links[l.index]; old.master == l.master {
		l.vlans = old.vlans
	}
	m.replaceLink(l)
}

func (m *mirror) replaceLink(l link) {
	old, existed := m.links[l.index]
	if old == l {
		return
	}
	if existed {
		m.noteLink(old)
		m.forget(old)
	}
	m.links[l.index] = l
	m.names[l.name] = l.index
	if l.master != 0 {
		if m.ports[l.master] == nil {
			m.ports[l.master] = map[int]struct{}{}
		}
		m.ports[l.master][l.index] = struct{}{}
	}
	m.noteLink(l)
	if existed && old.mtu != l.mtu {
		m.changes.Add(hoststate.MTUKey(l.name))
	}
	if old.up && !l.up {
		m.dropIPv4Routes(l.index)
	}
}

func (m *mirror) dropLink(index int) {
	l, ok := m.links[index]
	if !ok {
		return
	}
	for a := range m.addrs {
		if a.index == index {
			m.dropAddress(a)
		}
	}
	m.dropRoutes(func(id routeID, _ routeInfo) bool { return id.index == index })
	m.noteLink(l)
	m.forget(l)
}

// forget takes a link out of the mirror.
func (m *mirror) forget(l link) {
	delete(m.links, l.index)
	if m.names[l.name] == l.index {
		delete(m.names, l.name)
	}
	delete(m.ports[l.master], l.index)
	if len(m.ports[l.master]) == 0 {
		delete(m.ports, l.master)
	}
}

func (m *mirror) setAddress(a address) {
	if _, known := m.addrs[a]; !known {
		m.addrs[a] = struct{}{}
		m.changes.Add(m.addressKey(a))
	}
}

// dropAddress also drops the routes that the kernel removes with the address
// without a word: those with it as their preferred source, and those of a link
// that has lost its last IPv4 address.
func (m *mirror) dropAddress(a address) {
	if _, known := m.addrs[a]; !known {
		return
	}
	delete(m.addrs, a)
	m.changes.Add(m.addressKey(a))
	m.noteUplink(m.links[a.index])
	if !a.prefix.Addr().Is4() {
		return
	}
	last, gone := true, true
	for other := range m.addrs {
		last = last && (other.index != a.index || !other.prefix.Addr().Is4())
		gone = gone && other.prefix.Addr() != a.prefix.Addr()
	}
	if last {
		m.dropIPv4Routes(a.index)
	}
	if gone {
		m.dropRoutes(func(_ routeID, info routeInfo) bool { return info.source == a.prefix.Addr() })
	}
}

func (m *mirror) setRoute(id routeID, info routeInfo) {
	if id.table == unix.RT_TABLE_LOCAL {
		return
	}
	if old, known := m.routes[id]; !known || old != info {
		m.routes[id] = info
		m.noteRoute(id, info)
	}
}

func (m *mirror) dropRoute(id routeID) {
	if info, known := m.routes[id]; known {
		delete(m.routes, id)
		m.noteRoute(id, info)
		m.noteUplink(m.links[id.index])
	}
}

// noteRoute notes a change of a route, if it is one of ours.
func (m *mirror) noteRoute(id routeID, info routeInfo) {
	if r, ours := m.ownRoute(id, info); ours {
		m.changes.Add(r.Key())
	}
}

// dropIPv4Routes drops the IPv4 routes of a link, which the kernel removes
// without a word when the link goes down.
func (m *mirror) dropIPv4Routes(index int) {
	m.dropRoutes(func(id routeID, _ routeInfo) bool { return id.index == index && id.dst.Addr().Is4() })
}

func (m *mirror) dropRoutes(drop func(routeID, routeInfo) bool) {
	for id, info := range m.routes {
		if drop(id, info) {
			m.dropRoute(id)
		}
	}
}

func (m *mirror) addressKey(a address) hoststate.Key {
	return hoststate.Address{Link: m.links[a.index].name, Prefix: a.prefix}.Key()
}
