package netdef

import (
	"cmp"
	"fmt"
	"strconv"
)

// FormatOptions says which form of a network is wanted.
type FormatOptions struct {
	// Inactive asks for the definition alone, without what only a running network has.
	Inactive bool
	// Connections counts the ports of a running network.
	Connections int
	// DeviceConnections counts the ports of each device in the pool of a running network.
	DeviceConnections map[string]int
}

// Format prints the network in libvirt's canonical form, byte for byte as
// `virsh net-dumpxml` does.
func (n *Network) Format(o FormatOptions) string {
	w := &writer{}
	w.network(n, o)
	return w.b.String()
}

// HookData is what libvirt's hooks for networks read: the network and, if it
// is about one, a port.
func HookData(n *Network, p *Port) string {
	w := &writer{}
	w.begin("hookData")
	w.network(n, FormatOptions{})
	if p != nil {
		w.port(p)
	}
	w.end("hookData")
	return w.b.String()
}

func (w *writer) network(n *Network, o FormatOptions) {
	if o.Inactive {
		o.Connections, o.DeviceConnections = 0, nil
	}
	attrs := []pair{number("connections", o.Connections)}
	if len(n.DnsmasqOptions) > 0 {
		attrs = append([]pair{str("xmlns:dnsmasq", dnsmasqSpace)}, attrs...)
	}
	if n.IPv6 {
		attrs = append(attrs, switched("ipv6", Yes))
	}
	attrs = append(attrs, switched("trustGuestRxFilters", n.TrustGuestRxFilters))
	w.begin("network", attrs...)
	w.leaf("name", n.Name)
	if !n.UUID.IsZero() {
		w.leaf("uuid", n.UUID.String())
	}
	w.leaf("title", n.Title)
	w.leaf("description", n.Description)
	w.metadata(n.Metadata)
	w.forward(n.Forward, o)
	w.bridge(n)
	if n.Domain.Name != "" {
		w.empty("domain", str("name", n.Domain.Name), switched("localOnly", n.Domain.LocalOnly), switched("register", n.Domain.Register))
	}
	w.dns(n.DNS)
	w.vlan(n.VLAN)
	w.bandwidth(n.Bandwidth)
	w.isolated(n.Isolated)
	for _, ip := range n.IPs {
		w.ip(ip)
	}
	for _, t := range n.Routes {
		w.empty("route", str("family", t.Family), address("address", t.Address), address("netmask", t.Netmask),
			length("prefix", t.PrefixLen), address("gateway", t.Gateway), number("metric", t.Metric))
	}
	w.virtualPort(n.VirtualPort)
	for _, g := range n.PortGroups {
		w.portGroup(g)
	}
	if len(n.DnsmasqOptions) > 0 {
		w.begin("dnsmasq:options")
		for _, option := range n.DnsmasqOptions {
			w.empty("dnsmasq:option", pair{name: "value", value: option, always: true})
		}
		w.end("dnsmasq:options")
	}
	w.end("network")
}

func (s Switch) String() string {
	return map[Switch]string{Yes: "yes", No: "no"}[s]
}

func (w *writer) metadata(nodes []Node) {
	switch {
	case nodes == nil:
		return
	case len(nodes) == 0:
		w.empty("metadata")
		return
	}
	w.begin("metadata")
	for _, node := range nodes {
		w.raw(node.indented(w.depth) + "\n")
	}
	w.end("metadata")
}

