package netdef

import (
	"net/netip"
	"strings"
)

// ip reads an <ip> element.
func (r *reader) ip(e *element) IP {
	ip := IP{Family: e.attr("family"), PrefixLen: -1}
	address, netmask := e.attr("address"), e.attr("netmask")
	r.refuse(address == "", e, ErrXML, "Missing required address attribute in network '%s'", r.network)
	var ok bool
	ip.Address, ok = parseAddr(address)
	r.refuse(!ok, e, ErrXML, "Invalid address '%s' in network '%s'", address, r.network)
	if netmask != "" {
		ip.Netmask, ok = parseAddr(netmask)
		r.refuse(!ok, e, ErrXML, "Invalid netmask '%s' in network '%s'", netmask, r.network)
	}
	// Zero is no length here, as in libvirt.
	if length, given := r.uint(e, "prefix", 10, 32); given && length > 0 {
		ip.PrefixLen = int(length)
	}
	ip.LocalPtr = r.yesNo(e, "localPtr")

	switch ip.Family {
	case "", "ipv4":
		family := ip.Family
		if family == "" {
			family = "no"
		}
		r.refuse(!ip.Address.Is4(), e, ErrConfigUnsupported, "%s family specified for non-IPv4 address '%s' in network '%s'", family, address, r.network)
		r.refuse(netmask != "" && !ip.Netmask.Is4(), e, ErrConfigUnsupported,
			"Invalid netmask '%s' for address '%s' in network '%s' (both must be IPv4)", netmask, address, r.network)
		r.refuse(netmask != "" && ip.PrefixLen >= 0, e, ErrConfigUnsupported,
			"Network '%s' IP address cannot have both a prefix and a netmask", r.network)
		r.refuse(netmask != "" && maskLen(ip.Netmask) < 0, e, ErrXML, "Invalid netmask '%s' in network '%s'", netmask, r.network)
		r.refuse(ip.PrefixLen > 32, e, ErrConfigUnsupported, "Invalid IPv4 prefix '%d' in network '%s'", ip.PrefixLen, r.network)
	case "ipv6":
		r.refuse(!ip.Address.Is6(), e, ErrConfigUnsupported, "Family 'ipv6' specified for non-IPv6 address '%s' in network '%s'", address, r.network)
		r.refuse(netmask != "", e, ErrConfigUnsupported, "netmask not allowed for IPv6 address '%s' in network '%s'", address, r.network)
		r.refuse(ip.PrefixLen > 128, e, ErrConfigUnsupported, "Invalid IPv6 prefix '%d' in network '%s'", ip.PrefixLen, r.network)
	default:
		r.fail(e, ErrXML, "Unrecognized family '%s' in network '%s'", ip.Family, r.network)
	}
	r.dhcp(e.child("dhcp"), &ip)
	tftp := e.child("tftp")
	r.refuse(tftp != nil && !ip.Address.Is4(), tftp, ErrConfigUnsupported,
		"Unsupported <tftp> element in an IPv6 element in network '%s'", r.network)
	ip.TFTPRoot = tftp.attr("root")
	return ip
}

func (r *reader) dhcp(e *element, ip *IP) {
	for _, item := range r.list(e, "range", someElements) {
		ip.Ranges = append(ip.Ranges, r.dhcpRange(item, *ip))
	}
	for _, item := range r.list(e, "host", manyElements) {
		ip.Hosts = append(ip.Hosts, r.dhcpHost(item, *ip, false))
	}
	bootp := e.last("bootp")
	if bootp == nil || !ip.Address.Is4() {
		return
	}
	ip.BootFile = bootp.attr("file")
	r.refuse(ip.BootFile == "", bootp, ErrXML, missingAttribute, "file", "bootp")
	if server, given := bootp.lookup("server"); given {
		ip.BootServer = r.addr(bootp, server).String()
	}
}

func (r *reader) dhcpRange(e *element, ip IP) DHCPRange {
	start, hasStart := e.lookup("start")
	end, hasEnd := e.lookup("end")
	r.refuse(!hasStart, e, ErrXML, "Missing 'start' attribute in dhcp range for network '%s'", r.network)
	g := DHCPRange{Start: r.addr(e, start)}
	r.refuse(!hasEnd, e, ErrXML, "Missing 'end' attribute in dhcp range for network '%s'", r.network)
	g.End = r.addr(e, end)
	r.rangeWithin(e, g.Start, g.End, ip)
	r.rangeSize(e, g.Start, g.End)
	g.Lease = r.lease(e.last("lease"))
	return g
}

