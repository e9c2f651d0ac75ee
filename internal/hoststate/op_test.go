package hoststate

import (
	"net/netip"
	"slices"
	"testing"
)

// Operations come in an order in which the kernel takes them, and in which
// nobody is let through before the rules are there.
func TestSortOps(t *testing.T) {
	table := TableRef{Family: Inet, Name: "t"}
	wanted := []Op{
		{Verb: Delete, Old: Service{Type: "dns", Network: "n"}},
		{Verb: Delete, Old: LinkUp{Link: "old"}},
		{Verb: Create, New: Bridge{Name: "new"}},
		{Verb: Change, Old: Sysctl{Name: "net/ipv6/conf/eth0/accept_ra"}, New: Sysctl{Name: "net/ipv6/conf/eth0/accept_ra", Value: "2"}},
		{Verb: Change, Old: Sysctl{Name: "net/ipv6/conf/all/forwarding"}, New: Sysctl{Name: "net/ipv6/conf/all/forwarding", Value: "1"}},
		{Verb: Create, New: Table{Ref: table}},
		{Verb: Create, New: Set{Table: table, Name: "s"}},
		{Verb: Create, New: Chain{Table: table, Name: "c"}},
		{Verb: Create, New: Element{Table: table, Set: "s"}},
		{Verb: Create, New: Pass{Table: table, Chain: "c"}},
		{Verb: Create, New: Address{Link: "new", Prefix: netip.MustParsePrefix("10.0.0.1/24")}},
		{Verb: Create, New: LinkUp{Link: "new"}},
		{Verb: Create, New: Member{Link: "vnet0", Bridge: "new"}},
		{Verb: Create, New: Service{Type: "dns", Network: "m"}},
		{Verb: Delete, Old: Element{Table: table, Set: "old"}},
		{Verb: Delete, Old: Chain{Table: table, Name: "old"}},
		{Verb: Delete, Old: Bridge{Name: "old"}},
	}
	keys := func(ops []Op) (list []string) {
		for _, o := range ops {
			list = append(list, o.Key().String())
		}
		return list
	}
	ops := slices.Clone(wanted)
	slices.Reverse(ops)
	SortOps(ops)
	if got := keys(ops); !slices.Equal(got, keys(wanted)) {
		t.Errorf("got  %q\nwant %q", got, keys(wanted))
	}
}

// Guests that move to another bridge are never without one that is up.
func TestSortOpsOfMoves(t *testing.T) {
	ops := []Op{
		{Verb: Delete, Old: Bridge{Name: "old"}},
		{Verb: Delete, Old: LinkUp{Link: "old"}},
		{Verb: Delete, Old: Member{Link: "vnet0", Bridge: "old"}},
		{Verb: Create, New: Service{Type: "dns", Network: "m"}},
		{Verb: Create, New: Member{Link: "vnet0", Bridge: "new"}},
		{Verb: Create, New: LinkUp{Link: "new"}},
	}
	SortOps(ops)
	want := "+ up new\n+ port vnet0 of bridge new\n- up old\n"
	if got := FormatOps(ops[:3]); got != want {
		t.Errorf("got:\n%swant:\n%s", got, want)
	}
}

func TestInverse(t *testing.T) {
	a, b := Bridge{Name: "b", MTU: 1500}, Bridge{Name: "b", MTU: 9000}
	for _, op := range []Op{{Verb: Create, New: a}, {Verb: Delete, Old: a}, {Verb: Change, Old: a, New: b}} {
		if twice := op.Inverse().Inverse(); twice != op {
			t.Errorf("%s undone twice is %s", op, twice)
		}
	}
}

// Chains are the same if all in them is: also what cannot be compared as it is.
func TestEqualChains(t *testing.T) {
	chain := func(change func(*Chain)) Chain {
		c := Chain{Table: TableRef{Family: Inet, Name: "t"}, Name: "c", Hook: &Hook{Type: "filter", Hook: "input"}, Rules: []Rule{
			{InSet{Fields: []Field{FieldEtherS}, Set: "s"}, Counter{}}, {Verdict{Kind: Accept}},
		}}
		change(&c)
		return c
	}
	plain := chain(func(*Chain) {})
	if !Equal(plain, chain(func(*Chain) {})) {
		t.Error("a chain differs from its twin")
	}
	for what, other := range map[string]Chain{
		"name":       chain(func(c *Chain) { c.Name = "d" }),
		"no hook":    chain(func(c *Chain) { c.Hook = nil }),
		"hook":       chain(func(c *Chain) { c.Hook = &Hook{Type: "filter", Hook: "output"} }),
		"rule":       chain(func(c *Chain) { c.Rules[1] = Rule{Verdict{Kind: Drop}} }),
		"list":       chain(func(c *Chain) { c.Rules[0][0] = InSet{Fields: []Field{FieldEtherS, FieldEtherS}, Set: "s"} }),
		"expression": chain(func(c *Chain) { c.Rules[0][1] = Reject{} }),
		"fewer":      chain(func(c *Chain) { c.Rules = c.Rules[:1] }),
	} {
		if Equal(plain, other) || Equal(other, plain) {
			t.Errorf("%s: %s is taken for %s", what, other.Text(), plain.Text())
		}
	}
}
