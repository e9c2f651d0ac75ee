package nft

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"viaduct/internal/hoststate"
)

// firewallBase is a table with one base chain that sends packets to the
// networks' chains.
func firewallBase() hoststate.State {
	byIn := []hoststate.Field{hoststate.FieldIIFName}
	return state(
		hoststate.Table{Ref: inetTable},
		hoststate.Set{Table: inetTable, Name: "in", Fields: byIn, Verdicts: true},
		hoststate.Set{Table: inetTable, Name: "out", Fields: []hoststate.Field{hoststate.FieldOIFName}, Verdicts: true},
		chain(inetTable, "forward", &hoststate.Hook{Type: "filter", Hook: "forward"},
			hoststate.Rule{hoststate.VMap{Fields: byIn, Map: "in"}},
			hoststate.Rule{hoststate.VMap{Fields: []hoststate.Field{hoststate.FieldOIFName}, Map: "out"}}),
	)
}

// firewallOf is the part of network n: four chains and their map entries.
func firewallOf(n int) hoststate.State {
	bridge := fmt.Sprintf("virbr%d", n)
	s := hoststate.State{}
	for i, set := range []string{"in", "out"} {
		outer, inner := fmt.Sprintf("net%d_%s", n, set), fmt.Sprintf("a%d_%s", n, set)
		v := verdict(hoststate.Jump, outer)
		s.Add(
			// Jumps to a chain that comes later in every order.
			chain(inetTable, inner, nil, hoststate.Rule{hoststate.CTState{Established: true}, verdict(hoststate.Goto, outer)}),
			chain(inetTable, outer, nil,
				hoststate.Rule{[]hoststate.Expr{hoststate.OutIface{Name: bridge}, hoststate.InIface{Name: bridge}}[i], verdict(hoststate.Accept)},
				hoststate.Rule{hoststate.Counter{}, hoststate.Reject{}}),
			element(set, &v, hoststate.IfName(bridge)))
	}
	return s
}

func TestConcurrentApply(t *testing.T) {
	clean(t)
	a := openTest(t, Options{})
	want := firewallBase()
	apply(t, a, difference(want, nil)...)

	const calls, faulty = 200, 77
	errs := make([]error, calls)
	var wg sync.WaitGroup
	for n := range calls {
		part := firewallOf(n)
		if n == faulty {
			v := verdict(hoststate.Jump, "nowhere")
			part.Add(element("in", &v, hoststate.IfName("virbr77")))
		} else {
			want = union(want, part)
		}
		wg.Go(func() { errs[n] = a.Apply(context.Background(), difference(part, nil)) })
	}
	wg.Wait()
	for n, err := range errs {
		var op *hoststate.OpError
		switch {
		case n != faulty && err != nil:
			t.Errorf("call %d failed because of another: %v", n, err)
		case n == faulty && (!errors.As(err, &op) || op.Op.Key().Name != `inet viaduct in "virbr77"` || !errors.Is(err, unix.ENOENT)):
			t.Errorf("the faulty call: %v", err)
		}
	}
	checkNFT(t, a, want)
}

