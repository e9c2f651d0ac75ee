package host

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

func TestNFTConcurrentApply(t *testing.T) {
	cleanNFT(t)
	a := openNFT(t, nftOptions{})
	want := firewallBase()
	applyNFT(t, a, Diff(want, nil)...)

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
		wg.Go(func() { errs[n] = a.Apply(context.Background(), Diff(part, nil)) })
	}
	wg.Wait()
	for n, err := range errs {
		var op *OpError
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
func TestNFTInnocentSuspect(t *testing.T) {
	cleanNFT(t)
	s, err := openNFTSocket(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	a := &nftApplier{names: testTables, socket: s, mirror: newNFTMirror(s.port)}
	request := func(ops ...hoststate.Op) *nftRequest {
		return &nftRequest{ops: ops, reply: make(chan error, 1)}
	}
	jump := verdict(hoststate.Jump, "net1")
	net1, other := chain(inetTable, "net1", nil), hoststate.Table{Ref: bridgeTable}
	entry := element("in", &jump, hoststate.IfName("virbr1"))
	want := union(firewallBase(), state(net1))
	base := request(Diff(want, nil)...)
	faulty := request(remover(net1), create(element("nowhere", nil, hoststate.IfName("x"))))
	innocent := request(create(entry))
	a.commitMerged([]*nftRequest{base, faulty, innocent, request(create(other))})
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

func TestNFTRefusesWithoutAsking(t *testing.T) {
	cleanNFT(t)
	a := openNFT(t, nftOptions{})
	applyNFT(t, a, Diff(firewallBase(), nil)...)
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
		err := a.Apply(t.Context(), []hoststate.Op{create(o)})
		var op *OpError
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
func TestNFTNamesWhatTheKernelLacks(t *testing.T) {
	cleanNFT(t)
	a := openNFT(t, nftOptions{})
	applyNFT(t, a, create(hoststate.Table{Ref: bridgeTable}))
	lacking := 0
	for option, e := range map[string]hoststate.Expr{
		"CONFIG_NFT_BRIDGE_REJECT":   hoststate.Reject{},
		"CONFIG_NF_CONNTRACK_BRIDGE": hoststate.CTState{New: true},
	} {
		err := a.Apply(t.Context(), []hoststate.Op{create(chain(bridgeTable, "c", nil, hoststate.Rule{hoststate.Counter{}, e}))})
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

func TestNFTDeletesWhatIsGone(t *testing.T) {
	cleanNFT(t)
	a := openNFT(t, nftOptions{Owner: OwnerNo})
	want, network := firewallBase(), firewallOf(1)
	reachNFT(t, a, union(want, network))
	// Behind our back, and faster than the notification: the mirror still has
	// them because nobody reads it in between.
	nft(t, `delete element inet viaduct in { "virbr1" }; flush chain inet viaduct a1_in; delete chain inet viaduct a1_in; delete chain inet viaduct net1_in`)
	removals := Diff(nil, network)
	applyNFT(t, a, removals...)
	applyNFT(t, a, removals...)
	checkNFT(t, a, want)
	applyNFT(t, a, remover(hoststate.Table{Ref: bridgeTable}))
}

func TestNFTCreatesAgain(t *testing.T) {
	cleanNFT(t)
	a := openNFT(t, nftOptions{})
	want := union(firewallBase(), firewallOf(1))
	applyNFT(t, a, Diff(want, nil)...)
	applyNFT(t, a, Diff(want, nil)...)
	checkNFT(t, a, want)
}

func TestNFTChangesElementVerdict(t *testing.T) {
	cleanNFT(t)
	a := openNFT(t, nftOptions{})
	want := union(firewallBase(), firewallOf(1))
	reachNFT(t, a, want)
	drop := verdict(hoststate.Drop)
	want.Add(element("in", &drop, hoststate.IfName("virbr1")))
	reachNFT(t, a, want)
}

// What the kernel cannot change in place makes the table be replaced, in one
// transaction and with all that it holds.
func TestNFTReplacesTable(t *testing.T) {
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
			cleanNFT(t)
			a := openNFT(t, nftOptions{})
			before := union(firewallBase(), firewallOf(1), firewallOf(2))
			reachNFT(t, a, before)
			want := union(before, c.change)
			if c.lose.Kind != 0 {
				for k := range want {
					if k.Kind == hoststate.KindElement && strings.HasPrefix(k.Name, "inet viaduct in ") {
						delete(want, k)
					}
				}
			}
			var ops []hoststate.Op
			for _, op := range Diff(want, before) {
				if op.Verb != hoststate.Delete { // what no longer fits goes by itself
					ops = append(ops, op)
				}
			}
			applyNFT(t, a, ops...)
			checkNFT(t, a, want)
			if o := readNFTTable(t, inetTable); o.flags != owned {
				t.Errorf("the new table has flags %v", o.flags)
			}
		})
	}
}

// A policy changes in place.
func TestNFTChangesPolicy(t *testing.T) {
	cleanNFT(t)
	a := openNFT(t, nftOptions{})
	want := firewallBase()
	reachNFT(t, a, want)
	c := want[hoststate.ChainKey(inetTable, "forward")].(hoststate.Chain)
	c.Hook = &hoststate.Hook{Type: "filter", Hook: "forward", Drop: true}
	want.Add(c)
	reachNFT(t, a, want)
}

func TestNFTUndoneTable(t *testing.T) {
	cleanNFT(t)
	a := openNFT(t, nftOptions{})
	want := union(firewallBase(), firewallOf(1))
	reachNFT(t, a, want)
	table := hoststate.Table{Ref: inetTable}
	undo := append([]hoststate.Op{create(table)}, a.contents(table.Key())...)
	applyNFT(t, a, remover(table))
	checkNFT(t, a, nil)
	applyNFT(t, a, undo...)
	checkNFT(t, a, want)
}

func TestNFTClosed(t *testing.T) {
	cleanNFT(t)
	a := openNFT(t, nftOptions{})
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := a.Apply(t.Context(), Diff(firewallBase(), nil)); !errors.Is(err, errClosed) {
		t.Errorf("Apply on a closed firewall: %v", err)
	}
	if _, open := <-a.events(); open {
		t.Error("events are still open")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.Apply(ctx, Diff(firewallBase(), nil)); err == nil {
		t.Error("Apply with a context that is over succeeded")
	}
}

// networksNFT is the firewall of many networks.
func networksNFT(count int) hoststate.State {
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
			cleanNFT(b)
			a := openNFT(b, nftOptions{})
			applyNFT(b, a, Diff(networksNFT(present), nil)...)
			network := firewallOf(0)
			add, remove := Diff(network, nil), Diff(nil, network)
			for b.Loop() {
				applyNFT(b, a, add...)
				b.StopTimer()
				applyNFT(b, a, remove...)
				b.StartTimer()
			}
		})
	}
}

// BenchmarkNFTOpen starts beside the firewall of a thousand networks.
func BenchmarkNFTOpen(b *testing.B) {
	cleanNFT(b)
	a := openNFT(b, nftOptions{Owner: OwnerNo})
	applyNFT(b, a, Diff(networksNFT(1000), nil)...)
	for b.Loop() {
		next, err := newNFT(nftOptions{Tables: testTables, Owner: OwnerNo})
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
	cleanNFT(b)
	a := openNFT(b, nftOptions{})
	ops := Diff(networksNFT(1000), nil)
	for b.Loop() {
		applyNFT(b, a, ops...)
		b.StopTimer()
		applyNFT(b, a, remover(hoststate.Table{Ref: inetTable}))
		b.StartTimer()
	}
}
