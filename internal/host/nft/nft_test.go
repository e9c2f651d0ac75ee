package nft

import (
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"viaduct/internal/host/nl"
	"viaduct/internal/hoststate"
	"viaduct/internal/lab"
)

// The tables of these tests.
var (
	inetTable   = hoststate.TableRef{Family: hoststate.Inet, Name: "viaduct"}
	bridgeTable = hoststate.TableRef{Family: hoststate.BridgeFamily, Name: "viaduct"}
	testTables  = []hoststate.TableRef{inetTable, bridgeTable}
)

// openTest opens the firewall and closes it when the test ends.
func openTest(t testing.TB, o Options) *Applier {
	t.Helper()
	a, err := tryOpen(t, o)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func tryOpen(t testing.TB, o Options) (*Applier, error) {
	t.Helper()
	if o.Tables == nil {
		o.Tables = testTables
	}
	a, err := Open(o)
	if err == nil {
		t.Cleanup(func() {
			if err := a.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	return a, err
}

// clean removes the tests' tables when the test ends. To be called before
// openTest, since an owned table is removable only once its owner is closed.
func clean(t testing.TB) {
	t.Helper()
	lab.Need(t, "nft")
	t.Cleanup(func() { nft(t, "flush ruleset") })
}

// nft runs the real nft, by another's hand.
func nft(t testing.TB, script string) string {
	t.Helper()
	out, err := tryNft(script)
	if err != nil {
		t.Fatalf("nft: %v\n%s", err, out)
	}
	return out
}

func tryNft(script string) (string, error) {
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func apply(t testing.TB, a *Applier, ops ...hoststate.Op) {
	t.Helper()
	if err := a.Apply(t.Context(), ops); err != nil {
		t.Fatal(err)
	}
}

// reach makes the firewall be as wanted, and checks that nothing is left to do.
func reach(t testing.TB, a *Applier, want hoststate.State) {
	t.Helper()
	apply(t, a, difference(want, a.Owned())...)
	checkNFT(t, a, want)
}

// checkNFT checks that the mirror and what the kernel really has are as wanted.
func checkNFT(t testing.TB, a *Applier, want hoststate.State) {
	t.Helper()
	if left := difference(want, a.Owned()); len(left) > 0 {
		t.Errorf("the mirror differs:\n%s", hoststate.FormatOps(left))
	}
	if left := difference(want, readAll(t)); len(left) > 0 {
		t.Errorf("the kernel differs:\n%s", hoststate.FormatOps(left))
	}
}

// readNFT reads the tests' tables afresh.
func readAll(t testing.TB) hoststate.State {
	t.Helper()
	s, err := openSocket(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	a := &Applier{names: testTables, socket: s, mirror: newMirror(s.port)}
	if err := a.load(); err != nil {
		t.Fatal(err)
	}
	return a.mirror.all()
}

func verdict(kind hoststate.VerdictKind, chain ...string) hoststate.Verdict {
	return hoststate.Verdict{Kind: kind, Chain: strings.Join(chain, "")}
}

func chain(t hoststate.TableRef, name string, hook *hoststate.Hook, rules ...hoststate.Rule) hoststate.Chain {
	return hoststate.Chain{Table: t, Name: name, Hook: hook, Rules: rules}
}

func element(set string, v *hoststate.Verdict, fields ...hoststate.Value) hoststate.Element {
	return hoststate.Element{Table: inetTable, Set: set, Fields: fields, Verdict: v}
}

// everything is a ruleset with every expression of the rule language.
func everything() hoststate.State {
	pfx, addr := netip.MustParsePrefix, netip.MustParseAddr
	mac := hoststate.MAC{0x52, 0x54, 0, 1, 2, 3}
	jump := verdict(hoststate.Jump, "net1")
	gotoNet := verdict(hoststate.Goto, "net1")
	accept := verdict(hoststate.Accept)
	byService := []hoststate.Field{hoststate.FieldDAddr4, hoststate.FieldDPort}
	byLinks := []hoststate.Field{hoststate.FieldIIFName, hoststate.FieldOIFName}
	byMAC := []hoststate.Field{hoststate.FieldEtherS, hoststate.FieldIIFName}
	byIn := []hoststate.Field{hoststate.FieldIIFName}
	rules := func(exprs ...hoststate.Expr) []hoststate.Rule {
		var list []hoststate.Rule
		for _, e := range exprs {
			list = append(list, hoststate.Rule{e, accept})
		}
		return list
	}
	udp := hoststate.L4Proto{Proto: hoststate.UDP}
	return state(
		hoststate.Table{Ref: inetTable}, hoststate.Table{Ref: bridgeTable},
		hoststate.Set{Table: inetTable, Name: "in", Fields: byIn, Verdicts: true},
		hoststate.Set{Table: inetTable, Name: "between", Fields: byLinks, Verdicts: true},
		hoststate.Set{Table: inetTable, Name: "services", Fields: byService},
		hoststate.Set{Table: inetTable, Name: "hosts6", Fields: []hoststate.Field{hoststate.FieldDAddr6}},
		hoststate.Set{Table: inetTable, Name: "guests", Fields: byMAC},
		hoststate.Set{Table: inetTable, Name: "seen", Fields: []hoststate.Field{hoststate.FieldSAddr4}, Dynamic: true, TimeoutSeconds: 30},
		hoststate.Set{Table: bridgeTable, Name: "looped", Fields: byIn, Dynamic: true, TimeoutSeconds: 90},
		chain(inetTable, "net1", nil),
		chain(inetTable, "forward", &hoststate.Hook{Type: "filter", Hook: "forward", Drop: true},
			hoststate.Rule{hoststate.VMap{Fields: byIn, Map: "in"}},
			hoststate.Rule{hoststate.SYN{}, hoststate.ClampMSS{}},
			hoststate.Rule{hoststate.Counter{}, hoststate.Reject{}, hoststate.Because{Reason: "a \u00fc reason"}},
			hoststate.Rule{hoststate.VMap{Fields: byLinks, Map: "between"}}),
		chain(inetTable, "input", &hoststate.Hook{Type: "filter", Hook: "input", Priority: -5},
			append(rules(
				hoststate.InIface{Name: "virbr0"}, hoststate.InIface{Name: "a-name-15-bytes", Not: true},
				hoststate.OutIface{Name: "eth0"}, hoststate.OutIface{Name: "eth0", Not: true},
				hoststate.Source{Prefix: pfx("10.0.0.0/8")}, hoststate.Source{Prefix: pfx("10.1.2.3/32"), Not: true},
				hoststate.Source{Prefix: pfx("172.16.0.0/12")}, hoststate.Source{Prefix: pfx("0.0.0.0/0")},
				hoststate.Source{Prefix: pfx("fe80::/10")}, hoststate.Source{Prefix: pfx("fd00:1::/64"), Not: true},
				hoststate.Destination{Prefix: pfx("192.168.122.0/24")}, hoststate.Destination{Prefix: pfx("255.255.255.255/32")},
				hoststate.Destination{Prefix: pfx("ff00::/8")}, hoststate.Destination{Prefix: pfx("fd00::1/128"), Not: true},
				hoststate.NFProto{Version: 4}, hoststate.NFProto{Version: 6},
				hoststate.CTState{Established: true, Related: true}, hoststate.CTState{New: true}, hoststate.CTState{Invalid: true},
				hoststate.EtherSource{MAC: mac}, hoststate.EtherDest{MAC: mac, Not: true},
				hoststate.InSet{Fields: byService, Set: "services"}, hoststate.InSet{Fields: byService, Set: "services", Not: true},
				hoststate.InSet{Fields: []hoststate.Field{hoststate.FieldDAddr6}, Set: "hosts6"},
				hoststate.InSet{Fields: byMAC, Set: "guests"},
				hoststate.Update{Fields: []hoststate.Field{hoststate.FieldSAddr4}, Set: "seen"},
				hoststate.Counter{}, hoststate.Mark{Bits: hoststate.PassMark}, udp, hoststate.L4Proto{Proto: hoststate.ICMPv6}),
				hoststate.Rule{udp, hoststate.DPort{First: 53}, accept},
				hoststate.Rule{hoststate.L4Proto{Proto: hoststate.TCP}, hoststate.DPort{First: 1024, Last: 65535}, accept},
				hoststate.Rule{hoststate.Source{Prefix: pfx("10.0.0.0/8")}, hoststate.Destination{Prefix: pfx("10.0.0.0/9"), Not: true}, verdict(hoststate.Drop)},
				hoststate.Rule{hoststate.InIface{Name: "virbr0"}, jump}, hoststate.Rule{hoststate.InIface{Name: "virbr0"}, gotoNet},
				hoststate.Rule{verdict(hoststate.Return)}, hoststate.Rule{hoststate.Reject{}})...),
		chain(inetTable, "postrouting", &hoststate.Hook{Type: "nat", Hook: "postrouting", Priority: 100},
			hoststate.Rule{hoststate.Masquerade{}},
			hoststate.Rule{udp, hoststate.Masquerade{FirstPort: 1024, LastPort: 65535}},
			hoststate.Rule{udp, hoststate.Masquerade{FirstPort: 1024}},
			hoststate.Rule{hoststate.SNAT{First: addr("192.0.2.1")}},
			hoststate.Rule{hoststate.SNAT{First: addr("192.0.2.1"), Last: addr("192.0.2.9")}},
			hoststate.Rule{udp, hoststate.SNAT{First: addr("192.0.2.1"), Last: addr("192.0.2.1"), FirstPort: 5000, LastPort: 6000}},
			hoststate.Rule{udp, hoststate.SNAT{First: addr("192.0.2.1"), Last: addr("192.0.2.9"), FirstPort: 5000, LastPort: 5000}},
			hoststate.Rule{hoststate.SNAT{First: addr("fd00::1")}},
			hoststate.Rule{udp, hoststate.SNAT{First: addr("fd00::1"), Last: addr("fd00::9"), FirstPort: 5000, LastPort: 6000}}),
		chain(inetTable, "prerouting", &hoststate.Hook{Type: "nat", Hook: "prerouting", Priority: -100},
			hoststate.Rule{udp, hoststate.DPort{First: 53}, hoststate.Redirect{Port: 5353}}),
		chain(bridgeTable, "guard", &hoststate.Hook{Type: "filter", Hook: "prerouting", Priority: -300},
			append(rules(hoststate.Source{Prefix: pfx("10.0.0.1/32")}, hoststate.Destination{Prefix: pfx("fe80::/10")}, hoststate.EtherDest{MAC: mac},
				hoststate.InSet{Fields: byIn, Set: "looped"}),
				hoststate.Rule{hoststate.EtherSource{MAC: mac}, hoststate.Update{Fields: byIn, Set: "looped"}, verdict(hoststate.Drop)})...),
		element("in", &jump, hoststate.IfName("virbr0")),
		element("in", &accept, hoststate.IfName("virbr1")),
		element("between", &gotoNet, hoststate.IfName("virbr0"), hoststate.IfName("eth0")),
		element("services", nil, hoststate.Addr(addr("192.168.122.1")), hoststate.Port(53)),
		element("hosts6", nil, hoststate.Addr(addr("fd00::1"))),
		element("guests", nil, hoststate.Value{Type: "ether_addr", MAC: mac}, hoststate.IfName("vnet0")),
	)
}

// script is a state as nft loads it.
func script(s hoststate.State) string {
	var b strings.Builder
	for _, pass := range []func(hoststate.Object) string{
		func(o hoststate.Object) string { // chains refer to each other, so they come without rules first
			switch o := o.(type) {
			case hoststate.Table:
				return o.Text()
			case hoststate.Set:
				return o.Text()
			case hoststate.Chain:
				return hoststate.Chain{Table: o.Table, Name: o.Name, Hook: o.Hook}.Text()
			}
			return ""
		},
		func(o hoststate.Object) string {
			switch o.(type) {
			case hoststate.Chain, hoststate.Element:
				return o.Text()
			}
			return ""
		},
	} {
		for _, k := range s.Keys() {
			if line := pass(s[k]); line != "" {
				fmt.Fprintf(&b, "add %s\n", line)
			}
		}
	}
	return b.String()
}

// bytesOf is what the kernel goes by in the tests' rules and sets, in hex. It
// has details that nft does not list.
func bytesOf(t testing.TB) []string {
	t.Helper()
	s, err := openSocket(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	var rules, sets []string
	for _, table := range testTables {
		var last []string
		for typ, list := range map[uint16]*[]string{unix.NFT_MSG_GETRULE: &rules, unix.NFT_MSG_GETSET: &sets} {
			err := s.dump(named(typ, table, 0, ""), func(_ uint8, b []byte) {
				if b == nil {
					last = nil
				} else if typ == unix.NFT_MSG_GETRULE {
					last = append(last, fmt.Sprintf("%s %s %x", table, nl.String(b, unix.NFTA_RULE_CHAIN), nl.Attr(b, unix.NFTA_RULE_EXPRESSIONS)))
				} else {
					line := fmt.Sprintf("%s %s", table, nl.String(b, unix.NFTA_SET_NAME))
					for _, a := range []uint16{unix.NFTA_SET_FLAGS, unix.NFTA_SET_KEY_TYPE, unix.NFTA_SET_KEY_LEN, unix.NFTA_SET_DATA_TYPE,
						unix.NFTA_SET_DATA_LEN, unix.NFTA_SET_TIMEOUT, unix.NFTA_SET_DESC} {
						line += fmt.Sprintf(" %x", nl.Attr(b, a))
					}
					last = append(last, line)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			*list = append(*list, last...)
		}
	}
	slices.Sort(rules) // in a chain their order is compared by what nft lists
	slices.Sort(sets)
	return append(rules, sets...)
}

func TestListsAsWritten(t *testing.T) {
	clean(t)
	want := everything()
	nft(t, script(want))
	byNFT, bytesByNFT := nft(t, "list ruleset"), bytesOf(t)
	readBack := readAll(t)
	nft(t, "flush ruleset")

	a := openTest(t, Options{Owner: OwnerNo})
	apply(t, a, difference(want, nil)...)
	byUs := nft(t, "list ruleset")
	if diff := cmp.Diff(byNFT, byUs); diff != "" {
		t.Errorf("nft lists what we wrote otherwise (-nft's own +ours):\n%s", diff)
	}
	if diff := cmp.Diff(bytesByNFT, bytesOf(t)); diff != "" {
		t.Errorf("the kernel keeps other bytes of what we wrote (-nft's own +ours):\n%s", diff)
	}
	if left := difference(want, readBack); len(left) > 0 {
		t.Errorf("what nft wrote reads otherwise:\n%s", hoststate.FormatOps(left))
	}
	checkNFT(t, a, want)
}

func TestEndsEmpty(t *testing.T) {
	clean(t)
	a := openTest(t, Options{Owner: OwnerNo})
	reach(t, a, everything())
	reach(t, a, state(hoststate.Table{Ref: inetTable}))
	reach(t, a, everything())
	reach(t, a, nil)
	if left := nft(t, "list ruleset"); left != "" {
		t.Errorf("left on the host:\n%s", left)
	}
}
