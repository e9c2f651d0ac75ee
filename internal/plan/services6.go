package plan

import (
	"net/netip"

	"viaduct/internal/guestsvc/dhcp6"
	"viaduct/internal/guestsvc/ra"
	"viaduct/internal/hoststate"
	"viaduct/internal/netdef"
)

// addServices6 offers guests what they need for IPv6: advertisements, so that
// they find the host, and DHCPv6, for addresses or only for the rest.
func addServices6(f *Fragment, n *netdef.Network) {
	if !hasFamily(n, netip.Addr.Is6) {
		return
	}
	f.Own.Add(
		routerAddress(n),
		hoststate.Service{Type: ServiceRA, Network: n.UUID.String(), Config: raConfig(n, linkLocal(n.MAC))},
		hoststate.Service{Type: ServiceDHCP6, Network: n.UUID.String(), Config: dhcp6Config(n)},
	)
}

// routerAddress is the one that guests know the host by.
func routerAddress(n *netdef.Network) hoststate.Address {
	return hoststate.Address{Link: n.Bridge.Name, Prefix: netip.PrefixFrom(linkLocal(n.MAC), 64)}
}

// linkLocal is the address that the kernel would make of a MAC (RFC 4291
// appendix A). The plan gives it to the bridge itself, since the kernel's own
// is not usable before the first guest is there.
func linkLocal(m netdef.MAC) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: m[0] ^ 2, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5]})
}

func raConfig(n *netdef.Network, router netip.Addr) ra.Config {
	c := ra.Config{Network: n.UUID, Name: n.Name, Bridge: n.Bridge.Name, Source: router, MTU: n.MTU, Other: true}
	// An isolated network has no way out.
	if n.Forward.Mode != netdef.ModeNone {
		c.RouterLifetime = ra.DefaultRouterLifetime
	}
	if n.Domain.Name != "" {
		c.DNSSL = []string{n.Domain.Name}
	}
	for _, ip := range n.IPs {
		if !ip.Address.Is6() {
			continue
		}
		p := ip.Prefix().Masked()
		c.Managed = c.Managed || ip.HasDHCP()
		// Guests make their own address unless DHCP gives them one.
		c.Prefixes = append(c.Prefixes, ra.Prefix{Prefix: p, OnLink: true, Autonomous: !ip.HasDHCP() && p.Bits() == 64})
		if ServesDNS(n) {
			c.RDNSS = append(c.RDNSS, ip.Address)
		}
	}
	return c
}

// dhcp6Config is about the one subnet with ranges or reservations, or the first
// if none has any: then guests are told about name resolution only.
func dhcp6Config(n *netdef.Network) dhcp6.Config {
	var served *netdef.IP
	for i := range n.IPs {
		if ip := &n.IPs[i]; ip.Address.Is6() && (served == nil || ip.HasDHCP()) {
			served = ip
		}
	}
	c := dhcp6.Config{Network: n.UUID, Name: n.Name, Bridge: n.Bridge.Name, Address: served.Prefix(), Domain: n.Domain.Name}
	if n.Domain.Name != "" {
		c.Search = []string{n.Domain.Name}
	}
	if ServesDNS(n) {
		c.DNS = []netip.Addr{served.Address}
	}
	for _, r := range served.Ranges {
		d, infinite := leaseTime(r.Lease)
		c.Ranges = append(c.Ranges, dhcp6.Range{First: r.Start, Last: r.End, Lease: d, Infinite: infinite})
	}
	for _, h := range served.Hosts {
		d, infinite := leaseTime(h.Lease)
		c.Hosts = append(c.Hosts, dhcp6.Host{DUID: h.ClientID(), Name: h.Name, Addr: h.IP, Lease: d, Infinite: infinite})
	}
	return c
}
