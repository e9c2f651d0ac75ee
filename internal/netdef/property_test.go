package netdef

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

// text is anything that a value may hold.
func text(label string) func(*rapid.T) string {
	chars := rapid.SampledFrom([]rune("abz09.-_ <>&'\"é漢;:=\\%"))
	return func(t *rapid.T) string {
		return "x" + string(rapid.SliceOfN(chars, 0, 8).Draw(t, label))
	}
}

func draw[T any](t *rapid.T, label string, values ...T) T {
	return rapid.SampledFrom(values).Draw(t, label)
}

func maybe[T any](t *rapid.T, make func(*rapid.T) *T) *T {
	if rapid.Bool().Draw(t, "given") {
		return make(t)
	}
	return nil
}

func some[T any](t *rapid.T, most int, make func(*rapid.T, int) T) []T {
	var list []T
	for i := range rapid.IntRange(0, most).Draw(t, "count") {
		list = append(list, make(t, i))
	}
	return list
}

// drawNetwork makes networks that own a bridge, as Parse would return them.
func drawNetwork(t *rapid.T) *Network {
	n := &Network{
		Name:                strings.TrimSpace(text("name")(t)),
		UUID:                UUID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "uuid")),
		Title:               text("title")(t),
		Description:         text("description")(t) + draw(t, "more", "", "\n\tmore\n"),
		IPv6:                rapid.Bool().Draw(t, "ipv6"),
		TrustGuestRxFilters: draw(t, "trust", Unset, Yes, No),
		Forward:             Forward{Mode: draw(t, "mode", ModeNone, ModeNAT, ModeRoute, ModeOpen)},
		Bridge: Bridge{Name: draw(t, "bridge", "", "virbr0", "br%d"), Zone: draw(t, "zone", "", "z"), STPOff: rapid.Bool().Draw(t, "stp"),
			Delay: rapid.IntRange(0, 40).Draw(t, "delay"), MacTableManager: draw(t, "manager", "", "kernel", "libvirt")},
		MTU:            draw(t, "mtu", 0, minMTU, 1500, maxMTU),
		MAC:            draw(t, "mac", MAC{}, MAC{0x52, 0x54, 0, 1, 2, 3}),
		DNS:            drawDNS(t),
		Isolated:       draw(t, "isolated", Unset, Yes, No),
		VirtualPort:    maybe(t, drawVirtualPort),
		Bandwidth:      maybe(t, drawBandwidth),
		DnsmasqOptions: some(t, 2, func(t *rapid.T, _ int) string { return text("option")(t) }),
	}
	if rapid.Bool().Draw(t, "domain") {
		n.Domain = Domain{Name: text("domain")(t), LocalOnly: Yes, Register: draw(t, "register", Unset, Yes, No)}
	}
	n.Metadata = some(t, 2, func(t *rapid.T, i int) Node {
		inner := draw(t, "metadata", "/>", ">\n  <y/>\n</m:x>", ">text<y/>\n </m:x>")
		return Node{XML: fmt.Sprintf(`<m:x xmlns:m="urn:%d" k="&quot;"%s`, i, inner), Space: fmt.Sprintf("urn:%d", i)}
	})
	n.PortGroups = some(t, 3, func(t *rapid.T, i int) PortGroup {
		return PortGroup{Name: fmt.Sprint(i, text("group")(t)), Default: i == 1, TrustGuestRxFilters: draw(t, "trust", Unset, Yes, No),
			VirtualPort: maybe(t, drawVirtualPort), Bandwidth: maybe(t, drawBandwidth)}
	})
	n.IPs = []IP{drawIP4(t)}
	if rapid.Bool().Draw(t, "v6") {
		n.IPs = append(n.IPs, drawIP6(t))
	}
	n.Routes = some(t, 2, func(t *rapid.T, i int) Route {
		return Route{Family: draw(t, "family", "", "ipv4"), Address: netip.AddrFrom4([4]byte{172, 16, byte(i), 0}), PrefixLen: 24,
			Gateway: n.IPs[0].Address, Metric: rapid.IntRange(0, 9).Draw(t, "metric")}
	})
	switch n.Forward.Mode {
	case ModeNAT:
		n.Forward.NAT = maybe(t, drawNAT)
		fallthrough
	case ModeRoute:
		n.Forward.Interfaces = some(t, 1, func(t *rapid.T, _ int) string { return "eth0" })
	}
	return n
}

