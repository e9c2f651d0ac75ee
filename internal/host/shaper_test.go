package host

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"viaduct/internal/hoststate"
)

func testShaper(link string, incoming bool) hoststate.Shaper {
	return hoststate.Shaper{Link: link, Incoming: incoming, Average: 1 << 20, Peak: 2 << 20, Burst: 300_000}
}

// tc changes traffic control as somebody else would.
func tc(t testing.TB, args string) string {
	t.Helper()
	out, err := exec.Command("tc", strings.Fields(args)...).CombinedOutput()
	if err != nil {
		t.Fatalf("tc %s: %v\n%s", args, err, out)
	}
	return string(out)
}

// Limits in both directions are made, changed without a new queue, seen again
// by the next daemon and removed.
func TestShapers(t *testing.T) {
	foreignLink(t, "vif1.0", "type veth peer name guest1")
	h := openHost(t, Options{})
	out, in := testShaper("vif1.0", false), testShaper("vif1.0", true)
	reach(t, h, nil, state(out, in))
	if said := tc(t, "class show dev ifbo-vif1.0"); !strings.Contains(said, "rate 8388Kbit ceil 16777Kbit burst 299999b") {
		t.Errorf("classes are\n%s", said)
	}
	leaf := tc(t, "qdisc show dev ifbi-vif1.0")
	faster := in
	faster.Average, faster.Peak, faster.Burst = 6e9, 6e9, 60_000_000
	reach(t, h, state(in), state(faster))
	if said := tc(t, "class show dev ifbi-vif1.0"); !strings.Contains(said, "rate 48Gbit") {
		t.Errorf("classes are\n%s", said)
	}
	reach(t, h, state(faster), state(in))
	if again := tc(t, "qdisc show dev ifbi-vif1.0"); again != leaf {
		t.Errorf("queues were\n%sand are\n%s", leaf, again)
	}
	next, err := Open(Options{})
	if err != nil {
		t.Fatal(err)
	}
	if left := Diff(state(out, in), next.Observe(state(out, in).Keys())); len(left) > 0 {
		t.Errorf("the next daemon would\n%s", hoststate.FormatOps(left))
	}
	if _, owned := next.Owned()[in.Key()]; !owned {
		t.Error("the device is not seen as ours")
	}
	next.Close()
	reach(t, h, state(out, in), nil)
	if left := tc(t, "filter show dev vif1.0 ingress") + tc(t, "filter show dev vif1.0 egress"); left != "" {
		t.Errorf("left over:\n%s", left)
	}
	for _, name := range []string{"ifbi-vif1.0", "ifbo-vif1.0"} {
		if _, ok := h.Link(name); ok {
			t.Error(name, "is left")
		}
	}
	checkMirror(t, h.mirror)
}

// Floors come, change and go by themselves.
func TestFloors(t *testing.T) {
	h := openHost(t, Options{})
	b := testBridge(1)
	out := testShaper(b.Name, false)
	with := func(floors ...hoststate.Floor) hoststate.Shaper {
		s := out
		s.Floors = floors
		return s
	}
	one := hoststate.Floor{Class: 3, MAC: hoststate.MAC{0x52, 0x54, 0, 1, 2, 3}, Rate: 300_000}
	two := hoststate.Floor{Class: 17, MAC: hoststate.MAC{0x52, 0x54, 0, 0xff, 2, 4}, Rate: 600_000}
	moved := one
	moved.MAC, moved.Rate = two.MAC, 100_000
	before := hoststate.State{}
	for _, s := range []hoststate.Shaper{with(one), with(one, two), with(moved), with(two), out, with(one, two)} {
		reach(t, h, before, state(b, s))
		before = state(b, s)
		if said := tc(t, "filter show dev ifbo-vbr1"); strings.Count(said, "flowid") != len(s.Floors) {
			t.Errorf("%s:\n%s", s.Text(), said)
		}
	}
	tooMany := with(hoststate.Floor{Class: 4095, Rate: 1})
	if err := h.Apply(t.Context(), []hoststate.Op{{Verb: hoststate.Change, Old: with(one, two), New: tooMany}}); err == nil {
		t.Error("took class 4095")
	}
	reach(t, h, before, state(b, with(one, two)))
	reach(t, h, before, nil)
}

