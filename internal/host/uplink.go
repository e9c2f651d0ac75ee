package host

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"viaduct/internal/hoststate"
)

// uplinkApplier moves what the host has between a network card and the bridge
// in front of it. Every step is there twice for a moment rather than not at all.
type uplinkApplier struct {
	rtnl   *rtnl
	mirror *mirror
	links  *linkApplier
	// fault is called in the midst of a change, see Options.Fault.
	fault func(point string)
}

func (*uplinkApplier) Kinds() []hoststate.Kind { return []hoststate.Kind{hoststate.KindUplink} }

// Owned is empty: nobody removes an uplink because he does not know it.
func (*uplinkApplier) Owned() hoststate.State { return hoststate.State{} }

// OneByOne implements sequential.
func (*uplinkApplier) OneByOne() {}

func (a *uplinkApplier) Observe(keys []hoststate.Key) hoststate.State {
	s := hoststate.State{}
	for _, k := range keys {
		l, ok := a.mirror.link(k.Name)
		if !ok || l.kind != kindBridge {
			continue
		}
		u := hoststate.Uplink{Bridge: l.name, MAC: l.mac, MTU: l.mtu}
		for _, p := range a.mirror.portsOf(l.name) {
			u.Ports = append(u.Ports, p.Name)
		}
		var err error
		if u.Held, err = held(a.rtnl, a.mirror, l); err == nil {
			s.Add(u)
		}
	}
	return s
}

// uplinkSatisfies is satisfies for uplinks. What has an end is its maker's
// business, and there may be more than is wanted.
func uplinkSatisfies(have, want hoststate.Uplink) bool {
	if want.NIC != "" && (have.MAC != want.MAC || !slices.Contains(have.Ports, want.NIC)) || want.MTU != 0 && have.MTU != want.MTU {
		return false
	}
	for _, w := range want.Held.Addresses {
		if w.Lasting() && !slices.ContainsFunc(have.Held.Addresses, func(h hoststate.HeldAddress) bool { return h.Prefix == w.Prefix && h.Peer == w.Peer }) {
			return false
		}
	}
	for _, w := range want.Held.Rules {
		if !slices.ContainsFunc(have.Held.Rules, func(h hoststate.HeldRule) bool { return sameRule(h, w) }) {
			return false
		}
	}
	for _, w := range want.Held.Neighbours {
		if !slices.Contains(have.Held.Neighbours, w) {
			return false
		}
	}
	if want.Client && !leaseSatisfied(have, want.Leased) {
		return false
	}
	for _, w := range want.Held.Routes {
		if w.Until.IsZero() && !slices.ContainsFunc(have.Held.Routes, func(h hoststate.HeldRoute) bool { return sameRoute(h, w) }) {
			return false
		}
	}
	return true
}

func (a *uplinkApplier) Apply(_ context.Context, ops []hoststate.Op) error {
	for _, op := range ops {
		u, ok := op.Object().(hoststate.Uplink)
		if !ok {
			return &OpError{Op: op, Err: fmt.Errorf("not an uplink: %T", op.Object())}
		}
		var err error
		switch op.Verb {
		case hoststate.Delete:
			err = a.release(u)
		case hoststate.Create:
			if err = a.take(u); err != nil {
				err = errors.Join(err, a.release(u))
			}
		default:
			err = a.take(u)
		}
		if err != nil {
			return &OpError{Op: op, Err: err}
		}
	}
	return nil
}

// disableIPv6 is the one setting of a card that being a port changes.
const disableIPv6 = "ipv6 disable_ipv6"

// take puts the bridge in front of the card. It may have been half done before.
func (a *uplinkApplier) take(u hoststate.Uplink) error {
	nic, exists := a.mirror.link(u.NIC)
	if u.NIC != "" && !exists {
		return errVanished(u.NIC)
	}
	bridge, err := a.makeBridge(u)
	if err != nil {
		return err
	}
	if exists && nic.master != 0 && nic.master != bridge.index {
		return fmt.Errorf("link %s is a port of another link already: %w", u.NIC, unix.EBUSY)
	}
	for name, value := range u.Held.Settings {
		if err := setHeld(u.Bridge, name, value); err != nil {
			return err
		}
	}
	if err := a.links.setUp(u.Bridge, true); err != nil {
		return err
	}
	if exists {
		if err := a.plug(u, nic, bridge); err != nil {
			return err
		}
	}
	a.fault("uplink plugged")
	if u.Client {
		if err := a.lease(bridge, u.Leased); err != nil {
			return err
		}
	}
	if err := a.put(bridge, nic, u.Held); err != nil {
		return err
	}
	a.fault("uplink put")
	if exists && u.Client {
		if err := a.strip(nic); err != nil {
			return err
		}
	}
	if exists {
		return a.clear(nic, u.Held)
	}
	return nil
}

// plug makes the card a port.
func (a *uplinkApplier) plug(u hoststate.Uplink, nic, bridge link) error {
	if u.MTU != 0 && nic.mtu != u.MTU {
		if err := a.setMTU(nic, u.MTU); err != nil {
			return err
		}
	}
	if u.Unoffloaded {
		if err := setChecksumOffload(u.NIC, false); err != nil {
			return err
		}
	}
	if err := a.links.setUp(u.NIC, true); err != nil {
		return err
	}
	if nic.master == bridge.index {
		return nil
	}
	return a.enslave(nic, bridge.index)
}

