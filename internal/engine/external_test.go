package engine

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"viaduct/internal/host"
	"viaduct/internal/hoststate"
	"viaduct/internal/netdef"
)

// withBridge gives the host a bridge of its own with a NIC in it.
func (r *rig) withBridge() {
	r.host.Stock.Links = append(r.host.Stock.Links,
		host.Link{Index: 30, Name: "br0", Kind: "bridge", MTU: 9000, Up: true}, host.Link{Index: 31, Name: "eth5", Master: "br0", Up: true})
}

// Of a network on a bridge of the host's nothing is on the host but its own
// ports, whatever else is in the bridge.
func TestHostBridge(t *testing.T) {
	ctx := t.Context()
	r := newRig(t)
	i := r.define(`<network><name>lan</name><forward mode='bridge'/><bridge name='br0'/></network>`)
	empty := r.text()
	r.must(r.Start(ctx, i.UUID)) // as with libvirt, the bridge need not be there yet
	said := func(want ...string) {
		t.Helper()
		if got, err := r.Warnings(i.UUID); err != nil || !slices.Equal(got, want) {
			t.Errorf("warnings %q %v, want %q", got, err, want)
		}
	}
	said("the host has no bridge 'br0' now, which guests are to be in")
	if r.text() != empty {
		t.Errorf("a start did something:\n%s", r.text())
	}
	if err := r.create(i, tap("vm0", 0)); err == nil || !strings.Contains(err.Error(), "the host has no bridge 'br0'") {
		t.Errorf("a tap without the bridge: %v", err)
	}
	r.withBridge()
	said()
	r.must(r.create(i, tap("vm0", 1000)))
	r.host.Stock.Links = append(r.host.Stock.Links, host.Link{Index: 7, Name: "vif5.0"})
	r.must(r.Plug(ctx, i.UUID, "vif5.0", 0))
	guest := PortSpec{Port: netdef.Port{UUID: netdef.UUID{1}, OwnerName: "vm", MAC: netdef.MAC{0x52, 0x54, 0, 1, 2, 3}}}
	declared, err := r.CreatePort(ctx, i.UUID, guest)
	r.must(err)
	if declared.Def.Plug != (netdef.Plug{Type: netdef.PlugBridge, Bridge: "br0"}) {
		t.Errorf("plug %+v", declared.Def.Plug)
	}
	r.appear("vnet0", 40, hoststate.MAC{0xfe, 0x54, 0, 1, 2, 3}, "br0")
	check := func(when string, plugged bool, want ...string) {
		t.Helper()
		list, err := r.Ports(i.UUID)
		r.must(err)
		var active []string
		for _, p := range list {
			if p.Active {
				active = append(active, p.Link)
			}
		}
		if len(list) != 3 || !slices.Equal(active, want) {
			t.Errorf("%s: ports %+v", when, list)
		}
		if r.in("vm0", "br0") != plugged || r.in("vif5.0", "br0") != plugged || !r.in("vnet0", "br0") {
			t.Errorf("%s:\n%s", when, r.text())
		}
	}
	check("plugged", true, "vif5.0", "vm0", "vnet0")
	if tap := r.host.State()[hoststate.TapKey("vm0")].(hoststate.Tap); tap.MTU != 9000 {
		t.Errorf("the tap would lower the MTU of the bridge: %+v", tap)
	}
	before := r.text()
	r.restart()
	if r.text() != before {
		t.Errorf("a restart changed something:\n%s", r.text())
	}
	r.must(r.Destroy(ctx, i.UUID))
	check("stopped", false)
	r.restart()
	check("stopped, another daemon", false)
	r.must(r.Start(ctx, i.UUID))
	check("started again", true, "vif5.0", "vm0", "vnet0")

	// The host's admin makes the bridge anew.
	for _, link := range []string{"vm0", "vif5.0", "vnet0"} {
		r.host.Remove(hoststate.MemberKey(link, "br0"))
	}
	r.host.Stock.Links = slices.DeleteFunc(r.host.Stock.Links, func(l host.Link) bool { return l.Name == "br0" || l.Name == "eth5" })
	r.look(i)
	if _, up := r.host.State()[hoststate.LinkUp{Link: "vm0"}.Key()]; up {
		t.Error("a tap without a bridge is up")
	}
	r.withBridge()
	r.look(i)
	if !r.in("vm0", "br0") || !r.in("vif5.0", "br0") {
		t.Errorf("not plugged in again:\n%s", r.text())
	}
	r.must(r.Undefine(ctx, i.UUID))
	r.must(r.Destroy(ctx, i.UUID))
	if r.hasTap("vm0") {
		t.Error("the tap is left")
	}
}

