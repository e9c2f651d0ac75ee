package netdef

import (
	"slices"
	"strings"
	"unicode"
)

// dnsmasqSpace is the namespace of raw dnsmasq options.
const dnsmasqSpace = "http://libvirt.org/schemas/network/dnsmasq/1.0"

// Parse reads a network from libvirt's network XML. It refuses what libvirt's
// parser refuses, in its words; what makes no sense although it can be read is
// for Validate. Elements and attributes that libvirt does not know are passed
// over. Nothing is made up: what is absent stays absent.
func Parse(data []byte) (*Network, error) {
	root, err := parseDocument(data, "(network_definition)")
	if err != nil {
		return nil, err
	}
	r := &reader{}
	n := r.networkElement(root)
	if r.err != nil {
		return nil, r.err
	}
	return n, nil
}

// expectRoot refuses a document about something else.
func (r *reader) expectRoot(root *element, name string) {
	r.refuse(root.name != name, root, ErrXML, "expecting root element of '%s', not '%s'", name, root.qname())
}

func (r *reader) networkElement(root *element) *Network {
	r.expectRoot(root, "network")
	n := &Network{}
	r.identity(root, n)
	n.TrustGuestRxFilters = r.yesNo(root, "trustGuestRxFilters")
	n.Domain = r.domain(root.child("domain"))
	n.Bandwidth = r.bandwidth(root.child("bandwidth"), false)
	n.VLAN = r.vlan(root.child("vlan"))
	n.Isolated = r.yesNo(root.child("port"), "isolated")
	r.bridge(root, n)
	n.DNS = r.dns(root.child("dns"))
	n.VirtualPort = r.virtualPort(root.child("virtualport"), true)
	for _, e := range r.list(root, "portgroup", someElements) {
		n.PortGroups = append(n.PortGroups, r.portGroup(e))
	}
	for _, e := range r.list(root, "ip", fewElements) {
		n.IPs = append(n.IPs, r.ip(e))
	}
	routes := r.list(root, "route", someElements)
	for _, e := range routes {
		n.Routes = append(n.Routes, r.route(e))
	}
	for i, e := range routes {
		reachable := slices.ContainsFunc(n.IPs, func(ip IP) bool { return ip.Prefix().Contains(n.Routes[i].Gateway) })
		r.refuse(!reachable, e, ErrConfigUnsupported,
			"unreachable static route gateway '%s' specified for network '%s'", n.Routes[i].Gateway, r.network)
	}
	n.Forward = r.forward(root.child("forward"))
	n.Metadata = parseMetadata(root.child("metadata"))
	r.modeRules(root, n)
	n.DnsmasqOptions = r.dnsmasqOptions(root)
	return n
}

func (r *reader) identity(root *element, n *Network) {
	name := root.child("name")
	n.Name = name.text()
	r.network = n.Name
	r.refuse(n.Name == "", root, ErrNoName, "missing name information")
	illegal := func(c rune) bool { return c == '/' || unicode.IsControl(c) }
	if i := strings.IndexFunc(n.Name, illegal); i >= 0 {
		r.illegalChar(name, n.Name[i:])
	}
	if e := root.child("uuid"); e.text() != "" {
		id, err := ParseUUID(e.text())
		r.refuse(err != nil, e, ErrInternal, "malformed uuid element")
		n.UUID = id
	}
	title := root.child("title")
	n.Title = title.text()
	r.refuse(strings.Contains(n.Title, "\n"), title, ErrXML, "Network title can't contain newlines")
	if i := strings.IndexFunc(n.Title, unicode.IsControl); i >= 0 {
		r.illegalChar(title, n.Title[i:])
	}
	description := root.child("description")
	n.Description = description.text()
	illegal = func(c rune) bool { return c != '\n' && c != '\t' && unicode.IsControl(c) }
	if i := strings.IndexFunc(n.Description, illegal); i >= 0 {
		r.illegalChar(description, n.Description[i:])
	}
	switch ipv6 := root.attr("ipv6"); ipv6 {
	case "", "no":
	case "yes":
		n.IPv6 = true
	default:
		r.fail(root, ErrXML, "Invalid ipv6 setting '%s' in network '%s'", ipv6, r.network)
	}
}

func (r *reader) domain(e *element) Domain {
	return Domain{
		Name:      e.attr("name"),
		LocalOnly: r.yesNo(e, "localOnly"),
		Register:  r.yesNo(e, "register"),
	}
}

// The sizes that Linux takes for a bridge.
const (
	minMTU = 68
	maxMTU = 65535
)

