package nft

import (
	"net/netip"
	"reflect"
	"testing"

	"github.com/google/nftables/expr"
	"pgregory.net/rapid"

	"viaduct/internal/hoststate"
)

func addr4(a, b, c, d byte) netip.Addr { return netip.AddrFrom4([4]byte{a, b, c, d}) }

// drawRule makes up a rule that a table of the family can have.
func drawRule(t *rapid.T, family hoststate.Family) hoststate.Rule {
	name := rapid.StringMatching(`[a-z][a-z0-9._-]{0,14}`)
	not := rapid.Bool()
	prefixOf := func(size int) netip.Prefix {
		a, _ := netip.AddrFromSlice(rapid.SliceOfN(rapid.Byte(), size, size).Draw(t, "address"))
		p, _ := a.Prefix(rapid.IntRange(0, 8*size).Draw(t, "bits"))
		return p
	}
	prefix := func() netip.Prefix { return prefixOf(rapid.SampledFrom([]int{4, 16}).Draw(t, "bytes")) }
	mac := func() (m hoststate.MAC) {
		copy(m[:], rapid.SliceOfN(rapid.Byte(), 6, 6).Draw(t, "mac"))
		return m
	}
	keys := []hoststate.Field{hoststate.FieldIIFName, hoststate.FieldOIFName, hoststate.FieldSAddr4, hoststate.FieldDAddr4,
		hoststate.FieldSAddr6, hoststate.FieldDAddr6, hoststate.FieldDPort, hoststate.FieldEtherS, hoststate.FieldSPort,
		hoststate.FieldNDTarget}
	numbers := []hoststate.Field{hoststate.FieldProtocol, hoststate.FieldSPort, hoststate.FieldICMP6Type, hoststate.FieldLength6,
		hoststate.FieldDHCPClient, hoststate.FieldNDOption, hoststate.FieldNDOptionMAC, hoststate.FieldRSOption, hoststate.FieldRSOptionMAC}
	targets := []hoststate.Field{hoststate.FieldNDTarget}
	if family != hoststate.Inet {
		numbers = append(numbers, hoststate.FieldARPFormat, hoststate.FieldARPSenderMAC)
		targets = append(targets, hoststate.FieldARPSender)
	}
	fields := func() []hoststate.Field {
		if family == hoststate.Inet && rapid.IntRange(0, 9).Draw(t, "both") == 0 {
			return []hoststate.Field{hoststate.FieldEtherS, hoststate.FieldDAddr6}
		}
		return rapid.SliceOfN(rapid.SampledFrom(keys), 1, 3).Filter(func(list []hoststate.Field) bool {
			v4, v6 := false, false
			for _, f := range list {
				v4, v6 = v4 || fieldLayer3[f] == 4, v6 || fieldLayer3[f] == 6
			}
			return !v4 || !v6
		}).Draw(t, "fields")
	}
	// A single port has no last one, as a decoded rule says it.
	ports := func() (uint16, uint16) {
		first := rapid.Uint16Range(1, 65534).Draw(t, "first")
		if rapid.Bool().Draw(t, "single") {
			return first, 0
		}
		return first, rapid.Uint16Range(first+1, 65535).Draw(t, "last")
	}
	makers := []func() hoststate.Expr{
		func() hoststate.Expr { return hoststate.InIface{Name: name.Draw(t, "in"), Not: not.Draw(t, "not")} },
		func() hoststate.Expr { return hoststate.OutIface{Name: name.Draw(t, "out"), Not: not.Draw(t, "not")} },
		func() hoststate.Expr { return hoststate.Source{Prefix: prefix(), Not: not.Draw(t, "not")} },
		func() hoststate.Expr { return hoststate.Destination{Prefix: prefix(), Not: not.Draw(t, "not")} },
		func() hoststate.Expr {
			return hoststate.L4Proto{Proto: hoststate.Proto(rapid.Byte().Draw(t, "proto"))}
		},
		func() hoststate.Expr {
			f := rapid.SampledFrom(numbers).Draw(t, "field")
			return hoststate.Is{Field: f, Number: rapid.Uint64Max(1<<(8*loads[f].size)-1).Draw(t, "number"), Not: not.Draw(t, "not")}
		},
		func() hoststate.Expr {
			f := rapid.SampledFrom(targets).Draw(t, "field")
			return hoststate.Within{Field: f, Prefix: prefixOf(int(loads[f].size)), Not: not.Draw(t, "not")}
		},
		func() hoststate.Expr { return hoststate.EtherSource{MAC: mac(), Not: not.Draw(t, "not")} },
		func() hoststate.Expr { return hoststate.EtherDest{MAC: mac(), Not: not.Draw(t, "not")} },
		func() hoststate.Expr { first, last := ports(); return hoststate.DPort{First: first, Last: last} },
		func() hoststate.Expr {
			bits := rapid.IntRange(1, 15).Draw(t, "states")
			return hoststate.CTState{Established: bits&1 != 0, Related: bits&2 != 0, New: bits&4 != 0, Invalid: bits&8 != 0}
		},
		func() hoststate.Expr {
			return hoststate.InSet{Fields: fields(), Set: name.Draw(t, "set"), Not: not.Draw(t, "not")}
		},
		func() hoststate.Expr { return hoststate.VMap{Fields: fields(), Map: name.Draw(t, "map")} },
		func() hoststate.Expr { return hoststate.Update{Fields: fields(), Set: name.Draw(t, "set")} },
		func() hoststate.Expr { return hoststate.SYN{Not: not.Draw(t, "not")} },
		func() hoststate.Expr { return hoststate.ClampMSS{} },
		func() hoststate.Expr { return hoststate.Counter{} },
		func() hoststate.Expr { return hoststate.Mark{Bits: rapid.Uint32().Draw(t, "bits")} },
		func() hoststate.Expr {
			return rapid.SampledFrom([]hoststate.Verdict{{Kind: hoststate.Accept}, {Kind: hoststate.Drop}, {Kind: hoststate.Return},
				{Kind: hoststate.Jump, Chain: "a"}, {Kind: hoststate.Goto, Chain: "b"}}).Draw(t, "verdict")
		},
		func() hoststate.Expr { return hoststate.Reject{} },
		func() hoststate.Expr { return hoststate.Masquerade{} },
		func() hoststate.Expr {
			first, last := ports()
			return hoststate.Masquerade{FirstPort: first, LastPort: last}
		},
		func() hoststate.Expr {
			p := prefix()
			s := hoststate.SNAT{First: p.Addr()}
			if next := p.Addr().Next(); next.IsValid() && not.Draw(t, "range") {
				s.Last = next
			}
			if not.Draw(t, "ports") {
				s.FirstPort, s.LastPort = ports()
			}
			return s
		},
		func() hoststate.Expr { return hoststate.Redirect{Port: rapid.Uint16Min(1).Draw(t, "port")} },
	}
	if family == hoststate.Inet {
		makers = append(makers, func() hoststate.Expr {
			return hoststate.NFProto{Version: rapid.SampledFrom([]int{4, 6}).Draw(t, "version")}
		})
	}
	var rule hoststate.Rule
	for range rapid.IntRange(1, 6).Draw(t, "length") {
		rule = append(rule, rapid.SampledFrom(makers).Draw(t, "expr")())
	}
	return rule
}

