package host

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"viaduct/internal/host/sockets"
	"viaduct/internal/hoststate"
	"viaduct/internal/lab"
)

func TestCreateIsIdempotent(t *testing.T) {
	h := openHost(t, Options{})
	n := testNetwork(1)
	for range 2 {
		apply(t, h, Diff(n, nil)...)
		if left := Diff(n, h.Observe(n.Keys())); len(left) > 0 {
			t.Errorf("to do:\n%s", hoststate.FormatOps(left))
		}
	}
	for range 2 {
		ops := Diff(nil, h.Observe(n.Keys()))
		apply(t, h, append(ops, hoststate.DeleteOp(testBridge(1)), hoststate.DeleteOp(hoststate.LinkUp{Link: "vbr1"}),
			hoststate.DeleteOp(hoststate.Address{Link: "vbr1", Prefix: netip.MustParsePrefix("10.0.1.1/24")}),
			hoststate.DeleteOp(hoststate.Member{Link: "nosuch", Bridge: "vbr1"}),
			hoststate.DeleteOp(hoststate.Route{Link: "vbr1", Dst: netip.MustParsePrefix("10.0.1.0/24")}))...)
	}
}

// TestHalfMadeBridge is what a crash between the two requests that make a
// bridge leaves: it is ours, by its group, and can be completed or removed.
func TestHalfMadeBridge(t *testing.T) {
	h := openHost(t, Options{})
	b := testBridge(1)
	half := b
	a := h.all[0].(*linkApplier)
	if err := a.createBridge(half); err != nil {
		t.Fatal(err)
	}
	if o, ok := h.Owned()[b.Key()].(hoststate.Bridge); !ok || o.Alias != "" {
		t.Fatalf("owned: %v %v", o, ok)
	}
	reach(t, h, nil, state(b))
	reach(t, h, state(b), nil)
}

func TestForeignBridgeStays(t *testing.T) {
	h := openHost(t, Options{})
	b := testBridge(1)
	for _, kind := range []string{"type bridge", "type veth peer name vbr1p"} {
		t.Run(kind, func(t *testing.T) {
			foreignLink(t, b.Name, kind)
			if s := h.Observe([]hoststate.Key{b.Key()}); len(s) > 0 {
				t.Errorf("observed as ours: %v", s)
			}
			for _, op := range []hoststate.Op{hoststate.CreateOp(b), {Verb: hoststate.Change, Old: b, New: b}, hoststate.DeleteOp(b)} {
				if err := h.Apply(t.Context(), []hoststate.Op{op}); err == nil || !strings.Contains(err.Error(), "vbr1") {
					t.Errorf("%s: error %v, want one that names the link", op, err)
				}
			}
			if out := ip(t, "link show "+b.Name); strings.Contains(out, "alias") {
				t.Errorf("it was changed: %s", out)
			}
		})
	}
}

func TestForwardDelayOutOfRange(t *testing.T) {
	h := openHost(t, Options{})
	for _, delay := range []int{0, 199, 3001} {
		b := testBridge(1)
		b.STP, b.ForwardDelay = true, delay
		if err := h.Apply(t.Context(), []hoststate.Op{hoststate.CreateOp(b)}); err == nil {
			t.Errorf("made a bridge with STP and a delay of %d", delay)
		}
	}
}

