package netdef

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// SettingsSpace is the namespace of what a network of Viaduct's has and
// libvirt's XML cannot say. It is one element of <metadata>, so that virsh and
// virt-manager carry it along:
//
//	<metadata>
//	  <viaduct:settings xmlns:viaduct="urn:viaduct:settings:1">
//	    <viaduct:ports layout="routed"/>
//	  </viaduct:settings>
//	</metadata>
const SettingsSpace = "urn:viaduct:settings:1"

// Settings are what that element says. The zero value is a network without it.
type Settings struct {
	// Routed says that guests' links are no ports of a bridge: the host has a
	// route to each guest, through a link of two.
	Routed bool
	// Exempt are connections of guests that keep the guest's address where the
	// network translates addresses.
	Exempt []Exemption
	// Inbound is who may begin connections to guests from outside.
	Inbound []Inbound
	// Backend is who serves the guests: "viaduct", "dnsmasq", or "" for whom the
	// host's admin has chosen.
	Backend string
	// Answer is the link on which the host answers for the network's guests, so
	// that neighbours there find guests whose subnet is part of theirs (proxy ARP
	// and its like in IPv6); "" for none.
	Answer string
	// EnforceRate has the rate= of a Xen guest enforced in both directions by the
	// host, beside what Xen's own driver makes of it for what the guest sends.
	EnforceRate bool
	// Pass lets what goes from port to port of a bridge of the host's past the
	// firewalls of others, which see it where bridge-nf-call-iptables is set.
	Pass bool
	// HelloTime and MaxAge are times of the spanning tree protocol on the
	// network's bridge (IEEE 802.1D), in seconds; 0 leaves them to the kernel.
	HelloTime, MaxAge int
	// Guard is that of all ports which have none of their own; nil for none.
	Guard *Guard
}

// Who can serve guests: the daemon itself, or dnsmasq.
const (
	BackendViaduct = "viaduct"
	BackendDnsmasq = "dnsmasq"
)

// Exemption is a source and a destination; an invalid one stands for any.
type Exemption struct{ Source, Destination netip.Prefix }

// settingElements are the elements that there may be, each with what reads it.
var settingElements = map[string]func(r *reader, e *element, s *Settings){
	"ports": func(r *reader, e *element, s *Settings) {
		s.Routed = r.choice(e, "layout", "bridge", "routed") == "routed"
	},
	"guard": func(r *reader, e *element, s *Settings) {
		check, given := e.lookup("check")
		if !given {
			check = "yes"
		}
		var err error
		if s.Guard, err = ParseGuard(check); err != nil {
			r.fail(e, ErrConfigUnsupported, "%s", err.(*Error).Detail)
		}
	},
	"answer": func(r *reader, e *element, s *Settings) {
		s.Answer, _ = e.lookup("dev")
		r.refuse(s.Answer == "", e, ErrXML, "missing attribute 'dev' of element '%s' in network '%s'", e.qname(), r.network)
	},
	"rate": func(r *reader, e *element, s *Settings) {
		s.EnforceRate = r.choice(e, "enforce", "no", "yes") == "yes"
	},
	"stp": func(r *reader, e *element, s *Settings) {
		s.HelloTime, s.MaxAge = r.seconds(e, "hello", 1, 10), r.seconds(e, "max-age", 6, 40)
	},
	"pass": func(_ *reader, _ *element, s *Settings) { s.Pass = true },
	"services": func(r *reader, e *element, s *Settings) {
		s.Backend = r.choice(e, "backend", BackendViaduct, BackendDnsmasq)
	},
	"inbound": func(r *reader, e *element, s *Settings) {
		s.Inbound = append(s.Inbound, r.inbound(e))
		r.refuse(len(s.Inbound) > fewElements, e, ErrXML, "more than %d <inbound> elements in network '%s'", fewElements, r.network)
	},
	"exempt": func(r *reader, e *element, s *Settings) {
		s.Exempt = append(s.Exempt, Exemption{Source: r.prefix(e, "source"), Destination: r.prefix(e, "destination")})
		r.refuse(len(s.Exempt) > fewElements, e, ErrXML, "more than %d <exempt> elements in network '%s'", fewElements, r.network)
	},
}

// Settings reads the network's own element of <metadata>. What the settings
// point to is not to be changed.
func (n *Network) Settings() (Settings, error) {
	i := n.metadataIndex(SettingsSpace)
	if i < 0 {
		return Settings{}, nil
	}
	text := n.Metadata[i].XML
	if s, ok := readBefore.get(text); ok {
		return s, nil
	}
	s, err := n.readSettings(text)
	if err == nil {
		readBefore.put(text, s)
	}
	return s, err
}

// readBefore are settings by their XML. One change of one port asks ten times
// for those of its network.
var readBefore settingsCache

type settingsCache struct {
	mu     sync.Mutex
	byText map[string]Settings
}

// maxCached bounds how many settings are kept: most networks have none.
const maxCached = 256

func (c *settingsCache) get(text string) (Settings, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok := c.byText[text]
	return s, ok
}

func (c *settingsCache) put(text string, s Settings) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byText == nil || len(c.byText) >= maxCached {
		c.byText = map[string]Settings{}
	}
	c.byText[text] = s
}

