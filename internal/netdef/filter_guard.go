package netdef

import (
	"net/netip"
	"slices"
	"strings"
	"sync"
)

// filterMeaning is what a filter comes to.
type filterMeaning struct {
	mac, arp, ipv4, ipv6, dhcp bool
	// sends and receives are the protocols that are let through by name, and
	// closed says that all others are dropped.
	sends, receives []EtherType
	closed          bool
}

func (m *filterMeaning) allow(direction string, t EtherType) {
	if direction != "in" {
		m.sends = append(m.sends, t)
	}
	if direction != "out" {
		m.receives = append(m.receives, t)
	}
}

// stockMeanings are the stock filters that can be enforced. The others are
// those that are made of these, and those that cannot.
var stockMeanings = map[string]func(*filterMeaning){
	"no-mac-spoofing":       func(m *filterMeaning) { m.mac = true },
	"no-ip-spoofing":        func(m *filterMeaning) { m.ipv4, m.dhcp = true, true },
	"no-ipv6-spoofing":      func(m *filterMeaning) { m.ipv6, m.dhcp = true, true },
	"no-arp-spoofing":       func(m *filterMeaning) { m.arp = true },
	"allow-dhcp":            func(m *filterMeaning) { m.dhcp = true },
	"allow-dhcpv6":          func(m *filterMeaning) { m.dhcp = true },
	"allow-arp":             func(m *filterMeaning) { m.allow("inout", EtherARP) },
	"allow-ipv4":            func(m *filterMeaning) { m.allow("inout", EtherIPv4) },
	"allow-ipv6":            func(m *filterMeaning) { m.allow("inout", EtherIPv6) },
	"allow-incoming-ipv4":   func(m *filterMeaning) { m.allow("in", EtherIPv4) },
	"allow-incoming-ipv6":   func(m *filterMeaning) { m.allow("in", EtherIPv6) },
	"no-other-l2-traffic":   func(m *filterMeaning) { m.closed = true },
	"qemu-announce-self":    func(m *filterMeaning) { m.allow("inout", EtherRARP) },
	"no-other-rarp-traffic": func(*filterMeaning) {},
}

// composed are the stock filters that mean what they are made of.
var composed = map[string]bool{"clean-traffic": true}

// maxFilterDepth bounds how deep filters may refer to filters.
const maxFilterDepth = 16