// bridge reads <bridge>, <mac> and <mtu>, all of which are about the bridge.
func (r *reader) bridge(root *element, n *Network) {
	e := root.child("bridge")
	n.Bridge = Bridge{Name: e.attr("name"), Zone: e.attr("zone"), STPOff: e.attr("stp") == "off", MacTableManager: e.attr("macTableManager")}
	if text := e.attr("delay"); text != "" {
		delay, ok := parseUint(text, 10, 31)
		r.refuse(!ok, e, ErrXML, "Invalid delay value in network '%s'", r.network)
		n.Bridge.Delay = int(delay)
	}
	r.refuse(!slices.Contains(macTableManagers, n.Bridge.MacTableManager), e, ErrXML,
		"Invalid macTableManager setting '%s' in network '%s'", n.Bridge.MacTableManager, r.network)

	if e := root.child("mac"); e.attr("address") != "" {
		address, err := ParseMAC(e.attr("address"))
		r.refuse(err != nil, e, ErrXML, "Invalid bridge mac address '%s' in network '%s'", e.attr("address"), r.network)
		r.refuse(address.IsMulticast(), e, ErrXML, "Invalid multicast bridge mac address '%s' in network '%s'", e.attr("address"), r.network)
		n.MAC = address
	}
	if e := root.child("mtu"); e.attr("size") != "" {
		size, ok := parseUint(e.attr("size"), 10, 32)
		ok = ok && (size == 0 || minMTU <= size && size <= maxMTU)
		r.refuse(!ok, e, ErrXML, "Invalid mtu size '%s' in network '%s'", e.attr("size"), r.network)
		n.MTU = int(size)
	}
}

var macTableManagers = []string{"", "kernel", "libvirt"}

// modeRules checks what goes with which forward mode.
func (r *reader) modeRules(root *element, n *Network) {
	mode := n.Forward.Mode
	forward, bridge := root.child("forward"), root.child("bridge")
	pool := !mode.OwnsBridge()
	macvtap := pool && mode != ModeBridge
	restricted := mode == ModeNAT || mode == ModeRoute

	// Where ports are routed, each has a gateway of its own. What is wrong with
	// the settings themselves is for Validate to say.
	settings, _ := n.Settings()
	r.refuse(restricted && len(n.IPs) == 0 && !settings.Routed, forward, ErrXML,
		"%s forwarding requested, but no IP address provided for network '%s'", mode, r.network)
	r.refuse((restricted || mode == ModeOpen) && len(n.Forward.Interfaces) > 1, forward, ErrXML,
		"multiple forwarding interfaces specified for network '%s', only one is supported", r.network)
	r.refuse(mode == ModeOpen && len(n.Forward.Interfaces) > 0, forward, ErrXML,
		"forward dev not allowed for network '%s' with forward mode='%s'", r.network, mode)
	r.refuse(macvtap && n.Bridge.Name != "", bridge, ErrXML,
		"bridge name not allowed in %s mode (network '%s')", mode, r.network)
	r.refuse(macvtap && n.Bridge.Zone != "", bridge, ErrXML,
		"bridge zone not allowed in %s mode (network '%s')", mode, r.network)
	r.refuse(macvtap && n.Bridge.MacTableManager != "", bridge, ErrXML,
		"bridge macTableManager setting not allowed in %s mode (network '%s')", mode, r.network)
	r.refuse(pool && (n.Bridge.Delay != 0 || bridge.attr("stp") != "" || n.Bridge.Zone != ""), bridge, ErrXML,
		"bridge delay/stp/zone options only allowed in route, nat, and isolated mode, not in %s (network '%s')", mode, r.network)
	r.refuse(pool && n.Bridge.Name != "" && len(n.Forward.Interfaces)+len(n.Forward.PFs) > 0, forward, ErrXML,
		"A network with forward mode='%s' can specify a bridge name or a forward dev, but not both (network '%s')", mode, r.network)
	r.refuse(pool && n.MTU != 0, root.child("mtu"), ErrXML,
		"mtu size only allowed in open, route, nat, and isolated mode, not in %s (network '%s')", mode, r.network)
}

func (r *reader) dnsmasqOptions(root *element) []string {
	var options []string
	for _, list := range root.allIn(dnsmasqSpace, "options") {
		for _, e := range list.allIn(dnsmasqSpace, "option") {
			value, given := e.lookup("value")
			r.refuse(!given, e, ErrInternal, "No dnsmasq options value specified")
			options = append(options, value)
		}
	}
	return options
}
