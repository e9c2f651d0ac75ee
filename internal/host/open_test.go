package host

import (
	"context"
	"errors"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"viaduct/internal/hoststate"
)

// services is an applier of another package, for services that can fail.
type services struct {
	running hoststate.State
	calls   [][]string
	fail    error
}

func (s *services) Kinds() []hoststate.Kind { return []hoststate.Kind{hoststate.KindService} }

func (s *services) Observe(keys []hoststate.Key) hoststate.State {
	got := hoststate.State{}
	for _, k := range keys {
		if o, ok := s.running[k]; ok {
			got[k] = o
		}
	}
	return got
}

func (s *services) Owned() hoststate.State { return union(s.running) }

func (s *services) Apply(_ context.Context, ops []hoststate.Op) error {
	var call []string
	for _, op := range ops {
		call = append(call, op.String())
	}
	s.calls = append(s.calls, call)
	if s.fail != nil {
		return &OpError{Op: ops[len(ops)-1], Err: s.fail}
	}
	for _, op := range ops {
		if err := applyTo(s.running, op); err != nil {
			return err
		}
	}
	return nil
}

func service(name string) hoststate.Service {
	return hoststate.Service{Type: name, Network: "n", Config: stringer(name)}
}

// asynchronous matches what the kernel changes in the background, such as
// whether there is a carrier, and the numbers of links.
var asynchronous = regexp.MustCompile(`^\d+:|NO-CARRIER,|,LOWER_UP|,M-DOWN|linkdown|\w+_timer +[0-9.]+|state [A-Z]+|qdisc \w+|@\w+`)

