package host

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"viaduct/internal/hoststate"
)

// linkApplier observes and changes links, their addresses and routes, by
// routing netlink.
type linkApplier struct {
	rtnl     *rtnl
	mirror   *mirror
	shapers  *shaperApplier
	stations *stationApplier
}

func (a *linkApplier) Kinds() []hoststate.Kind {
	return []hoststate.Kind{
		hoststate.KindClaim, hoststate.KindBridge, hoststate.KindTap, hoststate.KindMacvtap, hoststate.KindMTU, hoststate.KindAddress, hoststate.KindLinkUp, hoststate.KindRoute, hoststate.KindMember,
		hoststate.KindPortFlags, hoststate.KindPortVLANs,
	}
}

func (a *linkApplier) Observe(keys []hoststate.Key) hoststate.State {
	s := hoststate.State{}
	a.mirror.now(func() {
		for _, k := range keys {
			if o, ok := a.mirror.observe(k); ok {
				s.Add(o)
			}
		}
	})
	return s
}

func (a *linkApplier) Owned() hoststate.State { return a.mirror.owned() }

// OneByOne implements sequential: the kernel knows no transactions here.
func (a *linkApplier) OneByOne() {}

// Contents implements container. It does not know the settings of a link.
func (a *linkApplier) Contents(k hoststate.Key) []hoststate.Op {
	ops := a.mirror.restore(k.Name)
	if k.Kind == hoststate.KindBridge {
		ops = append(ops, a.stations.of(k.Name)...)
	}
	return ops
}

func (a *linkApplier) Apply(_ context.Context, ops []hoststate.Op) error {
	for _, op := range ops {
		if err := a.apply(op); err != nil {
			return &OpError{Op: op, Err: err}
		}
	}
	return nil
}

func (a *linkApplier) apply(op hoststate.Op) error {
	switch o := op.Object().(type) {
	case hoststate.Claim:
		return a.applyClaim(op.Verb, o)
	case hoststate.Bridge:
		if op.Renames() {
			if err := a.renameUp(op.Old.(hoststate.Bridge).Name, o.Name); err != nil {
				return err
			}
		}
		return a.applyBridge(op.Verb, o)
	case hoststate.Tap:
		return a.applyTap(op.Verb, o)
	case hoststate.Macvtap:
		return a.applyMacvtap(op.Verb, o)
	case hoststate.LinkMTU:
		return a.applyMTU(op.Verb, o)
	case hoststate.Address:
		return a.applyAddress(op.Verb, o)
	case hoststate.LinkUp:
		return a.applyUp(op.Verb, o.Link)
	case hoststate.Route:
		return a.applyRoute(op.Verb, o)
	case hoststate.Member:
		return a.applyMember(op.Verb, o)
	case hoststate.PortFlags:
		return a.applyPortFlags(op.Verb, o)
	case hoststate.PortVLANs:
		return a.applyPortVLANs(op.Verb, o)
	}
	return fmt.Errorf("not an object of the link applier: %T", op.Object())
}

// STP takes a forward delay of 2 to 30 seconds (IEEE 802.1D-1998, 8.10.2).
const minForwardDelay, maxForwardDelay = 200, 3000

func (a *linkApplier) applyBridge(verb hoststate.Verb, b hoststate.Bridge) error {
	if verb == hoststate.Delete {
		return a.deleteBridge(b.Name)
	}
	if b.STP && (b.ForwardDelay < minForwardDelay || b.ForwardDelay > maxForwardDelay) {
		return fmt.Errorf("forward delay %d.%02d s is not between 2 and 30 s", b.ForwardDelay/100, b.ForwardDelay%100)
	}
	have, exists := a.mirror.link(b.Name)
	if !exists {
		err := a.createBridge(b)
		if b.VLANs && errors.Is(err, unix.EOPNOTSUPP) {
			return fmt.Errorf("%w: %w", errNoVLANs, err)
		}
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
		if have, exists = a.mirror.link(b.Name); !exists {
			return errVanished(b.Name)
		}
	}
	if have.kind != kindBridge || !have.ours() {
		return errNotOurs(have)
	}
	return a.changeBridge(have, b)
}

