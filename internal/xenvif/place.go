package xenvif

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"viaduct/internal/engine"
	"viaduct/internal/netdef"
	"viaduct/internal/xenvif/hotplug"
)

// place is a network that a guest is to be plugged into.
type place struct {
	id   netdef.UUID
	name string
	// implicit says that the network is there only as long as a guest needs it;
	// the others somebody defined.
	implicit bool
	def      *netdef.Network
	settings netdef.Settings
	// declared is the port that somebody has made for this guest, nil for none.
	declared *knownPort
}

// routed reports whether the script by that name connects guests by links of two.
func routed(face string) bool { return face == hotplug.FaceRoute || face == hotplug.FaceNAT }

// xl writes this name where a guest's configuration names no bridge.
const (
	unnamed        = "xenbr0"
	defaultNetwork = "default"
)

// place finds the network of a guest: that which has a port for it, that which
// bridge= names, that whose bridge it names, or one made for a bridge of the
// host's or for routing.
func (d Desk) place(ctx context.Context, v vif) (place, error) {
	known := d.Networks.Networks()
	ports, err := d.ports(v)
	if err != nil {
		return place{}, err
	}
	var at place
	switch declared := v.declared(ports); {
	case declared != nil:
		at.declared, at.id = declared, declared.Network
	case routed(v.Face):
		at, err = d.routedPlace(ctx, v, known)
	default:
		at, err = d.bridgedPlace(ctx, v, known)
	}
	if err == nil && at.def == nil {
		err = d.load(&at)
	}
	if err == nil {
		err = v.clash(ports, at.id)
	}
	return at, err
}

// load gets the network's definition.
func (d Desk) load(p *place) error {
	text, err := d.Networks.XML(p.id, false)
	if err != nil {
		return err
	}
	if p.def, err = netdef.Parse([]byte(text)); err != nil {
		return err
	}
	p.name = p.def.Name
	p.settings, err = p.def.Settings()
	return err
}

// knownPort is a port that has to do with the guest.
type knownPort struct {
	engine.GuestPort
	def *netdef.Port
}

// ports lists what ports there are of the guest, or of others with its MAC address.
func (d Desk) ports(v vif) ([]knownPort, error) {
	found := d.Networks.GuestPorts(v.mac, v.guestUUID, v.guest)
	ports := make([]knownPort, len(found))
	for i, p := range found {
		ports[i].GuestPort = p
		var err error
		if ports[i].def, err = netdef.ParsePort([]byte(p.XML)); err != nil {
			return nil, fmt.Errorf("read port %s: %w", p.UUID, err)
		}
	}
	return ports, nil
}

// declared finds the port that somebody made for the guest: by its MAC address,
// else by the guest's UUID, else by its name. One that has a link is in use.
func (v vif) declared(ports []knownPort) *knownPort {
	for _, matches := range []func(*netdef.Port) bool{
		func(d *netdef.Port) bool { return d.MAC == v.mac && !v.mac.IsZero() },
		func(d *netdef.Port) bool { return d.OwnerUUID == v.guestUUID && !v.guestUUID.IsZero() },
		func(d *netdef.Port) bool { return d.OwnerName == v.guest && v.guest != "" },
	} {
		if i := slices.IndexFunc(ports, func(p knownPort) bool { return p.Link == "" && matches(p.def) }); i >= 0 {
			return &ports[i]
		}
	}
	return nil
}

// clash refuses a MAC address that another guest of the network has.
func (v vif) clash(ports []knownPort, network netdef.UUID) error {
	for _, p := range ports {
		if p.def.MAC == v.mac && !v.mac.IsZero() && p.Network == network && p.Link != "" && p.Link != v.Link && p.def.OwnerUUID != v.owner() {
			return fmt.Errorf("guest '%s' at %s has the MAC address %s already", p.def.OwnerName, p.Link, v.mac)
		}
	}
	return nil
}

// owner is the UUID of the guest, or what stands for it.
func (v vif) owner() netdef.UUID {
	if v.guestUUID.IsZero() {
		return netdef.NamedUUID(fmt.Sprintf("xen domain %d", v.Domain))
	}
	return v.guestUUID
}

