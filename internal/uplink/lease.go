package uplink

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"viaduct/internal/hoststate"
)

// Lease is what a DHCP server lets the host have on a bridge.
type Lease struct {
	// Format and BootID are filled in by the store.
	Format int    `json:"format"`
	BootID string `json:"bootId"`
	// Address with the prefix of its subnet; invalid where there is none.
	Address netip.Prefix `json:"address,omitzero"`
	// Server gave it; invalid while no server has yet been asked, and the address
	// is one that the host had from somewhere.
	Server netip.Addr   `json:"server,omitzero"`
	Routes []LeaseRoute `json:"routes,omitempty"`
	DNS    []netip.Addr `json:"dns,omitempty"`
	Search []string     `json:"search,omitempty"`
	// MTU of the link in bytes; 0 where no server has told one.
	MTU int `json:"mtu,omitempty"`
	// Renew, Rebind and Expires are T1, T2 and the end (RFC 2131 section 4.4.5).
	Renew   time.Time `json:"renew,omitzero"`
	Rebind  time.Time `json:"rebind,omitzero"`
	Expires time.Time `json:"expires,omitzero"`
}

// LeaseRoute is a way that a server tells (RFC 3442).
type LeaseRoute struct {
	Dst netip.Prefix `json:"dst"`
	Via netip.Addr   `json:"via,omitzero"` // invalid where the destination is on the link
}

// Held reports whether the host may use the address now.
func (l Lease) Held(now time.Time) bool {
	return l.Address.IsValid() && l.Server.IsValid() && now.Before(l.Expires)
}

// dhcpProtocol is who made a route that DHCP told (RTPROT_DHCP).
const dhcpProtocol = 16

// Scopes and types of routes and tables, as the kernel numbers them.
const (
	scopeLink   = 253
	mainTable   = 254
	unicastType = 1
)

// State is what the lease lets the host have on the link until it ends.
// The routes have the metric given.
func (l Lease) State(metric uint32) hoststate.Held {
	if !l.Address.IsValid() {
		return hoststate.Held{}
	}
	end := l.Expires.UTC().Truncate(time.Second)
	h := hoststate.Held{Addresses: []hoststate.HeldAddress{{Prefix: l.Address, Broadcast: broadcast(l.Address), Preferred: end, Valid: end}}}
	add := func(dst netip.Prefix, via netip.Addr) {
		r := hoststate.HeldRoute{
			Dst: dst, Table: mainTable, Protocol: dhcpProtocol, Type: unicastType, Metric: metric, Source: l.Address.Addr(), Hops: []hoststate.Hop{{Via: via}},
		}
		if !via.IsValid() {
			r.Scope = scopeLink
		}
		h.Routes = append(h.Routes, r)
	}
	near := map[netip.Addr]bool{}
	for _, r := range l.Routes {
		if r.Via.IsValid() && !l.Address.Masked().Contains(r.Via) && !near[r.Via] {
			// A gateway beyond the subnet is on the link all the same.
			near[r.Via] = true
			add(netip.PrefixFrom(r.Via, r.Via.BitLen()), netip.Addr{})
		}
		add(r.Dst, r.Via)
	}
	return h
}

// broadcast is the broadcast address of a subnet; none where it has no room for one.
func broadcast(p netip.Prefix) netip.Addr {
	if p.Bits() > 30 {
		return netip.Addr{}
	}
	a := p.Masked().Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		a[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(a)
}

// String tells of the lease on one line.
func (l Lease) String() string {
	if !l.Address.IsValid() {
		return "no lease"
	}
	var s strings.Builder
	fmt.Fprintf(&s, "%s from %s until %s", l.Address, l.Server, l.Expires.UTC().Format(time.RFC3339))
	for _, r := range l.Routes {
		fmt.Fprintf(&s, ", %s via %s", r.Dst, r.Via)
	}
	if l.MTU != 0 {
		fmt.Fprintf(&s, ", mtu %d", l.MTU)
	}
	return s.String()
}

// Rests reports whether a route is there because of the lease: it leads by a
// gateway in the leased address's subnet, or from that address.
func (l Lease) Rests(r hoststate.HeldRoute) bool {
	if !l.Address.IsValid() || !r.Dst.Addr().Is4() {
		return false
	}
	subnet := l.Address.Masked()
	return r.Source == l.Address.Addr() || slices.ContainsFunc(r.Hops, func(h hoststate.Hop) bool { return h.Via.IsValid() && subnet.Contains(h.Via) })
}