// applyClaim makes somebody else's bridge ours, or gives it up. All else stays
// as it is.
func (a *linkApplier) applyClaim(verb hoststate.Verb, c hoststate.Claim) error {
	l, exists := a.mirror.link(c.Bridge)
	switch {
	case !exists && verb == hoststate.Delete:
		return nil
	case !exists:
		return errVanished(c.Bridge)
	case l.kind != kindBridge:
		return fmt.Errorf("link %s is no bridge", c.Bridge)
	}
	alias, group := c.Alias, uint32(ownGroup)
	if verb == hoststate.Delete {
		alias, group = "", 0
	}
	err := a.setBridge(l.index, nil, func(e *netlink.AttributeEncoder) {
		e.String(unix.IFLA_IFALIAS, alias)
		e.Uint32(unix.IFLA_GROUP, group)
	})
	if err != nil {
		return err
	}
	// The kernel does not announce these while the bridge is down.
	a.mirror.now(func() {
		if l, ok := a.mirror.links[l.index]; ok {
			l.alias, l.group = alias, group
			a.mirror.setLink(l)
		}
	})
	return nil
}

func errNotOurs(l link) error {
	return fmt.Errorf("link %s exists and was not made by viaduct", l.name)
}

func errVanished(name string) error {
	return fmt.Errorf("link %s does not exist: %w", name, unix.ENODEV)
}

// createBridge makes the link with all that the kernel takes at creation. The
// MTU is not among it: set later it is kept, while one from creation gives way
// to that of the first port.
func (a *linkApplier) createBridge(b hoststate.Bridge) error {
	return a.request(unix.RTM_NEWLINK, netlink.Create|netlink.Excl, 0, func(e *netlink.AttributeEncoder) {
		e.String(unix.IFLA_IFNAME, b.Name)
		e.Uint32(unix.IFLA_GROUP, ownGroup)
		if b.MAC != (hoststate.MAC{}) {
			e.Bytes(unix.IFLA_ADDRESS, b.MAC[:])
		}
		bridgeInfo(e, func(e *netlink.AttributeEncoder) {
			timesOf(e, b)
			e.Uint32(brSTPState, flag(b.STP))
			if b.VLANs {
				e.Uint8(brVLANFiltering, 1)
			}
		})
	})
}

// delayOf is the delay that a bridge is to have in the kernel: without STP 0,
// so that ports forward at once.
func delayOf(b hoststate.Bridge) uint32 {
	if !b.STP {
		return 0
	}
	return uint32(b.ForwardDelay)
}

// The times of the spanning tree protocol that the kernel gives new bridges, in
// hundredths of a second (br_dev_setup).
const defaultHelloTime, defaultMaxAge = 200, 2000

// timesOf adds the times that a bridge is to have.
func timesOf(e *netlink.AttributeEncoder, b hoststate.Bridge) {
	e.Uint32(brForwardDelay, delayOf(b))
	e.Uint32(brHelloTime, uint32(cmp.Or(b.HelloTime, defaultHelloTime)))
	e.Uint32(brMaxAge, uint32(cmp.Or(b.MaxAge, defaultMaxAge)))
}

func flag(on bool) uint32 {
	if on {
		return 1
	}
	return 0
}

func bridgeInfo(e *netlink.AttributeEncoder, data func(*netlink.AttributeEncoder)) {
	e.Nested(unix.IFLA_LINKINFO, func(e *netlink.AttributeEncoder) error {
		e.String(unix.IFLA_INFO_KIND, kindBridge)
		e.Nested(unix.IFLA_INFO_DATA, func(e *netlink.AttributeEncoder) error {
			data(e)
			return nil
		})
		return nil
	})
}

