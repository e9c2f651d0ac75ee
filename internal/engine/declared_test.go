package engine

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"viaduct/internal/host"
	"viaduct/internal/hoststate"
	"viaduct/internal/netdef"
)

// look makes the engine look at the network as after a notification.
func (r *rig) look(i Info) {
	r.t.Helper()
	n, err := r.seize(i.UUID)
	r.must(err)
	n.busy.Unlock()
	r.heal(r.t.Context(), n)
}

// appear puts a link of another program into a bridge, as libvirt's QEMU driver
// does with the tap of a guest.
func (r *rig) appear(name string, index int, mac hoststate.MAC, bridge string) {
	r.host.Stock.Links = append(r.host.Stock.Links, host.Link{Index: index, Name: name, Kind: "tun", MAC: mac})
	r.host.Set(hoststate.Member{Link: name, Bridge: bridge}, hoststate.LinkUp{Link: name})
}

func (r *rig) vanish(name, bridge string) {
	r.host.Stock.Links = slices.DeleteFunc(r.host.Stock.Links, func(l host.Link) bool { return l.Name == name })
	r.host.Remove(hoststate.MemberKey(name, bridge), hoststate.LinkUp{Link: name}.Key())
}

// A port whose link another program makes is there before and after its link,
// keeps its settings through new daemons, and takes up the link by its address.
func TestDeclaredPortFindsItsLink(t *testing.T) {
	ctx := t.Context()
	r := newRig(t)
	i := r.define(strings.Replace(natXML("a", 1), "</network>", "<portgroup name='g' trustGuestRxFilters='yes'/></network>", 1))
	r.must(r.Start(ctx, i.UUID))
	guest := netdef.MAC{0x52, 0x54, 0, 1, 2, 3}
	spec := PortSpec{Port: netdef.Port{UUID: netdef.UUID{1}, MAC: guest, Group: "g"}}
	p, err := r.CreatePort(ctx, i.UUID, spec)
	r.must(err)
	if p.Active || p.Link != "" || p.Origin != OriginForeign || p.Def.TrustGuestRxFilters != netdef.Yes {
		t.Errorf("created %+v", p)
	}
	if _, err := r.CreatePort(ctx, i.UUID, spec); netdef.CodeOf(err) != netdef.ErrNetworkPortExist {
		t.Errorf("the same port again: %v", err)
	}
	text, err := r.PortXML(i.UUID, p.UUID.String())
	r.must(err)
	is := func(when, link string, active bool) {
		t.Helper()
		list, err := r.Ports(i.UUID)
		r.must(err)
		if len(list) != 1 || list[0].UUID != p.UUID || list[0].Link != link || list[0].Active != active {
			t.Errorf("%s: %+v", when, list)
		}
		if now, err := r.PortXML(i.UUID, p.UUID.String()); err != nil || now != text {
			t.Errorf("%s: %v\n%s\nbefore\n%s", when, err, now, text)
		}
	}
	tap := hoststate.MAC(guest)
	tap[0] = 0xfe
	is("without a link", "", false)
	r.restart()
	is("after a restart without a link", "", false)
	r.appear("vnet0", 40, tap, i.Bridge)
	r.look(i)
	is("with its link", "vnet0", true)
	if n, _ := r.Lookup("a"); n.Connections != 1 {
		t.Errorf("%d connections", n.Connections)
	}
	if xml, _ := r.XML(i.UUID, false); !strings.Contains(xml, "<network connections='1'>") {
		t.Errorf("the count is missing:\n%s", xml)
	}
	r.restart()
	is("after a restart", "vnet0", true)

	r.must(r.Destroy(ctx, i.UUID))
	is("stopped", "vnet0", false)
	r.restart()
	r.must(r.Start(ctx, i.UUID))
	is("started again", "vnet0", true)
	if !r.in("vnet0", i.Bridge) {
		t.Error("the link was not put back")
	}

	r.vanish("vnet0", i.Bridge)
	r.look(i)
	is("after its guest", "", false)
	r.appear("vnet1", 41, tap, i.Bridge)
	is("with another link", "vnet1", true)
	r.must(r.DeletePort(ctx, i.UUID, p.UUID.String()))
	if !r.in("vnet1", i.Bridge) {
		t.Error("the link of another program was taken out of the bridge")
	}
	list, err := r.Ports(i.UUID)
	r.must(err)
	if len(list) != 1 || list[0].UUID == p.UUID {
		t.Errorf("after its deletion: %+v", list)
	}

	// A guest that runs already, and is known as a stranger's link.
	spec.Reclaim, spec.Plug = true, netdef.Plug{Type: netdef.PlugNetwork, Bridge: i.Bridge}
	if again, err := r.CreatePort(ctx, i.UUID, spec); err != nil || again.Link != "vnet1" || !again.Active {
		t.Errorf("reclaimed %+v, %v", again, err)
	}
}