// rangeWithin checks that a range is for guests of the subnet.
func (r *reader) rangeWithin(e *element, start, end netip.Addr, ip IP) {
	subnet := ip.Prefix()
	r.sameFamily(e, start, end)
	r.refuse(start.BitLen() != ip.Address.BitLen(), e, ErrInternal,
		"mismatch of address family in range %s - %s for network %s", start, end, ip.Address)
	r.refuse(!subnet.IsValid(), e, ErrInternal,
		"bad prefix %d for network %s when  checking range %s - %s", ip.PrefixLen, ip.Address, start, end)
	r.refuse(!subnet.Contains(start) || !subnet.Contains(end), e, ErrInternal,
		"range %s - %s is not entirely within network %s/%d", start, end, ip.Address, subnet.Bits())
	if r.err == nil && start.Is4() {
		r.refuse(start == subnet.Masked().Addr(), e, ErrInternal,
			"start of range %s - %s in network %s/%d is the network address", start, end, ip.Address, subnet.Bits())
		r.refuse(end == lastAddr(subnet), e, ErrInternal,
			"end of range %s - %s in network %s/%d is the broadcast address", start, end, ip.Address, subnet.Bits())
	}
}

func (r *reader) sameFamily(e *element, start, end netip.Addr) {
	r.refuse(start.BitLen() != end.BitLen(), e, ErrInternal, "mismatch of address family in range %s - %s", start, end)
}

// rangeSize checks that a range runs forward and is not too large: only the last
// two octets of its ends may differ.
func (r *reader) rangeSize(e *element, start, end netip.Addr) {
	if r.err != nil {
		return
	}
	a, b := start.As16(), end.As16()
	r.refuse([14]byte(a[:]) != [14]byte(b[:]), e, ErrInternal, "range %s - %s is too large (> 65535)", start, end)
	if start.Is4() {
		r.refuse(end.Less(start), e, ErrInternal, "range %s - %s is reversed ", start, end)
	}
	r.refuse(end.Less(start), e, ErrInternal, "range %s - %s start larger than end", start, end)
}

// dhcpHost reads a <host> of <dhcp>; a partial one names at least something to look for.
func (r *reader) dhcpHost(e *element, ip IP, partial bool) DHCPHost {
	h := DHCPHost{ID: e.attr("id")}
	var hasMAC, hasName bool
	if h.MAC, hasMAC = e.lookup("mac"); hasMAC {
		r.refuse(ip.Address.Is6(), e, ErrXML, "Invalid to specify MAC address '%s' in network '%s' IPv6 static host definition", h.MAC, r.network)
		mac, err := ParseMAC(h.MAC)
		r.refuse(err != nil, e, ErrXML, "Cannot parse MAC address '%s' in network '%s'", h.MAC, r.network)
		r.refuse(mac.IsMulticast(), e, ErrXML, "expected unicast mac address, found multicast '%s' in network '%s'", h.MAC, r.network)
	}
	if odd := strings.TrimLeft(h.ID, "0123456789abcdefABCDEF:"); odd != "" {
		r.fail(e, ErrXML, "Invalid character '%c' in id '%s' of network '%s'", []rune(odd)[0], h.ID, r.network)
	}
	h.Name, hasName = e.lookup("name")
	r.refuse(hasName && (h.Name == "" || !strings.ContainsRune(letters, rune(h.Name[0]))), e, ErrXML,
		"Cannot use host name '%s' in network '%s'", h.Name, r.network)
	text, hasIP := e.lookup("ip")
	if hasIP {
		addr, ok := parseAddr(text)
		r.refuse(!ok, e, ErrXML, "Invalid IP address in static host definition for network '%s'", r.network)
		h.IP = addr
	}
	switch {
	case partial:
		r.refuse(h.MAC == "" && h.Name == "" && !hasIP, e, ErrXML,
			"At least one of name, mac, or ip attribute must be specified for static host definition in network '%s' ", r.network)
	case ip.Address.Is6():
		r.refuse(h.ID == "" && h.Name == "", e, ErrXML, "Static host definition in IPv6 network '%s' must have id or name attribute", r.network)
	default:
		r.refuse(h.MAC == "" && h.Name == "", e, ErrXML, "Static host definition in IPv4 network '%s' must have mac or name attribute", r.network)
	}
	r.refuse(!partial && !hasIP, e, ErrXML, "Missing IP address in static host definition for network '%s'", r.network)
	h.Lease = r.lease(e.last("lease"))
	return h
}

var leaseUnits = []string{"seconds", "minutes", "hours"}

// shortestLease is in seconds.
const shortestLease = 120

