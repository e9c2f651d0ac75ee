package host

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"viaduct/internal/hoststate"
)

type stringer string

func (s stringer) String() string { return string(s) }

func TestDiff(t *testing.T) {
	bridge := hoststate.Bridge{Name: "virbr0", Alias: "viaduct x", MAC: hoststate.MAC{2}, MTU: 1500}
	with := func(change func(*hoststate.Bridge)) hoststate.Bridge {
		b := bridge
		change(&b)
		return b
	}
	up := hoststate.LinkUp{Link: "virbr0"}
	addr := hoststate.Address{Link: "virbr0", Prefix: netip.MustParsePrefix("192.168.122.1/24")}
	route := hoststate.Route{Link: "virbr0", Dst: netip.MustParsePrefix("10.0.0.0/8")}
	member := hoststate.Member{Link: "tap0", Bridge: "virbr0"}
	sysctl := hoststate.Sysctl{Name: "net/ipv4/conf/virbr0/rp_filter", Value: "1", Link: "virbr0"}
	forward := hoststate.Sysctl{Name: "net/ipv4/ip_forward", Value: "1"}
	service := hoststate.Service{Type: "dhcp4", Network: "x", Config: stringer("a")}
	table := hoststate.Table{Ref: hoststate.TableRef{Family: hoststate.Inet, Name: "viaduct"}}
	chain := hoststate.Chain{Table: table.Ref, Name: "input"}
	element := hoststate.Element{Table: table.Ref, Set: "s", Fields: []hoststate.Value{hoststate.Port(1)}}
	all := state(bridge, up, addr, route, member, sysctl, forward, service, table, chain, element)

	for _, c := range []struct {
		name              string
		desired, observed hoststate.State
		want              []string
	}{
		{"nothing to do", all, all, nil},
		{"start", all, nil, []string{
			"+ bridge virbr0 mac 02:00:00:00:00:00 mtu 1500 stp off",
			"+ sysctl net/ipv4/conf/virbr0/rp_filter = 1", "+ sysctl net/ipv4/ip_forward = 1",
			"+ table inet viaduct", "+ chain inet viaduct input { }", "+ element inet viaduct s { 1 }",
			"+ address 192.168.122.1/24 on virbr0", "+ up virbr0", "+ route 10.0.0.0/8 dev virbr0",
			"+ port tap0 of bridge virbr0", "+ service dhcp4 a",
		}},
		{"stop: what goes with its container is implied, but services end and the link goes down first", nil, all, []string{
			"- service dhcp4 a", "- up virbr0", "- table inet viaduct", "- sysctl net/ipv4/ip_forward = 1",
			"- bridge virbr0 mac 02:00:00:00:00:00 mtu 1500 stp off",
		}},
		{"the container stays", state(bridge, table), all, []string{
			"- service dhcp4 a", "- up virbr0", "- port tap0 of bridge virbr0", "- element inet viaduct s { 1 }",
			"- chain inet viaduct input { }", "- route 10.0.0.0/8 dev virbr0", "- address 192.168.122.1/24 on virbr0",
			"- sysctl net/ipv4/conf/virbr0/rp_filter = 1", "- sysctl net/ipv4/ip_forward = 1",
		}},
		{"the container is not ours", nil, state(addr, member), []string{
			"- port tap0 of bridge virbr0", "- address 192.168.122.1/24 on virbr0",
		}},
		{"another value", state(hoststate.Sysctl{Name: forward.Name, Value: "0"}), state(forward), []string{
			"~ sysctl net/ipv4/ip_forward = 0   (was: sysctl net/ipv4/ip_forward = 1)",
		}},
		{"mtu left to the kernel", state(with(func(b *hoststate.Bridge) { b.MTU = 0 })),
			state(with(func(b *hoststate.Bridge) { b.MTU, b.PortMTU = 1400, 1400 })), nil},
		{"mtu left to the kernel of a bridge that had one", state(with(func(b *hoststate.Bridge) { b.MTU = 0 })),
			state(with(func(b *hoststate.Bridge) { b.MTU, b.PortMTU = 1400, 1500 })), []string{
				"~ bridge virbr0 mac 02:00:00:00:00:00 stp off   (was: bridge virbr0 mac 02:00:00:00:00:00 mtu 1400 stp off)",
			}},
		{"mtu left to the kernel of a bridge without ports", state(with(func(b *hoststate.Bridge) { b.MTU = 0 })),
			state(with(func(b *hoststate.Bridge) { b.MTU = 9000 })), []string{
				"~ bridge virbr0 mac 02:00:00:00:00:00 stp off   (was: bridge virbr0 mac 02:00:00:00:00:00 mtu 9000 stp off)",
			}},
		{"mac left to the kernel", state(with(func(b *hoststate.Bridge) { b.MAC = hoststate.MAC{} })), state(bridge), nil},
		{"delay without stp", state(with(func(b *hoststate.Bridge) { b.ForwardDelay = 200 })), state(bridge), nil},
		{"stp", state(with(func(b *hoststate.Bridge) { b.STP, b.ForwardDelay = true, 200 })), state(bridge), []string{
			"~ bridge virbr0 mac 02:00:00:00:00:00 mtu 1500 stp on delay 2.00s   (was: bridge virbr0 mac 02:00:00:00:00:00 mtu 1500 stp off)",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, op := range Diff(c.desired, c.observed) {
				got = append(got, op.String())
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

// genState makes states in which, as on a real host, there is nothing on a
// bridge or in a table that does not exist.
var genState = rapid.Custom(func(t *rapid.T) hoststate.State {
	s := hoststate.State{}
	maybe := func(o hoststate.Object) {
		if rapid.Bool().Draw(t, o.Text()) {
			s.Add(o)
		}
	}
	number := func(name string, limit int) int { return rapid.IntRange(0, limit).Draw(t, name) }
	for n := range 3 {
		name := fmt.Sprintf("virbr%d", n)
		if rapid.Bool().Draw(t, name) {
			s.Add(hoststate.Bridge{
				Name: name, Alias: "viaduct", MAC: hoststate.MAC{2, byte(number("mac", 2))},
				MTU: 1500 + number("mtu", 2), STP: number("stp", 1) == 1, ForwardDelay: 200 * number("delay", 2),
			})
			maybe(hoststate.LinkUp{Link: name})
			maybe(hoststate.Address{Link: name, Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(number("addr", 2))}), 24)})
			maybe(hoststate.Route{Link: name, Dst: netip.MustParsePrefix("10.1.0.0/16"), Metric: number("metric", 2)})
			maybe(hoststate.Member{Link: "tap0", Bridge: name})
			maybe(hoststate.Sysctl{Name: "net/ipv4/conf/" + name + "/forwarding", Value: fmt.Sprint(number("value", 1)), Link: name})
		}
		maybe(hoststate.Service{Type: "dhcp4", Network: name, Config: stringer(fmt.Sprint(number("config", 1)))})
		table := hoststate.Table{Ref: hoststate.TableRef{Family: hoststate.Inet, Name: name}}
		if rapid.Bool().Draw(t, table.Text()) {
			s.Add(table)
			maybe(hoststate.Chain{Table: table.Ref, Name: "input", Rules: make([]hoststate.Rule, number("rules", 2))})
			maybe(hoststate.Element{Table: table.Ref, Set: "s", Fields: []hoststate.Value{hoststate.Port(uint16(number("port", 2)))}})
		}
	}
	return s
})

// settle removes from a state what Diff does not tell apart: see satisfies.
func settle(s hoststate.State) hoststate.State {
	out := hoststate.State{}
	for k, o := range s {
		if b, ok := o.(hoststate.Bridge); ok && !b.STP {
			b.ForwardDelay = 0
			o = b
		}
		out[k] = o
	}
	return out
}

func TestDiffProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := genState.Draw(t, "a"), genState.Draw(t, "b")
		if ops := Diff(a, a); len(ops) > 0 {
			t.Fatalf("from a to a:\n%s", hoststate.FormatOps(ops))
		}
		f := NewFake()
		defer f.Close()
		f.state = union(a)
		if err := f.Apply(t.Context(), Diff(b, a)); err != nil {
			t.Fatal(err)
		}
		got := f.State()
		for k := range got {
			if _, wanted := b[k]; k.Kind == hoststate.KindSysctl && !wanted {
				delete(got, k) // there is no removing those
			}
		}
		if d := cmp.Diff(settle(b), settle(got), cmp.Comparer(func(a, b hoststate.Object) bool { return hoststate.Equal(a, b) })); d != "" {
			t.Fatalf("from a to b is not b (-want +got):\n%s", d)
		}
	})
}