// What cannot be applied to a link that is ours is refused.
func TestPortSettingsRefused(t *testing.T) {
	ctx := t.Context()
	r := newRig(t)
	i := r.define(natXML("a", 1))
	r.must(r.Start(ctx, i.UUID))
	for want, spec := range map[string]PortSpec{
		"network 'a' has no port group 'g'":                          {Port: netdef.Port{Group: "g"}, Tap: &TapSpec{Name: "vm0"}},
		"Port reclaim requested but plug type is none":               {Reclaim: true},
		"Port reclaim not requested but plug type is not none":       {Port: netdef.Port{Plug: netdef.Plug{Type: netdef.PlugNetwork}}},
		"<virtualport type='openvswitch'> not supported for network": {Port: netdef.Port{VirtualPort: &netdef.VirtualPort{Type: "openvswitch"}}},
	} {
		if err := r.create(i, spec); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if list, _ := r.Ports(i.UUID); len(list) > 0 {
		t.Errorf("ports %+v", list)
	}
}

// A port that was made of another gets what changes there, but keeps what it was
// given itself, and goes on without it.
func TestPortFollowsItsPattern(t *testing.T) {
	ctx := t.Context()
	r := newRig(t)
	i := r.define(strings.Replace(natXML("a", 1), "</network>", "<portgroup name='g' trustGuestRxFilters='yes'/></network>", 1))
	r.must(r.Start(ctx, i.UUID))
	limit := func(kib uint64) *netdef.Bandwidth { return &netdef.Bandwidth{Outbound: &netdef.Rate{Average: kib}} }
	mac := netdef.MAC{0x52, 0x54, 0, 1, 2, 3}
	pattern := netdef.Port{UUID: netdef.UUID{1}, OwnerName: "vm", OwnerUUID: netdef.UUID{9}, MAC: mac, Bandwidth: limit(10)}
	r.must(r.create(i, PortSpec{Port: pattern}))
	for id, b := range map[byte]*netdef.Bandwidth{2: limit(10), 3: limit(70)} {
		copied := pattern
		copied.UUID, copied.MAC[5], copied.Bandwidth = netdef.UUID{id}, id, b
		r.must(r.create(i, PortSpec{Port: copied, Tap: &TapSpec{Name: "vm" + string('0'+rune(id))}, Pattern: pattern.UUID}))
	}
	is := func(when string, want map[byte]uint64, isolated netdef.Switch) {
		t.Helper()
		for id, kib := range want {
			p, err := r.PortByUUID(i.UUID, netdef.UUID{id})
			r.must(err)
			if p.Def.Bandwidth.Outbound.Average != kib || p.Def.Isolated != isolated {
				t.Errorf("%s: port %d has %+v, isolated %v", when, id, p.Def.Bandwidth.Outbound, p.Def.Isolated)
			}
		}
	}
	r.must(r.SetPortBandwidth(ctx, i.UUID, pattern.UUID.String(), limit(20)))
	is("limited", map[byte]uint64{1: 20, 2: 20, 3: 70}, netdef.Unset)
	r.restart()
	pattern.Isolated, pattern.Bandwidth = netdef.Yes, limit(30)
	r.must(r.UpdatePort(ctx, i.UUID, pattern.UUID.String(), pattern, nil))
	is("isolated", map[byte]uint64{1: 30, 2: 30, 3: 70}, netdef.Yes)
	r.must(r.DeletePort(ctx, i.UUID, pattern.UUID.String()))
	is("alone", map[byte]uint64{2: 30, 3: 70}, netdef.Yes)
	pattern.Group = "h"
	other := pattern
	other.UUID = netdef.UUID{2}
	for _, wrong := range []netdef.Port{pattern, other} {
		if err := r.UpdatePort(ctx, i.UUID, netdef.UUID{2}.String(), wrong, nil); err == nil {
			t.Errorf("port 2 becomes %+v", wrong)
		}
	}
}

// What a port is guaranteed counts once while ports that were made of it are
// there, however it is changed, and whoever makes their links.
func TestFloorOfAPatternCountsOnce(t *testing.T) {
	ctx := t.Context()
	r := newRig(t)
	i := r.define(strings.Replace(natXML("a", 1), "<ip ", "<bandwidth><inbound average='1000'/></bandwidth><ip ", 1))
	r.must(r.Start(ctx, i.UUID))
	floor := func(kib uint64) *netdef.Bandwidth { return &netdef.Bandwidth{Inbound: &netdef.Rate{Floor: kib}} }
	mac := netdef.MAC{0x52, 0x54, 0, 1, 2, 3}
	pattern := netdef.Port{UUID: netdef.UUID{1}, OwnerName: "vm", OwnerUUID: netdef.UUID{9}, MAC: mac, Bandwidth: floor(600)}
	r.must(r.create(i, PortSpec{Port: pattern}))
	copied := pattern
	copied.UUID, copied.Bandwidth = netdef.UUID{2}, floor(600)
	r.must(r.create(i, PortSpec{Port: copied, Tap: &TapSpec{Name: "vm2"}, Pattern: pattern.UUID}))
	r.must(r.create(i, PortSpec{Port: netdef.Port{UUID: netdef.UUID{3}, Bandwidth: floor(300)}, Tap: &TapSpec{Name: "vm3"}}))

	// libvirt declares a port, and its link comes later.
	other := netdef.MAC{0x52, 0x54, 0, 1, 2, 4}
	r.must(r.create(i, PortSpec{Port: netdef.Port{UUID: netdef.UUID{4}, MAC: other, Bandwidth: floor(100)}}))
	tap := hoststate.MAC(other)
	tap[0] = 0xfe
	r.appear("vnet0", 40, tap, i.Bridge)
	r.look(i)

	full := func(when string) {
		t.Helper()
		const want = "new combined inbound floor=1001 would overcommit "
		if err := r.create(i, PortSpec{Port: netdef.Port{Bandwidth: floor(1)}, Tap: &TapSpec{Name: "vm9"}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: one more KiB/s: %v, want %s", when, err, want)
		}
	}
	full("at first")
	r.restart()
	full("with another daemon")
	r.must(r.SetPortBandwidth(ctx, i.UUID, pattern.UUID.String(), floor(500)))
	r.must(r.SetPortBandwidth(ctx, i.UUID, pattern.UUID.String(), floor(600)))
	pattern.Isolated = netdef.Yes
	r.must(r.UpdatePort(ctx, i.UUID, pattern.UUID.String(), pattern, nil))
	full("changed and back")
	if err := r.SetPortBandwidth(ctx, i.UUID, pattern.UUID.String(), floor(601)); err == nil {
		t.Error("more than there is was guaranteed")
	}
	edited := strings.Replace(natXML("a", 1), "<ip ", "<bandwidth><inbound average='1000' peak='1000'/></bandwidth><ip ", 1)
	if _, err := r.Apply(ctx, []File{{Name: "a.xml", XML: edited}}, ApplyOptions{}); err != nil {
		t.Errorf("an edit that keeps all guarantees: %v", err)
	}
	r.must(r.DeletePort(ctx, i.UUID, pattern.UUID.String()))
	full("without the declaration")
}

// Limits that follow another program's rate leave what a port is guaranteed and
// what its port group says, and outlive the daemon.
func TestPortRate(t *testing.T) {
	ctx := t.Context()
	r := newRig(t)
	i := r.define(strings.Replace(natXML("a", 1), "<ip ", "<bandwidth><inbound average='1000'/></bandwidth>"+
		"<portgroup name='g'><bandwidth><outbound average='70'/></bandwidth></portgroup><ip ", 1))
	r.must(r.Start(ctx, i.UUID))
	id := netdef.UUID{1}
	set := func(rate string, b *netdef.Bandwidth) {
		t.Helper()
		list := r.RatedPorts()
		if len(list) != 1 || list[0].Key != "key" || list[0].UUID != id {
			t.Fatalf("rated ports %+v", list)
		}
		list[0].Rate = rate
		r.must(r.SetPortRate(ctx, list[0], b))
		if list := r.RatedPorts(); list[0].Rate != rate {
			t.Errorf("the rate is %q, want %q", list[0].Rate, rate)
		}
	}
	has := func(want *netdef.Bandwidth) {
		t.Helper()
		p, err := r.PortByUUID(i.UUID, id)
		r.must(err)
		if !reflect.DeepEqual(unclassed(p.Def.Bandwidth), want) {
			t.Errorf("limits %s, want %+v", p.Def.Format(), want)
		}
	}
	rate := func(in, floor, out uint64) *netdef.Bandwidth {
		b := &netdef.Bandwidth{Inbound: &netdef.Rate{Average: in, Floor: floor}}
		if out > 0 {
			b.Outbound = &netdef.Rate{Average: out}
		}
		return b
	}
	spec := PortSpec{Port: netdef.Port{UUID: id, Group: "g", Bandwidth: rate(10, 0, 10)}, Tap: &TapSpec{Name: "vm0"}, RateKey: "key", Rate: "10"}
	r.must(r.create(i, spec))
	r.must(r.create(i, PortSpec{Tap: &TapSpec{Name: "vm1"}}))
	set("20", rate(20, 0, 20))
	has(rate(20, 0, 20))
	set("", nil)
	has(&netdef.Bandwidth{Outbound: &netdef.Rate{Average: 70}})
	r.must(r.SetPortBandwidth(ctx, i.UUID, id.String(), rate(0, 600, 0)))
	set("30", rate(30, 0, 30))
	has(rate(30, 600, 30))
	r.restart()
	has(rate(30, 600, 30))
	set("", nil)
	has(rate(0, 600, 70))
	r.must(r.Destroy(ctx, i.UUID))
	set("40", rate(40, 0, 40))
	r.must(r.Start(ctx, i.UUID))
	has(rate(40, 600, 40))
	r.must(r.DeletePort(ctx, i.UUID, id.String()))
	if err := r.SetPortRate(ctx, RatedPort{Network: i.UUID, UUID: id}, nil); netdef.CodeOf(err) != netdef.ErrNoNetworkPort {
		t.Errorf("a port that is gone: %v", err)
	}
}