func (r *reader) lease(e *element) *LeaseTime {
	expiry, given := r.uint(e, "expiry", 0, 64)
	if !given {
		return nil
	}
	l := &LeaseTime{Expiry: expiry, Unit: r.choice(e, "unit", leaseUnits...)}
	if l.Unit == "" {
		l.Unit = "minutes"
	}
	r.refuse(l.Unit == "seconds" && 0 < expiry && expiry < shortestLease || l.Unit == "minutes" && 0 < expiry && expiry < shortestLease/60,
		e, ErrConfigUnsupported, "The minimum lease time should be greater than 2 minutes")
	// DHCP counts seconds in 32 bits, of which the highest number means for ever.
	r.refuse(expiry > maxLease[l.Unit], e, ErrXML, "Invalid value for attribute 'expiry' in element 'lease': '%d'. At most %d %s are possible",
		expiry, maxLease[l.Unit], l.Unit)
	return l
}

var maxLease = map[string]uint64{"seconds": 1<<32 - 2, "minutes": (1<<32 - 2) / 60, "hours": (1<<32 - 2) / 3600}

// route reads a <route> element.
func (r *reader) route(e *element) Route {
	t := Route{PrefixLen: -1}
	family, hasFamily := e.lookup("family")
	address, hasAddress := e.lookup("address")
	netmask, hasNetmask := e.lookup("netmask")
	gateway, hasGateway := e.lookup("gateway")
	t.Family = family
	if length, given := r.uint(e, "prefix", 10, 31); given {
		t.PrefixLen = int(length)
	}
	metric, given := r.uint(e, "metric", 10, 31)
	r.refuse(given && metric == 0, e, ErrXML, zeroNotPermitted, "metric", "route")
	t.Metric = int(metric)
	r.refuse(!hasAddress, e, ErrXML, "%s: Missing required address attribute in route definition", r.network)
	r.refuse(!hasGateway, e, ErrXML, "%s: Missing required gateway attribute in route definition", r.network)
	var ok bool
	t.Address, ok = parseAddr(address)
	r.refuse(!ok, e, ErrXML, "%s: Bad network address '%s' in route definition", r.network, address)
	t.Gateway, ok = parseAddr(gateway)
	r.refuse(!ok, e, ErrXML, "%s: Bad gateway address '%s' in route definition", r.network, gateway)

	switch {
	case !hasFamily, family == "ipv4":
		family := map[string]string{"": "No", "ipv4": "IPv4"}[t.Family]
		r.refuse(!t.Address.Is4(), e, ErrXML, "%s: %s family specified for non-IPv4 address '%s' in route definition", r.network, family, address)
		r.refuse(!t.Gateway.Is4(), e, ErrXML, "%s: %s family specified for non-IPv4 gateway '%s' in route definition", r.network, family, gateway)
		if hasNetmask {
			t.Netmask, ok = parseAddr(netmask)
			r.refuse(!ok || t.Netmask.Is4() && maskLen(t.Netmask) < 0, e, ErrXML, "%s: Bad netmask address '%s' in route definition", r.network, netmask)
		}
		r.refuse(hasNetmask && !t.Netmask.Is4(), e, ErrXML, "%s: Invalid netmask '%s' for address '%s' (both must be IPv4)", r.network, netmask, address)
		r.refuse(hasNetmask && t.PrefixLen >= 0, e, ErrXML, "%s: Route definition cannot have both a prefix and a netmask", r.network)
		r.refuse(t.PrefixLen > 32, e, ErrXML, "%s: Invalid prefix %d specified in route definition, must be 0 - 32", r.network, t.PrefixLen)
	case family == "ipv6":
		r.refuse(!t.Address.Is6(), e, ErrXML, "%s: ipv6 family specified for non-IPv6 address '%s' in route definition", r.network, address)
		r.refuse(hasNetmask, e, ErrXML, "%s: Specifying netmask invalid for IPv6 address '%s' in route definition", r.network, address)
		r.refuse(!t.Gateway.Is6(), e, ErrXML, "%s: ipv6 specified for non-IPv6 gateway address '%s' in route definition", r.network, gateway)
		r.refuse(t.PrefixLen > 128, e, ErrXML, "%s: Invalid prefix %d specified in route definition, must be 0 - 128", r.network, t.PrefixLen)
	default:
		r.fail(e, ErrXML, "%s: Unrecognized family '%s' in route definition", r.network, t.Family)
	}
	r.refuse(t.Prefix().Masked().Addr() != t.Address, e, ErrXML, "%s: Address '%s' in route definition is not a network address", r.network, address)
	return t
}
