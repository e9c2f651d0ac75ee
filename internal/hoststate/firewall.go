package hoststate

import (
	"fmt"
	"net/netip"
	"strings"
)

// Family is an nftables address family.
type Family string

// The families in use.
const (
	Inet         Family = "inet"
	BridgeFamily Family = "bridge"
	IPv4Family   Family = "ip"
	IPv6Family   Family = "ip6"
	ARPFamily    Family = "arp" // ARP for the host itself, see RFC 826
)

// TableRef names an nftables table.
type TableRef struct {
	Family Family
	Name   string
}

func (t TableRef) String() string { return string(t.Family) + " " + t.Name }

// Table is an nftables table. Whether it is owned (flags owner, persist) is
// the host's business: it depends on the kernel and on configuration.
type Table struct{ Ref TableRef }

// Key implements Object.
func (t Table) Key() Key { return Key{KindTable, t.Ref.String()} }

// Text implements Object.
func (t Table) Text() string { return "table " + t.Ref.String() }

// Hook makes a chain a base chain.
type Hook struct {
	Type     string // "filter", "nat", "route"
	Hook     string // "prerouting", "input", "forward", "output", "postrouting"
	Priority int    // 0 filter, 100 srcnat, -100 dstnat, -200 bridge filter
	Drop     bool   // policy drop instead of accept
}

func (h Hook) String() string {
	policy := "accept"
	if h.Drop {
		policy = "drop"
	}
	return fmt.Sprintf("type %s hook %s priority %d; policy %s;", h.Type, h.Hook, h.Priority, policy)
}

// Chain is an nftables chain with all its rules, which change together.
type Chain struct {
	Table TableRef
	Name  string
	Hook  *Hook // nil for a chain that is only jumped to
	Rules []Rule
}

// ChainKey names a chain.
func ChainKey(t TableRef, name string) Key { return Key{KindChain, t.String() + " " + name} }

// Key implements Object.
func (c Chain) Key() Key { return ChainKey(c.Table, c.Name) }

// Container implements Contained: a table goes with all that is in it.
func (c Chain) Container() Key { return Table{c.Table}.Key() }

// Text implements Object. The rules follow on the same line, in braces.
func (c Chain) Text() string {
	var s strings.Builder
	fmt.Fprintf(&s, "chain %s %s { ", c.Table, c.Name)
	if c.Hook != nil {
		s.WriteString(c.Hook.String() + " ")
	}
	for _, r := range c.Rules {
		s.WriteString(r.String() + "; ")
	}
	s.WriteString("}")
	return s.String()
}

// Field is something of a packet that a set or map is looked up by.
type Field string

// The fields, named as in nft's language. Their types are those nft gives them.
const (
	FieldIIFName Field = "iifname"
	FieldOIFName Field = "oifname"
	FieldSAddr4  Field = "ip saddr"
	FieldDAddr4  Field = "ip daddr"
	FieldSAddr6  Field = "ip6 saddr"
	FieldDAddr6  Field = "ip6 daddr"
	FieldDPort   Field = "th dport"
	FieldEtherS  Field = "ether saddr"
	FieldSPort   Field = "th sport"

	FieldARPSenderMAC Field = "arp saddr ether"
	FieldARPSender    Field = "arp saddr ip"
	FieldNDTarget     Field = "icmpv6 taddr" // of a neighbour solicitation or advertisement
)

// Fields that are compared with numbers (see Is). Those with an @ have no name
// in nft's language: it takes the header, the offset and the size in bits.
const (
	FieldProtocol  Field = "meta protocol" // the EtherType
	FieldICMP6Type Field = "icmpv6 type"
	FieldLength6   Field = "ip6 length" // of what follows the IPv6 header, in bytes
	// FieldARPFormat is types and sizes of both addresses (RFC 826).
	FieldARPFormat Field = "@nh,0,48"
	// FieldDHCPClient is the client's hardware address in a DHCPv4 message (RFC 2131, chaddr).
	FieldDHCPClient Field = "@th,288,48"
	// The first option, its type and length and the link-layer address in it,
	// of a neighbour solicitation or advertisement, and of a router
	// solicitation (RFC 4861, 4.1 to 4.4 and 4.6.1).
	FieldNDOption    Field = "@th,192,16"
	FieldNDOptionMAC Field = "@th,208,48"
	FieldRSOption    Field = "@th,64,16"
	FieldRSOptionMAC Field = "@th,80,48"
)

