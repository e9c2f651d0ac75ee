package host

import (
	"fmt"
	"slices"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"viaduct/internal/hoststate"
)

// leaseSlack is by how much the end of an address may differ from what is
// wanted: the kernel counts whole seconds.
const leaseSlack = 3 * time.Second

// isLeased tells what a DHCP client has put on a link, and nobody else.
func isLeased(a hoststate.HeldAddress) bool { return a.Prefix.Addr().Is4() && !a.Lasting() }

func isLeasedRoute(r hoststate.HeldRoute) bool {
	return r.Dst.Addr().Is4() && r.Protocol == unix.RTPROT_DHCP
}

// leaseSatisfied reports whether a link has of a lease what it is to have, and
// of no other.
func leaseSatisfied(have hoststate.Uplink, want hoststate.Held) bool {
	addresses := slices.Concat(have.Held.Addresses, have.Leased.Addresses)
	routes := slices.Concat(have.Held.Routes, have.Leased.Routes)
	now, count := time.Now(), 0
	for _, w := range want.Addresses {
		if !now.Before(w.Valid) {
			continue
		}
		count++
		if !slices.ContainsFunc(addresses, func(h hoststate.HeldAddress) bool {
			return h.Prefix == w.Prefix && h.Valid.Sub(w.Valid).Abs() <= leaseSlack
		}) {
			return false
		}
	}
	for _, a := range addresses {
		if isLeased(a) {
			count--
		}
	}
	for _, r := range routes {
		if isLeasedRoute(r) && !slices.ContainsFunc(want.Routes, func(w hoststate.HeldRoute) bool { return sameRoute(r, w) }) {
			return false
		}
	}
	for _, w := range want.Routes {
		if !slices.ContainsFunc(routes, func(h hoststate.HeldRoute) bool { return sameRoute(h, w) }) {
			return false
		}
	}
	return count == 0
}

// lease gives a link what a lease says, and takes from it what an earlier lease,
// or an earlier client, has left. An address that stays keeps its connections.
func (a *uplinkApplier) lease(l link, want hoststate.Held) error {
	have, err := held(a.rtnl, a.mirror, l)
	if err != nil {
		return err
	}
	now := time.Now()
	for _, old := range have.Addresses {
		stays := slices.ContainsFunc(want.Addresses, func(w hoststate.HeldAddress) bool { return w.Prefix == old.Prefix && now.Before(w.Valid) })
		if !isLeased(old) || stays {
			continue
		}
		body, err := heldAddressBody(l.index, l.name, old, now)
		if err == nil {
			err = allow(a.rtnl.do(unix.RTM_DELADDR, 0, body), unix.EADDRNOTAVAIL)
		}
		if err != nil {
			return fmt.Errorf("take the address %s from %s: %w", old.Prefix, l.name, err)
		}
	}
	for _, w := range want.Addresses {
		if !now.Before(w.Valid) {
			continue
		}
		body, err := heldAddressBody(l.index, l.name, w, now)
		if err == nil {
			err = a.rtnl.do(unix.RTM_NEWADDR, netlink.Create|netlink.Replace, body)
		}
		if err != nil {
			return fmt.Errorf("give %s the address %s: %w", l.name, w.Prefix, err)
		}
	}
	for _, w := range want.Routes {
		if err := a.route(l, w); err != nil {
			return err
		}
	}
	for _, old := range have.Routes {
		inPlace := slices.ContainsFunc(want.Routes, func(w hoststate.HeldRoute) bool {
			return w.Dst == old.Dst && w.Table == old.Table && w.Metric == old.Metric && w.TOS == old.TOS
		})
		stays := slices.ContainsFunc(want.Routes, func(w hoststate.HeldRoute) bool { return sameRoute(w, old) && w.Protocol == old.Protocol })
		if !stays && (isLeasedRoute(old) || inPlace && len(old.Hops) == 1) {
			if err := a.drop(l, nil, old, now); err != nil {
				return fmt.Errorf("take the route %s from %s: %w", old, l.name, err)
			}
		}
	}
	return nil
}

// route adds a route beside whatever else leads there.
func (a *uplinkApplier) route(l link, r hoststate.HeldRoute) error {
	body, err := heldRouteBody(l.index, nil, r, time.Now())
	if err == nil {
		err = allow(a.rtnl.do(unix.RTM_NEWROUTE, netlink.Create|netlink.Append, body), unix.EEXIST)
	}
	if err != nil {
		return fmt.Errorf("lead %s over %s: %w", r, l.name, err)
	}
	return nil
}

// strip takes all of IPv4 from a card that is a port: until it was ended, another
// client may have given it what the bridge has.
func (a *uplinkApplier) strip(nic link) error {
	have, err := held(a.rtnl, a.mirror, nic)
	if err != nil {
		return err
	}
	have.Routes = slices.DeleteFunc(have.Routes, func(r hoststate.HeldRoute) bool { return r.Dst.Addr().Is6() })
	for _, r := range have.Routes {
		if err := a.drop(nic, nil, r, time.Now()); err != nil {
			return fmt.Errorf("take the route %s from %s: %w", r, nic.name, err)
		}
	}
	return a.clear(nic, have)
}