// Requests in one transaction can be in each other's way. Once the faulty one
// is out, the others are judged by themselves.
func TestInnocentSuspect(t *testing.T) {
	clean(t)
	s, err := openSocket(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	a := &Applier{names: testTables, socket: s, mirror: newMirror(s.port)}
	ask := func(ops ...hoststate.Op) *request {
		return &request{ops: ops, reply: make(chan error, 1)}
	}
	jump := verdict(hoststate.Jump, "net1")
	net1, other := chain(inetTable, "net1", nil), hoststate.Table{Ref: bridgeTable}
	entry := element("in", &jump, hoststate.IfName("virbr1"))
	want := union(firewallBase(), state(net1))
	base := ask(difference(want, nil)...)
	faulty := ask(hoststate.DeleteOp(net1), hoststate.CreateOp(element("nowhere", nil, hoststate.IfName("x"))))
	innocent := ask(hoststate.CreateOp(entry))
	a.commitMerged([]*request{base, faulty, innocent, ask(hoststate.CreateOp(other))})
	if err := <-base.reply; err != nil {
		t.Error(err)
	}
	if err := <-innocent.reply; err != nil {
		t.Errorf("the innocent request: %v", err)
	}
	if err := <-faulty.reply; !errors.Is(err, unix.ENOENT) {
		t.Errorf("the faulty request: %v", err)
	}
	want.Add(entry, other)
	checkNFT(t, a, want)
}

func TestRefusesWithoutAsking(t *testing.T) {
	clean(t)
	a := openTest(t, Options{})
	apply(t, a, difference(firewallBase(), nil)...)
	v := verdict(hoststate.Accept)
	for name, o := range map[string]hoststate.Object{
		"sixteen-letters!":            element("in", &v, hoststate.IfName("sixteen-letters!")),
		"chain name":                  chain(inetTable, strings.Repeat("x", 256), nil),
		`no hook "nowhere"`:           chain(inetTable, "c", &hoststate.Hook{Type: "filter", Hook: "nowhere"}),
		"ends before it begins":       chain(inetTable, "c", nil, hoststate.Rule{hoststate.DPort{First: 9, Last: 8}}),
		"no state given":              chain(inetTable, "c", nil, hoststate.Rule{hoststate.CTState{}}),
		"no port":                     chain(inetTable, "c", nil, hoststate.Rule{hoststate.Redirect{}}),
		"not a prefix":                chain(inetTable, "c", nil, hoststate.Rule{hoststate.Source{}}),
		"not part of the rule":        chain(inetTable, "c", nil, hoststate.Rule{foreignRule{"x"}}),
		"ports 9-8":                   chain(inetTable, "c", nil, hoststate.Rule{hoststate.Masquerade{FirstPort: 9, LastPort: 8}}),
		"no fields":                   hoststate.Set{Table: inetTable, Name: "s"},
		`no set is keyed by "eth x"`:  hoststate.Set{Table: inetTable, Name: "s", Fields: []hoststate.Field{"eth x"}},
		"in family bridge":            chain(bridgeTable, "c", nil, hoststate.Rule{hoststate.NFProto{Version: 4}}),
		`"maybe": not known`:          chain(inetTable, "c", nil, hoststate.Rule{hoststate.Verdict{Kind: "maybe"}}),
		"invalid IP is no ipv6_addr":  element("in", nil, hoststate.Value{Type: "ipv6_addr"}),
		`no type "shoe size"`:         element("in", nil, hoststate.Value{Type: "shoe size"}),
		"not part of the firewall":    hoststate.LinkUp{Link: "lo"},
		"key has at most 64":          chain(inetTable, "c", nil, hoststate.Rule{hoststate.VMap{Map: "in", Fields: slicesRepeat(hoststate.FieldIIFName, 5)}}),
		"takes no chain":              chain(inetTable, "c", nil, hoststate.Rule{verdict(hoststate.Drop, "x")}),
		"no IP version 5":             chain(inetTable, "c", nil, hoststate.Rule{hoststate.NFProto{Version: 5}}),
		"set name":                    chain(inetTable, "c", nil, hoststate.Rule{hoststate.Update{Set: ""}}),
		"table, chain or set that is": element("nosuchset", nil, hoststate.IfName("x")),
	} {
		err := a.Apply(t.Context(), []hoststate.Op{hoststate.CreateOp(o)})
		var op *hoststate.OpError
		if !errors.As(err, &op) || !strings.Contains(err.Error(), name) {
			t.Errorf("want an error with %q, got: %v", name, err)
		}
	}
	checkNFT(t, a, firewallBase())
}

func slicesRepeat(f hoststate.Field, n int) []hoststate.Field {
	list := make([]hoststate.Field, n)
	for i := range list {
		list[i] = f
	}
	return list
}

// What a kernel lacks is named. This one may lack nothing.
func TestNamesWhatTheKernelLacks(t *testing.T) {
	clean(t)
	a := openTest(t, Options{})
	apply(t, a, hoststate.CreateOp(hoststate.Table{Ref: bridgeTable}))
	lacking := 0
	for option, e := range map[string]hoststate.Expr{
		"CONFIG_NFT_BRIDGE_REJECT":   hoststate.Reject{},
		"CONFIG_NF_CONNTRACK_BRIDGE": hoststate.CTState{New: true},
	} {
		err := a.Apply(t.Context(), []hoststate.Op{hoststate.CreateOp(chain(bridgeTable, "c", nil, hoststate.Rule{hoststate.Counter{}, e}))})
		if err == nil {
			continue
		}
		lacking++
		if !strings.Contains(err.Error(), option) || !strings.Contains(err.Error(), fmt.Sprintf("%q in family bridge: not supported", e.Text())) {
			t.Errorf("%s: %v", option, err)
		}
	}
	t.Logf("this kernel lacks %d of 2", lacking)
}

func TestDeletesWhatIsGone(t *testing.T) {
	clean(t)
	a := openTest(t, Options{Owner: OwnerNo})
	want, network := firewallBase(), firewallOf(1)
	reach(t, a, union(want, network))
	// Behind our back, and faster than the notification: the mirror still has
	// them because nobody reads it in between.
	nft(t, `delete element inet viaduct in { "virbr1" }; flush chain inet viaduct a1_in; delete chain inet viaduct a1_in; delete chain inet viaduct net1_in`)
	removals := difference(nil, network)
	apply(t, a, removals...)
	apply(t, a, removals...)
	checkNFT(t, a, want)
	apply(t, a, hoststate.DeleteOp(hoststate.Table{Ref: bridgeTable}))
}

func TestCreatesAgain(t *testing.T) {
	clean(t)
	a := openTest(t, Options{})
	want := union(firewallBase(), firewallOf(1))
	apply(t, a, difference(want, nil)...)
	apply(t, a, difference(want, nil)...)
	checkNFT(t, a, want)
}

func TestChangesElementVerdict(t *testing.T) {
	clean(t)
	a := openTest(t, Options{})
	want := union(firewallBase(), firewallOf(1))
	reach(t, a, want)
	drop := verdict(hoststate.Drop)
	want.Add(element("in", &drop, hoststate.IfName("virbr1")))
	reach(t, a, want)
}

// What the kernel cannot change in place makes the table be replaced, in one
// transaction and with all that it holds.
func TestReplacesTable(t *testing.T) {
	byIn, byOut := []hoststate.Field{hoststate.FieldIIFName}, []hoststate.Field{hoststate.FieldOIFName}
	for name, c := range map[string]struct {
		change hoststate.State
		lose   hoststate.Key
	}{
		"hook": {change: state(chain(inetTable, "forward", &hoststate.Hook{Type: "filter", Hook: "forward", Priority: 10, Drop: true},
			hoststate.Rule{hoststate.VMap{Fields: byIn, Map: "in"}}))},
		"no hook": {change: state(chain(inetTable, "forward", nil, hoststate.Rule{hoststate.VMap{Fields: byOut, Map: "out"}}))},
		"key of a map in use": {
			change: state(
				hoststate.Set{Table: inetTable, Name: "in", Fields: append(byIn, byOut...), Verdicts: true},
				chain(inetTable, "forward", &hoststate.Hook{Type: "filter", Hook: "forward"},
					hoststate.Rule{hoststate.VMap{Fields: append(byIn, byOut...), Map: "in"}})),
			lose: element("in", nil, hoststate.IfName("virbr1")).Key(),
		},
	} {
		t.Run(name, func(t *testing.T) {
			clean(t)
			a := openTest(t, Options{})
			before := union(firewallBase(), firewallOf(1), firewallOf(2))
			reach(t, a, before)
			want := union(before, c.change)
			if c.lose.Kind != 0 {
				for k := range want {
					if k.Kind == hoststate.KindElement && strings.HasPrefix(k.Name, "inet viaduct in ") {
						delete(want, k)
					}
				}
			}
			var ops []hoststate.Op
			for _, op := range difference(want, before) {
				if op.Verb != hoststate.Delete { // what no longer fits goes by itself
					ops = append(ops, op)
				}
			}
			apply(t, a, ops...)
			checkNFT(t, a, want)
			if o := readNFTTable(t, inetTable); o.flags != owned {
				t.Errorf("the new table has flags %v", o.flags)
			}
		})
	}
}

// A policy changes in place.
func TestChangesPolicy(t *testing.T) {
	clean(t)
	a := openTest(t, Options{})
	want := firewallBase()
	reach(t, a, want)
	c := want[hoststate.ChainKey(inetTable, "forward")].(hoststate.Chain)
	c.Hook = &hoststate.Hook{Type: "filter", Hook: "forward", Drop: true}
	want.Add(c)
	reach(t, a, want)
}

func TestUndoneTable(t *testing.T) {
	clean(t)
	a := openTest(t, Options{})
	want := union(firewallBase(), firewallOf(1))
	reach(t, a, want)
	table := hoststate.Table{Ref: inetTable}
	undo := append([]hoststate.Op{hoststate.CreateOp(table)}, a.Contents(table.Key())...)
	apply(t, a, hoststate.DeleteOp(table))
	checkNFT(t, a, nil)
	apply(t, a, undo...)
	checkNFT(t, a, want)
}

func TestClosed(t *testing.T) {
	clean(t)
	a := openTest(t, Options{})
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := a.Apply(t.Context(), difference(firewallBase(), nil)); !errors.Is(err, errClosed) {
		t.Errorf("Apply on a closed firewall: %v", err)
	}
	if _, open := <-a.Events(); open {
		t.Error("events are still open")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.Apply(ctx, difference(firewallBase(), nil)); err == nil {
		t.Error("Apply with a context that is over succeeded")
	}
}

// networks is the firewall of many networks.
func networks(count int) hoststate.State {
	all := firewallBase()
	for n := range count {
		for k, o := range firewallOf(n + 1) {
			all[k] = o
		}
	}
	return all
}

// BenchmarkNFTAddNetwork adds the chains and map entries of one network beside
// many others.
func BenchmarkNFTAddNetwork(b *testing.B) {
	for _, present := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("beside-%d", present), func(b *testing.B) {
			clean(b)
			a := openTest(b, Options{})
			apply(b, a, difference(networks(present), nil)...)
			network := firewallOf(0)
			add, remove := difference(network, nil), difference(nil, network)
			for b.Loop() {
				apply(b, a, add...)
				b.StopTimer()
				apply(b, a, remove...)
				b.StartTimer()
			}
		})
	}
}

// BenchmarkNFTOpen starts beside the firewall of a thousand networks.
func BenchmarkNFTOpen(b *testing.B) {
	clean(b)
	a := openTest(b, Options{Owner: OwnerNo})
	apply(b, a, difference(networks(1000), nil)...)
	for b.Loop() {
		next, err := Open(Options{Tables: testTables, Owner: OwnerNo})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := next.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// BenchmarkNFTAll brings up the firewall of a thousand networks at once.
func BenchmarkNFTAll(b *testing.B) {
	clean(b)
	a := openTest(b, Options{})
	ops := difference(networks(1000), nil)
	for b.Loop() {
		apply(b, a, ops...)
		b.StopTimer()
		apply(b, a, hoststate.DeleteOp(hoststate.Table{Ref: inetTable}))
		b.StartTimer()
	}
}
