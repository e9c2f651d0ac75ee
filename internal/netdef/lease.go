package netdef

import (
	"net/netip"
	"time"
)

// Lease is an address that a guest holds.
type Lease struct {
	// Network is the network's UUID.
	Network UUID
	Addr    netip.Addr
	// PrefixLen is that of the subnet the address is in.
	PrefixLen int
	MAC       MAC
	// ClientID is DHCP option 61 of IPv4, or the DUID of IPv6, as sent; empty if none was.
	ClientID []byte
	// IAID identifies the association of an IPv6 client.
	IAID     uint32
	Hostname string
	// Expiry is when the lease ends; the zero time means never.
	Expiry time.Time
}

// Expired reports whether the lease has ended at the given time.
func (l Lease) Expired(now time.Time) bool { return !l.Expiry.IsZero() && !now.Before(l.Expiry) }