// bridgedPlace finds the network that bridge= means.
func (d Desk) bridgedPlace(ctx context.Context, v vif, known []engine.Info) (place, error) {
	find := func(is func(engine.Info) bool) (place, bool) {
		i := slices.IndexFunc(known, is)
		if i < 0 {
			return place{}, false
		}
		n := known[i]
		return place{id: n.UUID, name: n.Name, implicit: n.UUID == implicitUUID(n.Name)}, true
	}
	if v.bridge != "" {
		for _, is := range []func(engine.Info) bool{
			func(n engine.Info) bool { return n.Name == v.bridge },
			func(n engine.Info) bool { return n.Bridge == v.bridge && n.UUID != implicitUUID(n.Name) },
		} {
			if at, ok := find(is); ok {
				return at, nil
			}
		}
	}
	standard, hasStandard := find(func(n engine.Info) bool { return n.Name == defaultNetwork })
	bridges := d.Networks.Bridges()
	device := v.bridge
	if number, legacy := strings.CutPrefix(device, "xenbr"); legacy && !slices.Contains(bridges, device) && slices.Contains(bridges, "eth"+number) {
		device = "eth" + number // as Xen's own scripts named bridges until 4.0
	}
	switch {
	case slices.Contains(bridges, device):
		n := &netdef.Network{Name: "xen-bridge-" + device, Forward: netdef.Forward{Mode: netdef.ModeBridge}}
		n.Bridge.Name = device
		return d.implicit(ctx, known, n)
	case (v.bridge == unnamed || v.bridge == "") && hasStandard:
		return standard, nil
	case v.bridge == "" && len(bridges) == 1:
		v.bridge = bridges[0]
		return d.bridgedPlace(ctx, v, known)
	case v.bridge == "":
		return place{}, errors.New("the interface names no bridge, and which one is meant cannot be told")
	}
	return place{}, fmt.Errorf("bridge=%s: no network is called so, none has a bridge of that name, and neither has the host", v.bridge)
}

// routedPlace finds the network of a guest that is routed: the one that bridge=
// names, if that routes to its guests, or one that is made for it.
func (d Desk) routedPlace(ctx context.Context, v vif, known []engine.Info) (place, error) {
	if i := slices.IndexFunc(known, func(n engine.Info) bool { return n.Name == v.bridge && n.UUID != implicitUUID(n.Name) }); i >= 0 {
		at := place{id: known[i].UUID}
		if err := d.load(&at); err != nil {
			return place{}, err
		}
		if at.settings.Routed {
			return at, nil
		}
	}
	n := &netdef.Network{Name: "xen-route", Forward: netdef.Forward{Mode: netdef.ModeRoute}}
	if v.Face == hotplug.FaceNAT {
		n.Name = "xen-nat"
		n.Forward = netdef.Forward{Mode: netdef.ModeNAT, NAT: &netdef.NAT{IPv6: netdef.Yes}}
		for _, text := range v.resolvers {
			if a, err := netip.ParseAddr(text); err == nil && a.Is4() && !a.IsLoopback() {
				n.DNS.Forwarders = append(n.DNS.Forwarders, netdef.DNSForwarder{Addr: a})
			}
		}
	}
	if v.Netdev != "" {
		n.Name += "-" + v.Netdev
		n.Forward.Interfaces = []string{v.Netdev}
	}
	return d.implicit(ctx, known, n, "<ports layout='routed'/>")
}

// implicitUUID is that of the network which is made for guests under the name.
func implicitUUID(name string) netdef.UUID { return netdef.NamedUUID("xen network " + name) }

// implicit is a network that is there as long as a guest needs it. All scripts
// that want it at once may ask for it: one makes it. One that is there is as the
// script would make it, but for settings that the host has been given meanwhile.
// Settings of the network's own come after those.
func (d Desk) implicit(ctx context.Context, known []engine.Info, n *netdef.Network, settings ...string) (at place, err error) {
	host, err := d.Settings()
	if host != "" || len(settings) > 0 {
		var bad error
		n, bad = n.WithSettings(host, settings...)
		err = errors.Join(err, bad)
	}
	if err != nil {
		return place{}, fmt.Errorf("read the settings of this host's own networks: %w", err)
	}
	n.UUID = implicitUUID(n.Name)
	at = place{id: n.UUID, name: n.Name, implicit: true}
	if slices.ContainsFunc(known, func(k engine.Info) bool { return k.UUID == n.UUID && k.Active }) {
		at.def = n
		at.settings, err = n.Settings()
		return at, err
	}
	_, made := d.Networks.Create(ctx, []byte(n.Format(netdef.FormatOptions{})))
	if err := d.load(&at); err != nil {
		return place{}, fmt.Errorf("make network '%s': %w", n.Name, errors.Join(made, err))
	}
	return at, nil
}
