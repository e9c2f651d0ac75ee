package netdef

import (
	"maps"
	"slices"
)

// UpdateCommand says what to do with a piece of a network. The numbers are
// libvirt's (virNetworkUpdateCommand).
type UpdateCommand int

// The commands.
const (
	UpdateModify   UpdateCommand = 1
	UpdateDelete   UpdateCommand = 2
	UpdateAddLast  UpdateCommand = 3
	UpdateAddFirst UpdateCommand = 4
)

func (c UpdateCommand) adds() bool { return c == UpdateAddLast || c == UpdateAddFirst }

// changes tells whether the command is about something that is there.
func (c UpdateCommand) changes() bool { return c == UpdateModify || c == UpdateDelete }

// Section is the kind of piece that is updated. The numbers are libvirt's
// (virNetworkUpdateSection).
type Section int

// The sections.
const (
	SectionBridge           Section = 1
	SectionDomain           Section = 2
	SectionIP               Section = 3
	SectionIPDHCPHost       Section = 4
	SectionIPDHCPRange      Section = 5
	SectionForward          Section = 6
	SectionForwardInterface Section = 7
	SectionForwardPF        Section = 8
	SectionPortGroup        Section = 9
	SectionDNSHost          Section = 10
	SectionDNSTXT           Section = 11
	SectionDNSSRV           Section = 12
)

// sections says how each section is updated.
var sections = map[Section]struct {
	// fixed is the name of a section that cannot be updated.
	fixed    string
	element  string
	noModify string // why pieces cannot be modified, "" if they can
	update   func(*updater)
}{
	SectionBridge:           {fixed: "bridge"},
	SectionDomain:           {fixed: "domain"},
	SectionIP:               {fixed: "ip"},
	SectionForward:          {fixed: "forward"},
	SectionForwardPF:        {fixed: "forward pf"},
	SectionIPDHCPHost:       {element: "host", update: (*updater).dhcpHost},
	SectionIPDHCPRange:      {element: "range", update: (*updater).dhcpRange},
	SectionForwardInterface: {element: "interface", update: (*updater).forwardInterface},
	SectionPortGroup:        {element: "portgroup", update: (*updater).portGroup},
	SectionDNSHost:          {element: "host", update: (*updater).dnsHost},
	SectionDNSTXT:           {element: "txt", update: (*updater).dnsTXT},
	SectionDNSSRV:           {element: "srv", update: (*updater).dnsSRV, noModify: "DNS SRV records cannot be modified, only added or deleted"},
}

// The names that virsh and our own interfaces use.
var (
	commandNames = map[string]UpdateCommand{
		"modify": UpdateModify, "delete": UpdateDelete, "add": UpdateAddLast, "add-last": UpdateAddLast, "add-first": UpdateAddFirst,
	}
	sectionNames = map[string]Section{
		"bridge": SectionBridge, "domain": SectionDomain, "ip": SectionIP, "ip-dhcp-host": SectionIPDHCPHost,
		"ip-dhcp-range": SectionIPDHCPRange, "forward": SectionForward, "forward-interface": SectionForwardInterface,
		"forward-pf": SectionForwardPF, "portgroup": SectionPortGroup, "dns-host": SectionDNSHost, "dns-txt": SectionDNSTXT,
		"dns-srv": SectionDNSSRV,
	}
)

// UpdateCommandNames are the names that ParseUpdateCommand takes.
func UpdateCommandNames() []string { return slices.Sorted(maps.Keys(commandNames)) }

// SectionNames are the names that ParseSection takes.
func SectionNames() []string { return slices.Sorted(maps.Keys(sectionNames)) }

// ParseUpdateCommand reads the name of a command.
func ParseUpdateCommand(s string) (UpdateCommand, error) {
	if c, ok := commandNames[s]; ok {
		return c, nil
	}
	return 0, Errorf(ErrInvalidArg, "unrecognized command name '%s'", s)
}

