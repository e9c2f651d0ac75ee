package netdef

import (
	"cmp"
	"crypto/sha256"
	"slices"
	"strconv"
	"strings"
)

// Filter is a definition of libvirt's nwfilter language: what a guest may send
// and receive, made of rules and of other filters.
type Filter struct {
	Name string
	UUID UUID
	// Chain is where the filter's rules are; "root" if it names none.
	Chain string
	// Priority orders chains; it is printed unless the chain is "root".
	Priority int
	Entries  []FilterEntry
}

// FilterEntry is a rule or, if Ref is set, another filter.
type FilterEntry struct {
	Ref  *FilterRef
	Rule FilterRule
}

// FilterRef names a filter and the values of its variables.
type FilterRef struct {
	Filter     string
	Parameters []Parameter
}

// SetDefault gives a variable a value if it has none.
func (r *FilterRef) SetDefault(name, value string) {
	if slices.ContainsFunc(r.Parameters, func(p Parameter) bool { return p.Name == name }) {
		return
	}
	r.Parameters = append(r.Parameters, Parameter{name, value})
	sortParameters(r.Parameters)
}

// sortParameters keeps the order of those of one name.
func sortParameters(list []Parameter) {
	slices.SortStableFunc(list, func(a, b Parameter) int { return strings.Compare(a.Name, b.Name) })
}

// Parameter is a variable with one value. Several of one name are a list.
type Parameter struct{ Name, Value string }

// FilterRule is one rule. What it matches is kept as it was written.
type FilterRule struct {
	Action, Direction string
	Priority          int
	Matches           []FilterMatch
}

// FilterMatch is an element of a rule, such as <mac protocolid='arp'/>.
type FilterMatch struct {
	Protocol   string
	Attributes []Parameter
}

// The words of rules, and the priority of one that names none.
var (
	filterActions    = []string{"drop", "accept", "reject", "return", "continue"}
	filterDirections = []string{"in", "out", "inout"}
)

const filterRulePriority = 500

// filterChains are the beginnings of the names of chains, with their priorities.
// What another chain begins with, as ipv4 does ipv4-ip, comes with the same.
var filterChains = []struct {
	prefix   string
	priority int
}{{"mac", -800}, {"vlan", -750}, {"stp", -810}, {"arp", -500}, {"rarp", -400}, {"ipv4", -700}, {"ipv6", -600}}

// rootChain is the chain that has no priority of its own.
const rootChain = "root"

// ParseFilter reads a filter. One without a UUID keeps it zero.
func ParseFilter(data []byte) (*Filter, error) {
	root, err := parseDocument(data, "(nwfilter_definition)")
	if err != nil {
		return nil, err
	}
	r := &reader{}
	f := r.filter(root)
	if r.err != nil {
		return nil, r.err
	}
	return f, nil
}

func (r *reader) filter(root *element) *Filter {
	r.refuse(root.name != "filter", root, ErrXML, "expecting root element of 'filter', not '%s'", root.name)
	f := &Filter{Name: root.attr("name"), Chain: cmp.Or(root.attr("chain"), rootChain)}
	r.refuse(f.Name == "", root, ErrInternal, "filter has no name")
	if text := r.line(root.child("uuid")); text != "" {
		id, err := ParseUUID(text)
		r.refuse(err != nil, root.child("uuid"), ErrXML, "malformed uuid element")
		f.UUID = id
	}
	at := -1
	for i, c := range filterChains {
		if f.Chain == c.prefix || strings.HasPrefix(f.Chain, c.prefix+"-") {
			at = i
		}
	}
	var prefixes []string
	for _, c := range filterChains {
		prefixes = append(prefixes, c.prefix)
	}
	r.refuse(at < 0 && f.Chain != rootChain, root, ErrInvalidArg,
		"Invalid chain name '%s'. Please use a chain name called 'root' or any of the following prefixes: %s", f.Chain, strings.Join(prefixes, ", "))
	if at >= 0 {
		f.Priority = filterChains[at].priority
	}
	if text, given := root.lookup("priority"); given {
		f.Priority = r.filterPriority(root, text)
	}
	for _, c := range root.content {
		switch e := c.child; {
		case e == nil:
		case len(f.Entries) == someElements:
			r.fail(e, ErrXML, "more than %d entries in filter '%s'", someElements, f.Name)
			return f
		case e.name == "filterref":
			ref := r.filterRef(e)
			r.refuse(ref.Filter == "", e, ErrInternal, "rule node requires action attribute")
			f.Entries = append(f.Entries, FilterEntry{Ref: &ref})
		case e.name == "rule":
			f.Entries = append(f.Entries, FilterEntry{Rule: r.filterRule(e)})
		}
	}
	return f
}

func (r *reader) filterPriority(e *element, text string) int {
	n, err := strconv.Atoi(text)
	r.refuse(err != nil || n < -1000 || n > 1000, e, ErrInvalidArg, "Priority '%s' is outside valid range of [-1000,1000]", text)
	return n
}

func (r *reader) filterRef(e *element) FilterRef {
	ref := FilterRef{Filter: e.attr("filter")}
	for _, p := range r.list(e, "parameter", someElements) {
		if name, value := p.attr("name"), p.attr("value"); name != "" && value != "" {
			ref.Parameters = append(ref.Parameters, Parameter{name, value})
		}
	}
	sortParameters(ref.Parameters)
	return ref
}