// drawPool makes networks of the host's own devices, as Parse would return them.
func drawPool(t *rapid.T) *Network {
	n := &Network{
		Name:        strings.TrimSpace(text("name")(t)),
		UUID:        UUID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "uuid")),
		Forward:     Forward{Mode: draw(t, "mode", ModeBridge, ModePrivate, ModeVEPA, ModePassthrough, ModeHostdev)},
		VirtualPort: maybe(t, drawVirtualPort),
		Isolated:    draw(t, "isolated", Unset, Yes, No),
	}
	tagged := n.Forward.Mode == ModeBridge || n.Forward.Mode == ModePassthrough || n.Forward.Mode == ModeHostdev
	if tagged {
		n.VLAN = maybe(t, drawVLAN)
	}
	switch {
	case n.Forward.Mode == ModeHostdev:
		n.Forward.Managed = draw(t, "managed", Unset, Yes)
		n.Forward.DriverName, n.Forward.DriverModel = draw(t, "driver", "", "vfio", "kvm", "xen"), draw(t, "model", "", "vfio-pci-x")
		if rapid.Bool().Draw(t, "pf") {
			n.Forward.PFs = []string{"eth0"}
			break
		}
		n.Forward.Addresses = some(t, 3, func(t *rapid.T, i int) PCIAddress {
			return PCIAddress{Domain: draw[uint](t, "domain", 0, 0x10000), Bus: uint(i + 1), Slot: draw[uint](t, "slot", 0, 0x1f), Function: draw[uint](t, "function", 0, 7)}
		})
	case n.Forward.Mode == ModeBridge && rapid.Bool().Draw(t, "bridge"):
		n.Bridge = Bridge{Name: "br0", MacTableManager: draw(t, "manager", "", "kernel", "libvirt")}
		n.Bandwidth = maybe(t, drawBandwidth)
	case n.Forward.Mode == ModePassthrough && rapid.Bool().Draw(t, "pf"):
		n.Forward.PFs = []string{"eth0"}
	default:
		n.Forward.Interfaces = some(t, 3, func(_ *rapid.T, i int) string { return fmt.Sprint("eth", i) })
	}
	n.PortGroups = some(t, 2, func(t *rapid.T, i int) PortGroup {
		g := PortGroup{Name: fmt.Sprint(i, text("group")(t)), Default: i == 1, VirtualPort: maybe(t, drawVirtualPort)}
		if tagged {
			g.VLAN = maybe(t, drawVLAN)
		}
		return g
	})
	return n
}

func drawVLAN(t *rapid.T) *VLAN {
	v := &VLAN{Tags: []VLANTag{{ID: rapid.Uint16Range(0, maxVLAN).Draw(t, "id"), NativeMode: draw(t, "native", "", "tagged", "untagged")}}}
	v.Tags = append(v.Tags, some(t, 2, func(t *rapid.T, _ int) VLANTag { return VLANTag{ID: rapid.Uint16Range(0, maxVLAN).Draw(t, "id")} })...)
	if len(v.Tags) > 1 || rapid.Bool().Draw(t, "trunk") {
		v.Trunk = Yes
	}
	return v
}

func drawNAT(t *rapid.T) *NAT {
	nat := &NAT{IPv6: draw(t, "ipv6", Yes, No)}
	if rapid.Bool().Draw(t, "addresses") {
		nat.AddressStart, nat.AddressEnd = netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("10.9.0.7")
	}
	if rapid.Bool().Draw(t, "ports") {
		nat.PortStart = rapid.Uint16Range(0, 65535).Draw(t, "start")
		nat.PortEnd = rapid.Uint16Range(max(1, nat.PortStart), 65535).Draw(t, "end")
	}
	return nat
}