// Every rule reads back from its bytes as it was written.
func TestRuleRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		family := rapid.SampledFrom([]hoststate.Family{hoststate.Inet, hoststate.BridgeFamily, hoststate.ARPFamily}).Draw(t, "family")
		want := drawRule(t, family)
		exprs, err := compileRule(family, want)
		if err != nil {
			t.Fatal(err)
		}
		list, err := encodeExprs(families[family], exprs)
		if err != nil {
			t.Fatal(err)
		}
		read, err := decodeExprs(families[family], list)
		if err != nil {
			t.Fatal(err)
		}
		if got := decodeRule(family, read); !reflect.DeepEqual(got, want) {
			t.Fatalf("wrote %s\nread  %s", want, got)
		}
	})
}

// A condition that nobody wrote is not taken for the premise of another.
func TestForeignPremise(t *testing.T) {
	load := func(f hoststate.Field) expr.Any { return loads[f].into(registerAt(0)) }
	v4, v6 := layer3[hoststate.Inet][4], layer3[hoststate.Inet][6]
	compare := func(p premise) expr.Any { return equals([]byte(p.value), false) }
	address := equals([]byte{10, 0, 0, 1}, false)
	for name, exprs := range map[string][]expr.Any{
		"none":         {load(hoststate.FieldSAddr4), address},
		"of the other": {load(fieldNFProto), compare(v6), load(hoststate.FieldSAddr4), address},
		"not":          {load(fieldNFProto), equals([]byte(v4.value), true), load(hoststate.FieldSAddr4), address},
		"alone":        {load(fieldIIFType), compare(ethernet)},
	} {
		rule := decodeRule(hoststate.Inet, exprs)
		if _, foreign := rule[0].(foreignRule); !foreign || len(rule) != 1 {
			t.Errorf("premise %s: read as %s", name, rule)
		}
	}
}

func FuzzNFTDecode(f *testing.F) {
	for _, o := range everything() {
		c, ok := o.(hoststate.Chain)
		if !ok {
			continue
		}
		for _, r := range c.Rules {
			m, err := addRule(c, r)
			if err != nil {
				f.Fatal(err)
			}
			f.Add([]byte(m.attrs))
		}
	}
	set := hoststate.Set{Table: inetTable, Name: "s", Fields: []hoststate.Field{hoststate.FieldIIFName, hoststate.FieldDPort}, Verdicts: true}
	if m, err := addSet(set, 1); err == nil {
		f.Add([]byte(m.attrs))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		_, rule := decodeRuleMessage(inetTable, b)
		_ = rule.String()
		decodeChain(inetTable, b)
		if s, ok := decodeSet(inetTable, b); ok {
			_ = s.Text()
		}
		for _, e := range decodeElements(set, b) {
			_ = e.Text()
		}
		decodeTable(b)
		for m := range nlMessages(b) {
			m.refusal()
		}
	})
}