// A network on a pool of devices has macvtaps, those that it makes and those of
// libvirt's drivers.
func TestMacvtapPool(t *testing.T) {
	ctx := t.Context()
	r := newRig(t)
	r.host.Stock.Links = append(r.host.Stock.Links, host.Link{Index: 3, Name: "eth1", Up: true})
	i := r.define(`<network><name>lan</name><forward mode='private'><interface dev='eth0'/><interface dev='eth1'/></forward></network>`)
	empty := r.text()
	r.must(r.Start(ctx, i.UUID))
	if err := r.Plug(ctx, i.UUID, "eth1", 0); err == nil || !strings.Contains(err.Error(), "network 'lan' does not have a bridge name.") {
		t.Errorf("plugged a link without a bridge: %v", err)
	}
	p, err := r.CreatePort(ctx, i.UUID, tap("vm0", 1000))
	r.must(err)
	key := hoststate.MacvtapKey("vm0")
	want := hoststate.Macvtap{
		Name: "vm0", Alias: "viaduct port " + p.UUID.String(), Device: "eth0", Mode: "private", MAC: hoststate.MAC(p.MAC), Owner: 1000,
	}
	if r.host.State()[key] != want || !p.Active {
		t.Errorf("made %+v\n%s", p, r.text())
	}
	mac := netdef.MAC{0x52, 0x54, 0, 1, 2, 3}
	q, err := r.CreatePort(ctx, i.UUID, PortSpec{Port: netdef.Port{OwnerName: "vm", MAC: mac}})
	r.must(err)
	if q.Def.Plug != (netdef.Plug{Type: netdef.PlugDirect, Dev: "eth1", Mode: "private"}) {
		t.Errorf("plug %+v", q.Def.Plug)
	}
	r.host.Stock.Links = append(r.host.Stock.Links,
		host.Link{Index: 50, Name: "macvtap0", Kind: "macvtap", MAC: hoststate.MAC(mac), Device: "eth1", Up: true},
		host.Link{Index: 51, Name: "macvtap1", Kind: "macvtap", MAC: hoststate.MAC{2}, Device: "eth1", Up: true})
	r.restart()
	list, err := r.Ports(i.UUID)
	r.must(err)
	if len(list) != 2 || list[0].Link != "macvtap0" || list[0].UUID != q.UUID || !list[0].Active || list[1].UUID != p.UUID {
		t.Errorf("ports %+v", list)
	}
	if xml, _ := r.XML(i.UUID, false); !strings.Contains(xml, "<network connections='2'>") || !strings.Contains(xml, "<interface dev='eth0' connections='1'/>") {
		t.Errorf("counts are missing:\n%s", xml)
	}
	r.must(r.Destroy(ctx, i.UUID))
	if _, up := r.host.State()[hoststate.LinkUp{Link: "vm0"}.Key()]; up || r.host.State()[key] != want {
		t.Errorf("stopped:\n%s", r.text())
	}
	r.restart()
	r.must(r.Start(ctx, i.UUID))
	if _, up := r.host.State()[hoststate.LinkUp{Link: "vm0"}.Key()]; !up {
		t.Errorf("started again:\n%s", r.text())
	}
	r.must(r.DeletePort(ctx, i.UUID, "vm0"))
	if r.text() != empty {
		t.Errorf("left behind:\n%s", r.text())
	}
}

