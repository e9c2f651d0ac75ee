package nft

import (
	"encoding/binary"
	"slices"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"viaduct/internal/host/nl"
	"viaduct/internal/hoststate"
)

// passPlaces are the chains in which other tools expect the rules of others.
// The built-in chains of the iptables tables serve ufw and hand-made rules,
// which all hang below them, and DOCKER-USER is docker's own offer. NixOS'
// firewall has chains for what is allowed besides.
var passPlaces = []struct {
	table hoststate.TableRef
	chain string
	hook  string
	// builtIn chains need a pass only if there is something in them.
	builtIn bool
}{
	{hoststate.TableRef{Family: hoststate.IPv4Family, Name: "filter"}, "INPUT", "input", true},
	{hoststate.TableRef{Family: hoststate.IPv4Family, Name: "filter"}, "FORWARD", "forward", true},
	{hoststate.TableRef{Family: hoststate.IPv4Family, Name: "filter"}, "DOCKER-USER", "forward", false},
	{hoststate.TableRef{Family: hoststate.IPv6Family, Name: "filter"}, "INPUT", "input", true},
	{hoststate.TableRef{Family: hoststate.IPv6Family, Name: "filter"}, "FORWARD", "forward", true},
	{hoststate.TableRef{Family: hoststate.IPv6Family, Name: "filter"}, "DOCKER-USER", "forward", false},
	{hoststate.TableRef{Family: hoststate.Inet, Name: "nixos-fw"}, "input-allow", "input", false},
	{hoststate.TableRef{Family: hoststate.Inet, Name: "nixos-fw"}, "forward-allow", "forward", false},
}

// foreignChain is a chain of somebody else, as far as it matters to our packets.
type foreignChain struct {
	hoststate.Chain        // without rules
	rules           int    // besides our pass
	closed          bool   // the last rule drops or rejects whatever comes
	pass            uint64 // the handle of our pass; 0 if it is not there
}

// foreignFilters reads the chains of others that filter packets to the host or
// through it, and those that passes can be put into.
func (s *socket) foreignFilters(but []hoststate.TableRef) (map[hoststate.Key]*foreignChain, error) {
	named := map[uint8]hoststate.Family{}
	for _, f := range []hoststate.Family{hoststate.IPv4Family, hoststate.IPv6Family, hoststate.Inet} {
		named[families[f]] = f
	}
	var chains map[hoststate.Key]*foreignChain
	err := s.dump(message{typ: unix.NFT_MSG_GETCHAIN}, func(family uint8, b []byte) {
		if b == nil {
			chains = map[hoststate.Key]*foreignChain{}
			return
		}
		t := hoststate.TableRef{Family: named[family], Name: nl.String(b, unix.NFTA_CHAIN_TABLE)}
		if c := decodeChain(t, b); t.Family != "" && !slices.Contains(but, t) && (filters(c) || isPlace(c)) {
			chains[c.Key()] = &foreignChain{Chain: c}
		}
	})
	if err != nil {
		return nil, err
	}
	for _, c := range chains {
		if err := s.readForeignRules(c); err != nil {
			return nil, err
		}
	}
	return chains, nil
}

// filters reports whether a base chain may drop packets to or through the host.
func filters(c hoststate.Chain) bool {
	return c.Hook != nil && c.Hook.Type == "filter" && (c.Hook.Hook == "input" || c.Hook.Hook == "forward")
}

func isPlace(c hoststate.Chain) bool {
	for _, p := range passPlaces {
		if p.table == c.Table && p.chain == c.Name {
			return true
		}
	}
	return false
}