// ParseSection reads the name of a section.
func ParseSection(s string) (Section, error) {
	if c, ok := sectionNames[s]; ok {
		return c, nil
	}
	return 0, Errorf(ErrInvalidArg, "unrecognized section name '%s'", s)
}

// updater is one update under way, on a copy of the network.
type updater struct {
	*reader
	n       *Network
	command UpdateCommand
	parent  int
	piece   *element
}

// Update returns a copy of the network in which one piece is added, deleted or
// modified as libvirt does. parent is the index of the <ip> that a DHCP piece
// belongs to, -1 for the one that fits. Whether the whole is still a network
// is for the caller to see, by parsing and validating what it prints; so is
// whether a device that goes is in use.
func (n *Network) Update(command UpdateCommand, section Section, parent int, piece []byte) (*Network, error) {
	root, err := parseDocument(piece, "network_update_xml")
	if err != nil {
		return nil, err
	}
	u := &updater{reader: &reader{network: n.Name}, n: n.Clone(), command: command, parent: parent, piece: root}
	u.run(section)
	if u.err != nil {
		return nil, u.err
	}
	return u.n, nil
}

func (u *updater) run(section Section) {
	s, known := sections[section]
	u.refuse(!known, u.piece, ErrOperationUnsupported, "can't update unrecognized section of network")
	u.refuse(s.fixed != "", u.piece, ErrOperationUnsupported, "can't update '%s' section of network '%s'", s.fixed, u.network)
	u.refuse(u.command == UpdateModify && s.noModify != "", u.piece, ErrOperationUnsupported, "%s", s.noModify)
	u.refuse(u.piece.name != s.element, u.piece, ErrXML,
		"unexpected element <%s>, expecting <%s>, while updating network '%s'", u.piece.qname(), s.element, u.network)
	if u.err == nil {
		s.update(u)
	}
}

// edit carries out the command on a list, given which items match. No command
// is meant for several of them.
func edit[T any](u *updater, list []T, item T, matches []int) []T {
	u.refuse(!u.command.adds() && !u.command.changes(), u.piece, ErrOperationUnsupported,
		"unrecognized network update command code %d", u.command)
	switch {
	case u.err != nil:
		return list
	case u.command == UpdateAddFirst:
		return slices.Insert(list, 0, item)
	case u.command == UpdateAddLast:
		return append(list, item)
	case u.command == UpdateModify:
		list[matches[0]] = item
		return list
	}
	return slices.Delete(list, matches[0], matches[0]+1)
}

// exists refuses to add what is there already.
func (u *updater) exists(matches []int, format string, args ...any) {
	u.refuse(u.command.adds() && len(matches) > 0, u.piece, ErrOperationInvalid, format, args...)
}

// missing refuses to change what is not there.
func (u *updater) missing(matches []int, format string, args ...any) {
	u.refuse(u.command.changes() && len(matches) == 0, u.piece, ErrOperationInvalid, format, args...)
}

// ambiguous refuses to choose between several.
func (u *updater) ambiguous(matches []int, format string, args ...any) {
	u.refuse(u.command.changes() && len(matches) > 1, u.piece, ErrOperationInvalid, format, args...)
}

// indexes are those of the items that match.
func indexes[T any](list []T, match func(T) bool) []int {
	var found []int
	for i, item := range list {
		if match(item) {
			found = append(found, i)
		}
	}
	return found
}

// ip is the <ip> element meant: the one of the index, or else the one with
// DHCP, or else the first of IPv4, or else the first.
func (u *updater) ip() *IP {
	if u.parent >= 0 {
		if u.parent < len(u.n.IPs) {
			return &u.n.IPs[u.parent]
		}
		u.fail(u.piece, ErrOperationInvalid, "couldn't update dhcp host entry - no <ip> element found at index %d in network '%s'", u.parent, u.network)
		return &IP{}
	}
	for _, fits := range []func(IP) bool{
		IP.HasDHCP,
		func(ip IP) bool { return ip.Address.Is4() },
		func(IP) bool { return true },
	} {
		if i := slices.IndexFunc(u.n.IPs, fits); i >= 0 {
			return &u.n.IPs[i]
		}
	}
	u.fail(u.piece, ErrOperationInvalid, "couldn't update dhcp host entry - no <ip> element found in network '%s'", u.network)
	return &IP{}
}

