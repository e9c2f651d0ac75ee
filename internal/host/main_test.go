package host

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"viaduct/internal/host/changes"
	"viaduct/internal/hoststate"
	"viaduct/internal/lab"
)

// TestMain runs the tests in a network of their own, so that they may change
// what they like. A daemon runs wholly in one namespace, and so do they.
func TestMain(m *testing.M) { lab.RunAlone(func() { goleak.VerifyTestMain(m) }) }

// openHost opens the test's host and, when the test ends, removes what is left.
func openHost(t testing.TB, o Options) *kernelHost {
	t.Helper()
	h, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Apply(context.Background(), Diff(nil, h.Owned())); err != nil {
			t.Error(err)
		}
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h.(*kernelHost)
}

// apply carries out operations that must succeed.
func apply(t testing.TB, h Host, ops ...hoststate.Op) {
	t.Helper()
	if err := h.Apply(t.Context(), ops); err != nil {
		t.Fatal(err)
	}
}

// reach makes the host have what is wanted and nothing else of what was wanted
// before, and checks that it then does, at once.
func reach(t testing.TB, h Host, before, want hoststate.State) {
	t.Helper()
	keys := union(before, want).Keys()
	apply(t, h, Diff(want, h.Observe(keys))...)
	if left := Diff(want, h.Observe(keys)); len(left) > 0 {
		t.Fatalf("right after Apply there is still to do:\n%s", hoststate.FormatOps(left))
	}
}

func union(states ...hoststate.State) hoststate.State {
	all := hoststate.State{}
	for _, s := range states {
		for k, o := range s {
			all[k] = o
		}
	}
	return all
}

func state(objects ...hoststate.Object) hoststate.State {
	s := hoststate.State{}
	s.Add(objects...)
	return s
}

// ip changes the network as somebody else would, and foreignLink makes a link by
// another's hand, which goes when the test ends.
var (
	ip          = lab.IP
	foreignLink = lab.ForeignLink
)

// testBridge is a bridge of the network with the number n.
func testBridge(n int) hoststate.Bridge {
	return hoststate.Bridge{
		Name: fmt.Sprintf("vbr%d", n), Alias: fmt.Sprintf("viaduct 00000000-0000-0000-0000-%012d", n),
		MAC: hoststate.MAC{0x52, 0x54, 0, 1, byte(n >> 8), byte(n)},
	}
}

// testNetwork is all that the kernel's part of a network is made of.
func testNetwork(n int) hoststate.State {
	b := testBridge(n)
	return state(b, hoststate.LinkUp{Link: b.Name},
		hoststate.Sysctl{Name: "net/ipv6/conf/" + b.Name + "/accept_ra", Value: "0", Link: b.Name},
		hoststate.Address{Link: b.Name, Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n >> 8), byte(n), 1}), 24)},
		hoststate.Address{Link: b.Name, Prefix: netip.MustParsePrefix(fmt.Sprintf("fd00:%x::1/64", n))},
		hoststate.Route{Link: b.Name, Dst: netip.PrefixFrom(netip.AddrFrom4([4]byte{172, byte(n >> 8), byte(n), 0}), 24),
			Via: netip.AddrFrom4([4]byte{10, byte(n >> 8), byte(n), 9})},
		hoststate.Route{Link: b.Name, Dst: netip.MustParsePrefix(fmt.Sprintf("fd01:%x::/64", n)), Metric: 50},
	)
}

// checkMirror compares the mirror with the host read afresh.
func checkMirror(t testing.TB, m *mirror) {
	t.Helper()
	fresh, err := newMirror(m.rtnl, changes.New())
	if err != nil {
		t.Fatal(err)
	}
	defer fresh.close()
	var last string
	// IPv6 finishes some of its work in the background.
	lab.Eventually(t, 5*time.Second, func() error {
		m.now(func() {})
		fresh.mu.Lock()
		err := fresh.reload()
		fresh.mu.Unlock()
		if err != nil {
			return err
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		o := cmp.AllowUnexported(link{}, portFlags{}, address{}, routeID{}, routeInfo{})
		c := cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
		d := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
		last = cmp.Diff(fresh.links, m.links, o) + cmp.Diff(fresh.addrs, m.addrs, o, c, d) +
			cmp.Diff(fresh.routes, m.routes, o, c, d) + cmp.Diff(fresh.names, m.names) + cmp.Diff(fresh.ports, m.ports)
		if last != "" {
			return fmt.Errorf("mirror differs from the host (-host +mirror):\n%s", last)
		}
		return nil
	})
}