// changeBridge gives the bridge that exists what differs from b.
func (a *linkApplier) changeBridge(have link, b hoststate.Bridge) error {
	mtu := b.MTU
	if mtu == 0 {
		a.mirror.now(func() { mtu = mtuByPorts(a.mirror.smallestMTU(have.index)) })
	}
	// The kernel refuses a delay below 2 s as long as STP is on, and looks at
	// the delay first.
	stopSTP := have.stp && !b.STP
	if stopSTP {
		if err := a.setBridge(have.index, func(e *netlink.AttributeEncoder) { e.Uint32(brSTPState, 0) }, nil); err != nil {
			return err
		}
	}
	var data func(*netlink.AttributeEncoder)
	if stopSTP || have.stp != b.STP || have.forwardDelay != int(delayOf(b)) || have.filters != b.VLANs ||
		have.helloTime != cmp.Or(b.HelloTime, defaultHelloTime) || have.maxAge != cmp.Or(b.MaxAge, defaultMaxAge) {
		data = func(e *netlink.AttributeEncoder) {
			timesOf(e, b)
			e.Uint32(brSTPState, flag(b.STP))
			if have.filters != b.VLANs {
				e.Uint8(brVLANFiltering, uint8(flag(b.VLANs)))
			}
		}
	}
	if data == nil && have.alias == b.Alias && have.group == ownGroup && (mtu == 0 || mtu == have.mtu) &&
		(b.MAC == hoststate.MAC{} || b.MAC == have.mac) {
		return nil
	}
	err := a.setBridge(have.index, data, func(e *netlink.AttributeEncoder) {
		e.String(unix.IFLA_IFALIAS, b.Alias)
		e.Uint32(unix.IFLA_GROUP, ownGroup)
		if mtu != 0 {
			e.Uint32(unix.IFLA_MTU, uint32(mtu))
		}
		if b.MAC != (hoststate.MAC{}) && b.MAC != have.mac {
			e.Bytes(unix.IFLA_ADDRESS, b.MAC[:])
		}
	})
	if err != nil {
		return err
	}
	// The kernel does not announce these while the bridge is down.
	a.mirror.now(func() {
		if l, ok := a.mirror.links[have.index]; ok {
			l.alias, l.group, l.stp, l.forwardDelay, l.filters = b.Alias, ownGroup, b.STP, int(delayOf(b)), b.VLANs
			l.helloTime, l.maxAge = cmp.Or(b.HelloTime, defaultHelloTime), cmp.Or(b.MaxAge, defaultMaxAge)
			a.mirror.setLink(l)
		}
	})
	return nil
}

// setBridge changes attributes of the bridge and of the link that it is.
func (a *linkApplier) setBridge(index int, data, attrs func(*netlink.AttributeEncoder)) error {
	return a.request(unix.RTM_NEWLINK, 0, index, func(e *netlink.AttributeEncoder) {
		if attrs != nil {
			attrs(e)
		}
		if data != nil {
			bridgeInfo(e, data)
		}
	})
}

// deleteBridge removes a bridge of ours. One that is gone is fine.
func (a *linkApplier) deleteBridge(name string) error {
	l, ok := a.mirror.link(name)
	if !ok {
		return nil
	}
	if l.kind != kindBridge || !l.ours() {
		return errNotOurs(l)
	}
	// Its ports leave with it, and those that others made stay. What they were
	// given goes first: afterwards nobody knows any more whose ports they were.
	for _, port := range a.mirror.portsOf(name) {
		if err := a.shapers.removePlace(port.Index); err != nil {
			return fmt.Errorf("port %s: %w", port.Name, err)
		}
	}
	return allow(a.request(unix.RTM_DELLINK, 0, l.index, nil), unix.ENODEV)
}

// applyUp sets a link up or down, and gives one of ours a place for filters as
// long as it is up. Links of others have theirs while they are ports.
func (a *linkApplier) applyUp(verb hoststate.Verb, name string) error {
	up := verb != hoststate.Delete
	if l, ok := a.mirror.link(name); ok && up && l.ours() {
		_ = a.shapers.prepare(l.index) // a limit says so if that cannot be
	}
	err := a.setUp(name, up)
	if l, ok := a.mirror.link(name); ok && !l.up && l.kind != kindBridge {
		err = errors.Join(err, a.shapers.removePlace(l.index))
	}
	return err
}