// TestPortsForwardAtOnce: without STP a port forwards as soon as it has carrier.
func TestPortsForwardAtOnce(t *testing.T) {
	h := openHost(t, Options{})
	b := testBridge(1)
	up := hoststate.LinkUp{Link: b.Name}
	reach(t, h, nil, state(b, up))
	guest, port := lab.Cable(t)
	apply(t, h, hoststate.CreateOp(hoststate.Member{Link: port, Bridge: b.Name}))
	if out := ip(t, "-d link show "+port); !strings.Contains(out, "state forwarding") {
		t.Errorf("the port does not forward: %s", out)
	}
	open := func(link string) *sockets.FrameConn {
		c, err := sockets.OpenFrames(link, sockets.ARPReplies)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	arrives := open(b.Name)
	reply := make([]byte, 60) // an ARP reply to all
	copy(reply, "\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x01\x08\x06\x00\x01\x08\x00\x06\x04\x00\x02")
	if err := open(guest).WriteFrame(reply); err != nil {
		t.Fatal(err)
	}
	if err := arrives.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := arrives.ReadFrame(make([]byte, 1500)); err != nil {
		t.Errorf("a frame sent at once did not arrive: %v", err)
	}
}

// TestMTUOutlivesPorts: a bridge without an MTU of its own takes its ports'.
func TestMTUOutlivesPorts(t *testing.T) {
	h := openHost(t, Options{})
	own, any := testBridge(1), testBridge(2)
	own.MTU = 9000
	reach(t, h, nil, state(own, any))
	for _, b := range []hoststate.Bridge{own, any} {
		t.Run(b.Name, func(t *testing.T) {
			foreignLink(t, "mtu0", "mtu 1400 type veth peer name mtu0p")
			ip(t, "link set mtu0 master "+b.Name)
			if left := Diff(state(b), h.Observe([]hoststate.Key{b.Key()})); len(left) > 0 {
				t.Errorf("a port has changed the bridge:\n%s", hoststate.FormatOps(left))
			}
			if l, _ := h.Link(b.Name); b.MTU == 0 && l.MTU != 1400 {
				t.Errorf("the bridge does not follow its port: mtu %d", l.MTU)
			}
		})
	}
}

func TestMembers(t *testing.T) {
	h := openHost(t, Options{})
	a, b := testBridge(1), testBridge(2)
	foreignLink(t, "tap8", "type veth peer name tap8p")
	foreignLink(t, "br8", "type bridge")
	inA, inB := hoststate.Member{Link: "tap8", Bridge: a.Name}, hoststate.Member{Link: "tap8", Bridge: b.Name}
	bridges := state(a, b)
	reach(t, h, nil, union(bridges, state(inA)))
	if p := h.Ports(a.Name); len(p) != 1 || p[0].Name != "tap8" || p[0].Master != a.Name {
		t.Errorf("ports: %+v", p)
	}
	reach(t, h, union(bridges, state(inA)), union(bridges, state(inB)))
	if len(h.Ports(a.Name)) != 0 || len(h.Ports(b.Name)) != 1 {
		t.Errorf("ports: %+v %+v", h.Ports(a.Name), h.Ports(b.Name))
	}
	reach(t, h, union(bridges, state(inB)), bridges)

	ip(t, "link set tap8 master br8")
	if err := h.Apply(t.Context(), []hoststate.Op{hoststate.CreateOp(inA)}); !errors.Is(err, unix.EBUSY) {
		t.Errorf("took a port out of another's bridge: %v", err)
	}
	apply(t, h, hoststate.DeleteOp(inA)) // it is none
	if l, _ := h.Link("tap8"); l.Master != "br8" {
		t.Errorf("master %q", l.Master)
	}
	for _, m := range []hoststate.Member{{Link: "nosuch", Bridge: a.Name}, {Link: "tap8", Bridge: "nosuch"}} {
		if err := h.Apply(t.Context(), []hoststate.Op{hoststate.CreateOp(m)}); !errors.Is(err, unix.ENODEV) || !strings.Contains(err.Error(), "nosuch") {
			t.Errorf("error %v, want one that names what is missing", err)
		}
	}
}

// A port can be given an address, up or down. One that somebody took into a
// bridge of theirs is not switched off.
func TestPortIsSetUp(t *testing.T) {
	h := openHost(t, Options{})
	b := testBridge(1)
	foreignLink(t, "tap8", "type veth peer name tap8p")
	foreignLink(t, "br8", "type bridge")
	plugged := hoststate.Member{Link: "tap8", Bridge: b.Name, MAC: hoststate.MAC{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff}}
	up := hoststate.LinkUp{Link: "tap8"}
	reach(t, h, nil, state(b, plugged, up))
	if l, _ := h.Link("tap8"); l.MAC != plugged.MAC || !l.Up || l.Master != b.Name {
		t.Errorf("plugged: %+v", l)
	}
	ip(t, "link set tap8 address 02:00:00:00:00:08")
	reach(t, h, state(b, plugged, up), state(b, plugged, up))
	if l, _ := h.Link("tap8"); l.MAC != plugged.MAC {
		t.Errorf("after somebody changed its address: %+v", l)
	}
	reach(t, h, state(b, plugged, up), state(b))
	if l, _ := h.Link("tap8"); l.Up || l.Master != "" {
		t.Errorf("unplugged: %+v", l)
	}
	ip(t, "link set tap8 up master br8")
	apply(t, h, hoststate.DeleteOp(up))
	if l, _ := h.Link("tap8"); !l.Up {
		t.Errorf("switched off a port of another's bridge: %+v", l)
	}
}

func TestAddresses(t *testing.T) {
	h := openHost(t, Options{})
	b := testBridge(1)
	var want []hoststate.Object
	for _, p := range []string{"192.0.2.1/24", "192.0.2.77/24", "198.51.100.0/31", "203.0.113.5/32", "10.1.2.3/8", "2001:db8::1/64", "fd00::1/128"} {
		want = append(want, hoststate.Address{Link: b.Name, Prefix: netip.MustParsePrefix(p)})
	}
	reach(t, h, nil, union(state(b), state(want...)))
	out := ip(t, "-o addr show "+b.Name)
	for _, brd := range []string{"192.0.2.1/24 brd 192.0.2.255", "10.1.2.3/8 brd 10.255.255.255", "198.51.100.0/31 scope", "203.0.113.5/32 scope"} {
		if !strings.Contains(out, brd) {
			t.Errorf("no %q in:\n%s", brd, out)
		}
	}
	// Services listen before the first guest comes.
	reach(t, h, nil, union(state(b, hoststate.LinkUp{Link: b.Name}), state(want...)))
	for _, addr := range []string{"192.0.2.1:0", "[2001:db8::1]:0"} {
		c, err := net.ListenPacket("udp", addr)
		if err != nil {
			t.Errorf("listen at once: %v", err)
			continue
		}
		c.Close()
	}
	for _, o := range want {
		reach(t, h, state(o), nil)
	}
}

func TestRoutes(t *testing.T) {
	h := openHost(t, Options{})
	b := testBridge(1)
	base := state(b, hoststate.Address{Link: b.Name, Prefix: netip.MustParsePrefix("192.0.2.1/24")},
		hoststate.Address{Link: b.Name, Prefix: netip.MustParsePrefix("2001:db8::1/64")}, hoststate.LinkUp{Link: b.Name})
	route := func(dst, via string, metric int) hoststate.Route {
		r := hoststate.Route{Link: b.Name, Dst: netip.MustParsePrefix(dst), Metric: metric}
		if via != "" {
			r.Via = netip.MustParseAddr(via)
		}
		return r
	}
	was := hoststate.State{}
	for _, routes := range []hoststate.State{
		state(route("10.1.0.0/16", "", 0), route("fd01::/64", "", 0)),
		state(route("10.1.0.0/16", "192.0.2.2", 0), route("fd01::/64", "2001:db8::2", 0)),
		state(route("10.1.0.0/16", "192.0.2.3", 0), route("fd01::/64", "2001:db8::3", 0)),
		state(route("10.1.0.0/16", "192.0.2.3", 5), route("fd01::/64", "2001:db8::3", 5)),
		nil,
	} {
		reach(t, h, union(base, was), union(base, routes))
		checkMirror(t, h.mirror)
		owned := h.Owned()
		delete(owned, b.Key())
		if left := append(Diff(routes, owned), Diff(owned, routes)...); len(left) > 0 {
			t.Errorf("owned differs:\n%s", hoststate.FormatOps(left))
		}
		was = routes
	}
	ip(t, "route add 10.2.0.0/16 dev "+b.Name)
	if err := h.Apply(t.Context(), []hoststate.Op{hoststate.CreateOp(route("10.2.0.0/16", "", 0))}); !errors.Is(err, unix.EEXIST) || !strings.Contains(err.Error(), "10.2.0.0/16") {
		t.Errorf("error %v, want one that names the route", err)
	}
}

func TestSysctls(t *testing.T) {
	h := openHost(t, Options{})
	b := testBridge(1)
	forward := func(v string) hoststate.Sysctl { return hoststate.Sysctl{Name: "net/ipv4/ip_forward", Value: v} }
	dotted := hoststate.Bridge{Name: "vbr.1", Alias: "viaduct x", MAC: hoststate.MAC{2, 1}}
	own := hoststate.Sysctl{Name: "net/ipv4/conf/vbr.1/rp_filter", Value: "2", Link: "vbr.1"}
	reach(t, h, nil, state(b, dotted, own, forward("1")))
	reach(t, h, nil, state(b, dotted, own, forward("0")))
	apply(t, h, hoststate.DeleteOp(own), hoststate.DeleteOp(forward("0")))
	if s := h.Observe([]hoststate.Key{own.Key()}); s[own.Key()] != own {
		t.Errorf("observed %v", s)
	}
	for name, link := range map[string]string{
		"net/ipv6/conf/virbr0/disable_ipv6": "virbr0", "net/ipv6/neigh/virbr0/retrans_time_ms": "virbr0",
		"net/ipv4/conf/all/forwarding": "", "net/ipv4/conf/default/forwarding": "", "net/ipv4/ip_forward": "",
	} {
		if got := sysctlLink(name); got != link {
			t.Errorf("sysctl %s belongs to %q, want %q", name, got, link)
		}
	}
	missing := hoststate.Sysctl{Name: "net/ipv4/conf/nosuch/forwarding", Value: "1", Link: "nosuch"}
	if err := h.Apply(t.Context(), []hoststate.Op{hoststate.CreateOp(missing)}); !errors.Is(err, os.ErrNotExist) || strings.Count(err.Error(), "nosuch") != 1 {
		t.Errorf("error %v", err)
	}
	bad := hoststate.SysctlKey("../../etc/hostname")
	if s := h.Observe([]hoststate.Key{bad}); len(s) > 0 {
		t.Errorf("left /proc/sys: %v", s)
	}
}

func TestErrorsNameTheLink(t *testing.T) {
	h := openHost(t, Options{})
	for _, o := range []hoststate.Object{
		hoststate.LinkUp{Link: "nosuch"},
		hoststate.Address{Link: "nosuch", Prefix: netip.MustParsePrefix("192.0.2.1/24")},
		hoststate.Route{Link: "nosuch", Dst: netip.MustParsePrefix("192.0.2.0/24")},
	} {
		if err := h.Apply(t.Context(), []hoststate.Op{hoststate.CreateOp(o)}); !errors.Is(err, unix.ENODEV) || !strings.Contains(err.Error(), "link nosuch does not exist") {
			t.Errorf("error %v", err)
		}
	}
	long := testBridge(1)
	long.Name = "a-name-that-is-too-long"
	if err := h.Apply(t.Context(), []hoststate.Op{hoststate.CreateOp(long)}); err == nil || !strings.Contains(err.Error(), long.Name) {
		t.Errorf("error %v", err)
	}
}

// TestObserveIgnoresSysfs: sysfs may show another namespace's links. The tests
// run with the machine's own /sys, where the test's links are not.
func TestObserveIgnoresSysfs(t *testing.T) {
	h := openHost(t, Options{})
	b := testBridge(1)
	reach(t, h, nil, state(b))
	if _, err := os.Stat("/sys/class/net/" + b.Name); err == nil {
		t.Skip("sysfs shows this namespace")
	}
	if _, ok := h.Owned()[b.Key()]; !ok {
		t.Error("the bridge is not observed")
	}
	if out, err := exec.Command("ip", "link", "show", b.Name).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