// What others do to a limit is noticed, and put right.
func TestShapersHeal(t *testing.T) {
	foreignLink(t, "vif1.0", "type veth peer name guest1")
	h := openHost(t, Options{})
	out, in := testShaper("vif1.0", false), testShaper("vif1.0", true)
	out.Floors = []hoststate.Floor{{Class: 3, MAC: hoststate.MAC{2}, Rate: 1000}}
	wanted := state(out, in)
	reach(t, h, nil, wanted)
	for _, c := range []struct {
		command string
		changed hoststate.Key
	}{
		{"tc qdisc del dev ifbo-vif1.0 root", out.Key()},
		{"tc qdisc replace dev ifbo-vif1.0 root pfifo", out.Key()},
		{"tc filter del dev vif1.0 ingress", in.Key()},
		{"tc filter del dev vif1.0 egress", out.Key()},
		{"tc filter del dev ifbo-vif1.0", out.Key()},
		{"tc qdisc del dev ifbi-vif1.0 root", in.Key()},
		{"tc class change dev ifbi-vif1.0 parent 7669: classid 7669:1 htb rate 1mbit", in.Key()},
		{"tc class add dev ifbo-vif1.0 parent 7669:1 classid 7669:9 htb rate 1mbit", out.Key()},
		{"tc qdisc replace dev ifbo-vif1.0 parent 7669:2 pfifo limit 3", out.Key()},
		{"ip link del ifbi-vif1.0", in.Key()},
		{"ip link set ifbi-vif1.0 down", in.Key()},
		{"ip link set ifbi-vif1.0 alias theirs", in.Key()},
	} {
		words := strings.Fields(c.command)
		if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", c.command, err, out)
		}
		await(t, h, c.changed)
		if ops := Diff(wanted, h.Observe(wanted.Keys())); len(ops) != 1 || ops[0].Key() != c.changed {
			t.Errorf("after %s there is to do:\n%s", c.command, hoststate.FormatOps(ops))
		}
		reach(t, h, wanted, wanted)
	}
	tc(t, "qdisc del dev vif1.0 clsact")
	await(t, h, in.Key())
	reach(t, h, wanted, wanted)
	ip(t, "link del vif1.0")
	if s, _ := h.Observe([]hoststate.Key{out.Key()})[out.Key()].(hoststate.Shaper); s.Fault == "" {
		t.Error("a link that is gone is limited")
	}
	reach(t, h, wanted, nil)
	if _, ok := h.Link("ifbi-vif1.0"); ok {
		t.Error("the device is left")
	}
}

// A shaper that cannot be made leaves nothing, and what others have is not taken.
func TestShapersKeepOff(t *testing.T) {
	foreignLink(t, "vif1.0", "type veth peer name guest1")
	foreignLink(t, "ifbi-vif1.0", "type ifb")
	h := openHost(t, Options{})
	in := testShaper("vif1.0", true)
	if err := h.Apply(t.Context(), []hoststate.Op{hoststate.CreateOp(in)}); err == nil || !strings.Contains(err.Error(), "not made by viaduct") {
		t.Errorf("took a foreign device: %v", err)
	}
	tc(t, "qdisc add dev vif1.0 clsact")
	tc(t, "filter add dev vif1.0 ingress u32 match u32 0 0 flowid 1:1")
	ip(t, "link del ifbi-vif1.0")
	reach(t, h, nil, state(in))
	reach(t, h, state(in), nil)
	if said := tc(t, "filter show dev vif1.0 ingress"); strings.Count(said, "flowid") != 1 {
		t.Errorf("of another's filter there is left:\n%s", said)
	}
	tc(t, "qdisc del dev vif1.0 clsact")
	tc(t, "qdisc add dev vif1.0 ingress")
	reach(t, h, nil, state(in))
	out := testShaper("vif1.0", false)
	if err := h.Apply(t.Context(), []hoststate.Op{hoststate.CreateOp(out)}); err == nil || !strings.Contains(err.Error(), "make a place for filters on vif1.0") {
		t.Errorf("limited what goes out beside an ingress qdisc: %v", err)
	}
	if _, ok := h.Link("ifbo-vif1.0"); ok {
		t.Error("the device of a limit that could not be is left")
	}
	reach(t, h, state(in), nil)
	if err := h.Apply(t.Context(), []hoststate.Op{hoststate.CreateOp(testShaper("absent", false))}); err == nil {
		t.Error("limited a link that does not exist")
	}
}