func drawIP4(t *rapid.T) IP {
	length := rapid.IntRange(16, 29).Draw(t, "length")
	octets := [4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "address"))
	octets[0] = draw(t, "first", byte(10), 172, 192)
	subnet := netip.PrefixFrom(netip.AddrFrom4(octets), length).Masked()
	ip := IP{Family: draw(t, "family", "", "ipv4"), Address: subnet.Addr().Next(), PrefixLen: length,
		LocalPtr: draw(t, "localPtr", Unset, Yes, No), TFTPRoot: draw(t, "tftp", "", "/srv")}
	if rapid.Bool().Draw(t, "mask") {
		mask := ^uint32(0) << (32 - length)
		ip.PrefixLen, ip.Netmask = -1, netip.AddrFrom4([4]byte{byte(mask >> 24), byte(mask >> 16), byte(mask >> 8), byte(mask)})
	}
	if rapid.Bool().Draw(t, "dhcp") {
		first := ip.Address.Next()
		ip.Ranges = []DHCPRange{{Start: first, End: first.Next().Next(), Lease: maybe(t, drawLease)}}
		ip.Hosts = some(t, 2, func(t *rapid.T, _ int) DHCPHost {
			return DHCPHost{MAC: draw(t, "mac", "52:54:00:00:00:01", "52:54:0:0:AA:2"), ID: draw(t, "id", "", "01:52"),
				Name: draw(t, "name", "", "h", "0h.example"), IP: first, Lease: maybe(t, drawLease)}
		})
		if rapid.Bool().Draw(t, "bootp") {
			ip.BootFile, ip.BootServer = text("file")(t), draw(t, "server", "", "10.0.0.1")
		}
	}
	return ip
}

func drawIP6(t *rapid.T) IP {
	ip := IP{Family: "ipv6", Address: netip.MustParseAddr("fd00:5::1"), PrefixLen: draw(t, "length", -1, 64, 80)}
	ip.Hosts = some(t, 2, func(t *rapid.T, i int) DHCPHost {
		return DHCPHost{ID: "0:4:7e", Name: draw(t, "name", "", "h"), IP: netip.MustParseAddr(fmt.Sprintf("fd00:5::%d", i+2)), Lease: maybe(t, drawLease)}
	})
	return ip
}

func drawLease(t *rapid.T) *LeaseTime {
	l := &LeaseTime{Expiry: rapid.Uint64Range(120, 1_000_000).Draw(t, "expiry"), Unit: draw(t, "unit", leaseUnits...)}
	if rapid.Bool().Draw(t, "infinite") {
		return &LeaseTime{Unit: "minutes"}
	}
	return l
}

func drawDNS(t *rapid.T) DNS {
	d := DNS{ForwardPlainNames: draw(t, "plain", Unset, Yes, No), Present: true}
	if d.ForwardPlainNames == Unset {
		d.Enable = Yes
	}
	d.Forwarders = some(t, 2, func(t *rapid.T, _ int) DNSForwarder {
		return DNSForwarder{Domain: text("domain")(t), Addr: draw(t, "addr", netip.Addr{}, netip.MustParseAddr("fd00::9")), Port: draw[uint16](t, "port", 0, 53)}
	})
	d.TXTs = some(t, 2, func(t *rapid.T, _ int) DNSTXT {
		return DNSTXT{Name: strings.ReplaceAll(text("txt")(t), " ", ""), Value: draw(t, "value", "", "a 'b'")}
	})
	d.SRVs = some(t, 2, func(t *rapid.T, _ int) DNSSRV {
		return DNSSRV{Service: "s_1", Protocol: "tcp", Domain: draw(t, "domain", "", "d"), Target: "t", Port: draw(t, "port", 0, 1, 65535), Weight: draw(t, "weight", 0, 9)}
	})
	d.Hosts = some(t, 2, func(t *rapid.T, _ int) DNSHost {
		return DNSHost{IP: netip.MustParseAddr("10.0.0.1"), Hostnames: []string{"a", "b"}}
	})
	return d
}