func (n *Network) readSettings(text string) (Settings, error) {
	var s Settings
	root, err := parseForeign([]byte(text), "(metadata_xml)")
	if err != nil {
		return s, err
	}
	r := &reader{network: n.Name}
	r.refuse(root.name != "settings", root, ErrConfigUnsupported, "unknown element <%s> in the settings of network '%s'", root.qname(), n.Name)
	for _, c := range root.content {
		e := c.child
		if e == nil {
			continue
		}
		read := settingElements[e.name]
		if read == nil || e.space != SettingsSpace {
			r.fail(e, ErrConfigUnsupported, "unknown element <%s> in the settings of network '%s'", e.qname(), n.Name)
			break
		}
		read(r, e, &s)
	}
	if r.err != nil {
		return Settings{}, r.err
	}
	return s, nil
}

// WithSettings is a copy of the network with the settings that are a document of
// their own, which may be "" for none, and with further elements of theirs.
func (n *Network) WithSettings(document string, more ...string) (*Network, error) {
	if document == "" {
		document = "<viaduct:settings xmlns:viaduct='" + SettingsSpace + "'/>"
	}
	root, err := parseForeign([]byte(document), "(settings)")
	if err != nil {
		return nil, err
	}
	if root.space != SettingsSpace || root.name != "settings" {
		return nil, Errorf(ErrXML, "the element <%s> is not <settings xmlns='%s'>", root.qname(), SettingsSpace)
	}
	for _, text := range more {
		e, err := parseForeign([]byte(text), "(settings)")
		if err != nil {
			return nil, err
		}
		e.each(func(e *element) { e.prefix, e.space = root.prefix, SettingsSpace })
		root.content = append(root.content, content{child: e})
	}
	c := n.Clone()
	c.Metadata = slices.DeleteFunc(c.Metadata, func(m Node) bool { return m.Space == SettingsSpace })
	c.Metadata = append(c.Metadata, newNode(root))
	return c, nil
}

// OwnsBridge reports whether the network has a bridge of its own. A network
// whose settings cannot be read counts as one that has not said otherwise.
func (n *Network) OwnsBridge() bool {
	s, _ := n.Settings()
	return n.Forward.Mode.OwnsBridge() && !s.Routed
}

func (n *Network) checkSettings() *Error {
	s, err := n.Settings()
	switch {
	case err != nil:
		return err.(*Error)
	case s.Routed && !n.Forward.Mode.OwnsBridge():
		return Errorf(ErrConfigUnsupported, "the ports of network '%s' cannot be routed with forward mode '%s'", n.Name, n.Forward.Mode)
	case s.Routed && len(n.IPs) > 0:
		return Errorf(ErrConfigUnsupported, "<ip> in network '%s' has no meaning, since its ports are routed: each has a gateway of its own", n.Name)
	case s.Pass && (n.Forward.Mode != ModeBridge || n.Bridge.Name == ""):
		return Errorf(ErrConfigUnsupported, "<pass> in network '%s' has no meaning, since its guests are in no bridge of the host's", n.Name)
	}
	if s.HelloTime+s.MaxAge > 0 && (s.Routed || !n.Forward.Mode.OwnsBridge()) {
		return Errorf(ErrConfigUnsupported, "<stp> in network '%s' has no meaning, since it has no bridge of its own", n.Name)
	}
	if err := n.checkInbound(s); err != nil {
		return err
	}
	switch {
	case s.Answer == "":
	case s.Routed:
		return Errorf(ErrConfigUnsupported, "<answer> in network '%s' has no meaning, since its ports are routed: each says where it is answered for", n.Name)
	case !n.Forward.Mode.OwnsBridge() || n.Forward.Mode == ModeNone:
		return Errorf(ErrConfigUnsupported, "the host cannot answer for guests of network '%s': it forwards nothing to them", n.Name)
	case n.Forward.Dev() != "" && n.Forward.Dev() != s.Answer:
		return Errorf(ErrConfigUnsupported, "the host cannot answer on '%s' for guests of network '%s', which is forwarded by '%s' alone", s.Answer, n.Name, n.Forward.Dev())
	}
	return nil
}

// seconds is an attribute with a time between two others; 0 if it is absent.
func (r *reader) seconds(e *element, name string, least, most int) int {
	text, given := e.lookup(name)
	if !given {
		return 0
	}
	n, err := strconv.Atoi(text)
	r.refuse(err != nil || n < least || n > most, e, ErrXML,
		"Invalid value '%s' of attribute '%s' in element '%s': it is a number of seconds from %d to %d", text, name, e.qname(), least, most)
	return n
}

// prefix is an attribute with a network or an address; invalid if it is absent.
func (r *reader) prefix(e *element, name string) netip.Prefix {
	text, ok := e.lookup(name)
	if !ok {
		return netip.Prefix{}
	}
	if !strings.Contains(text, "/") {
		a := r.addr(e, text)
		return netip.PrefixFrom(a, a.BitLen())
	}
	p, err := netip.ParsePrefix(text)
	r.refuse(err != nil, e, ErrXML, "Invalid value '%s' of attribute '%s' in element '%s': no IP network", text, name, e.qname())
	return p.Masked()
}
