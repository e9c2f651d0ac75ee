package netdef

import "slices"

// PortGroup is the port group of that name; with "" it is the default one. It
// is nil if there is none.
func (n *Network) PortGroup(name string) *PortGroup {
	i := slices.IndexFunc(n.PortGroups, func(g PortGroup) bool {
		if name == "" {
			return g.Default
		}
		return g.Name == name
	})
	if i < 0 {
		return nil
	}
	return &n.PortGroups[i]
}

// Inherit fills in what the port does not say itself: from its port group, or
// else from its network. A network's bandwidth is that of all its ports
// together, so no port inherits it. A port of a group that does not exist has
// what the network says, as with libvirt.
func (p *Port) Inherit(n *Network) error {
	group := n.PortGroup(p.Group)
	if group == nil {
		group = &PortGroup{}
	}
	if p.Bandwidth == nil {
		p.Bandwidth = group.Bandwidth.clone()
	}
	for _, from := range []*VLAN{group.VLAN, n.VLAN} {
		if p.VLAN == nil {
			p.VLAN = from.clone()
		}
	}
	for _, from := range []Switch{group.TrustGuestRxFilters, n.TrustGuestRxFilters} {
		if p.TrustGuestRxFilters == Unset {
			p.TrustGuestRxFilters = from
		}
	}
	if p.Isolated == Unset {
		p.Isolated = n.Isolated
	}
	for _, from := range []*VirtualPort{group.VirtualPort, n.VirtualPort} {
		if err := p.inheritVirtualPort(from); err != nil {
			return err
		}
	}
	return nil
}

// inheritVirtualPort fills in the parameters that the port does not have. It may
// not have others: whoever wrote them meant the switch to see them.
func (p *Port) inheritVirtualPort(from *VirtualPort) error {
	if from == nil {
		return nil
	}
	v := copied(p.VirtualPort)
	if v == nil {
		v = &VirtualPort{}
	}
	if v.Type != "" && from.Type != "" && v.Type != from.Type {
		return Errorf(ErrConfigUnsupported, "attempt to merge virtualports of differing types (%s and %s)", v.Type, from.Type)
	}
	for _, m := range []struct {
		name string
		into *string
		from string
	}{
		{"types", &v.Type, from.Type},
		{"managerids", &v.ManagerID, from.ManagerID},
		{"typeids", &v.TypeID, from.TypeID},
		{"typeidversions", &v.TypeIDVersion, from.TypeIDVersion},
		{"instanceids", &v.InstanceID, from.InstanceID},
		{"interfaceids", &v.InterfaceID, from.InterfaceID},
		{"profileids", &v.ProfileID, from.ProfileID},
	} {
		switch {
		case *m.into == "":
			*m.into = m.from
		case m.from != "" && m.from != *m.into:
			return Errorf(ErrXML, "attempt to merge virtualports with mismatched %s ('%s' and '%s')", m.name, *m.into, m.from)
		}
	}
	p.VirtualPort = v
	return nil
}

// Complete chooses the ids of an instance that may be chosen, and names what
// is missing otherwise.
func (v *VirtualPort) Complete() error {
	if v == nil {
		return nil
	}
	switch {
	case v.Type == "802.1Qbg" && v.InstanceID == "":
		v.InstanceID = NewUUID().String()
	case v.Type == "openvswitch" && v.InterfaceID == "":
		v.InterfaceID = NewUUID().String()
	}
	for _, need := range []struct{ typ, name, value string }{
		{"802.1Qbg", "managerid", v.ManagerID},
		{"802.1Qbg", "typeid", v.TypeID},
		{"802.1Qbg", "typeidversion", v.TypeIDVersion},
		{"802.1Qbh", "profileid", v.ProfileID},
		{"midonet", "interfaceid", v.InterfaceID},
	} {
		if need.typ == v.Type && need.value == "" {
			return Errorf(ErrXML, "missing %s in <virtualport type='%s'>", need.name, v.Type)
		}
	}
	return nil
}
