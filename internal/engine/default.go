package engine

import (
	"context"
	"fmt"
	"net/netip"

	"viaduct/internal/netdef"
)

// The default network takes the first free subnet 192.168.N.0/24 from here on,
// as libvirt's does.
const (
	defaultName        = "default"
	firstDefaultSubnet = 122
)

// makeDefault defines the network called default, with NAT and DHCP, marks it
// autostart and avoids what is in use on this host: by links and routes, and by
// what other managers of networks have defined.
func (e *Engine) makeDefault(ctx context.Context) error {
	if info, err := e.Lookup(defaultName); err == nil {
		return e.finishDefault(ctx, info)
	}
	var foreign []*netdef.Network
	if e.Foreign != nil {
		foreign = e.Foreign()
	}
	subnet, err := freeSubnet(e, foreign)
	if err != nil {
		return err
	}
	def := &netdef.Network{
		Name:    defaultName,
		Forward: netdef.Forward{Mode: netdef.ModeNAT},
		Bridge:  netdef.Bridge{Name: e.freeDefaultBridge(foreign)},
		IPs: []netdef.IP{{
			Address: hostAddr(subnet, 1), Netmask: netip.AddrFrom4([4]byte{255, 255, 255, 0}), PrefixLen: -1,
			Ranges: []netdef.DHCPRange{{Start: hostAddr(subnet, 2), End: hostAddr(subnet, 254)}},
		}},
	}
	info, err := e.Define(ctx, []byte(def.Format(netdef.FormatOptions{Inactive: true})))
	if err != nil {
		return err
	}
	e.Log.Info("made the default network", "subnet", subnet, "bridge", info.Bridge)
	return e.finishDefault(ctx, info)
}

// finishDefault marks the default network autostart and remembers that it was made.
func (e *Engine) finishDefault(ctx context.Context, info Info) error {
	if err := e.SetAutostart(ctx, info.UUID, true); err != nil {
		return err
	}
	return e.Store.MarkStarted()
}

// freeSubnet finds the default network's subnet.
func freeSubnet(e *Engine, foreign []*netdef.Network) (netip.Prefix, error) {
	for i := firstDefaultSubnet; i < 256; i++ {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(i), 0}), 24)
		if len(e.Host.Overlapping(p)) == 0 && !definedIn(foreign, p) {
			return p, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("find a subnet: 192.168.%d.0/24 to 192.168.255.0/24 are all in use", firstDefaultSubnet)
}

func definedIn(networks []*netdef.Network, p netip.Prefix) bool {
	for _, n := range networks {
		for _, ip := range n.IPs {
			if ip.Prefix().Overlaps(p) {
				return true
			}
		}
	}
	return false
}

// freeDefaultBridge is the first virbrN that neither the host nor a foreign
// definition uses.
func (e *Engine) freeDefaultBridge(foreign []*netdef.Network) string {
	used := map[string]bool{}
	for _, n := range foreign {
		used[n.Bridge.Name] = true
	}
	for i := 0; ; i++ {
		name := fmt.Sprintf("virbr%d", i)
		if _, exists := e.Host.Link(name); !exists && !used[name] {
			return name
		}
	}
}

// hostAddr is the address with the given last octet in a /24.
func hostAddr(p netip.Prefix, last byte) netip.Addr {
	a := p.Addr().As4()
	a[3] = last
	return netip.AddrFrom4(a)
}
