package plan

import (
	"net/netip"
	"slices"
	"time"

	"viaduct/internal/guestsvc/dhcp4"
	"viaduct/internal/guestsvc/dns"
	"viaduct/internal/guestsvc/resolved"
	"viaduct/internal/hoststate"
	"viaduct/internal/netdef"
)

// The types of services, as in hoststate.Service.Type.
const (
	ServiceDHCP4 = "dhcp4"
	ServiceDNS   = "dns"
	ServiceRA    = "ra"
	ServiceDHCP6 = "dhcp6"
	// ServiceResolved makes the host itself ask the network's DNS.
	ServiceResolved = "resolved"
	ServiceTFTP     = "tftp"
	// ServiceDHCPClient is the host's own DHCP client on an uplink.
	ServiceDHCPClient = "dhcp-client"
	// ServiceHostDNS has the host ask the name servers of its lease there.
	ServiceHostDNS = "host-dns"
)

// ServesDNS reports whether the network offers name resolution to its guests.
func ServesDNS(n *netdef.Network) bool {
	return n.DNS.Enable != netdef.No && len(subnets(n)) > 0
}

func servesDHCP4(n *netdef.Network) bool { return dhcp4IP(n) != nil }

// dhcp4IP is the one <ip> whose subnet is served by DHCP, nil if there is none.
func dhcp4IP(n *netdef.Network) *netdef.IP {
	for i := range n.IPs {
		if ip := &n.IPs[i]; ip.Address.Is4() && ip.HasDHCP() {
			return ip
		}
	}
	return nil
}

func addServices(f *Fragment, n *netdef.Network, facts Facts) error {
	if n.Domain.Register == netdef.Yes && n.Domain.Name != "" && ServesDNS(n) {
		f.Own.Add(hoststate.Service{Type: ServiceResolved, Network: n.UUID.String(), Config: resolved.Config{
			Network: n.Name, Bridge: n.Bridge.Name, Domain: n.Domain.Name, Servers: dnsConfig(n, facts).Listen,
		}})
	}
	if facts.Dnsmasq.Serves(n) {
		return addDnsmasq(f, n, facts)
	}
	if ip := dhcp4IP(n); ip != nil {
		c := dhcp4Config(n, *ip)
		c.Hosts = append(c.Hosts, portHosts(*ip, c.Hosts, facts.Ports)...)
		f.Own.Add(hoststate.Service{Type: ServiceDHCP4, Network: n.UUID.String(), Config: c})
	}
	addServices6(f, n)
	if ServesDNS(n) {
		f.Own.Add(hoststate.Service{Type: ServiceDNS, Network: n.UUID.String(), Config: dnsConfig(n, facts)})
	}
	if c := tftpConfig(n); len(c.Exports) > 0 {
		f.Own.Add(hoststate.Service{Type: ServiceTFTP, Network: n.UUID.String(), Config: c})
	}
	return nil
}

func dhcp4Config(n *netdef.Network, ip netdef.IP) dhcp4.Config {
	c := dhcp4.Config{
		Network: n.UUID, Name: n.Name, Bridge: n.Bridge.Name, Address: ip.Prefix(),
		Domain: n.Domain.Name, MTU: n.MTU, BootFile: ip.BootFile,
	}
	if n.Domain.Name != "" {
		c.Search = []string{n.Domain.Name}
	}
	// An isolated network has no way out, so its guests get no router.
	if n.Forward.Mode != netdef.ModeNone {
		c.Router = []netip.Addr{ip.Address}
	}
	if ServesDNS(n) {
		c.DNS = []netip.Addr{ip.Address}
	}
	if ip.BootServer != "" {
		if a, err := netip.ParseAddr(ip.BootServer); err == nil {
			c.BootServer = a
		} else {
			c.ServerName = ip.BootServer
		}
	}
	for _, r := range ip.Ranges {
		d, infinite := leaseTime(r.Lease)
		c.Ranges = append(c.Ranges, dhcp4.Range{First: r.Start, Last: r.End, Lease: d, Infinite: infinite})
	}
	for _, h := range ip.Hosts {
		d, infinite := leaseTime(h.Lease)
		host := dhcp4.Host{ClientID: h.ClientID(), Name: h.Name, Addr: h.IP, Lease: d, Infinite: infinite}
		if m, err := netdef.ParseMAC(h.MAC); err == nil {
			host.MAC = m
		}
		c.Hosts = append(c.Hosts, host)
	}
	return c
}

// portHosts are guests whose guards say which address they have: DHCP offers
// them that one, since they could use no other. What the network says of a guest
// or an address itself comes first.
func portHosts(ip netdef.IP, known []dhcp4.Host, ports []Port) []dhcp4.Host {
	var hosts []dhcp4.Host
	for _, p := range ports {
		if p.Guard == nil || p.Def.MAC.IsZero() {
			continue
		}
		for _, own := range p.Guard.Prefixes {
			a := own.Addr()
			taken := func(h dhcp4.Host) bool { return h.Addr == a || h.MAC == p.Def.MAC }
			if own.IsSingleIP() && a.Is4() && a != ip.Address && ip.Prefix().Contains(a) &&
				!slices.ContainsFunc(known, taken) && !slices.ContainsFunc(hosts, taken) {
				hosts = append(hosts, dhcp4.Host{MAC: p.Def.MAC, Addr: a})
			}
		}
	}
	slices.SortFunc(hosts, func(a, b dhcp4.Host) int { return a.Addr.Compare(b.Addr) })
	return hosts
}

// leaseTime is 0, false where the network's default counts.
func leaseTime(l *netdef.LeaseTime) (time.Duration, bool) {
	if l == nil {
		return 0, false
	}
	return l.Duration(), l.Expiry == 0
}

func dnsConfig(n *netdef.Network, facts Facts) dns.Config {
	c := dns.Config{
		Network: n.UUID, Name: n.Name, Bridge: n.Bridge.Name,
		Domain: n.Domain.Name, LocalOnly: n.Domain.LocalOnly == netdef.Yes,
		ForwardPlainNames: n.DNS.ForwardPlainNames != netdef.No,
		Isolated:          n.Forward.Mode == netdef.ModeNone,
		Clients:           subnets(n),
		TXTs:              n.DNS.TXTs,
		SRVs:              n.DNS.SRVs,
	}
	for _, ip := range n.IPs {
		c.Listen = append(c.Listen, netip.AddrPortFrom(ip.Address, facts.DNSPort))
		if ip.LocalPtr == netdef.Yes {
			c.LocalPtr = append(c.LocalPtr, ip.Prefix().Masked())
		}
		for _, h := range ip.Hosts {
			if h.Name != "" && h.IP.IsValid() {
				c.Hosts = append(c.Hosts, dns.Host{Addr: h.IP, Names: []string{h.Name}})
			}
		}
	}
	for _, h := range n.DNS.Hosts {
		c.Hosts = append(c.Hosts, dns.Host{Addr: h.IP, Names: h.Hostnames})
	}
	for _, fw := range n.DNS.Forwarders {
		port := fw.Port
		if port == 0 {
			port = dnsPort
		}
		out := dns.Forwarder{Domain: fw.Domain}
		if fw.Addr.IsValid() {
			out.Addr = netip.AddrPortFrom(fw.Addr, port)
		}
		c.Forwarders = append(c.Forwarders, out)
	}
	return c
}