// readForeignRules learns of a chain's rules what foreignChain says.
func (s *socket) readForeignRules(c *foreignChain) error {
	return s.dump(named(unix.NFT_MSG_GETRULE, c.Table, unix.NFTA_RULE_CHAIN, c.Name), func(_ uint8, b []byte) {
		switch {
		case b == nil:
			c.rules, c.closed, c.pass = 0, false, 0
		case nl.String(b, unix.NFTA_RULE_CHAIN) != c.Name || nl.String(b, unix.NFTA_RULE_TABLE) != c.Table.Name:
		case string(nl.Attr(b, unix.NFTA_RULE_USERDATA)) == string(passComment):
			if handle := nl.Attr(b, unix.NFTA_RULE_HANDLE); len(handle) == 8 {
				c.pass = binary.BigEndian.Uint64(handle)
			}
		default:
			c.rules++
			c.closed = dropsAll(nl.Attr(b, unix.NFTA_RULE_EXPRESSIONS))
		}
	})
}

// dropsAll reports whether a rule drops or rejects every packet: it has
// nothing in it but that, counting and logging.
func dropsAll(list []byte) bool {
	drops := false
	for _, e := range nl.Attrs(list) {
		switch name := nl.String(e, unix.NFTA_EXPR_NAME); name {
		case "counter", "log":
		case "reject":
			drops = true
		case "target":
			drops = nl.String(nl.Attr(e, unix.NFTA_EXPR_DATA), unix.NFTA_TARGET_NAME) == "REJECT"
		case "immediate":
			data := nl.Attr(nl.Attr(e, unix.NFTA_EXPR_DATA), unix.NFTA_IMMEDIATE_DATA)
			verdict := nl.Attr(data, unix.NFTA_DATA_VERDICT)
			drops = verdict != nil && nl.Uint32(verdict, unix.NFTA_VERDICT_CODE) == uint32(expr.VerdictDrop)
		default:
			return false
		}
	}
	return drops
}

// passesIn lists where passes are needed.
func passesIn(chains map[hoststate.Key]*foreignChain) []hoststate.Pass {
	var list []hoststate.Pass
	for _, p := range passPlaces {
		c, ok := chains[hoststate.ChainKey(p.table, p.chain)]
		if ok && (!p.builtIn || c.rules > 0 || (c.Hook != nil && c.Hook.Drop)) {
			list = append(list, hoststate.Pass{Table: p.table, Chain: p.chain})
		}
	}
	return list
}

// BlockersIn lists the base chains that drop what they do not know and whose
// table has no place for a pass at the same hook.
func blockersIn(chains map[hoststate.Key]*foreignChain) []string {
	helped := map[string]bool{}
	for _, p := range passPlaces {
		if _, ok := chains[hoststate.ChainKey(p.table, p.chain)]; ok {
			helped[p.table.String()+" "+p.hook] = true
		}
	}
	var list []string
	for _, c := range chains {
		if filters(c.Chain) && (c.Hook.Drop || c.closed) && !helped[c.Table.String()+" "+c.Hook.Hook] {
			list = append(list, strings.Join([]string{c.Table.String(), c.Name}, " "))
		}
	}
	slices.Sort(list)
	return list
}

// noteForeign tells the pass applier to look again.
func (a *Applier) noteForeign() {
	select {
	case a.foreign <- struct{}{}:
	default:
	}
}

// concernsPasses reports whether notifications are about foreign chains coming
// or going, or about rules where passes are.
func (a *Applier) concernsPasses(b []byte) bool {
	for m := range nlMessages(b) {
		if m.typ>>8 != unix.NFNL_SUBSYS_NFTABLES || len(m.body) < nfHeaderLen {
			continue
		}
		about := message{family: m.body[0], attrs: m.body[nfHeaderLen:]}
		switch m.typ & 0xff {
		case unix.NFT_MSG_NEWTABLE, unix.NFT_MSG_DELTABLE, unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_DELCHAIN:
			if !slices.ContainsFunc(a.names, about.about) {
				return true
			}
		case unix.NFT_MSG_NEWRULE, unix.NFT_MSG_DELRULE:
			for _, p := range passPlaces {
				if about.about(p.table) {
					return true
				}
			}
		}
	}
	return false
}