func TestIFBNames(t *testing.T) {
	seen := map[string]bool{}
	for _, link := range []string{"virbr0", "a-long-name-001", "a-long-name-002", "abcdefghijk"} {
		for _, d := range directions {
			name := ifbName(link, d.incoming)
			if len(name) > maxLinkName || seen[name] {
				t.Errorf("%s is shaped by %s", link, name)
			}
			seen[name] = true
		}
	}
	if got := ifbName("abcdefghij", true); got != "ifbi-abcdefghij" {
		t.Error(got)
	}
}

func FuzzDecodeTC(f *testing.F) {
	body, _ := tcBody(tcObject{index: 3, handle: shaperHandle, kind: "u32"}, redirectTo(4))
	f.Add(body)
	body, _ = tcBody(tcObject{index: 3, handle: classAll, kind: "htb"}, htbClass{bucket{1, 2}, bucket{3, 4}}.encode(5))
	f.Add(body)
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := decodeTC(b)
		if err != nil {
			return
		}
		if u, err := decodeU32(o.options); err == nil {
			_, _ = macOf(u.sel)
		}
		if _, err := decodeHTBClass(o.options); err != nil && fmt.Sprint(err) == "" {
			t.Error("an error without a text")
		}
	})
}

func TestKernelsThatRedirect(t *testing.T) {
	for release, can := range map[string]bool{"6.18.0-rc1": true, "6.5.0": true, "10.0": true, "6.1.0-41-amd64": false, "5.15.7": false, "x": false} {
		if err := lacksRedirect(release); (err == nil) != can {
			t.Errorf("%s: %v", release, err)
		}
	}
}

// What ports were given for their limits goes when they are ports no longer,
// however that comes about.
func TestPlaceForLimitsGoesWithThePort(t *testing.T) {
	for _, end := range []struct {
		name        string
		bridgeStays bool
		by          string // what somebody else does first
	}{
		{"unplugged", true, ""},
		{"with its bridge", false, ""},
		{"unplugged by others before", true, "link set tap8 nomaster"},
	} {
		t.Run(end.name, func(t *testing.T) {
			h := openHost(t, Options{})
			b := testBridge(1)
			foreignLink(t, "tap8", "type veth peer name tap8p")
			member := hoststate.Member{Link: "tap8", Bridge: b.Name}
			with := state(b, member)
			reach(t, h, nil, with)
			if text := tc(t, "qdisc show dev tap8"); !strings.Contains(text, "clsact") {
				t.Fatalf("the port has no place for limits:\n%s", text)
			}
			left := state()
			if end.bridgeStays {
				left = state(b)
			}
			ops := Diff(left, h.Observe(with.Keys()))
			if end.by != "" {
				ip(t, end.by)
			}
			apply(t, h, ops...)
			if text := tc(t, "qdisc show dev tap8"); strings.Contains(text, "clsact") {
				t.Errorf("what it was given is still there:\n%s", text)
			}
		})
	}
}