func (w *writer) forward(f Forward, o FormatOptions) {
	if f.Mode == "" || f.Mode == ModeNone {
		return
	}
	attrs := []pair{str("mode", string(f.Mode))}
	if len(f.PFs) == 0 {
		attrs = append([]pair{str("dev", f.Dev())}, attrs...)
	}
	if f.Mode == ModeHostdev {
		attrs = append(attrs, switched("managed", cmp.Or(f.Managed, No)))
	}
	// A pool filled from a physical function is no part of the definition.
	pool := len(f.PFs) == 0 || !o.Inactive
	driver := f.DriverName != "" || f.DriverModel != ""
	if !driver && f.NAT.isEmpty() && len(f.PFs)+len(f.Interfaces)+len(f.Addresses) == 0 {
		w.empty("forward", attrs...)
		return
	}
	w.begin("forward", attrs...)
	w.driver(f.DriverName, f.DriverModel)
	w.nat(f.NAT)
	for _, dev := range f.PFs {
		w.empty("pf", str("dev", dev))
	}
	if pool {
		for _, dev := range f.Interfaces {
			w.empty("interface", str("dev", dev), number("connections", o.DeviceConnections[dev]))
		}
		for _, a := range f.Addresses {
			w.pciAddress(a, str("type", "pci"))
		}
	}
	w.end("forward")
}

// driver prints the driver of PCI devices that are handed to guests.
func (w *writer) driver(name, model string) {
	if name != "" || model != "" {
		w.empty("driver", str("name", name), str("model", model))
	}
}

// isEmpty tells whether there is nothing to print of it.
func (n *NAT) isEmpty() bool { return n == nil || *n == NAT{} }

func (w *writer) nat(n *NAT) {
	if n.isEmpty() {
		return
	}
	if !n.AddressStart.IsValid() && n.PortStart == 0 && n.PortEnd == 0 {
		w.empty("nat", switched("ipv6", n.IPv6))
		return
	}
	w.begin("nat", switched("ipv6", n.IPv6))
	if n.AddressStart.IsValid() {
		w.empty("address", address("start", n.AddressStart), address("end", n.AddressEnd))
	}
	if n.PortStart != 0 || n.PortEnd != 0 {
		w.empty("port", str("start", strconv.Itoa(int(n.PortStart))), number("end", n.PortEnd))
	}
	w.end("nat")
}

func (w *writer) pciAddress(a PCIAddress, attrs ...pair) {
	w.empty("address", append(attrs,
		str("domain", fmt.Sprintf("0x%04x", a.Domain)), str("bus", fmt.Sprintf("0x%02x", a.Bus)),
		str("slot", fmt.Sprintf("0x%02x", a.Slot)), str("function", fmt.Sprintf("0x%x", a.Function)))...)
}

func (w *writer) bridge(n *Network) {
	attrs := []pair{str("name", n.Bridge.Name), str("zone", n.Bridge.Zone)}
	own := n.Forward.Mode == "" || n.Forward.Mode.OwnsBridge()
	if own {
		stp := "on"
		if n.Bridge.STPOff {
			stp = "off"
		}
		attrs = append(attrs, str("stp", stp), str("delay", strconv.Itoa(n.Bridge.Delay)))
	}
	if own || n.Bridge.Name != "" || n.Bridge.MacTableManager != "" {
		w.empty("bridge", append(attrs, str("macTableManager", n.Bridge.MacTableManager))...)
	}
	if n.MTU != 0 {
		w.empty("mtu", number("size", n.MTU))
	}
	if !n.MAC.IsZero() {
		w.empty("mac", str("address", n.MAC.String()))
	}
}

func (w *writer) dns(d DNS) {
	attrs := []pair{switched("enable", d.Enable), switched("forwardPlainNames", d.ForwardPlainNames)}
	if !d.hasRecords() {
		if d.Enable != Unset || d.ForwardPlainNames != Unset {
			w.empty("dns", attrs...)
		}
		return
	}
	w.begin("dns", attrs...)
	for _, f := range d.Forwarders {
		w.empty("forwarder", str("domain", f.Domain), address("addr", f.Addr), number("port", f.Port))
	}
	for _, t := range d.TXTs {
		w.empty("txt", str("name", t.Name), pair{name: "value", value: t.Value, always: true})
	}
	for _, s := range d.SRVs {
		w.empty("srv", str("service", s.Service), str("protocol", s.Protocol), str("domain", s.Domain), str("target", s.Target),
			number("port", s.Port), number("priority", s.Priority), number("weight", s.Weight))
	}
	for _, h := range d.Hosts {
		w.begin("host", address("ip", h.IP))
		for _, name := range h.Hostnames {
			w.leaf("hostname", name)
		}
		w.end("host")
	}
	w.end("dns")
}