func (a *linkApplier) setUp(name string, up bool) error {
	l, ok := a.mirror.link(name)
	switch {
	case !ok && up:
		return errVanished(name)
	case !ok:
		return nil
	case !up && l.master != 0 && !a.ownBridge(l.master):
		return nil // it was ours to set up, but somebody took it into a bridge of theirs
	}
	flags := uint32(0)
	if up {
		flags = unix.IFF_UP
	}
	body, err := linkBody(l.index, flags, unix.IFF_UP, nil)
	if err != nil {
		return err
	}
	err = a.rtnl.do(unix.RTM_SETLINK, 0, body)
	if !up {
		return allow(err, unix.ENODEV)
	}
	return err
}

func (a *linkApplier) applyMTU(verb hoststate.Verb, m hoststate.LinkMTU) error {
	if verb == hoststate.Delete {
		return nil
	}
	l, ok := a.mirror.link(m.Link)
	switch {
	case !ok:
		return errVanished(m.Link)
	case l.mtu == m.MTU:
		return nil
	}
	return a.request(unix.RTM_SETLINK, 0, l.index, func(e *netlink.AttributeEncoder) { e.Uint32(unix.IFLA_MTU, uint32(m.MTU)) })
}

// renameUp gives a bridge of ours another name while it is up, see LiveRename.
func (a *linkApplier) renameUp(link, name string) error {
	l, ok := a.mirror.link(link)
	switch {
	case !ok:
		return errVanished(link)
	case l.kind != kindBridge || !l.ours():
		return errNotOurs(l)
	}
	err := a.request(unix.RTM_SETLINK, 0, l.index, func(e *netlink.AttributeEncoder) { e.String(unix.IFLA_IFNAME, name) })
	if err != nil {
		return err
	}
	return a.shapers.renameUp(link, name)
}

// LiveRename reports whether the kernel gives links another name while they are
// up. Linux does from 6.2 on; to try it would take a link.
func LiveRename() bool {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return false
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor); err != nil {
		return false
	}
	return major > 6 || major == 6 && minor >= 2
}

// rename gives a link another name, for which it has to be down.
func (a *linkApplier) rename(link, name string) error {
	l, ok := a.mirror.link(link)
	if !ok {
		return errVanished(link)
	}
	if err := a.setUp(link, false); err != nil {
		return err
	}
	return a.request(unix.RTM_SETLINK, 0, l.index, func(e *netlink.AttributeEncoder) { e.String(unix.IFLA_IFNAME, name) })
}

// setMAC gives a link an address. Some drivers, Xen's among them, take one only
// while the link is down.
func (a *linkApplier) setMAC(l link, mac hoststate.MAC) error {
	set := func() error {
		return a.request(unix.RTM_SETLINK, 0, l.index, func(e *netlink.AttributeEncoder) {
			e.Bytes(unix.IFLA_ADDRESS, mac[:])
		})
	}
	err := set()
	if !errors.Is(err, unix.EBUSY) || !l.up {
		return err
	}
	if err := a.setUp(l.name, false); err != nil {
		return err
	}
	return errors.Join(set(), a.setUp(l.name, true))
}

func (a *linkApplier) ownBridge(index int) (ours bool) {
	a.mirror.now(func() { ours = a.mirror.links[index].ours() })
	return ours
}

func (a *linkApplier) applyAddress(verb hoststate.Verb, o hoststate.Address) error {
	l, ok := a.mirror.link(o.Link)
	switch {
	case !ok && verb == hoststate.Delete:
		return nil
	case !ok:
		return errVanished(o.Link)
	}
	body, err := addressBody(l.index, o.Prefix)
	if err != nil {
		return err
	}
	if verb == hoststate.Delete {
		return allow(a.rtnl.do(unix.RTM_DELADDR, 0, body), unix.EADDRNOTAVAIL, unix.ENODEV)
	}
	if err := allow(a.rtnl.do(unix.RTM_NEWADDR, netlink.Create|netlink.Excl, body), unix.EEXIST); err != nil {
		return err
	}
	// The kernel announces an IPv6 address without duplicate detection late.
	a.mirror.now(func() {
		if _, ok := a.mirror.links[l.index]; ok {
			a.mirror.setAddress(address{index: l.index, prefix: o.Prefix})
		}
	})
	return nil
}

