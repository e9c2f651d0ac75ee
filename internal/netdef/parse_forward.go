package netdef

import (
	"slices"
	"strings"
)

var modes = []Mode{ModeNone, ModeNAT, ModeRoute, ModeOpen, ModeBridge, ModePrivate, ModeVEPA, ModePassthrough, ModeHostdev}

// driverNames are the drivers that can hand a PCI device to a guest.
var driverNames = []string{"kvm", "vfio", "xen"}

func (r *reader) forward(e *element) Forward {
	f := Forward{Mode: ModeNone}
	if e == nil {
		return f
	}
	f.Mode = Mode(e.attr("mode"))
	if f.Mode == "" {
		f.Mode = ModeNAT
	}
	r.refuse(!slices.Contains(modes, f.Mode), e, ErrConfigUnsupported, "unknown forwarding type '%s'", f.Mode)
	if strings.EqualFold(e.attr("managed"), "yes") {
		f.Managed = Yes
	}
	driver := e.child("driver")
	f.DriverName = r.choice(driver, "name", driverNames...)
	f.DriverModel = driver.attr("model")

	nats := e.all("nat")
	r.refuse(len(nats) > 1, e, ErrXML, "Only one <nat> element is allowed in <forward> of network %s", r.network)
	for _, nat := range nats {
		r.refuse(f.Mode != ModeNAT, nat, ErrXML,
			"The <nat> element can only be used when <forward> 'mode' is 'nat' in network %s", r.network)
		f.NAT = r.nat(nat)
	}
	r.forwardDevices(e, &f)
	return f
}

func (r *reader) forwardDevices(e *element, f *Forward) {
	dev := e.attr("dev")
	r.refuse(dev != "" && len(e.all("address"))+len(e.all("pf")) > 0, e, ErrXML,
		"the <forward> 'dev' attribute cannot be used when <address> or <pf> sub-elements are present in network %s", r.network)
	if dev != "" {
		f.Interfaces = append(f.Interfaces, dev)
	}
	for i, item := range r.list(e, "interface", someElements) {
		name := item.attr("dev")
		r.refuse(name == "", item, ErrXML, "Missing required dev attribute in <forward> <interface> element of network %s", r.network)
		if i == 0 && dev != "" {
			r.refuse(name != dev, item, ErrXML, "<forward dev='%s'> must match first <interface dev='%s'/> in network %s", dev, name, r.network)
			continue
		}
		r.refuse(slices.Contains(f.Interfaces, name), item, ErrXML, "interface '%s' can only be listed once in network %s", name, r.network)
		f.Interfaces = append(f.Interfaces, name)
	}
	for _, item := range r.list(e, "address", someElements) {
		if len(f.Interfaces) > 0 {
			break // passed over as libvirt does, whose pool is either of devices or of addresses
		}
		kind, given := item.lookup("type")
		r.refuse(!given, item, ErrXML, "missing address type in network %s", r.network)
		r.refuse(!slices.Contains([]string{"pci", "none", "netdev"}, kind), item, ErrConfigUnsupported,
			"unknown address type '%s' in network %s", kind, r.network)
		r.refuse(kind != "pci", item, ErrXML, "unsupported address type '%s' in network %s", kind, r.network)
		a := r.pciAddress(item)
		r.refuse(slices.Contains(f.Addresses, a), item, ErrXML, "PCI device '%s' can only be listed once in network %s", a, r.network)
		f.Addresses = append(f.Addresses, a)
	}
	for i, item := range e.all("pf") {
		r.refuse(i > 0, item, ErrXML, "Only one <pf> element is allowed in <forward> of network %s", r.network)
		name := item.attr("dev")
		r.refuse(name == "", item, ErrXML, "Missing required dev attribute in <pf> element of network '%s'", r.network)
		f.PFs = append(f.PFs, name)
	}
}

func (r *reader) nat(e *element) *NAT {
	nat := &NAT{IPv6: r.yesNo(e, "ipv6")}
	addresses := e.all("address")
	r.refuse(len(addresses) > 1, e, ErrXML, "Only one <address> element is allowed in <nat> in <forward> in network %s", r.network)
	for _, a := range addresses {
		start, hasStart := a.lookup("start")
		end, hasEnd := a.lookup("end")
		r.refuse(!hasStart, a, ErrXML, "missing 'start' attribute in <address> element in <nat> in <forward> in network %s", r.network)
		r.refuse(!hasEnd, a, ErrXML, "missing 'end' attribute in <address> element in <nat> in <forward> in network %s", r.network)
		var ok bool
		nat.AddressStart, ok = parseAddr(start)
		r.refuse(!ok || !nat.AddressStart.Is4(), a, ErrXML, "Bad ipv4 start address '%s' in <nat> in <forward> in network '%s'", start, r.network)
		nat.AddressEnd, ok = parseAddr(end)
		r.refuse(!ok || !nat.AddressEnd.Is4(), a, ErrXML, "Bad ipv4 end address '%s' in <nat> in <forward> in network '%s'", end, r.network)
		r.rangeSize(a, nat.AddressStart, nat.AddressEnd)
	}
	ports := e.all("port")
	r.refuse(len(ports) > 1, e, ErrXML, "Only one <port> element is allowed in <nat> in <forward> in network %s", r.network)
	for _, p := range ports {
		start, ok := parseUint(p.attr("start"), 10, 16)
		r.refuse(!ok, p, ErrXMLDetail, "Missing or invalid 'start' attribute in <port> in <nat> in <forward> in network %s", r.network)
		end, ok := parseUint(p.attr("end"), 10, 16)
		r.refuse(!ok || end < start, p, ErrXMLDetail, "Missing or invalid 'end' attribute in <port> in <nat> in <forward> in network %s", r.network)
		nat.PortStart, nat.PortEnd = uint16(start), uint16(end)
	}
	return nat
}
