package netdef

import (
	"net/netip"
	"slices"
	"strings"
)

// Guard says which frames the guest at a port may send. The zero value lets
// everything pass. Like a network it is a value.
type Guard struct {
	// MAC is the guest's Ethernet address; zero means that of its port.
	MAC MAC `json:"mac,omitzero"`
	// Prefixes are the addresses of both families that the guest may use.
	Prefixes []netip.Prefix `json:"prefixes,omitempty"`
	// Learn adds the addresses that the network has reserved for the guest or
	// leased to it, and its prefixes in which guests choose addresses themselves.
	Learn bool `json:"learn,omitempty"`
	// NoMACSpoof drops frames from another Ethernet address.
	NoMACSpoof bool `json:"noMACSpoof,omitempty"`
	// NoIPSpoof drops packets from another IP address.
	NoIPSpoof bool `json:"noIPSpoof,omitempty"`
	// NoARPSpoof drops ARP and neighbour discovery that speaks of other addresses.
	NoARPSpoof bool `json:"noARPSpoof,omitempty"`
	// AllowDHCP lets the guest ask for an address while it has none.
	AllowDHCP bool `json:"allowDHCP,omitempty"`
	// NoDHCPServer drops answers of DHCP servers, of both families.
	NoDHCPServer bool `json:"noDHCPServer,omitempty"`
	// NoRA drops router advertisements and redirects.
	NoRA bool `json:"noRA,omitempty"`
	// Only lists the protocols that pass at all, in both directions; none means all.
	Only []EtherType `json:"only,omitempty"`
	// Routed says that the guest's link is no port of a bridge: the host routes
	// to the addresses behind it.
	Routed bool `json:"routed,omitempty"`
}

// EtherType is the protocol in an Ethernet frame.
type EtherType string

// The protocols that a guard can tell apart.
const (
	EtherIPv4 EtherType = "ipv4"
	EtherIPv6 EtherType = "ipv6"
	EtherARP  EtherType = "arp"
	EtherRARP EtherType = "rarp"
)

// FullGuard is what a guest is given that is to be guarded and nothing more is
// said: it speaks as itself alone, with the addresses that the network gave it.
func FullGuard() *Guard {
	return &Guard{Learn: true, NoMACSpoof: true, NoIPSpoof: true, NoARPSpoof: true, AllowDHCP: true, NoDHCPServer: true, NoRA: true}
}

// Clone copies a guard, or nil.
func (g *Guard) Clone() *Guard {
	if g == nil {
		return nil
	}
	c := *g
	c.Prefixes, c.Only = slices.Clone(g.Prefixes), slices.Clone(g.Only)
	return &c
}

type check struct {
	word string
	flag func(*Guard) *bool
}

// checks are the words for what a guard looks at.
var checks = []check{
	{"mac", func(g *Guard) *bool { return &g.NoMACSpoof }},
	{"ip", func(g *Guard) *bool { return &g.NoIPSpoof }},
	{"arp", func(g *Guard) *bool { return &g.NoARPSpoof }},
	{"dhcp-server", func(g *Guard) *bool { return &g.NoDHCPServer }},
	{"ra", func(g *Guard) *bool { return &g.NoRA }},
}

// ParseGuard reads what people write of a guard, words with commas or blanks
// between: "yes" for all checks or some of "mac", "ip", "arp", "dhcp-server"
// and "ra", and the addresses that the guest may use, if they are not those
// that the network gives it. "no" lets everything pass.
func ParseGuard(s string) (*Guard, error) {
	words := strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' || r == '\n' })
	g := &Guard{}
	for _, word := range words {
		prefix, err := netip.ParsePrefix(word)
		if addr, single := netip.ParseAddr(word); single == nil && addr.Zone() == "" {
			prefix, err = netip.PrefixFrom(addr, addr.BitLen()), nil
		}
		at := slices.IndexFunc(checks, func(c check) bool { return c.word == word })
		switch {
		case err == nil:
			g.Prefixes = append(g.Prefixes, prefix.Masked())
		case at >= 0:
			*checks[at].flag(g) = true
		case word == "yes":
			for _, c := range checks {
				*c.flag(g) = true
			}
		case word == "no" && len(words) == 1:
			return g, nil
		default:
			return nil, Errorf(ErrInvalidArg, "guard '%s': '%s' is neither 'yes', 'no', 'mac', 'ip', 'arp', 'dhcp-server' or 'ra' nor an address", s, word)
		}
	}
	if len(words) == len(g.Prefixes) {
		return nil, Errorf(ErrInvalidArg, "guard '%s' says nothing to guard against", s)
	}
	g.AllowDHCP, g.Learn = true, len(g.Prefixes) == 0
	return g, nil
}

// String is the guard as ParseGuard reads it.
func (g *Guard) String() string {
	if g == nil {
		return "no"
	}
	var words []string
	for _, c := range checks {
		if *c.flag(g) {
			words = append(words, c.word)
		}
	}
	switch len(words) {
	case 0:
		return "no"
	case len(checks):
		words = []string{"yes"}
	}
	for _, p := range g.Prefixes {
		words = append(words, prefixText(p))
	}
	return strings.Join(words, ",")
}

func prefixText(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}