// makeBridge makes the bridge, if it is not there.
func (a *uplinkApplier) makeBridge(u hoststate.Uplink) (link, error) {
	l, existed := a.mirror.link(u.Bridge)
	if existed && l.kind != kindBridge {
		return l, fmt.Errorf("link %s exists and is no bridge: %w", u.Bridge, unix.EEXIST)
	}
	if !existed {
		err := a.links.request(unix.RTM_NEWLINK, netlink.Create|netlink.Excl, 0, func(e *netlink.AttributeEncoder) {
			e.String(unix.IFLA_IFNAME, u.Bridge)
			if u.MAC != (hoststate.MAC{}) {
				e.Bytes(unix.IFLA_ADDRESS, u.MAC[:])
			}
			bridgeInfo(e, func(e *netlink.AttributeEncoder) {
				e.Uint32(brForwardDelay, 0)
				e.Uint32(brSTPState, 0)
			})
		})
		if err != nil {
			return l, err
		}
		var made bool
		if l, made = a.mirror.link(u.Bridge); !made {
			return l, errVanished(u.Bridge)
		}
	}
	if u.MAC != (hoststate.MAC{}) && l.mac != u.MAC {
		if err := a.links.setMAC(l, u.MAC); err != nil {
			return l, err
		}
	}
	mtu := u.MTU
	if nic, ok := a.mirror.link(u.NIC); ok && mtu == 0 {
		mtu = nic.mtu
	}
	if mtu == 0 || existed && l.mtu == mtu {
		return l, nil
	}
	// Said in so many words it stays when a guest with less comes, but what it is
	// already the kernel does not hear.
	if l.mtu == mtu {
		if err := a.setMTU(l, mtu-1); err != nil {
			return l, err
		}
	}
	return l, a.setMTU(l, mtu)
}

func (a *uplinkApplier) setMTU(l link, mtu int) error {
	err := a.links.request(unix.RTM_SETLINK, 0, l.index, func(e *netlink.AttributeEncoder) { e.Uint32(unix.IFLA_MTU, uint32(mtu)) })
	if err != nil {
		return fmt.Errorf("set the MTU of %s to %d: %w", l.name, mtu, err)
	}
	return nil
}

func (a *uplinkApplier) enslave(port link, master int) error {
	return a.links.request(unix.RTM_SETLINK, 0, port.index, func(e *netlink.AttributeEncoder) { e.Uint32(unix.IFLA_MASTER, uint32(master)) })
}

// put gives a link addresses and routes that it does not have yet, and that
// another link has.
func (a *uplinkApplier) put(l, from link, h hoststate.Held) error {
	now := time.Now()
	for _, address := range h.Addresses {
		if !address.Lasting() && address.Valid.Before(now) {
			continue
		}
		body, err := heldAddressBody(l.index, l.name, address, now)
		if err == nil {
			err = allow(a.rtnl.do(unix.RTM_NEWADDR, netlink.Create|netlink.Excl, body), unix.EEXIST)
		}
		if err != nil {
			return fmt.Errorf("give %s the address %s: %w", l.name, address.Prefix, err)
		}
	}
	if err := a.putAbout(l, h); err != nil {
		return err
	}
	indexes := map[string]int{}
	a.mirror.now(func() {
		for index, other := range a.mirror.links {
			indexes[other.name] = index
		}
	})
	// A route may need another one to reach its gateway, which may come later.
	waiting, failed := h.Routes, error(nil)
	for len(waiting) > 0 {
		var again []hoststate.HeldRoute
		for _, r := range waiting {
			if !r.Until.IsZero() && r.Until.Before(now) {
				continue
			}
			if err := a.move(l, from, indexes, r, now); err != nil {
				failed = fmt.Errorf("lead %s over %s: %w", r, l.name, err)
				again = append(again, r)
			}
		}
		if len(again) == len(waiting) {
			return failed
		}
		waiting = again
	}
	return nil
}

// move gives a link a route. Two IPv6 routes by gateways are one route to the
// kernel, by both, so the other link first loses its.
func (a *uplinkApplier) move(l, from link, indexes map[string]int, r hoststate.HeldRoute, now time.Time) error {
	if r.Dst.Addr().Is6() && r.Hops[0].Via.IsValid() && from.index != 0 {
		if err := a.drop(from, indexes, r, now); err != nil {
			return err
		}
	}
	body, err := heldRouteBody(l.index, indexes, r, now)
	if err != nil {
		return err
	}
	return allow(a.rtnl.do(unix.RTM_NEWROUTE, netlink.Create|netlink.Append, body), unix.EEXIST)
}

// drop takes a route from a link, if it has it.
func (a *uplinkApplier) drop(l link, indexes map[string]int, r hoststate.HeldRoute, now time.Time) error {
	body, err := heldRouteBody(l.index, indexes, r, now)
	if err != nil {
		return err
	}
	return allow(a.rtnl.do(unix.RTM_DELROUTE, 0, body), unix.ESRCH, unix.ENODEV)
}

