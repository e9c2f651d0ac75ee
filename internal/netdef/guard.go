package netdef

import (
	"net/netip"
	"slices"
)

// Guard says which frames the guest at a port may send. The zero value lets
// everything pass. Like a network it is a value.
type Guard struct {
	// MAC is the guest's Ethernet address; zero means that of its port.
	MAC MAC `json:"mac,omitzero"`
	// Prefixes are the addresses of both families that the guest may use.
	Prefixes []netip.Prefix `json:"prefixes,omitempty"`
	// Learn adds the addresses that the network has reserved for the guest or
	// leased to it, and its prefixes in which guests choose addresses themselves.
	Learn bool `json:"learn,omitempty"`
	// NoMACSpoof drops frames from another Ethernet address.
	NoMACSpoof bool `json:"noMACSpoof,omitempty"`
	// NoIPSpoof drops packets from another IP address.
	NoIPSpoof bool `json:"noIPSpoof,omitempty"`
	// NoARPSpoof drops ARP and neighbour discovery that speaks of other addresses.
	NoARPSpoof bool `json:"noARPSpoof,omitempty"`
	// AllowDHCP lets the guest ask for an address while it has none.
	AllowDHCP bool `json:"allowDHCP,omitempty"`
	// NoDHCPServer drops answers of DHCP servers, of both families.
	NoDHCPServer bool `json:"noDHCPServer,omitempty"`
	// NoRA drops router advertisements and redirects.
	NoRA bool `json:"noRA,omitempty"`
	// Only lists the protocols that pass at all, in both directions; none means all.
	Only []EtherType `json:"only,omitempty"`
	// Routed says that the guest's link is no port of a bridge: the host routes
	// to the addresses behind it.
	Routed bool `json:"routed,omitempty"`
}

// EtherType is the protocol in an Ethernet frame.
type EtherType string

// The protocols that a guard can tell apart.
const (
	EtherIPv4 EtherType = "ipv4"
	EtherIPv6 EtherType = "ipv6"
	EtherARP  EtherType = "arp"
	EtherRARP EtherType = "rarp"
)

// FullGuard is what a guest is given that is to be guarded and nothing more is
// said: it speaks as itself alone, with the addresses that the network gave it.
func FullGuard() *Guard {
	return &Guard{Learn: true, NoMACSpoof: true, NoIPSpoof: true, NoARPSpoof: true, AllowDHCP: true, NoDHCPServer: true, NoRA: true}
}

// Clone copies a guard, or nil.
func (g *Guard) Clone() *Guard {
	if g == nil {
		return nil
	}
	c := *g
	c.Prefixes, c.Only = slices.Clone(g.Prefixes), slices.Clone(g.Only)
	return &c
}