// dump is the host's network as ip shows it, without what differs between two
// equal ones.
func dump(t *testing.T) string {
	var lines []string
	for _, args := range []string{"-d -o link", "-o addr", "route show table all", "-6 route show table all"} {
		for line := range strings.Lines(ip(t, args)) {
			f := strings.Fields(asynchronous.ReplaceAllString(line, ""))
			lines = append(lines, strings.Join(f, " "))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func TestApplyUndoesWhatWasDone(t *testing.T) {
	refused := errors.New("refused")
	s := &services{running: hoststate.State{}}
	h := openHost(t, Options{Appliers: []Applier{s}})
	t.Cleanup(func() { s.fail = nil })
	before := union(testNetwork(1), state(service("old")))
	// What a bridge's settings were is not known once it is gone.
	delete(before, hoststate.SysctlKey("net/ipv6/conf/vbr1/accept_ra"))
	reach(t, h, nil, before)
	foreignLink(t, "tap9", "type veth peer name tap9p")
	member := hoststate.Member{Link: "tap9", Bridge: testBridge(1).Name}
	apply(t, h, hoststate.CreateOp(member))
	before.Add(member)

	after := union(testNetwork(2), state(service("new")))
	for _, c := range []struct {
		name string
		want hoststate.State
		bad  []hoststate.Op // that cannot succeed
	}{
		{"a start that fails at its service", union(before, after), nil},
		{"a stop that fails at the end", nil, []hoststate.Op{hoststate.CreateOp(hoststate.LinkUp{Link: "nosuch"})}},
		{"an exchange that fails at the end", after, []hoststate.Op{hoststate.CreateOp(hoststate.LinkUp{Link: "nosuch"})}},
	} {
		t.Run(c.name, func(t *testing.T) {
			was := dump(t)
			s.fail = refused
			if c.bad != nil {
				s.fail = nil
			}
			ops := append(Diff(c.want, h.Observe(union(before, after).Keys())), c.bad...)
			err := h.Apply(t.Context(), ops)
			var opErr *OpError
			if !errors.As(err, &opErr) {
				t.Fatalf("error %v, want an *OpError", err)
			}
			if c.bad == nil && (!errors.Is(err, refused) || opErr.Op.Key() != service("new").Key()) {
				t.Errorf("error %v", err)
			}
			if strings.Contains(err.Error(), "undo") {
				t.Errorf("undoing failed: %v", err)
			}
			s.fail = nil
			if left := Diff(before, h.Observe(union(before, after).Keys())); len(left) > 0 {
				t.Errorf("not undone; there is to do:\n%s", hoststate.FormatOps(left))
			}
			if c.want[testBridge(1).Key()] != nil {
				if d := cmp.Diff(was, dump(t)); d != "" {
					t.Errorf("the host differs (-before +after):\n%s", d)
				}
			}
			checkMirror(t, h.mirror)
		})
	}
}

func TestApplyJoinsUndoFailures(t *testing.T) {
	refused := errors.New("refused")
	s := &services{running: hoststate.State{}}
	h := openHost(t, Options{Appliers: []Applier{s}})
	first := []hoststate.Op{hoststate.CreateOp(service("a"))}
	bad := hoststate.CreateOp(hoststate.LinkUp{Link: "nosuch"})
	h.fault = func(point string) {
		if point == "before up create" {
			s.fail = refused // from now on, undoing too
		}
	}
	err := h.Apply(t.Context(), append(first, bad))
	s.fail = nil
	var opErr *OpError
	if !errors.As(err, &opErr) || opErr.Op.Key() != bad.Key() || !errors.Is(err, refused) {
		t.Errorf("error %v does not tell of both failures", err)
	}
	apply(t, h, Diff(nil, s.Owned())...)
}

func TestApplyRunsAndFaults(t *testing.T) {
	var points []string
	s := &services{running: hoststate.State{}}
	h := openHost(t, Options{Appliers: []Applier{s}, Fault: func(p string) { points = append(points, p) }})
	b := testBridge(1)
	up := hoststate.LinkUp{Link: b.Name}
	apply(t, h, hoststate.CreateOp(b), hoststate.CreateOp(up), hoststate.CreateOp(service("a")), hoststate.CreateOp(service("b")), hoststate.DeleteOp(up))
	want := []string{
		"before bridge create", "after bridge create", "before up create", "after up create",
		"before service create", "before service create", "after service create", "after service create",
		"before up delete", "after up delete",
	}
	if d := cmp.Diff(want, points); d != "" {
		t.Errorf("fault points (-want +got):\n%s", d)
	}
	if d := cmp.Diff([][]string{{"+ service a a", "+ service b b"}}, s.calls); d != "" {
		t.Errorf("services were not applied together (-want +got):\n%s", d)
	}
	owned := h.Owned()
	if o, ok := owned[b.Key()]; len(owned) != 3 || !ok || !satisfies(o, b) {
		t.Errorf("owned: %v", owned.Keys())
	}
}

func TestApplyStopsWhenCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	h := openHost(t, Options{Fault: func(p string) {
		if p == "after bridge create" {
			cancel()
		}
	}})
	b := testBridge(1)
	err := h.Apply(ctx, []hoststate.Op{hoststate.CreateOp(b), hoststate.CreateOp(hoststate.LinkUp{Link: b.Name})})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if len(h.Owned()) > 0 {
		t.Error("what was done before is still there")
	}
}

func TestApplyRefusesUnknownKinds(t *testing.T) {
	h := openHost(t, Options{})
	if err := h.Apply(t.Context(), []hoststate.Op{hoststate.CreateOp(testBridge(1)), hoststate.CreateOp(service("a"))}); err == nil {
		t.Error("applied a service without an applier for it")
	}
	if len(h.Owned()) > 0 {
		t.Error("it was begun all the same")
	}
}

func TestInventory(t *testing.T) {
	foreignLink(t, "up0", "type veth peer name up1")
	h := openHost(t, Options{})
	for _, args := range []string{
		"link set up0 up", "link set up1 up", "addr add 192.0.2.1/24 dev up0", "addr add 2001:db8::1/64 dev up0 nodad",
		"addr add 198.51.100.1 peer 198.51.100.2 dev up0", "route add 203.0.113.0/24 dev up0 table 77",
		"route add default via 192.0.2.9", "route add 10.0.0.0/8 nexthop via 192.0.2.7 nexthop via 192.0.2.8",
		"route add blackhole 10.99.0.0/16",
	} {
		ip(t, args)
	}
	t.Cleanup(func() { ip(t, "route del blackhole 10.99.0.0/16") })
	checkMirror(t, h.mirror) // the kernel announces the IPv6 address late
	inv := h.Inventory()
	has := func(list []LinkPrefix, prefix string) bool {
		return slices.Contains(list, LinkPrefix{"up0", netip.MustParsePrefix(prefix)})
	}
	for _, p := range []string{"192.0.2.1/24", "2001:db8::1/64", "198.51.100.1/32"} {
		if !has(inv.Addresses, p) {
			t.Errorf("address %s is not listed", p)
		}
	}
	for _, p := range []string{"192.0.2.0/24", "2001:db8::/64", "198.51.100.2/32", "203.0.113.0/24", "10.0.0.0/8"} {
		if !has(inv.Routes, p) {
			t.Errorf("route %s is not listed", p)
		}
	}
	for _, p := range append(inv.Addresses, inv.Routes...) {
		if p.Prefix.Bits() == 0 || p.Prefix.Addr().IsLinkLocalUnicast() || p.Prefix.Addr().IsMulticast() {
			t.Errorf("%v is listed", p)
		}
	}
	for prefix, want := range map[string]int{
		"192.0.2.128/25": 2, "192.0.0.0/16": 3, "203.0.113.9/32": 1, "10.200.0.0/24": 1, "192.0.3.0/24": 0, "2001:db8::/32": 2,
	} {
		if got := h.Overlapping(netip.MustParsePrefix(prefix)); len(got) != want {
			t.Errorf("%s overlaps with %v, want %d", prefix, got, want)
		}
	}
	if l, ok := h.Link("up0"); !ok || l.Kind != "veth" || !l.Up {
		t.Errorf("link up0: %+v", l)
	}
	// Routes that the kernel removes without a word.
	for _, args := range []string{"addr del 192.0.2.1/24 dev up0", "addr del 198.51.100.1 peer 198.51.100.2 dev up0"} {
		ip(t, args)
		checkMirror(t, h.mirror)
	}
	ip(t, "addr add 192.0.2.1/24 dev up0")
	ip(t, "route add 172.16.0.0/12 via 192.0.2.7 src 192.0.2.1")
	ip(t, "link set up0 down")
	checkMirror(t, h.mirror)
}
