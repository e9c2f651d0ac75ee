package host

import (
	"slices"
	"strings"
	"testing"

	"viaduct/internal/hoststate"
)

// What is wanted of a port is made, put back when others change it, and gone
// with the wish for it.
func TestPortFlags(t *testing.T) {
	h := openHost(t, Options{})
	b := testBridge(1)
	foreignLink(t, "tap7", "type veth peer name tap7p")
	member := hoststate.Member{Link: "tap7", Bridge: b.Name}
	plain := state(b, member)
	flags := hoststate.PortFlags{Link: "tap7", Bridge: b.Name, Isolated: true}
	with := state(b, member, flags)
	reach(t, h, nil, with)
	checkMirror(t, h.mirror)
	for _, up := range []string{"down", "up"} {
		ip(t, "link set tap7 "+up)
		for _, f := range []hoststate.PortFlags{
			{NoLearning: true, NoFlood: true}, {Isolated: true, NoFlood: true}, {Isolated: true},
		} {
			f.Link, f.Bridge = "tap7", b.Name
			reach(t, h, with, state(b, member, f))
			checkMirror(t, h.mirror)
		}
	}
	for _, change := range []string{"link set tap7 type bridge_slave isolated off", "link set tap7 nomaster"} {
		ip(t, change)
		await(t, h, flags.Key())
		checkMirror(t, h.mirror)
		reach(t, h, with, with)
	}
	reach(t, h, with, plain)
	if text := ip(t, "-d link show tap7"); !strings.Contains(text, "isolated off") || !strings.Contains(text, "learning on") {
		t.Errorf("nothing is wanted of the port:\n%s", text)
	}
	// A bridge that comes back after a failed operation has its ports as they were.
	reach(t, h, plain, with)
	bad := hoststate.Member{Link: "none", Bridge: b.Name}
	if err := h.Apply(t.Context(), []hoststate.Op{hoststate.DeleteOp(b), hoststate.CreateOp(bad)}); err == nil {
		t.Fatal("a link that does not exist became a port")
	}
	if left := Diff(with, h.Observe(with.Keys())); len(left) > 0 {
		t.Errorf("after a failed operation there is to do:\n%s", hoststate.FormatOps(left))
	}
}

func TestVLANRanges(t *testing.T) {
	one := func(id uint16) hoststate.VLANRange { return hoststate.VLANRange{First: id, Last: id} }
	for _, c := range []struct {
		have, want, surplus []hoststate.VLANRange
	}{
		{nil, []hoststate.VLANRange{one(7)}, nil},
		{[]hoststate.VLANRange{one(1)}, nil, []hoststate.VLANRange{one(1)}},
		{[]hoststate.VLANRange{one(1)}, []hoststate.VLANRange{{First: 1, Last: 1, PVID: true}}, nil},
		{[]hoststate.VLANRange{{First: 10, Last: 20}}, []hoststate.VLANRange{{First: 5, Last: 10}, one(15), {First: 19, Last: 30}},
			[]hoststate.VLANRange{{First: 11, Last: 14}, {First: 16, Last: 18}}},
		{[]hoststate.VLANRange{{First: 1, Last: 4094}}, []hoststate.VLANRange{one(4094)}, []hoststate.VLANRange{{First: 1, Last: 4093}}},
	} {
		if got := surplus(c.have, c.want); !slices.Equal(got, c.surplus) {
			t.Errorf("surplus(%v, %v) = %v, want %v", c.have, c.want, got, c.surplus)
		}
	}
	p := hoststate.NewPortVLANs("a", "b", one(12), one(11), hoststate.VLANRange{First: 10, Last: 10, PVID: true, Untagged: true}, one(14), hoststate.VLANRange{First: 13, Last: 13, Untagged: true})
	if want := "port a of bridge b: vlan 10 pvid untagged, 11-12, 13 untagged, 14"; p.Text() != want {
		t.Errorf("%s\nwant %s", p.Text(), want)
	}
}
