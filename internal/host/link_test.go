package host

import (
	"net/netip"
	"testing"

	"viaduct/internal/hoststate"
)

func TestNetworkLifecycle(t *testing.T) {
	h := openHost(t, Options{})
	n := testNetwork(1)
	reach(t, h, nil, n)
	checkMirror(t, h.mirror)
	reach(t, h, n, nil)
	checkMirror(t, h.mirror)
	if left := h.Owned(); len(left) > 0 {
		t.Errorf("left over: %v", left.Keys())
	}
}

func TestBridgeChanges(t *testing.T) {
	h := openHost(t, Options{})
	base := testBridge(1)
	with := func(change func(*hoststate.Bridge)) hoststate.State {
		b := base
		change(&b)
		return state(b)
	}
	steps := []struct {
		name string
		want hoststate.State
	}{
		{"as made", with(func(*hoststate.Bridge) {})},
		{"stp on", with(func(b *hoststate.Bridge) { b.STP, b.ForwardDelay = true, 200 })},
		{"slower", with(func(b *hoststate.Bridge) { b.STP, b.ForwardDelay = true, 3000 })},
		{"stp off", with(func(*hoststate.Bridge) {})},
		{"other times", with(func(b *hoststate.Bridge) { b.HelloTime, b.MaxAge = 100, 1200 })},
		{"other times with stp", with(func(b *hoststate.Bridge) { b.STP, b.ForwardDelay, b.MaxAge = true, 200, 600 })},
		{"the kernel's times", with(func(*hoststate.Bridge) {})},
		{"large mtu", with(func(b *hoststate.Bridge) { b.MTU = 9000 })},
		{"small mtu", with(func(b *hoststate.Bridge) { b.MTU = 1280 })},
		{"large mtu again", with(func(b *hoststate.Bridge) { b.MTU = 9000 })},
		{"default mtu", with(func(*hoststate.Bridge) {})},
		{"other mac", with(func(b *hoststate.Bridge) { b.MAC[5] = 77 })},
		{"other alias", with(func(b *hoststate.Bridge) { b.Alias = "viaduct other" })},
		{"all at once", with(func(b *hoststate.Bridge) { b.STP, b.ForwardDelay, b.MTU, b.MAC[5] = true, 400, 2000, 78 })},
		{"times", with(func(b *hoststate.Bridge) { b.HelloTime = 1000 })},
		{"and back", with(func(*hoststate.Bridge) {})},
	}
	for _, up := range []string{"down", "up"} {
		for _, s := range steps {
			t.Run(up+" "+s.name, func(t *testing.T) {
				reach(t, h, s.want, s.want)
				checkMirror(t, h.mirror)
			})
		}
		ip(t, "link set "+base.Name+" up")
	}
}

func TestAddressAfterApply(t *testing.T) {
	h := openHost(t, Options{})
	b := testBridge(1)
	a4 := hoststate.Address{Link: b.Name, Prefix: netip.MustParsePrefix("10.9.0.1/24")}
	a6 := hoststate.Address{Link: b.Name, Prefix: netip.MustParsePrefix("fd09::1/64")}
	reach(t, h, nil, state(b))
	for range 20 {
		reach(t, h, nil, state(b, a4, a6))
		reach(t, h, state(b, a4, a6), state(b))
	}
	checkMirror(t, h.mirror)
}
