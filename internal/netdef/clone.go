package netdef

import "slices"

// Clone copies the network, sharing nothing that can change.
func (n *Network) Clone() *Network {
	if n == nil {
		return nil
	}
	c := *n
	c.Metadata = slices.Clone(n.Metadata)
	c.Forward.Interfaces = slices.Clone(n.Forward.Interfaces)
	c.Forward.PFs = slices.Clone(n.Forward.PFs)
	c.Forward.Addresses = slices.Clone(n.Forward.Addresses)
	c.Forward.NAT = copied(n.Forward.NAT)
	c.DNS.Forwarders = slices.Clone(n.DNS.Forwarders)
	c.DNS.TXTs = slices.Clone(n.DNS.TXTs)
	c.DNS.SRVs = slices.Clone(n.DNS.SRVs)
	c.DNS.Hosts = cloned(n.DNS.Hosts, DNSHost.clone)
	c.VLAN = n.VLAN.clone()
	c.Bandwidth = n.Bandwidth.clone()
	c.IPs = cloned(n.IPs, IP.clone)
	c.Routes = slices.Clone(n.Routes)
	c.VirtualPort = copied(n.VirtualPort)
	c.PortGroups = cloned(n.PortGroups, PortGroup.clone)
	c.DnsmasqOptions = slices.Clone(n.DnsmasqOptions)
	return &c
}

// Clone copies the port, sharing nothing that can change.
func (p *Port) Clone() *Port {
	if p == nil {
		return nil
	}
	c := *p
	c.VirtualPort = copied(p.VirtualPort)
	c.Bandwidth = p.Bandwidth.clone()
	c.VLAN = p.VLAN.clone()
	return &c
}

// copied is a pointer to a copy of a value that holds no pointers.
func copied[T any](p *T) *T {
	if p == nil {
		return nil
	}
	c := *p
	return &c
}

// cloned copies a list whose items hold lists or pointers.
func cloned[T any](list []T, clone func(T) T) []T {
	if list == nil {
		return nil
	}
	c := make([]T, len(list))
	for i, item := range list {
		c[i] = clone(item)
	}
	return c
}

func (h DNSHost) clone() DNSHost {
	h.Hostnames = slices.Clone(h.Hostnames)
	return h
}

func (ip IP) clone() IP {
	ip.Ranges = cloned(ip.Ranges, func(g DHCPRange) DHCPRange { g.Lease = copied(g.Lease); return g })
	ip.Hosts = cloned(ip.Hosts, func(h DHCPHost) DHCPHost { h.Lease = copied(h.Lease); return h })
	return ip
}

func (g PortGroup) clone() PortGroup {
	g.VirtualPort = copied(g.VirtualPort)
	g.Bandwidth = g.Bandwidth.clone()
	g.VLAN = g.VLAN.clone()
	return g
}

func (v *VLAN) clone() *VLAN {
	c := copied(v)
	if c != nil {
		c.Tags = slices.Clone(v.Tags)
	}
	return c
}

func (b *Bandwidth) clone() *Bandwidth {
	c := copied(b)
	if c != nil {
		c.Inbound, c.Outbound = copied(b.Inbound), copied(b.Outbound)
	}
	return c
}
