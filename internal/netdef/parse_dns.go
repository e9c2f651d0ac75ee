package netdef

import "strings"

// maxService is the longest service name of an SRV record that libvirt takes, in bytes.
const maxService = 482

const (
	letters       = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	serviceChars  = letters + "_-+/*"
	protocolChars = letters + "-+/"
)

func (r *reader) dns(e *element) DNS {
	d := DNS{Present: e != nil, Enable: r.yesNo(e, "enable"), ForwardPlainNames: r.yesNo(e, "forwardPlainNames")}
	for _, item := range r.list(e, "forwarder", manyElements) {
		d.Forwarders = append(d.Forwarders, r.dnsForwarder(item))
	}
	for _, item := range r.list(e, "host", manyElements) {
		d.Hosts = append(d.Hosts, r.dnsHost(item, false))
	}
	for _, item := range r.list(e, "srv", manyElements) {
		d.SRVs = append(d.SRVs, r.dnsSRV(item, false))
	}
	for _, item := range r.list(e, "txt", manyElements) {
		d.TXTs = append(d.TXTs, r.dnsTXT(item, false))
	}
	r.refuse(d.Enable == No && d.hasRecords(), e, ErrXML, "Extra data in disabled network '%s'", r.network)
	return d
}

func (d DNS) hasRecords() bool {
	return len(d.Forwarders)+len(d.Hosts)+len(d.SRVs)+len(d.TXTs) > 0
}

func (r *reader) dnsForwarder(e *element) DNSForwarder {
	f := DNSForwarder{Domain: e.attr("domain")}
	if text, given := e.lookup("addr"); given {
		addr, ok := parseAddr(text)
		r.refuse(!ok, e, ErrXML, "Invalid forwarder IP address '%s' in network '%s'", text, r.network)
		f.Addr = addr
	}
	r.refuse(!f.Addr.IsValid() && f.Domain == "", e, ErrXML, "Invalid forwarder element, must contain at least one of addr or domain")
	port, given := r.uint(e, "port", 10, 16)
	r.refuse(given && port == 0, e, ErrXML, zeroNotPermitted, "port", "forwarder")
	f.Port = uint16(port)
	return f
}

// dnsHost reads a <host> of <dns>; a partial one names at least something to look for.
func (r *reader) dnsHost(e *element, partial bool) DNSHost {
	var h DNSHost
	text, hasIP := e.lookup("ip")
	r.refuse(!hasIP && !partial, e, ErrXMLDetail, "Missing IP address in network '%s' DNS HOST record", r.network)
	if hasIP {
		addr, ok := parseAddr(text)
		r.refuse(!ok, e, ErrXMLDetail, "Invalid IP address in network '%s' DNS HOST record", r.network)
		h.IP = addr
	}
	for _, item := range r.list(e, "hostname", manyElements) {
		if name := r.line(item); name != "" {
			h.Hostnames = append(h.Hostnames, name)
		}
	}
	r.refuse(!partial && len(h.Hostnames) == 0, e, ErrXMLDetail, "Missing hostname in network '%s' DNS HOST record", r.network)
	r.refuse(!hasIP && len(h.Hostnames) == 0, e, ErrXMLDetail, "Missing ip and hostname in network '%s' DNS HOST record", r.network)
	return h
}

func (r *reader) dnsTXT(e *element, partial bool) DNSTXT {
	t := DNSTXT{Name: e.attr("name")}
	r.refuse(t.Name == "", e, ErrXMLDetail, "missing required name attribute in DNS TXT record of network %s", r.network)
	r.refuse(strings.ContainsAny(t.Name, " ,"), e, ErrXMLDetail,
		"prohibited character in DNS TXT record name '%s' of network %s", t.Name, r.network)
	value, ok := e.lookup("value")
	r.refuse(!ok && !partial, e, ErrXMLDetail, "missing required value attribute in DNS TXT record named '%s' of network %s", t.Name, r.network)
	t.Value = value
	return t
}

// srvNumber is a number of an SRV record, which needs a target. The wording
// differs in the case of its first letter.
type srvNumber struct {
	name    string
	invalid string
	min     uint64
	into    *int
}

func (r *reader) dnsSRV(e *element, partial bool) DNSSRV {
	s := DNSSRV{Domain: e.attr("domain"), Service: e.attr("service"), Protocol: e.attr("protocol"), Target: e.attr("target")}
	r.refuse(s.Service == "" && !partial, e, ErrXMLDetail, "missing required service attribute in DNS SRV record of network '%s'", r.network)
	r.refuse(len(s.Service) > maxService, e, ErrXMLDetail,
		"service attribute '%s' in network '%s' is too long, limit is %d bytes", s.Service, r.network, maxService)
	r.refuse(strings.Trim(s.Service, serviceChars) != "", e, ErrXMLDetail,
		"invalid character in service attribute '%s' in DNS SRV record of network '%s'", s.Service, r.network)
	r.refuse(s.Protocol == "" && !partial, e, ErrXMLDetail,
		"missing required protocol attribute in DNS SRV record '%s' of network '%s'", s.Service, r.network)
	r.refuse(strings.Trim(s.Protocol, protocolChars) != "", e, ErrXMLDetail,
		"invalid character in protocol attribute '%s' in DNS SRV record of network '%s'", s.Protocol, r.network)
	for _, n := range []srvNumber{
		{"port", "invalid", 1, &s.Port},
		{"priority", "Invalid", 0, &s.Priority},
		{"weight", "invalid", 0, &s.Weight},
	} {
		text := e.attr(n.name)
		if text == "" {
			continue
		}
		value, ok := parseUint(text, 10, 16)
		r.refuse(ok && s.Target == "", e, ErrXMLDetail,
			"DNS SRV %s attribute not permitted without target for service '%s' in network '%s'", n.name, s.Service, r.network)
		r.refuse(!ok || value < n.min, e, ErrXMLDetail,
			"%s DNS SRV %s attribute for service '%s' in network '%s'", n.invalid, n.name, s.Service, r.network)
		*n.into = int(value)
	}
	return s
}
