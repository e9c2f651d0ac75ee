package hoststate

import (
	"fmt"
	"net/netip"
	"strings"
)

// Rule is one nftables rule: matches, then statements. The host package knows
// how to say each of them to the kernel.
type Rule []Expr

func (r Rule) String() string {
	parts := make([]string, len(r))
	for i, e := range r {
		parts[i] = e.Text()
	}
	return strings.Join(parts, " ")
}

// Expr is one part of a rule. Text is its form in nft's language.
type Expr interface{ Text() string }

func not(n bool) string {
	if n {
		return "!= "
	}
	return ""
}

// InIface matches the link a packet came in by.
type InIface struct {
	Name string
	Not  bool
}

// Text implements Expr.
func (e InIface) Text() string { return fmt.Sprintf("iifname %s%q", not(e.Not), e.Name) }

// OutIface matches the link a packet leaves by.
type OutIface struct {
	Name string
	Not  bool
}

// Text implements Expr.
func (e OutIface) Text() string { return fmt.Sprintf("oifname %s%q", not(e.Not), e.Name) }

func ipWord(p netip.Prefix) string {
	if p.Addr().Is4() {
		return "ip"
	}
	return "ip6"
}

func prefixText(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.Masked().String()
}

// Source matches the source address. It implies the address family.
type Source struct {
	Prefix netip.Prefix
	Not    bool
}

// Text implements Expr.
func (e Source) Text() string {
	return fmt.Sprintf("%s saddr %s%s", ipWord(e.Prefix), not(e.Not), prefixText(e.Prefix))
}

// Destination matches the destination address. It implies the address family.
type Destination struct {
	Prefix netip.Prefix
	Not    bool
}

// Text implements Expr.
func (e Destination) Text() string {
	return fmt.Sprintf("%s daddr %s%s", ipWord(e.Prefix), not(e.Not), prefixText(e.Prefix))
}

// Within matches an address in another place than the IP header: the sender of
// an ARP message or the target of neighbour discovery.
type Within struct {
	Field  Field
	Prefix netip.Prefix
	Not    bool
}

// Text implements Expr.
func (e Within) Text() string {
	return fmt.Sprintf("%s %s%s", e.Field, not(e.Not), prefixText(e.Prefix))
}

// Is matches a field that is a number, in network byte order.
type Is struct {
	Field  Field
	Number uint64
	Not    bool
}

// Text implements Expr.
func (e Is) Text() string {
	value := fmt.Sprint(e.Number)
	switch {
	case e.Field.Type() == fieldTypes[FieldEtherS]:
		value = macOf(e.Number).String()
	case e.Field == FieldProtocol || e.Field[0] == '@':
		value = fmt.Sprintf("%#04x", e.Number)
	}
	return fmt.Sprintf("%s %s%s", e.Field, not(e.Not), value)
}

// Proto is an IP protocol number.
type Proto uint8

// The protocols in use.
const (
	TCP    Proto = 6
	UDP    Proto = 17
	ICMP   Proto = 1
	ICMPv6 Proto = 58
)

func (p Proto) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case ICMP:
		return "icmp"
	case ICMPv6:
		return "ipv6-icmp"
	}
	return fmt.Sprint(uint8(p))
}

// L4Proto matches the transport protocol.
type L4Proto struct{ Proto Proto }

// Text implements Expr.
func (e L4Proto) Text() string { return "meta l4proto " + e.Proto.String() }

// NFProto matches the network layer: 4 or 6.
type NFProto struct{ Version int }

// Text implements Expr.
func (e NFProto) Text() string { return fmt.Sprintf("meta nfproto ipv%d", e.Version) }

// DPort matches the transport destination port; an L4Proto comes before it.
// Last is 0 for a single port.
type DPort struct{ First, Last uint16 }

// Text implements Expr.
func (e DPort) Text() string {
	if e.Last == 0 || e.Last == e.First {
		return fmt.Sprintf("th dport %d", e.First)
	}
	return fmt.Sprintf("th dport %d-%d", e.First, e.Last)
}

// SYN matches the two segments that open a TCP connection, one of each side, or
// all others.
type SYN struct{ Not bool }

// Text implements Expr.
func (e SYN) Text() string {
	if e.Not {
		return "tcp flags != syn / syn,rst"
	}
	return "tcp flags syn / syn,rst"
}

// ClampMSS lowers the largest segment that a SYN asks for (RFC 9293, 3.7.1) to
// what the routes of both directions carry. It never raises it.
type ClampMSS struct{}

// Text implements Expr.
func (ClampMSS) Text() string { return "tcp option maxseg size set rt mtu" }

// CTState matches the connection tracking state; all that are set, match.
type CTState struct{ Established, Related, New, Invalid bool }

