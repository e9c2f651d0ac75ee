package host

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"viaduct/internal/hoststate"
	"viaduct/internal/lab"
)

// A macvtap is made, changed, seen as ours and removed, and its file is the
// user's.
func TestMacvtaps(t *testing.T) {
	if _, err := os.Stat("/dev/net/tun"); err != nil || os.Getuid() != 0 {
		t.Skip("needs the devices of a kernel")
	}
	h := openHost(t, Options{})
	ip(t, "link add up0 type veth peer name up1")
	ip(t, "link set up0 up")
	defer ip(t, "link del up0")
	tap := hoststate.Macvtap{Name: "vm7", Alias: testAlias, Device: "up0", Mode: "bridge", MAC: hoststate.MAC{2, 0, 0, 0, 0, 7}}
	up := hoststate.LinkUp{Link: "vm7"}
	if err := h.Apply(t.Context(), []hoststate.Op{hoststate.CreateOp(tap)}); err != nil {
		if !lab.Strict() {
			t.Skip("this kernel, or /dev, has no macvtaps: ", err)
		}
		t.Fatal(err)
	}
	reach(t, h, nil, state(tap, up))
	l, ok := h.Link("vm7")
	if !ok || l.Device != "up0" || l.Kind != kindMacvtap || !l.Up {
		t.Errorf("the link is %+v", l)
	}
	if _, owned := h.Owned()[tap.Key()]; !owned {
		t.Error("the macvtap is not seen as ours")
	}
	theirs := tap
	theirs.Owner, theirs.MAC = 99, hoststate.MAC{2, 0, 0, 0, 0, 8}
	reach(t, h, state(tap, up), state(theirs, up))
	file, err := os.Stat(macvtapFile(l.Index))
	if err != nil || file.Sys().(*syscall.Stat_t).Uid != 99 || file.Mode().Perm()&0o077 != 0 {
		t.Errorf("its file: %v, %v", file, err)
	}
	private := theirs
	private.Mode = "private"
	if err := h.Apply(t.Context(), []hoststate.Op{{Verb: hoststate.Change, Old: theirs, New: private}}); err == nil {
		t.Error("a macvtap changed its mode")
	}
	ip(t, "link del vm7")
	reach(t, h, nil, state(theirs, up))
	reach(t, h, state(theirs, up), nil)
	if _, ok := h.Link("vm7"); ok {
		t.Error("the macvtap is left")
	}
	checkMirror(t, h.mirror)

	ip(t, "link add link up0 name vm7 type macvtap mode bridge")
	if err := h.Apply(t.Context(), []hoststate.Op{hoststate.CreateOp(tap)}); err == nil || !strings.Contains(err.Error(), "not made by viaduct") {
		t.Errorf("took a foreign macvtap: %v", err)
	}
	apply(t, h, hoststate.DeleteOp(tap))
	if _, ok := h.Link("vm7"); !ok {
		t.Error("a foreign macvtap was removed")
	}
}

// A port that leaves a bridge of the host's is down afterwards: its guest would
// otherwise speak to the host itself.
func TestLeavingTheHostsBridge(t *testing.T) {
	h := openHost(t, Options{})
	ip(t, "link add br7 type bridge")
	ip(t, "link add v0 type veth peer name v1")
	defer ip(t, "link del br7")
	defer ip(t, "link del v0")
	port := state(hoststate.LinkUp{Link: "v0"}, hoststate.Member{Link: "v0", Bridge: "br7", MAC: hoststate.MAC{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff}})
	reach(t, h, nil, port)
	reach(t, h, port, nil)
	if l, _ := h.Link("v0"); l.Up || l.Master != "" {
		t.Errorf("after it left: %+v", l)
	}
}
