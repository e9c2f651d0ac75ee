package netdef

import (
	"fmt"
	"slices"
)

// Port is a guest's connection to a network, in the terms of libvirt's
// networkport XML. Like a network it is a value.
type Port struct {
	UUID UUID
	// OwnerName and OwnerUUID are the guest's.
	OwnerName string
	OwnerUUID UUID
	// Group is the port group; "" for the network's default.
	Group               string
	MAC                 MAC
	VirtualPort         *VirtualPort
	Bandwidth           *Bandwidth
	VLAN                *VLAN
	Isolated            Switch
	TrustGuestRxFilters Switch
	Plug                Plug
}

// PlugType is the way in which a port is connected.
type PlugType string

// The plug types. A port that has not been connected yet has PlugNone.
const (
	PlugNone       PlugType = ""
	PlugNetwork    PlugType = "network" // a bridge that the network owns
	PlugBridge     PlugType = "bridge"  // a bridge of the host's
	PlugDirect     PlugType = "direct"  // a macvtap on a device of the host's
	PlugHostdevPCI PlugType = "hostdev-pci"
)

// Plug says where a port is connected. Which fields count depends on the type.
type Plug struct {
	Type PlugType
	// Bridge and MacTableManager are those of network and bridge plugs.
	Bridge          string
	MacTableManager string
	// Dev and Mode are those of direct plugs.
	Dev, Mode string
	// The rest is that of hostdev-pci plugs.
	Managed                 Switch
	DriverName, DriverModel string
	Address                 PCIAddress
}

// macvtapModes are the ways in which a macvtap may share its device; the first
// is meant where none is named.
var macvtapModes = []string{"vepa", "private", "bridge", "passthrough"}

// ParsePort reads a port from libvirt's networkport XML.
func ParsePort(data []byte) (*Port, error) {
	root, err := parseDocument(data, "(networkport_definition)")
	if err != nil {
		return nil, err
	}
	r := &reader{}
	p := r.port(root)
	if r.err != nil {
		return nil, r.err
	}
	return p, nil
}

func (r *reader) port(root *element) *Port {
	r.expectRoot(root, "networkport")
	owner := root.child("owner")
	p := &Port{}
	p.UUID = r.portUUID(root, root.child("uuid"), "network port has no uuid")
	p.OwnerName = r.line(owner.child("name"))
	r.refuse(p.OwnerName == "", root, ErrInternal, "network port has no owner name")
	p.OwnerUUID = r.portUUID(root, owner.child("uuid"), "network port has no owner UUID")
	p.Group = r.line(root.child("group"))
	p.VirtualPort = r.virtualPort(root.child("virtualport"), false)

	mac := root.child("mac")
	text := mac.attr("address")
	r.refuse(text == "", root, ErrInternal, "network port has no mac")
	address, err := ParseMAC(text)
	r.refuse(err != nil, mac, ErrInternal, "Unable to parse MAC '%s'", text)
	p.MAC = address

	p.Bandwidth = r.bandwidth(root.child("bandwidth"), true)
	p.VLAN = r.vlan(root.child("vlan"))
	p.Isolated = r.yesNo(root.child("port"), "isolated")
	p.TrustGuestRxFilters = r.yesNo(root.child("rxfilters"), "trustGuest")
	p.Plug = r.plug(root.child("plug"))
	return p
}

func (r *reader) portUUID(root, e *element, missing string) UUID {
	text := r.line(e)
	r.refuse(text == "", root, ErrInternal, "%s", missing)
	id, err := ParseUUID(text)
	r.refuse(err != nil, e, ErrInternal, "Unable to parse UUID '%s'", text)
	return id
}

func (r *reader) plug(e *element) Plug {
	p := Plug{Type: PlugType(r.choice(e, "type", "none", string(PlugNetwork), string(PlugBridge), string(PlugDirect), string(PlugHostdevPCI)))}
	switch p.Type {
	case PlugNetwork, PlugBridge:
		p.Bridge, p.MacTableManager = e.attr("bridge"), e.attr("macTableManager")
		r.refuse(p.Bridge == "", e, ErrXML, "Missing network port bridge name")
		r.refuse(!slices.Contains(macTableManagers, p.MacTableManager), e, ErrXML,
			"Invalid macTableManager setting '%s' in network port", p.MacTableManager)
	case PlugDirect:
		p.Dev, p.Mode = e.attr("dev"), e.attr("mode")
		r.refuse(p.Dev == "", e, ErrXML, "Missing network port link device name")
		if p.Mode == "" {
			p.Mode = macvtapModes[0]
		}
		r.refuse(!slices.Contains(macvtapModes, p.Mode), e, ErrXML, "Invalid mode setting '%s' in network port", p.Mode)
	case PlugHostdevPCI:
		p.Managed = r.yesNo(e, "managed")
		driver := e.child("driver")
		p.DriverName, p.DriverModel = r.choice(driver, "name", driverNames...), driver.attr("model")
		device := e.child("address")
		r.refuse(device == nil, e, ErrXML, "Missing network port PCI address")
		p.Address = r.pciAddress(device)
	case "none":
		p.Type = PlugNone
	}
	return p
}

// Format prints the port as libvirt does.
func (p *Port) Format() string {
	w := &writer{}
	w.port(p)
	return w.b.String()
}

func (w *writer) port(p *Port) {
	w.begin("networkport")
	w.leaf("uuid", p.UUID.String())
	w.begin("owner")
	w.leaf("name", p.OwnerName)
	w.leaf("uuid", p.OwnerUUID.String())
	w.end("owner")
	w.leaf("group", p.Group)
	w.empty("mac", str("address", p.MAC.String()))
	w.virtualPort(p.VirtualPort)
	w.bandwidth(p.Bandwidth)
	w.vlan(p.VLAN)
	w.isolated(p.Isolated)
	if p.TrustGuestRxFilters != Unset {
		w.empty("rxfilters", switched("trustGuest", p.TrustGuestRxFilters))
	}
	w.plug(p.Plug)
	w.end("networkport")
}

func (w *writer) plug(p Plug) {
	kind := str("type", string(p.Type))
	switch p.Type {
	case PlugNone:
	case PlugHostdevPCI:
		w.begin("plug", kind, switched("managed", p.Managed))
		w.driver(p.DriverName, p.DriverModel)
		w.pciAddress(p.Address)
		w.end("plug")
	default:
		w.empty("plug", kind, str("bridge", p.Bridge), str("macTableManager", p.MacTableManager), str("dev", p.Dev), str("mode", p.Mode))
	}
}

// String names the port in messages.
func (p *Port) String() string { return fmt.Sprintf("port %s of guest %s", p.UUID, p.OwnerName) }
