package netdef

import (
	"net/netip"
	"slices"
)

// Routed says what is behind a port of a network whose ports are routed: a link
// of two, at whose other end is a guest with addresses of its own.
type Routed struct {
	// Addresses are the guest's addresses and networks; the host has a route to each.
	Addresses []netip.Prefix `json:"addresses"`
	// Gateways are the addresses of the host's end, at most one of each family.
	// An IPv6 gateway may be link-local.
	Gateways []netip.Addr `json:"gateways,omitempty"`
	// Uplink is the link on which the host answers for the guest's addresses, so
	// that neighbours there find the guest (proxy ARP and its like in IPv6); "" for none.
	Uplink string `json:"uplink,omitempty"`
	// Metric is that of the routes to the guest, 0 for the kernel's choice. Of two
	// links to the same guest the one with the smaller metric is used.
	Metric int `json:"metric,omitempty"`
	// HostName is what DHCP calls the guest, "" for nothing. DHCP offers the
	// guest the first of its IPv4 addresses.
	HostName string `json:"hostName,omitempty"`
}

// Clone copies the value, or nil.
func (r *Routed) Clone() *Routed {
	if r == nil {
		return nil
	}
	c := *r
	c.Addresses, c.Gateways = slices.Clone(r.Addresses), slices.Clone(r.Gateways)
	return &c
}

// Gateway is the host's address of the family, invalid if there is none or
// nothing is routed.
func (r *Routed) Gateway(is func(netip.Addr) bool) netip.Addr {
	if r == nil {
		return netip.Addr{}
	}
	if i := slices.IndexFunc(r.Gateways, is); i >= 0 {
		return r.Gateways[i]
	}
	return netip.Addr{}
}
