// Package random draws network definitions for property tests: such as can be
// applied, all of the same network, so that any one may replace another.
package random

import (
	"fmt"
	"net/netip"

	"pgregory.net/rapid"

	"viaduct/internal/netdef"
)

// Name and UUID are those of all networks that are drawn.
const (
	Name = "drawn"
	uuid = "0b1c2d3e-4f50-4617-8293-a4b5c6d7e8f9"
)

// subnets are the bridge's addresses to choose from.
var subnets = []string{"192.168.50.1/24", "10.50.0.1/16", "172.29.1.1/29", "192.168.60.129/25"}

func draw[T any](t *rapid.T, label string, values ...T) T {
	return rapid.SampledFrom(values).Draw(t, label)
}

// Network draws a definition. Its uplink, if it names one, is among uplinks.
func Network(t *rapid.T, uplinks ...string) *netdef.Network {
	id, err := netdef.ParseUUID(uuid)
	if err != nil {
		panic(err) // it is a constant
	}
	n := &netdef.Network{
		Name: Name, UUID: id,
		Forward: netdef.Forward{Mode: draw(t, "mode", netdef.ModeNone, netdef.ModeNAT, netdef.ModeNAT, netdef.ModeRoute, netdef.ModeOpen)},
		Bridge: netdef.Bridge{
			Name: draw(t, "bridge", "virbr50", "virbr50", "br-drawn"), STPOff: rapid.Bool().Draw(t, "stp off"), Delay: draw(t, "delay", 0, 0, 2, 4),
		},
		MTU: draw(t, "mtu", 0, 1400, 1500, 9000),
		MAC: draw(t, "mac", netdef.MAC{0x52, 0x54, 0, 0xaa, 0, 1}, netdef.MAC{0x52, 0x54, 0, 0xaa, 0, 2}),
		DNS: dns(t),
	}
	if rapid.Bool().Draw(t, "domain") {
		n.Domain = netdef.Domain{Name: draw(t, "domain name", "one.example", "two.example"), LocalOnly: draw(t, "local only", netdef.Yes, netdef.No)}
	}
	least := 1
	if n.Forward.Mode == netdef.ModeNone {
		least = 0
	}
	served := rapid.IntRange(0, len(subnets)).Draw(t, "subnet with DHCP")
	for i, s := range rapid.Permutation(subnets).Draw(t, "subnets")[:rapid.IntRange(least, 3).Draw(t, "addresses")] {
		p := netip.MustParsePrefix(s)
		ip := netdef.IP{Address: p.Addr(), PrefixLen: p.Bits()}
		if i == served {
			dhcp(t, &ip)
		}
		n.IPs = append(n.IPs, ip)
	}
	switch n.Forward.Mode {
	case netdef.ModeNAT:
		n.Forward.NAT = nat(t)
		fallthrough
	case netdef.ModeRoute:
		if rapid.Bool().Draw(t, "restricted") {
			n.Forward.Interfaces = []string{draw(t, "uplink", uplinks...)}
		}
	}
	return n
}

// Pool draws a definition of the same network whose ports are on devices of the
// host's, or in a bridge of the host's.
func Pool(t *rapid.T, devices ...string) *netdef.Network {
	id, err := netdef.ParseUUID(uuid)
	if err != nil {
		panic(err) // it is a constant
	}
	n := &netdef.Network{
		Name: Name, UUID: id,
		Forward: netdef.Forward{Mode: draw(t, "pool mode", netdef.ModeBridge, netdef.ModePrivate, netdef.ModeVEPA)},
	}
	if n.Forward.Mode == netdef.ModeBridge && rapid.Bool().Draw(t, "host's bridge") {
		n.Bridge.Name = draw(t, "of the host", "br-host", "br-other")
		return n
	}
	n.Forward.Interfaces = rapid.Permutation(devices).Draw(t, "devices")[:rapid.IntRange(1, len(devices)).Draw(t, "size")]
	return n
}

func dhcp(t *rapid.T, ip *netdef.IP) {
	first := ip.Address.Next()
	ip.Ranges = []netdef.DHCPRange{{Start: first, End: first.Next()}}
	if rapid.Bool().Draw(t, "lease") {
		ip.Ranges[0].Lease = &netdef.LeaseTime{Expiry: draw[uint64](t, "expiry", 0, 5, 90), Unit: "minutes"}
	}
	for i := range rapid.IntRange(0, 2).Draw(t, "reservations") {
		first = first.Next()
		ip.Hosts = append(ip.Hosts, netdef.DHCPHost{
			MAC: fmt.Sprintf("52:54:00:bb:00:%02d", i), Name: draw(t, "host", "", fmt.Sprintf("h%d", i)), IP: first,
		})
	}
}

func nat(t *rapid.T) *netdef.NAT {
	n := &netdef.NAT{}
	if rapid.Bool().Draw(t, "ports") {
		n.PortStart, n.PortEnd = 5000, draw[uint16](t, "last port", 5000, 6000)
	}
	if rapid.Bool().Draw(t, "nat addresses") {
		n.AddressStart, n.AddressEnd = netip.MustParseAddr("203.0.113.7"), draw(t, "last address", netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("203.0.113.9"))
	}
	return n
}

func dns(t *rapid.T) netdef.DNS {
	d := netdef.DNS{}
	for i := range rapid.IntRange(0, 2).Draw(t, "dns hosts") {
		d.Present = true
		d.Hosts = append(d.Hosts, netdef.DNSHost{
			IP: netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}), Hostnames: []string{fmt.Sprint("known", i), draw(t, "alias", "x", "y")},
		})
	}
	switch draw(t, "dns", "plain", "disabled", "forwarder", "txt") {
	case "disabled":
		return netdef.DNS{Present: true, Enable: netdef.No}
	case "forwarder":
		d.Present = true
		d.Forwarders = []netdef.DNSForwarder{{Domain: draw(t, "for", "", "corp.example"), Addr: netip.MustParseAddr("203.0.113.1")}}
	case "txt":
		d.Present = true
		d.TXTs = []netdef.DNSTXT{{Name: "note", Value: draw(t, "text", "hello", "bye")}}
	}
	return d
}