// onlyDHCP refuses to serve a second subnet of a family.
func (u *updater) onlyDHCP(ip *IP) {
	if !u.command.adds() {
		return
	}
	family := "IPv4"
	if ip.Address.Is6() {
		family = "IPv6"
	}
	for i := range u.n.IPs {
		other := &u.n.IPs[i]
		u.refuse(other != ip && other.HasDHCP() && other.Address.Is6() == ip.Address.Is6(), u.piece, ErrOperationInvalid,
			"dhcp is supported only for a single %s address on each network", family)
	}
}

func (u *updater) dhcpHost() {
	ip := u.ip()
	partial := u.command == UpdateDelete
	h := u.reader.dhcpHost(u.piece, *ip, partial)
	u.refuse(!partial && h.IP.BitLen() != ip.Address.BitLen(), u.piece, ErrOperationInvalid,
		"the address family of a host entry IP must match the address family of the dhcp element's parent")
	u.onlyDHCP(ip)
	mac, _ := ParseMAC(h.MAC)
	sameMAC := func(other DHCPHost) bool {
		m, err := ParseMAC(other.MAC)
		return err == nil && m == mac
	}
	var matches []int
	if partial {
		matches = indexes(ip.Hosts, func(other DHCPHost) bool {
			return (h.MAC == "" || other.MAC == "" || sameMAC(other)) &&
				(h.Name == "" || h.Name == other.Name) &&
				(!h.IP.IsValid() || h.IP == other.IP)
		})
		u.missing(matches, "couldn't locate a matching dhcp host entry in network '%s'", u.network)
	} else {
		matches = indexes(ip.Hosts, func(other DHCPHost) bool {
			return h.MAC != "" && sameMAC(other) || h.Name != "" && h.Name == other.Name || h.IP == other.IP
		})
		mac, name, address := h.shown()
		u.missing(matches, `couldn't locate an existing dhcp host entry with "mac='%s'" "name='%s'" "ip='%s'" in network '%s'`,
			mac, name, address, u.network)
		u.exists(matches, `there is an existing dhcp host entry in network '%s' that matches "<host mac='%s' name='%s' ip='%s'/>"`,
			u.network, mac, name, address)
	}
	ip.Hosts = edit(u, ip.Hosts, h, matches)
}

// shown is the reservation in libvirt's messages about it.
func (h DHCPHost) shown() (mac, name, address string) {
	mac, name, address = h.MAC, h.Name, "unknown"
	if mac == "" {
		mac = "unknown"
	}
	if name == "" {
		name = "(null)"
	}
	if h.IP.IsValid() {
		address = h.IP.String()
	}
	return mac, name, address
}

func (u *updater) dhcpRange() {
	ip := u.ip()
	u.refuse(u.command == UpdateModify, u.piece, ErrOperationUnsupported, "dhcp ranges cannot be modified, only added or deleted")
	if u.err != nil {
		return
	}
	g := u.reader.dhcpRange(u.piece, *ip)
	u.onlyDHCP(ip)
	matches := indexes(ip.Ranges, func(other DHCPRange) bool { return g.Start == other.Start && g.End == other.End })
	u.exists(matches, `there is an existing dhcp range entry in network '%s' that matches "<range start='%s' end='%s'/>"`, u.network, g.Start, g.End)
	u.missing(matches, "couldn't locate a matching dhcp range entry in network '%s'", u.network)
	ip.Ranges = edit(u, ip.Ranges, g, matches)
}