// clear takes from a card that is a port what the bridge has now. The routes go
// with the addresses, but for those that need none.
func (a *uplinkApplier) clear(nic link, h hoststate.Held) error {
	if err := a.dropAbout(nic, h); err != nil {
		return err
	}
	for _, r := range h.Routes {
		if len(r.Hops) > 1 || r.Dst.Addr().Is6() {
			continue
		}
		if err := a.drop(nic, nil, r, time.Now()); err != nil {
			return fmt.Errorf("take the route %s from %s: %w", r, nic.name, err)
		}
	}
	for _, address := range h.Addresses {
		if address.Prefix.Addr().Is6() {
			continue // they all go below
		}
		body, err := heldAddressBody(nic.index, nic.name, address, time.Now())
		if err == nil {
			err = allow(a.rtnl.do(unix.RTM_DELADDR, 0, body), unix.EADDRNOTAVAIL, unix.ENODEV)
		}
		if err != nil {
			return fmt.Errorf("take the address %s from %s: %w", address.Prefix, nic.name, err)
		}
	}
	return setHeld(nic.name, disableIPv6, "1")
}

// release gives the card back what the bridge has, and removes the bridge.
func (a *uplinkApplier) release(u hoststate.Uplink) error {
	bridge, bridged := a.mirror.link(u.Bridge)
	nic, exists := a.mirror.link(u.NIC)
	back := u.Held
	if bridged && bridge.kind == kindBridge {
		now, err := held(a.rtnl, a.mirror, bridge)
		if err != nil {
			return err
		}
		back = joined(now, u.Held)
	}
	if exists {
		if nic.master == bridge.index && bridged {
			if err := a.enslave(nic, 0); err != nil {
				return err
			}
		}
		// The others were never changed there.
		if value, known := u.Held.Settings[disableIPv6]; known {
			if err := setHeld(u.NIC, disableIPv6, value); err != nil {
				return err
			}
		}
		if err := a.restoreCard(nic, u); err != nil {
			return err
		}
		a.fault("uplink unplugged")
		if err := a.put(nic, bridge, back); err != nil {
			return err
		}
	}
	if !bridged || bridge.kind != kindBridge {
		return nil
	}
	// They would outlive the bridge.
	if err := a.dropAbout(bridge, hoststate.Held{Rules: back.Rules}); err != nil {
		return err
	}
	return allow(a.rtnl.do(unix.RTM_DELLINK, 0, linkHeader(bridge.index)), unix.ENODEV)
}

// restoreCard gives the card what was changed of itself.
func (a *uplinkApplier) restoreCard(nic link, u hoststate.Uplink) error {
	if u.Unoffloaded && u.Held.Settings[txChecksum] == "true" {
		if err := setChecksumOffload(u.NIC, true); err != nil {
			return err
		}
	}
	if u.MTU != 0 && u.CardMTU != 0 && nic.mtu != u.CardMTU {
		return a.setMTU(nic, u.CardMTU)
	}
	return nil
}

func linkHeader(index int) []byte {
	b, _ := linkBody(index, 0, 0, nil) // without attributes nothing can fail
	return b
}

// joined adds to what a link has what it is to have and lacks.
func joined(have, want hoststate.Held) hoststate.Held {
	for _, w := range want.Addresses {
		if !slices.ContainsFunc(have.Addresses, func(h hoststate.HeldAddress) bool { return h.Prefix == w.Prefix && h.Peer == w.Peer }) {
			have.Addresses = append(have.Addresses, w)
		}
	}
	for _, w := range want.Rules {
		if !slices.ContainsFunc(have.Rules, func(h hoststate.HeldRule) bool { return sameRule(h, w) }) {
			have.Rules = append(have.Rules, w)
		}
	}
	for _, w := range want.Neighbours {
		if !slices.ContainsFunc(have.Neighbours, func(h hoststate.HeldNeighbour) bool { return h.Addr == w.Addr }) {
			have.Neighbours = append(have.Neighbours, w)
		}
	}
	for _, w := range want.Routes {
		learned := func(h hoststate.HeldRoute) bool {
			return !w.Until.IsZero() && h.Dst == w.Dst && h.Protocol == w.Protocol && slices.Equal(h.Hops, w.Hops)
		}
		if !slices.ContainsFunc(have.Routes, func(h hoststate.HeldRoute) bool { return sameRoute(h, w) || learned(h) }) {
			have.Routes = append(have.Routes, w)
		}
	}
	return have
}

// setHeld changes a setting of a link, named as in hoststate.Held. A kernel that
// does not know it has none that differs.
func setHeld(link, name, value string) error {
	family, setting := name[:4], name[5:]
	path := "net/" + family + "/conf/" + link + "/" + setting
	if have, err := readSysctl(path); err != nil || have == value {
		return nil
	}
	if err := writeProc(sysctlRoot+path, value); err != nil {
		return fmt.Errorf("set %s to %s: %w", path, value, err)
	}
	return nil
}