// Text implements Expr.
func (e CTState) Text() string {
	var s []string
	for _, x := range []struct {
		on   bool
		name string
	}{{e.Established, "established"}, {e.Related, "related"}, {e.New, "new"}, {e.Invalid, "invalid"}} {
		if x.on {
			s = append(s, x.name)
		}
	}
	return "ct state " + strings.Join(s, ",")
}

// EtherSource matches the source Ethernet address.
type EtherSource struct {
	MAC MAC
	Not bool
}

// Text implements Expr.
func (e EtherSource) Text() string { return "ether saddr " + not(e.Not) + e.MAC.String() }

// EtherDest matches the destination Ethernet address.
type EtherDest struct {
	MAC MAC
	Not bool
}

// Text implements Expr.
func (e EtherDest) Text() string { return "ether daddr " + not(e.Not) + e.MAC.String() }

func fieldsText(fields []Field) string {
	s := make([]string, len(fields))
	for i, f := range fields {
		s[i] = string(f)
	}
	return strings.Join(s, " . ")
}

// InSet matches when the fields are in the named set of the chain's table.
type InSet struct {
	Fields []Field
	Set    string
	Not    bool
}

// Text implements Expr.
func (e InSet) Text() string { return fieldsText(e.Fields) + " " + not(e.Not) + "@" + e.Set }

// VMap looks the fields up in the named verdict map of the chain's table.
type VMap struct {
	Fields []Field
	Map    string
}

// Text implements Expr.
func (e VMap) Text() string { return fieldsText(e.Fields) + " vmap @" + e.Map }

// Update puts the fields into a dynamic set of the chain's table, or renews
// the time-out of what is there.
type Update struct {
	Fields []Field
	Set    string
}

// Text implements Expr.
func (e Update) Text() string { return fmt.Sprintf("update @%s { %s }", e.Set, fieldsText(e.Fields)) }

// Mark sets bits of the packet's mark, which rules of other tables can see.
type Mark struct{ Bits uint32 }

// Text implements Expr.
func (m Mark) Text() string { return fmt.Sprintf("meta mark set meta mark | %#08x", m.Bits) }

// Counter counts packets and bytes. Its values are not part of the wanted state.
type Counter struct{}

// Text implements Expr.
func (Counter) Text() string { return "counter" }

// Because ends a rule that counts what it drops with the reason for it, by which
// the counter is found again.
type Because struct{ Reason string }

// Text implements Expr.
func (b Because) Text() string { return fmt.Sprintf("comment %q", b.Reason) }

// VerdictKind is what a Verdict decides.
type VerdictKind string

// The verdicts.
const (
	Accept VerdictKind = "accept"
	Drop   VerdictKind = "drop"
	Return VerdictKind = "return"
	Jump   VerdictKind = "jump"
	Goto   VerdictKind = "goto"
)

// Verdict ends a rule.
type Verdict struct {
	Kind  VerdictKind
	Chain string // the target of Jump and Goto
}

// Text implements Expr.
func (v Verdict) Text() string {
	if v.Chain != "" {
		return string(v.Kind) + " " + v.Chain
	}
	return string(v.Kind)
}

// Reject drops the packet and tells the sender: port unreachable.
type Reject struct{}

// Text implements Expr.
func (Reject) Text() string { return "reject" }

// portsText is the port part of an address translation: nothing for port 0.
func portsText(first, last uint16) string {
	switch {
	case first == 0 && last == 0:
		return ""
	case last == 0 || last == first:
		return fmt.Sprintf(":%d", first)
	}
	return fmt.Sprintf(":%d-%d", first, last)
}

// Masquerade rewrites the source to the address of the outgoing link. Ports 0
// leave the choice of port to the kernel; LastPort 0 is a single port.
type Masquerade struct{ FirstPort, LastPort uint16 }

// Text implements Expr.
func (m Masquerade) Text() string {
	if ports := portsText(m.FirstPort, m.LastPort); ports != "" {
		return "masquerade to " + ports
	}
	return "masquerade"
}

// SNAT rewrites the source to a range of addresses and, if not 0, ports.
type SNAT struct {
	First, Last         netip.Addr
	FirstPort, LastPort uint16
}

// Text implements Expr.
func (s SNAT) Text() string {
	ports := portsText(s.FirstPort, s.LastPort)
	word, format := "ip", "%s"
	if s.First.Is6() {
		word = "ip6"
		if ports != "" {
			format = "[%s]"
		}
	}
	out := fmt.Sprintf("snat %s to "+format, word, s.First)
	if s.Last.IsValid() && s.Last != s.First {
		out += fmt.Sprintf("-"+format, s.Last)
	}
	return out + ports
}

// Redirect sends the packet to a local port instead.
type Redirect struct{ Port uint16 }

// Text implements Expr.
func (r Redirect) Text() string { return fmt.Sprintf("redirect to :%d", r.Port) }