// Virtual functions are handed out one by one, and those of a physical function
// are listed when the network starts.
func TestVirtualFunctionPool(t *testing.T) {
	ctx := t.Context()
	r := newRig(t)
	vf := func(n uint, link string) host.VF {
		return host.VF{Address: netdef.PCIAddress{Bus: 3, Slot: 0x10, Function: n}, Link: link}
	}
	r.host.VFs = map[string][]host.VF{"eth0": {vf(0, "eth0v0"), vf(1, "")}}
	i := r.define(`<network><name>sriov</name><forward mode='hostdev' managed='yes'><pf dev='eth0'/></forward></network>`)
	r.must(r.Start(ctx, i.UUID))
	if err := r.create(i, tap("vm0", 0)); err == nil || !strings.Contains(err.Error(), "hands PCI devices to its guests") {
		t.Errorf("a tap: %v", err)
	}
	port := func() (Port, error) {
		return r.CreatePort(ctx, i.UUID, PortSpec{Port: netdef.Port{OwnerName: "vm"}})
	}
	first, err := port()
	r.must(err)
	want := netdef.Plug{Type: netdef.PlugHostdevPCI, Managed: netdef.Yes, Address: vf(0, "").Address}
	if first.Def.Plug != want || !first.Active {
		t.Errorf("port %+v", first)
	}
	r.restart()
	second, err := port()
	r.must(err)
	if second.Def.Plug.Address != vf(1, "").Address {
		t.Errorf("port %+v", second)
	}
	if _, err := port(); err == nil || !strings.Contains(err.Error(), "network 'sriov' requires exclusive access to interfaces, but none are available") {
		t.Errorf("a third port of two functions: %v", err)
	}
	live, err := r.XML(i.UUID, false)
	r.must(err)
	defined, err := r.XML(i.UUID, true)
	r.must(err)
	if !strings.Contains(live, "slot='0x10' function='0x1'") || strings.Contains(defined, "slot=") {
		t.Errorf("live\n%s\ndefined\n%s", live, defined)
	}
	r.must(r.DeletePort(ctx, i.UUID, first.UUID.String()))
	if again, err := port(); err != nil || again.Def.Plug != want {
		t.Errorf("port %+v, %v", again, err)
	}

	macvtaps := r.define(`<network><name>own</name><forward mode='passthrough'><pf dev='eth0'/></forward></network>`)
	r.must(r.Start(ctx, macvtaps.UUID))
	p, err := r.CreatePort(ctx, macvtaps.UUID, PortSpec{Port: netdef.Port{OwnerName: "vm"}})
	r.must(err)
	if p.Def.Plug != (netdef.Plug{Type: netdef.PlugDirect, Dev: "eth0v0", Mode: "passthrough"}) {
		t.Errorf("port %+v", p)
	}
	none := r.define(`<network><name>none</name><forward mode='hostdev'><pf dev='eth7'/></forward></network>`)
	if err := r.Start(ctx, none.UUID); err == nil || !strings.Contains(err.Error(), "No usable Vf's present on SRIOV PF eth7") {
		t.Errorf("a device without virtual functions: %v", err)
	}
	const whole = `<network><name>whole</name><forward mode='hostdev'><address type='pci' domain='0' bus='3' slot='0' function='0'/></forward></network>`
	if _, err := r.Define(ctx, []byte(whole)); err == nil ||
		!strings.Contains(err.Error(), "device '/sys/bus/pci/devices/0000:03:00.0' in network 'whole' is not an SR-IOV Virtual Function") {
		t.Errorf("a device that is no virtual function: %v", err)
	}
}

// Networks that route to their guests may share an address of the host's, which
// each of the guests has for its gateway at the end of its own link.
func TestRoutedNetworksShareTheGateway(t *testing.T) {
	ctx := t.Context()
	r := newRig(t)
	gateway := netip.MustParseAddr("192.0.2.2")
	for n := range 3 {
		i := r.define(fmt.Sprintf(`<network><name>far%d</name><metadata><v:settings xmlns:v='urn:viaduct:settings:1'><v:ports layout='routed'/></v:settings></metadata>
			<forward mode='nat' dev='eth%d'/></network>`, n, n))
		r.must(r.Start(ctx, i.UUID))
		link := fmt.Sprintf("vif%d.0", n)
		r.host.Stock.Links = append(r.host.Stock.Links, host.Link{Index: 50 + n, Name: link})
		guest := netip.AddrFrom4([4]byte{192, 0, 2, byte(60 + n)})
		r.must(r.create(i, PortSpec{Link: link, Routed: &netdef.Routed{Addresses: []netip.Prefix{netip.PrefixFrom(guest, 32)}, Gateways: []netip.Addr{gateway}}}))
		if _, has := r.host.State()[hoststate.Address{Link: link, Prefix: netip.PrefixFrom(gateway, 32)}.Key()]; !has {
			t.Errorf("%s has no gateway:\n%s", link, r.text())
		}
	}
}
