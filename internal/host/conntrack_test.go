package host

import (
	"net/netip"
	"slices"
	"testing"

	"viaduct/internal/hoststate"
)

// Only what was let through, and is not let through any more in the same way,
// ends: other edits leave connections alone.
func TestWithdrawn(t *testing.T) {
	guests, other := netip.MustParsePrefix("192.168.50.0/24"), netip.MustParsePrefix("192.168.60.0/24")
	leave := func(p netip.Prefix, more ...hoststate.Expr) hoststate.Rule {
		return append(hoststate.Rule{hoststate.Source{Prefix: p}}, append(more, hoststate.Verdict{Kind: hoststate.Return})...)
	}
	translate := func(last uint16) hoststate.Rule {
		return hoststate.Rule{hoststate.Source{Prefix: guests}, hoststate.Masquerade{FirstPort: 1024, LastPort: last}}
	}
	stay := hoststate.Rule{hoststate.OutIface{Name: "br"}, hoststate.Verdict{Kind: hoststate.Return}}
	reject := hoststate.Rule{hoststate.Reject{}}
	chain := func(rules ...hoststate.Rule) hoststate.Object { return hoststate.Chain{Name: "c", Rules: rules} }
	for _, c := range []struct {
		name     string
		old, new hoststate.Object
		want     []ended
	}{
		{"begun", nil, chain(leave(guests), reject), nil},
		{"widened", chain(leave(guests), reject), chain(leave(guests), leave(other), reject), nil},
		{"in another order", chain(leave(guests), leave(other)), chain(leave(other), leave(guests)), nil},
		{"other ports", chain(translate(2000)), chain(translate(3000)), nil},
		{"one subnet less", chain(leave(guests), leave(other), reject), chain(leave(guests), reject), []ended{{prefix: other}}},
		{"narrowed", chain(leave(guests), reject), chain(leave(guests, hoststate.OutIface{Name: "eth1"}), reject), []ended{{prefix: guests, dev: "eth1"}}},
		{"narrowed, beside what stays within", chain(stay, leave(guests), reject), chain(stay, leave(guests, hoststate.OutIface{Name: "eth1"}), reject), []ended{{prefix: guests, dev: "eth1"}}},
		{"for who began only", chain(leave(guests)), chain(leave(guests, hoststate.CTState{Established: true, Related: true})), []ended{{prefix: guests, begun: true}}},
		{"for all again", chain(leave(guests, hoststate.CTState{Established: true, Related: true})), chain(leave(guests)), nil},
		{"but not for some link", chain(leave(guests)), chain(leave(guests, hoststate.OutIface{Name: "eth1", Not: true})), []ended{{prefix: guests}}},
		{"no more translation", chain(leave(guests), translate(2000)), nil, nil},
		{"ended", chain(leave(guests), reject), nil, []ended{{prefix: guests}}},
	} {
		if got := withdrawn([]hoststate.Op{{Old: c.old, New: c.new}}); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// A chain that goes with the link it is about ends what it let through; where
// the link stays, nobody of ours judges any more.
func TestUnjudged(t *testing.T) {
	guests := netip.MustParsePrefix("192.168.50.0/24")
	from := hoststate.Chain{Name: "from_br", Rules: []hoststate.Rule{{hoststate.Source{Prefix: guests}, hoststate.Verdict{Kind: hoststate.Return}}}}
	renamed := from
	renamed.Name = "from_br2"
	gone := []hoststate.Op{
		{Verb: hoststate.Delete, Old: hoststate.Element{Set: "from", Fields: []hoststate.Value{hoststate.IfName("br")}, Verdict: &hoststate.Verdict{Kind: hoststate.Goto, Chain: "from_br"}}},
		{Verb: hoststate.Delete, Old: from},
	}
	down := hoststate.DeleteOp(hoststate.LinkUp{Link: "br"})
	for _, c := range []struct {
		name string
		ops  []hoststate.Op
		want []ended
	}{
		{"opened", gone, nil},
		{"stopped", append(slices.Clone(gone), down), []ended{{prefix: guests}}},
		{"renamed", append(slices.Clone(gone), down, hoststate.CreateOp(renamed)), nil},
	} {
		if got := withdrawn(c.ops); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestEnds(t *testing.T) {
	guests := netip.MustParsePrefix("192.168.50.0/24")
	a := netip.MustParseAddr
	out := tracked{a("192.168.50.2"), a("203.0.113.1"), a("203.0.113.1"), a("203.0.113.2")} // masqueraded
	in := tracked{a("198.51.100.1"), a("192.168.50.2"), a("192.168.50.2"), a("198.51.100.1")}
	other := tracked{a("10.0.0.1"), a("10.0.0.2"), a("10.0.0.2"), a("10.0.0.1")}
	leads := func(to netip.Addr) string {
		return map[netip.Addr]string{a("203.0.113.1"): "eth0", a("198.51.100.1"): "eth1"}[to]
	}
	for _, c := range []struct {
		gone           ended
		out, in, other bool
	}{
		{ended{prefix: guests}, true, true, false},
		{ended{prefix: guests, begun: true}, false, true, false},
		{ended{prefix: guests, dev: "eth0"}, false, true, false},
		{ended{prefix: guests, dev: "eth1"}, true, false, false},
		{ended{prefix: guests, dev: "eth0", begun: true}, false, true, false},
		{ended{prefix: guests, dev: "eth1", begun: true}, true, true, false},
	} {
		for _, k := range []struct {
			c    tracked
			want bool
		}{{out, c.out}, {in, c.in}, {other, c.other}} {
			if got := c.gone.ends(k.c, leads); got != k.want {
				t.Errorf("%+v ends %+v: %v", c.gone, k.c, got)
			}
		}
	}
}
