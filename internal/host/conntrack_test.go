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
	reject := hoststate.Rule{hoststate.Reject{}}
	chain := func(rules ...hoststate.Rule) hoststate.Object { return hoststate.Chain{Name: "c", Rules: rules} }
	for _, c := range []struct {
		name     string
		old, new hoststate.Object
		want     []netip.Prefix
	}{
		{"begun", nil, chain(leave(guests), reject), nil},
		{"widened", chain(leave(guests), reject), chain(leave(guests), leave(other), reject), nil},
		{"in another order", chain(leave(guests), leave(other)), chain(leave(other), leave(guests)), nil},
		{"other ports", chain(translate(2000)), chain(translate(3000)), nil},
		{"one subnet less", chain(leave(guests), leave(other), reject), chain(leave(guests), reject), []netip.Prefix{other}},
		{"narrowed", chain(leave(guests), reject), chain(leave(guests, hoststate.OutIface{Name: "eth1"}), reject), []netip.Prefix{guests}},
		{"ended", chain(leave(guests), reject), nil, []netip.Prefix{guests}},
	} {
		if got := withdrawn([]hoststate.Op{{Old: c.old, New: c.new}}); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