// addressBody is the body of an address request: an ifaddrmsg and attributes.
func addressBody(index int, p netip.Prefix) ([]byte, error) {
	family := byte(unix.AF_INET)
	if p.Addr().Is6() {
		family = unix.AF_INET6
	}
	b := append(make([]byte, 0, 64), family, byte(p.Bits()), 0, unix.RT_SCOPE_UNIVERSE)
	b = binary.NativeEndian.AppendUint32(b, uint32(index))
	return appendAttrs(b, func(e *netlink.AttributeEncoder) {
		e.Bytes(unix.IFA_LOCAL, p.Addr().AsSlice())
		e.Bytes(unix.IFA_ADDRESS, p.Addr().AsSlice())
		switch {
		case p.Addr().Is6():
			// Duplicate detection needs a port with carrier, which a bridge
			// gets only with its first guest; until then nothing could listen.
			e.Uint32(unix.IFA_FLAGS, unix.IFA_F_NODAD)
		case p.Bits() < 31:
			e.Bytes(unix.IFA_BROADCAST, broadcast(p).AsSlice())
		}
	})
}

// broadcast is the last address of an IPv4 prefix.
func broadcast(p netip.Prefix) netip.Addr {
	a := p.Addr().As4()
	v := binary.BigEndian.Uint32(a[:]) | (1<<(32-p.Bits()) - 1)
	binary.BigEndian.PutUint32(a[:], v)
	return netip.AddrFrom4(a)
}

func (a *linkApplier) applyRoute(verb hoststate.Verb, r hoststate.Route) error {
	l, ok := a.mirror.link(r.Link)
	switch {
	case !ok && verb == hoststate.Delete:
		return nil
	case !ok:
		return errVanished(r.Link)
	}
	body, err := routeBody(l.index, r)
	if err != nil {
		return err
	}
	switch verb {
	case hoststate.Delete:
		// To the kernel no metric means any.
		if len(a.Observe([]hoststate.Key{r.Key()})) == 0 {
			return nil
		}
		return allow(a.rtnl.do(unix.RTM_DELROUTE, 0, body), unix.ESRCH, unix.ENODEV)
	case hoststate.Change:
		return a.rtnl.do(unix.RTM_NEWROUTE, netlink.Create|netlink.Replace, body)
	}
	err = a.rtnl.do(unix.RTM_NEWROUTE, netlink.Create|netlink.Excl, body)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	if a.Observe([]hoststate.Key{r.Key()})[r.Key()] == r {
		return nil
	}
	return fmt.Errorf("another route to %s with the same metric exists and was not made by viaduct: %w", r.Dst, err)
}

// routeBody is the body of a route request: an rtmsg and attributes.
func routeBody(index int, r hoststate.Route) ([]byte, error) {
	family, scope := byte(unix.AF_INET), byte(unix.RT_SCOPE_UNIVERSE)
	if r.Dst.Addr().Is6() {
		family = unix.AF_INET6
	} else if !r.Via.IsValid() {
		scope = unix.RT_SCOPE_LINK
	}
	b := append(make([]byte, 0, 64), family, byte(r.Dst.Bits()), 0, 0,
		unix.RT_TABLE_MAIN, ownProtocol, scope, unix.RTN_UNICAST, 0, 0, 0, 0)
	return appendAttrs(b, func(e *netlink.AttributeEncoder) {
		e.Bytes(unix.RTA_DST, r.Dst.Addr().AsSlice())
		e.Uint32(unix.RTA_OIF, uint32(index))
		if r.Via.IsValid() {
			e.Bytes(unix.RTA_GATEWAY, r.Via.AsSlice())
		}
		if metric := routeIDOf(r, index).metric; metric != 0 {
			e.Uint32(unix.RTA_PRIORITY, metric)
		}
	})
}

// request sends a request about a link.
func (a *linkApplier) request(typ netlink.HeaderType, flags netlink.HeaderFlags, index int,
	attrs func(*netlink.AttributeEncoder),
) error {
	body, err := linkBody(index, 0, 0, attrs)
	if err != nil {
		return err
	}
	return a.rtnl.do(typ, flags, body)
}

// allow turns the given answers of the kernel into success.
func allow(err error, fine ...unix.Errno) error {
	for _, e := range fine {
		if errors.Is(err, e) {
			return nil
		}
	}
	return err
}