func drawVirtualPort(t *rapid.T) *VirtualPort {
	switch v := (&VirtualPort{Type: draw(t, "type", "802.1Qbg", "802.1Qbh", "openvswitch", "midonet")}); v.Type {
	case "802.1Qbg":
		v.ManagerID, v.InstanceID = draw(t, "manager", "", "0", "255"), NewUUID().String()
		return v
	case "midonet":
		v.InterfaceID = NewUUID().String()
		return v
	default:
		v.ProfileID = draw(t, "profile", "", "<p>")
		return v
	}
}

func drawBandwidth(t *rapid.T) *Bandwidth {
	rate := func(t *rapid.T) *Rate {
		return &Rate{Average: rapid.Uint64Min(1).Draw(t, "average"), Peak: rapid.Uint64().Draw(t, "peak"), Burst: rapid.Uint64().Draw(t, "burst")}
	}
	return &Bandwidth{Inbound: rate(t), Outbound: maybe(t, rate)}
}

var sameNetwork = cmp.Options{
	cmpopts.EquateComparable(netip.Addr{}),
	cmpopts.EquateEmpty(),
}

// What is printed is read back as it was, and printed the same again.
func TestFormatParseRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := draw(t, "kind", drawNetwork, drawPool)(t)
		first := n.Format(FormatOptions{})
		parsed, err := Parse([]byte(first))
		if err != nil {
			t.Fatalf("%v in\n%s", err, first)
		}
		if err := parsed.Validate(); err != nil {
			t.Fatalf("%v in\n%s", err, first)
		}
		if diff := cmp.Diff(n, parsed, sameNetwork); diff != "" {
			t.Fatalf("network (-want +got)\n%s", diff)
		}
		if diff := cmp.Diff(first, parsed.Format(FormatOptions{})); diff != "" {
			t.Fatalf("text (-first +second)\n%s", diff)
		}
	})
}

// A clone is equal, and no list or pointer of it is its original's.
func TestClone(t *testing.T) {
	n, err := Parse([]byte(everything))
	if err != nil {
		t.Fatal(err)
	}
	n.VLAN = &VLAN{Tags: []VLANTag{{ID: 1}}}
	n.Forward.PFs = []string{"eth1"}
	n.Forward.Addresses = []PCIAddress{{Bus: 1}}
	c := n.Clone()
	if diff := cmp.Diff(n, c, sameNetwork); diff != "" {
		t.Fatalf("(-want +got)\n%s", diff)
	}
	checkNothingShared(t, "Network", reflect.ValueOf(*n), reflect.ValueOf(*c))
	p := &Port{VirtualPort: n.VirtualPort, Bandwidth: n.Bandwidth, VLAN: n.VLAN}
	checkNothingShared(t, "Port", reflect.ValueOf(*p), reflect.ValueOf(*p.Clone()))
	if (*Network)(nil).Clone() != nil || (*Port)(nil).Clone() != nil {
		t.Error("clone of nothing is something")
	}
}

func checkNothingShared(t *testing.T, path string, a, b reflect.Value) {
	switch a.Kind() {
	case reflect.Pointer:
		if a.IsNil() {
			return
		}
		if a.Pointer() == b.Pointer() {
			t.Errorf("%s is shared", path)
		}
		checkNothingShared(t, path, a.Elem(), b.Elem())
	case reflect.Slice:
		if a.Len() == 0 {
			t.Logf("%s is empty", path)
			return
		}
		if a.Pointer() == b.Pointer() {
			t.Errorf("%s is shared", path)
		}
		for i := range a.Len() {
			checkNothingShared(t, fmt.Sprintf("%s[%d]", path, i), a.Index(i), b.Index(i))
		}
	case reflect.Struct:
		if a.Type() == reflect.TypeFor[netip.Addr]() {
			return
		}
		for i := range a.NumField() {
			checkNothingShared(t, path+"."+a.Type().Field(i).Name, a.Field(i), b.Field(i))
		}
	}
}