// collect adds what the filter means. Filters refer to others by name; a filter
// that cannot be enforced is refused by its own.
func (m *filterMeaning) collect(f *Filter, stock bool, find func(name string) (*Filter, bool), depth int) error {
	if mean, known := stockMeanings[f.Name]; known && stock {
		mean(m)
		return nil
	}
	switch {
	case stock && !composed[f.Name]:
		return cannotEnforce(f, "viaduct has no such check")
	case depth == maxFilterDepth:
		return cannotEnforce(f, "filters refer to each other too deeply, or in a circle")
	}
	for _, e := range f.Entries {
		if e.Ref == nil {
			if !m.accepts(e.Rule) {
				return cannotEnforce(f, "only references to filters and rules that accept arp, rarp, ipv4 or ipv6 can be")
			}
			continue
		}
		if len(e.Ref.Parameters) > 0 {
			return cannotEnforce(f, "parameters inside of a filter cannot be; a guest's own can")
		}
		other, ok := find(e.Ref.Filter)
		if !ok {
			return cannotEnforce(f, "there is no filter '"+e.Ref.Filter+"'")
		}
		if err := m.collect(other, isStock(other), find, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func isStock(f *Filter) bool {
	return slices.ContainsFunc(stock(), func(s *Filter) bool { return s.UUID == f.UUID })
}

// stock is read when it is first needed: most runs of the program never do.
var stock = sync.OnceValue(StockFilters)

func cannotEnforce(f *Filter, why string) error {
	return Errorf(ErrConfigUnsupported, "filter '%s' cannot be enforced: %s", f.Name, why)
}

// accepts takes a rule that lets a protocol through, and is false for others.
func (m *filterMeaning) accepts(r FilterRule) bool {
	if r.Action != "accept" || len(r.Matches) != 1 || r.Matches[0].Protocol != "mac" || len(r.Matches[0].Attributes) != 1 {
		return false
	}
	a := r.Matches[0].Attributes[0]
	t := EtherType(a.Value)
	if a.Name != "protocolid" || !slices.Contains([]EtherType{EtherARP, EtherRARP, EtherIPv4, EtherIPv6}, t) {
		return false
	}
	m.allow(r.Direction, t)
	return true
}

// CheckFilter refuses a filter that cannot be enforced, whatever its variables are.
func CheckFilter(f *Filter, find func(name string) (*Filter, bool)) error {
	var m filterMeaning
	if err := m.collect(f, isStock(f), find, 0); err != nil {
		return err
	}
	_, err := m.guard(f, &FilterBinding{})
	return err
}

// Guard is what a filter means for a guest. An address of a family is learned
// from the network if the binding names none. A filter that cannot be enforced
// is refused by name.
func (b *FilterBinding) Guard(f *Filter, find func(name string) (*Filter, bool)) (*Guard, error) {
	var m filterMeaning
	if err := m.collect(f, isStock(f), find, 0); err != nil {
		return nil, err
	}
	return m.guard(f, b)
}

var (
	anyIPv4 = netip.MustParsePrefix("0.0.0.0/0")
	anyIPv6 = netip.MustParsePrefix("::/0")
)

func (m *filterMeaning) guard(f *Filter, b *FilterBinding) (*Guard, error) {
	g := &Guard{MAC: b.MAC, NoMACSpoof: m.mac, NoIPSpoof: m.ipv4 || m.ipv6, NoARPSpoof: m.arp, AllowDHCP: m.dhcp}
	learning := "any"
	var v4, v6 bool
	for _, p := range b.Ref.Parameters {
		switch p.Name {
		case "MAC":
			mac, err := ParseMAC(p.Value)
			if err != nil {
				return nil, Errorf(ErrConfigUnsupported, "filter '%s': parameter MAC is '%s', which is no MAC address", f.Name, p.Value)
			}
			g.MAC = mac
		case "IP", "IPV6":
			addr, ok := parseAddr(p.Value)
			if !ok || addr.Is4() != (p.Name == "IP") {
				return nil, Errorf(ErrConfigUnsupported, "filter '%s': parameter %s is '%s', which is no such address", f.Name, p.Name, p.Value)
			}
			v4, v6 = v4 || addr.Is4(), v6 || addr.Is6()
			g.Prefixes = append(g.Prefixes, netip.PrefixFrom(addr, addr.BitLen()))
		case "CTRL_IP_LEARNING":
			learning = p.Value
		}
	}
	switch {
	case !slices.Contains([]string{"any", "dhcp", "none"}, learning):
		return nil, Errorf(ErrConfigUnsupported, "filter '%s': parameter CTRL_IP_LEARNING is '%s', which is neither any, dhcp nor none", f.Name, learning)
	case m.arp && m.ipv6 && !m.ipv4:
		return nil, cannotEnforce(f, "no-ipv6-spoofing and no-arp-spoofing need no-ip-spoofing beside them")
	}
	needs := (m.ipv4 || m.arp) && !v4 || m.ipv6 && !v6
	if needs && learning == "none" {
		return nil, Errorf(ErrConfigUnsupported, "filter '%s' needs the guest's address, and CTRL_IP_LEARNING is none", f.Name)
	}
	g.Learn = needs
	// What is not looked at in one family is any of its addresses.
	if !m.ipv4 && !m.arp {
		g.Prefixes = append(g.Prefixes, anyIPv4)
	}
	if !m.ipv6 {
		g.Prefixes = append(g.Prefixes, anyIPv6)
	}
	if m.closed {
		if g.Only = both(m.sends, m.receives); len(g.Only) == 0 {
			return nil, cannotEnforce(f, "it lets no protocol through in both directions")
		}
		if extra := append(except(m.sends, g.Only), except(m.receives, g.Only)...); len(extra) > 0 {
			return nil, cannotEnforce(f, "it lets "+strings.Join(extra, ", ")+" through in one direction only")
		}
	}
	return g, nil
}

// both are the protocols that are in both lists, each once.
func both(a, b []EtherType) []EtherType {
	var list []EtherType
	for _, t := range a {
		if slices.Contains(b, t) && !slices.Contains(list, t) {
			list = append(list, t)
		}
	}
	slices.Sort(list)
	return list
}

func except(a, b []EtherType) []string {
	var list []string
	for _, t := range a {
		if !slices.Contains(b, t) {
			list = append(list, string(t))
		}
	}
	return list
}