func (w *writer) ip(ip IP) {
	w.begin("ip", str("family", ip.Family), address("address", ip.Address), address("netmask", ip.Netmask),
		length("prefix", ip.PrefixLen), switched("localPtr", ip.LocalPtr))
	if ip.TFTPRoot != "" {
		w.empty("tftp", str("root", ip.TFTPRoot))
	}
	if ip.HasDHCP() {
		w.begin("dhcp")
		for _, g := range ip.Ranges {
			w.leased("range", g.Lease, address("start", g.Start), address("end", g.End))
		}
		for _, h := range ip.Hosts {
			w.leased("host", h.Lease, str("mac", h.MAC), str("id", h.ID), str("name", h.Name), address("ip", h.IP))
		}
		if ip.BootFile != "" {
			w.empty("bootp", str("file", ip.BootFile), str("server", ip.BootServer))
		}
		w.end("dhcp")
	}
	w.end("ip")
}

// leased prints an element that may hold a lease time.
func (w *writer) leased(name string, l *LeaseTime, attrs ...pair) {
	if l == nil {
		w.empty(name, attrs...)
		return
	}
	w.begin(name, attrs...)
	if l.Expiry == 0 {
		w.empty("lease", str("expiry", "0"))
	} else {
		w.empty("lease", number("expiry", l.Expiry), str("unit", cmp.Or(l.Unit, "minutes")))
	}
	w.end(name)
}

func (w *writer) isolated(s Switch) {
	if s != Unset {
		w.empty("port", switched("isolated", s))
	}
}

func (w *writer) vlan(v *VLAN) {
	if v == nil || len(v.Tags) == 0 {
		return
	}
	w.begin("vlan", switched("trunk", v.Trunk))
	for _, tag := range v.Tags {
		w.empty("tag", str("id", strconv.Itoa(int(tag.ID))), str("nativeMode", tag.NativeMode))
	}
	w.end("vlan")
}

func (w *writer) bandwidth(b *Bandwidth) {
	if b == nil {
		return
	}
	w.begin("bandwidth", number("classID", b.ClassID))
	w.rate("inbound", b.Inbound)
	w.rate("outbound", b.Outbound)
	w.end("bandwidth")
}

func (w *writer) rate(name string, r *Rate) {
	if r != nil && (r.Average != 0 || r.Floor != 0) {
		w.empty(name, number("average", r.Average), number("peak", r.Peak), number("floor", r.Floor), number("burst", r.Burst))
	}
}

func (w *writer) virtualPort(v *VirtualPort) {
	if v == nil || *v == (VirtualPort{}) {
		return
	}
	if *v == (VirtualPort{Type: v.Type}) {
		w.empty("virtualport", str("type", v.Type))
		return
	}
	w.begin("virtualport", str("type", v.Type))
	w.empty("parameters", str("managerid", v.ManagerID), str("typeid", v.TypeID), str("typeidversion", v.TypeIDVersion),
		str("instanceid", v.InstanceID), str("interfaceid", v.InterfaceID), str("profileid", v.ProfileID))
	w.end("virtualport")
}

func (w *writer) portGroup(g PortGroup) {
	attrs := []pair{str("name", g.Name)}
	if g.Default {
		attrs = append(attrs, switched("default", Yes))
	}
	w.begin("portgroup", append(attrs, switched("trustGuestRxFilters", g.TrustGuestRxFilters))...)
	w.vlan(g.VLAN)
	w.virtualPort(g.VirtualPort)
	w.bandwidth(g.Bandwidth)
	w.end("portgroup")
}
