package xenvif

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"viaduct/internal/engine"
	"viaduct/internal/netdef"
	"viaduct/internal/xenvif/hotplug"
	"viaduct/internal/xenvif/vifspec"
)

// spec says what the interface is to have as a port of the network.
func (v vif) spec(at place) (engine.PortSpec, error) {
	p := engine.PortSpec{
		Link: v.Link, Wait: linkLimit, Name: v.name, MTU: v.mtu,
		Port: netdef.Port{OwnerName: v.guest},
	}
	if at.declared != nil {
		// It is a pattern: it stays when the guest is gone.
		p.Pattern = at.declared.UUID
		p.Port, p.Guard, p.Routed = *at.declared.def.Clone(), at.declared.Guard, at.declared.Routed
		p.Plug = netdef.Plug{}
		if p.Bandwidth != nil {
			p.Bandwidth.ClassID = 0
		}
	}
	p.UUID, p.OwnerUUID = portOf(v.Call), v.owner()
	if v.guest != "" {
		p.OwnerName = v.guest
	} else if p.OwnerName == "" {
		p.OwnerName = fmt.Sprintf("domain %d", v.Domain)
	}
	if !v.mac.IsZero() {
		p.MAC = v.mac
	}
	if v.vlan != nil {
		p.VLAN = v.vlan
	}
	if at.settings.EnforceRate && p.Bandwidth == nil {
		p.Bandwidth, p.RateKey, p.Rate = limits(v.rate), v.rateKey(), v.rateText
	}
	var err error
	if at.settings.Routed && p.Routed == nil {
		p.Routed, err = v.routed(at)
	}
	if p.Guard == nil {
		p.Guard = v.guard(at)
	}
	return p, err
}

// Of two links to one guest that of the emulated NIC goes first: the guest
// unplugs it once it has a driver for the other.
var metrics = map[string]int{hotplug.KindTap: 1, hotplug.KindVif: 2}

// routed says what is behind the link of a guest that is routed. In NAT the
// guest has the address that it is given or one that can be told from its
// numbers, and a gateway made of that; else the host's own is the gateway.
func (v vif) routed(at place) (*netdef.Routed, error) {
	r := &netdef.Routed{Uplink: v.Netdev, Metric: metrics[v.Kind]}
	r.Addresses = slices.Clone(v.addresses)
	if at.def.Forward.Mode != netdef.ModeNAT {
		if len(r.Addresses) == 0 {
			return nil, errors.New("the guest is routed, so its addresses have to be known: name them by ip=")
		}
		r.HostName = hostName(v.guest)
		return r, nil
	}
	var first string
	at4 := slices.IndexFunc(r.Addresses, func(p netip.Prefix) bool { return p.Addr().Is4() })
	switch {
	case at4 >= 0:
		first = r.Addresses[at4].Addr().String()
		r.Addresses = slices.Delete(r.Addresses, at4, at4+1)
	case len(r.Addresses) > 0:
		return r, nil // it has IPv6 alone
	}
	n, err := vifspec.NATAddresses(v.Domain, v.Device, first)
	if err != nil {
		return nil, err
	}
	r.Addresses = slices.Insert(r.Addresses, 0, netip.PrefixFrom(n.Guest, n.Guest.BitLen()))
	r.Gateways, r.Uplink, r.HostName = []netip.Addr{n.Router}, "", n.HostName
	return r, nil
}

// hostName is the guest's name if that can be one of a host (RFC 1123), else "".
func hostName(guest string) string {
	name := strings.ToLower(guest)
	bad := func(r rune) bool { return r != '-' && (r < 'a' || r > 'z') && (r < '0' || r > '9') }
	if len(name) > 63 || strings.ContainsFunc(name, bad) || strings.HasPrefix(name, "-") || strings.HasSuffix(name, "-") {
		return ""
	}
	return name
}

// guard says which frames the guest may send. What the network says of guards
// counts; else a guest is guarded whose addresses are known.
func (v vif) guard(at place) *netdef.Guard {
	g := at.settings.Guard.Clone()
	if g == nil {
		if v.unguarded {
			return nil
		}
		g = netdef.FullGuard()
	}
	switch {
	case v.mac.IsZero():
		return nil
	case at.settings.Routed: // the port has the addresses
	case len(v.addresses) > 0:
		g.Learn = false
		for _, a := range v.addresses {
			g.Prefixes = append(g.Prefixes, a.Masked())
		}
	case at.settings.Guard != nil || !reserved(at.def, v.mac):
		return nil // the network's own, or none
	}
	return g
}

// reserved reports whether the network keeps an address for the guest.
func reserved(n *netdef.Network, guest netdef.MAC) bool {
	for _, ip := range n.IPs {
		for _, h := range ip.Hosts {
			if m, err := netdef.ParseMAC(h.MAC); err == nil && m == guest {
				return true
			}
		}
	}
	return false
}
