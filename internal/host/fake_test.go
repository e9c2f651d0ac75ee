package host

import (
	"errors"
	"net/netip"
	"testing"

	"viaduct/internal/hoststate"
)

func TestFakeApply(t *testing.T) {
	f := NewFake()
	defer f.Close()
	n := testNetwork(1)
	reach(t, f, nil, n)
	b := testBridge(1)
	if l, ok := f.Link(b.Name); !ok || !l.Up || l.Alias != b.Alias {
		t.Errorf("link: %v %v", l, ok)
	}
	f.Stock.Links = []Link{{Name: "tap0", Kind: "tun", Master: b.Name}}
	if p := f.Ports(b.Name); len(p) != 1 || p[0].Name != "tap0" {
		t.Errorf("ports: %v", p)
	}
	if got := f.Overlapping(netip.MustParsePrefix("10.0.1.0/24")); len(got) != 2 || got[0].Link != b.Name {
		t.Errorf("overlapping: %v", got)
	}
	if len(f.Inventory().Addresses) != 2 {
		t.Errorf("inventory: %v", f.Inventory())
	}

	refused := errors.New("refused")
	f.FailOn = func(op hoststate.Op) error {
		if op.Key().Kind == hoststate.KindBridge {
			return refused
		}
		return nil
	}
	err := f.Apply(t.Context(), Diff(nil, f.State()))
	var opErr *OpError
	if !errors.As(err, &opErr) || !errors.Is(err, refused) || opErr.Op.Key() != b.Key() {
		t.Errorf("error %v", err)
	}
	if ops := Diff(n, f.State()); len(ops) > 0 {
		t.Errorf("a failed Apply left changes; to undo:\n%s", hoststate.FormatOps(ops))
	}
	if c := f.Calls(); len(c) != 1 {
		t.Errorf("%d successful calls, want 1", len(c))
	}
	f.FailOn = nil
	reach(t, f, n, nil)
	f.Set(b)
	if _, ok := f.Owned()[b.Key()]; !ok {
		t.Error("what was set is not there")
	}
	f.Remove(b.Key())
	if len(f.State()) != 0 {
		t.Error("what was removed is there")
	}
}

func TestEventsMerge(t *testing.T) {
	f := NewFake()
	a, b := hoststate.BridgeKey("a"), hoststate.BridgeKey("b")
	f.Emit(b)
	f.Emit(a, b)
	f.Emit(a)
	got := map[hoststate.Key]int{}
	for len(got) < 2 {
		for _, k := range <-f.Events() {
			got[k]++
		}
	}
	f.Emit(a)
	f.Emit()
	f.Emit(b)
	for keys := range f.Events() {
		if len(keys) == 0 {
			break
		}
	}
	f.Close()
	if _, open := <-f.Events(); open {
		// What was noted before Close may still come.
		if _, open = <-f.Events(); open {
			t.Error("events go on after Close")
		}
	}
}
