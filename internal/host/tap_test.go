package host

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"viaduct/internal/hoststate"
)

const testAlias = "viaduct port 00000000-0000-4000-8000-000000000001"

// A tap is made, changed, seen as ours and removed; while it exists its owner
// and others can be told apart.
func TestTaps(t *testing.T) {
	h := openHost(t, Options{})
	b := testBridge(1)
	tap := hoststate.Tap{Name: "vm7", Alias: testAlias, Owner: 1234, MTU: 1400}
	up := hoststate.LinkUp{Link: "vm7"}
	member := hoststate.Member{Link: "vm7", Bridge: b.Name, MAC: hoststate.MAC{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff}}
	reach(t, h, nil, state(b))
	reach(t, h, state(b), state(b, tap, up, member))
	if said := ip(t, "-d link show vm7"); !strings.Contains(said, "persist on") || !strings.Contains(said, "user 1234") {
		t.Errorf("the tap does not stay, or is not the user's:\n%s", said)
	}
	if _, owned := h.Owned()[tap.Key()]; !owned {
		t.Error("the tap is not seen as ours")
	}
	wider := tap
	wider.MTU = 9000
	reach(t, h, state(b, tap, up, member), state(b, wider, up, member))
	theirs := wider
	theirs.Owner = 99
	reach(t, h, state(b, wider, up, member), state(b, theirs, up, member))
	ip(t, "link del vm7")
	if gone := h.Observe([]hoststate.Key{tap.Key()}); len(gone) > 0 {
		t.Errorf("still observed: %v", gone)
	}
	reach(t, h, state(b), state(b, tap, up, member))
	reach(t, h, state(b, tap, up, member), state(b))
	if _, ok := h.Link("vm7"); ok {
		t.Error("the tap is left")
	}
	checkMirror(t, h.mirror)
}

// A link of somebody else's that has the name is neither taken nor removed.
func TestForeignTapStays(t *testing.T) {
	h := openHost(t, Options{})
	ip(t, "tuntap add dev vm7 mode tap user 5")
	tap := hoststate.Tap{Name: "vm7", Alias: testAlias, MTU: 1500}
	if len(h.Observe([]hoststate.Key{tap.Key()})) > 0 {
		t.Error("a foreign tap passes for ours")
	}
	if err := h.Apply(t.Context(), []hoststate.Op{hoststate.CreateOp(tap)}); err == nil || !strings.Contains(err.Error(), "not made by viaduct") {
		t.Errorf("took a foreign tap: %v", err)
	}
	apply(t, h, hoststate.DeleteOp(tap))
	if _, ok := h.Link("vm7"); !ok {
		t.Error("a foreign tap was removed")
	}
}

// A tap for a program that holds it goes with the file, whoever has that last.
func TestOpenTapEndsWithItsFile(t *testing.T) {
	h := openHost(t, Options{})
	f, name, err := h.OpenTap(1400, true)
	if err != nil {
		t.Fatal(err)
	}
	if l, ok := h.Link(name); !ok || l.Kind != kindTap || l.MTU != 1400 {
		t.Errorf("tap %s is %+v, %v", name, l, ok)
	}
	if _, owned := h.Owned()[hoststate.TapKey(name)]; owned {
		t.Error("a daemon would take it for a tap that it has to keep or remove")
	}
	f.Close()
	if _, ok := h.Link(name); ok {
		t.Errorf("%s is left", name)
	}
}

// What goes over a link is counted from the host's side, losses by reason.
func TestCounters(t *testing.T) {
	h := openHost(t, Options{})
	f, name, err := h.OpenTap(1500, false)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ip(t, "link set "+name+" up")
	before, err := h.Counters(name)
	if err != nil {
		t.Fatal(err)
	}
	frame := make([]byte, 60)
	binary.BigEndian.PutUint16(frame[12:], unix.ETH_P_ARP)
	for range 3 {
		if _, err := f.Write(frame); err != nil {
			t.Fatal(err)
		}
	}
	after, err := h.Counters(name)
	if err != nil {
		t.Fatal(err)
	}
	if after.In.Packets-before.In.Packets != 3 || after.In.Bytes-before.In.Bytes != 180 {
		t.Errorf("before three frames of 60 octets %+v, after them %+v", before.In, after.In)
	}
	if _, err := h.Counters("absent"); err == nil {
		t.Error("counters of a link that does not exist")
	}
}

// Errors that have a reason are not counted twice, and older kernels' shorter
// lists are understood.
func TestDecodeCounters(t *testing.T) {
	b := make([]byte, 8*24)
	for i, n := range map[int]uint64{rxPackets: 10, rxBytes: 700, rxErrors: 5, 6: 2, 12: 3, txErrors: 1} {
		binary.NativeEndian.PutUint64(b[8*i:], n)
	}
	want := Counters{
		In:  Traffic{Bytes: 700, Packets: 10, Drops: Drops{"dropped": 2, "wrong checksum": 3, "other error": 2}},
		Out: Traffic{Drops: Drops{"other error": 1}},
	}
	if diff := cmp.Diff(want, decodeCounters(b)); diff != "" {
		t.Error(diff)
	}
	if got := decodeCounters(b[:8*4]); got.In.Bytes != 700 || got.In.Drops != nil {
		t.Errorf("of a short list %+v", got)
	}
}