func (u *updater) forwardInterface() {
	u.refuse(u.command == UpdateModify, u.piece, ErrOperationUnsupported, "forward interface entries cannot be modified, only added or deleted")
	f := &u.n.Forward
	dev := u.piece.attr("dev")
	u.refuse(dev == "", u.piece, ErrXML, "missing dev attribute in <interface> element")
	matches := indexes(f.Interfaces, func(other string) bool { return dev == other })
	u.exists(matches, `there is an existing interface entry in network '%s' that matches "<interface dev='%s'>"`, u.network, dev)
	u.missing(matches, "couldn't find an interface entry in network '%s' matching <interface dev='%s'>", u.network, dev)
	f.Interfaces = edit(u, f.Interfaces, dev, matches)
}

func (u *updater) portGroup() {
	g := u.reader.portGroup(u.piece)
	matches := indexes(u.n.PortGroups, func(other PortGroup) bool { return g.Name == other.Name })
	u.exists(matches, `there is an existing portgroup entry in network '%s' that matches "<portgroup name='%s'>"`, u.network, g.Name)
	u.missing(matches, "couldn't find a portgroup entry in network '%s' matching <portgroup name='%s'>", u.network, g.Name)
	otherDefault := slices.ContainsFunc(u.n.PortGroups, func(other PortGroup) bool { return other.Default && other.Name != g.Name })
	u.refuse(u.command != UpdateDelete && g.Default && otherDefault, u.piece, ErrOperationInvalid,
		"a different portgroup entry in network '%s' is already set as the default. Only one default is allowed.", u.network)
	u.n.PortGroups = edit(u, u.n.PortGroups, g, matches)
}

// looks tells whether a piece of <dns> is only looked for, and need not be whole.
func (u *updater) looks() bool { return !u.command.adds() && u.command != UpdateModify }

func (u *updater) dnsHost() {
	h := u.reader.dnsHost(u.piece, u.looks())
	matches := indexes(u.n.DNS.Hosts, func(other DNSHost) bool {
		// A name may have several addresses, so only the address counts for what is added.
		sharesName := func(name string) bool { return slices.Contains(other.Hostnames, name) }
		return h.IP.IsValid() && h.IP == other.IP || !u.command.adds() && slices.ContainsFunc(h.Hostnames, sharesName)
	})
	u.exists(matches, "there is already at least one DNS HOST record with a matching field in network %s", u.network)
	u.missing(matches, "couldn't locate a matching DNS HOST record in network %s", u.network)
	u.ambiguous(matches, "multiple matching DNS HOST records were found in network %s", u.network)
	u.n.DNS.Hosts = edit(u, u.n.DNS.Hosts, h, matches)
	u.n.DNS.Present = true
}

func (u *updater) dnsTXT() {
	t := u.reader.dnsTXT(u.piece, u.looks())
	matches := indexes(u.n.DNS.TXTs, func(other DNSTXT) bool { return t.Name == other.Name })
	u.exists(matches, "there is already a DNS TXT record with name '%s' in network %s", t.Name, u.network)
	u.missing(matches, "couldn't locate a matching DNS TXT record in network %s", u.network)
	u.n.DNS.TXTs = edit(u, u.n.DNS.TXTs, t, matches)
	u.n.DNS.Present = true
}

func (u *updater) dnsSRV() {
	s := u.reader.dnsSRV(u.piece, u.looks())
	fits := func(given, there string) bool { return given == "" || given == there }
	matches := indexes(u.n.DNS.SRVs, func(other DNSSRV) bool {
		return fits(s.Domain, other.Domain) && fits(s.Service, other.Service) && fits(s.Protocol, other.Protocol) && fits(s.Target, other.Target)
	})
	u.exists(matches, "there is already at least one DNS SRV record matching all specified fields in network %s", u.network)
	u.missing(matches, "couldn't locate a matching DNS SRV record in network %s", u.network)
	u.ambiguous(matches, "multiple DNS SRV records matching all specified fields were found in network %s", u.network)
	u.n.DNS.SRVs = edit(u, u.n.DNS.SRVs, s, matches)
	u.n.DNS.Present = true
}
