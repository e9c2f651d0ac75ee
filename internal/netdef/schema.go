package netdef

import (
	"bytes"
	"slices"
	"strings"
	"sync"
)

// shape is what an element may have in libvirt's schema: which attributes, which
// elements, whether text. What the values may be is left to the parser, whose
// errors are plainer.
type shape struct {
	attrs    []string
	children map[string]child
	needs    string // an element that has to be there
	text     bool
	any      bool // whatever it holds is somebody else's
	// silent says that libvirt's message does not go into the element: the schema
	// has several forms of it, none of which is the one that was meant.
	silent bool
}

type child struct {
	*shape
	many bool
}

// of is a shape with attributes, by their names with blanks between them, and
// children.
func of(attrs string, children ...map[string]child) *shape {
	s := &shape{attrs: strings.Fields(attrs), children: map[string]child{}}
	for _, c := range children {
		for name, child := range c {
			s.children[name] = child
		}
	}
	return s
}

// one is a child that may be there once, many one that may be there often.
func one(name string, s *shape) map[string]child  { return map[string]child{name: {s, false}} }
func many(name string, s *shape) map[string]child { return map[string]child{name: {s, true}} }

// schemas are libvirt's network.rng and networkport.rng. They are made when they
// are first needed: the program starts for every interface of a Xen guest.
var schemas = sync.OnceValues(func() (network, port *shape) {
	const pciAttrs = "type domain bus slot function multifunction"
	text := &shape{text: true}
	bandwidth := of("classID", one("inbound", of("average peak burst floor")), one("outbound", of("average peak burst")))
	vlan := of("trunk", many("tag", of("id nativeMode")))
	vport := of("type", one("parameters", of("managerid typeid typeidversion instanceid profileid interfaceid")))
	lease := of("expiry unit")
	driver := of("name model")
	forward := of("dev mode managed",
		one("driver", driver),
		one("nat", of("ipv6", one("address", of("start end")), one("port", of("start end")))),
		many("interface", of("dev connections")), many("address", of(pciAttrs+" connections")), many("pf", of("dev")))
	forward.silent = true
	network = of("ipv6 trustGuestRxFilters connections",
		one("name", text), one("uuid", text), one("title", text), one("description", text),
		one("metadata", &shape{any: true}), one("forward", forward),
		one("bridge", of("name zone stp delay macTableManager")), one("mtu", of("size")), one("mac", of("address")),
		one("domain", of("name localOnly register")),
		one("dns", of("enable forwardPlainNames", many("forwarder", of("addr domain port")), many("txt", of("name value")),
			many("srv", of("name service protocol domain target port priority weight")), many("host", of("ip", many("hostname", text))))),
		one("vlan", vlan), one("bandwidth", bandwidth), one("port", of("isolated")),
		many("ip", of("family address netmask prefix localPtr", one("tftp", of("root")),
			one("dhcp", of("", many("range", of("start end", one("lease", lease))),
				many("host", of("id mac name ip", one("lease", lease))), one("bootp", of("file server")))))),
		many("route", of("family address netmask prefix gateway metric")), one("virtualport", vport),
		many("portgroup", of("name default trustGuestRxFilters", one("virtualport", vport), one("vlan", vlan), one("bandwidth", bandwidth))),
		one(dnsmasqSpace+" options", of("", many(dnsmasqSpace+" option", of("value")))))
	network.needs = "name"
	port = of("",
		one("uuid", text), one("owner", of("", one("name", text), one("uuid", text))), one("group", text),
		one("mac", of("address")), one("virtualport", vport), one("bandwidth", bandwidth), one("vlan", vlan),
		one("port", of("isolated")), one("rxfilters", of("trustGuest")),
		one("plug", of("type bridge macTableManager dev mode managed", one("driver", driver), one("address", of(pciAttrs)))))
	return network, port
})

// ValidateNetwork refuses a definition with elements or attributes that libvirt's
// schema does not know, which Parse passes over. One that cannot be read at all
// is left to Parse.
func ValidateNetwork(data []byte) error {
	network, _ := schemas()
	return validate(data, "network", network)
}

// ValidatePort is ValidateNetwork for a port.
func ValidatePort(data []byte) error {
	_, port := schemas()
	return validate(data, "networkport", port)
}

func validate(data []byte, name string, s *shape) error {
	root, err := parseDocument(data, "")
	if err != nil || root.name != name || root.space != "" {
		return nil
	}
	why, at := s.refuse(root)
	if why == nil {
		return nil
	}
	// libvirt validates with libxml, whose messages begin with the innermost reason.
	lines := append([]string{"Unable to validate doc against /usr/share/libvirt/schemas/" + name + ".rng"}, why...)
	return &Error{Code: ErrXMLInvalidSchema, Detail: strings.Join(lines, "\n") + "\n", Where: at.where()}
}

// refuse says what is wrong with an element, from the inside out, and at which
// element within.
func (s *shape) refuse(e *element) (why []string, at *element) {
	if s.any {
		return nil, nil
	}
	for _, a := range e.attrs {
		if !a.declares() && (a.prefix != "" || !slices.Contains(s.attrs, a.name)) {
			return []string{"Invalid attribute " + a.name + " for element " + e.name}, e
		}
	}
	seen := map[string]bool{}
	for _, c := range e.content {
		if c.child == nil {
			if !s.text && len(bytes.TrimSpace(c.text)) > 0 {
				return []string{"Element " + e.name + " has extra content: text"}, e
			}
			continue
		}
		key := c.child.name
		if c.child.space != "" {
			key = c.child.space + " " + key
		}
		known, ok := s.children[key]
		if !ok {
			return []string{"Element " + e.name + " has extra content: " + c.child.name}, c.child
		}
		within := []string{"Extra element " + c.child.name + " in interleave", "Element " + e.name + " failed to validate content"}
		if seen[key] && !known.many {
			return within, c.child
		}
		seen[key] = true
		if why, at := known.refuse(c.child); why != nil {
			if known.silent {
				why = nil
			}
			return append(why, within...), at
		}
	}
	if s.needs != "" && !seen[s.needs] {
		return []string{"Expecting an element " + s.needs + ", got nothing", "Invalid sequence in interleave", "Element " + e.name + " failed to validate content"}, e
	}
	return nil, nil
}