func (r *reader) filterRule(e *element) FilterRule {
	rule := FilterRule{Action: e.attr("action"), Direction: e.attr("direction"), Priority: filterRulePriority}
	r.refuse(rule.Action == "", e, ErrInternal, "rule node requires action attribute")
	r.refuse(!slices.Contains(filterActions, rule.Action), e, ErrConfigUnsupported, "unknown rule action attribute value")
	r.refuse(rule.Direction == "", e, ErrInternal, "rule node requires direction attribute")
	r.refuse(!slices.Contains(filterDirections, rule.Direction), e, ErrConfigUnsupported, "unknown rule direction attribute value")
	if text, given := e.lookup("priority"); given {
		rule.Priority = r.filterPriority(e, text)
	}
	for _, c := range e.content {
		if c.child == nil {
			continue
		}
		m := FilterMatch{Protocol: c.child.name}
		for _, a := range c.child.attrs {
			m.Attributes = append(m.Attributes, Parameter{a.name, a.value})
		}
		rule.Matches = append(rule.Matches, m)
	}
	return rule
}

// Format prints the filter as libvirt does.
func (f *Filter) Format() string {
	w := &writer{}
	attrs := []pair{str("name", f.Name), str("chain", f.Chain)}
	if f.Chain != rootChain {
		attrs = append(attrs, str("priority", strconv.Itoa(f.Priority)))
	}
	w.begin("filter", attrs...)
	w.leaf("uuid", f.UUID.String())
	for _, e := range f.Entries {
		if e.Ref != nil {
			w.filterRef(*e.Ref)
			continue
		}
		rule := []pair{str("action", e.Rule.Action), str("direction", e.Rule.Direction), str("priority", strconv.Itoa(e.Rule.Priority))}
		if len(e.Rule.Matches) == 0 {
			w.empty("rule", rule...)
			continue
		}
		w.begin("rule", rule...)
		for _, m := range e.Rule.Matches {
			var attrs []pair
			for _, a := range m.Attributes {
				attrs = append(attrs, str(a.Name, a.Value))
			}
			w.empty(m.Protocol, attrs...)
		}
		w.end("rule")
	}
	w.end("filter")
	return w.b.String()
}

func (w *writer) filterRef(ref FilterRef) {
	if len(ref.Parameters) == 0 {
		w.empty("filterref", str("filter", ref.Filter))
		return
	}
	w.begin("filterref", str("filter", ref.Filter))
	for _, p := range ref.Parameters {
		w.empty("parameter", str("name", p.Name), str("value", p.Value))
	}
	w.end("filterref")
}

// FilterBinding says that a guest's link is filtered.
type FilterBinding struct {
	OwnerName string
	OwnerUUID UUID
	// Port is the host's end of the guest's link.
	Port string
	// Link is what the port is on top of; "" if it is a tap.
	Link string
	MAC  MAC
	Ref  FilterRef
}

// ParseFilterBinding reads libvirt's <filterbinding>.
func ParseFilterBinding(data []byte) (*FilterBinding, error) {
	root, err := parseDocument(data, "(nwfilterbinding_definition)")
	if err != nil {
		return nil, err
	}
	r := &reader{}
	r.refuse(root.name != "filterbinding", root, ErrXML, "expecting root element of 'filterbinding', not '%s'", root.name)
	owner, mac, ref := root.child("owner"), root.child("mac"), root.child("filterref")
	b := &FilterBinding{Port: root.child("portdev").attr("name"), Link: root.child("linkdev").attr("name")}
	r.refuse(b.Port == "", root, ErrInternal, "filter binding has no port dev name")
	r.refuse(mac.attr("address") == "", root, ErrInternal, "filter binding has no MAC address")
	if text := mac.attr("address"); text != "" {
		b.MAC, err = ParseMAC(text)
		r.refuse(err != nil, mac, ErrInternal, "Unable to parse MAC '%s'", text)
	}
	r.refuse(ref.attr("filter") == "", root, ErrInternal, "filter binding has no filter reference")
	if ref != nil {
		b.Ref = r.filterRef(ref)
	}
	b.OwnerName = r.line(owner.child("name"))
	r.refuse(b.OwnerName == "", root, ErrInternal, "filter binding has no owner name")
	b.OwnerUUID = r.portUUID(root, owner.child("uuid"), "filter binding has no owner UUID")
	if r.err != nil {
		return nil, r.err
	}
	return b, nil
}

// Format prints the binding as libvirt does.
func (b *FilterBinding) Format() string {
	w := &writer{}
	w.begin("filterbinding")
	w.begin("owner")
	w.leaf("name", b.OwnerName)
	w.leaf("uuid", b.OwnerUUID.String())
	w.end("owner")
	w.empty("portdev", str("name", b.Port))
	if b.Link != "" {
		w.empty("linkdev", str("name", b.Link))
	}
	w.empty("mac", str("address", b.MAC.String()))
	w.filterRef(b.Ref)
	w.end("filterbinding")
	return w.b.String()
}

// StockFilters are the filters that there are on every host, by libvirt's
// names and meanings. They are the same on all hosts, and so are their UUIDs.
func StockFilters() []*Filter {
	var list []*Filter
	for _, text := range strings.SplitAfter(stockFilters, "</filter>\n") {
		if text == "" {
			continue
		}
		f, err := ParseFilter([]byte(text))
		if err != nil {
			panic(err) // a constant
		}
		sum := sha256.Sum256([]byte("stock filter " + f.Name))
		f.UUID = UUID(sum[:16])
		f.UUID[6], f.UUID[8] = f.UUID[6]&0x0f|0x80, f.UUID[8]&0x3f|0x80 // RFC 9562 version 8
		list = append(list, f)
	}
	return list
}