// fieldTypes are the nft data types of the fields.
var fieldTypes = map[Field]string{
	FieldIIFName: "ifname", FieldOIFName: "ifname", FieldSAddr4: "ipv4_addr", FieldDAddr4: "ipv4_addr",
	FieldSAddr6: "ipv6_addr", FieldDAddr6: "ipv6_addr", FieldDPort: "inet_service", FieldEtherS: "ether_addr",
	FieldSPort: "inet_service", FieldARPSenderMAC: "ether_addr", FieldARPSender: "ipv4_addr", FieldNDTarget: "ipv6_addr",
}

// Type is the field's nft data type, such as "ifname".
func (f Field) Type() string { return fieldTypes[f] }

// Set is an nftables set, or a verdict map if Verdicts is set, without its
// elements: those are objects of their own, so that networks add and remove
// theirs independently.
type Set struct {
	Table TableRef
	Name  string
	// Fields are what the set's key is made of; more than one is a concatenation.
	Fields []Field
	// Verdicts makes it a map from the key to a verdict.
	Verdicts bool
	// Dynamic sets are filled from the packet path (see Update) and time out.
	Dynamic bool
	// TimeoutSeconds is how long an element of a dynamic set lives.
	TimeoutSeconds int
}

// SetKey names a set or map.
func SetKey(t TableRef, name string) Key { return Key{KindSet, t.String() + " " + name} }

// Key implements Object.
func (s Set) Key() Key { return SetKey(s.Table, s.Name) }

// Container implements Contained.
func (s Set) Container() Key { return Table{s.Table}.Key() }

// Text implements Object.
func (s Set) Text() string {
	types := make([]string, len(s.Fields))
	for i, f := range s.Fields {
		types[i] = f.Type()
	}
	word, suffix := "set", ""
	if s.Verdicts {
		word, suffix = "map", " : verdict"
	}
	out := fmt.Sprintf("%s %s %s { type %s%s;", word, s.Table, s.Name, strings.Join(types, " . "), suffix)
	if s.Dynamic {
		out += fmt.Sprintf(" flags dynamic,timeout; timeout %ds;", s.TimeoutSeconds)
	}
	return out + " }"
}

// Value is one field of an element's key.
type Value struct {
	IfName string
	Addr   netip.Addr
	Port   uint16
	MAC    MAC
	Type   string // the nft data type, which says which of the above counts
}

func (v Value) String() string {
	switch v.Type {
	case "ifname":
		return fmt.Sprintf("%q", v.IfName)
	case "inet_service":
		return fmt.Sprint(v.Port)
	case "ether_addr":
		return v.MAC.String()
	default:
		return v.Addr.String()
	}
}

// IfName is a link name as a set's key.
func IfName(name string) Value { return Value{Type: "ifname", IfName: name} }

// Addr is an address as a set's key.
func Addr(a netip.Addr) Value {
	if a.Is4() {
		return Value{Type: "ipv4_addr", Addr: a}
	}
	return Value{Type: "ipv6_addr", Addr: a}
}

// Port is a transport port as a set's key.
func Port(p uint16) Value { return Value{Type: "inet_service", Port: p} }

// Element is one element of a set, or one entry of a verdict map.
type Element struct {
	Table TableRef
	Set   string
	// Fields are the key, in the order of Set.Fields.
	Fields []Value
	// Verdict is nil in a plain set.
	Verdict *Verdict
}

func (e Element) fields() string {
	parts := make([]string, len(e.Fields))
	for i, f := range e.Fields {
		parts[i] = f.String()
	}
	return strings.Join(parts, " . ")
}

// Key implements Object.
func (e Element) Key() Key {
	return Key{KindElement, e.Table.String() + " " + e.Set + " " + e.fields()}
}

// Container implements Contained.
func (e Element) Container() Key { return Table{e.Table}.Key() }

// Text implements Object.
func (e Element) Text() string {
	s := fmt.Sprintf("element %s %s { %s", e.Table, e.Set, e.fields())
	if e.Verdict != nil {
		s += " : " + e.Verdict.Text()
	}
	return s + " }"
}

func (Table) readable()   {}
func (Chain) readable()   {}
func (Set) readable()     {}
func (Element) readable() {}
