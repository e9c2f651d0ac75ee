package dns

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
)

// localTTL is for how many seconds our own records may be kept: not at all,
// since a guest may be gone the next moment, and asking again costs little.
const localTTL = 0

// Names are the names that guests got with their leases.
type Names interface {
	// LookupName returns the addresses of the guest called host: one label, in lower case.
	LookupName(host string) []netip.Addr
	// LookupAddr returns the name, without domain, of the guest that holds the address.
	LookupAddr(addr netip.Addr) (string, bool)
}

// zone is what one network's server knows and the rules by which it decides
// what it says itself and whom it asks. It is never changed, only replaced.
// Names in it are in wire form and lower case.
type zone struct {
	domain string // wire form; "" for none
	nodes  map[string]*node
	// existing are the names that are not to be denied: those of nodes, and
	// what has such names below it (RFC 8020).
	existing map[string]bool
	// routes are by domain; of several that hold for a name, the longest counts.
	routes map[string]route
	// plain is the route of names of one label, other that of all the rest.
	plain, other route

	bridge  string
	clients []netip.Prefix
	own     []netip.Addr
}

// node is a name with records of our own.
type node struct {
	sets []rrset
	// whole is set where the name is all ours, as those of guests are: types
	// it has no record of do not exist. Otherwise, as with a TXT record
	// added to a name of the outside, they are looked for elsewhere.
	whole bool
}

// rrset is all records of a type, as they stand behind the question.
type rrset struct {
	typ   rrType
	count uint16
	wire  []byte
}

// route says who knows about a domain.
type route struct {
	// ask lists the servers that know. Nil means that we do: a name that we
	// do not know does not exist.
	ask *upstreams
	// sets are what every name of the domain has. If not nil, even if
	// empty, every name exists.
	sets []rrset
}

// refusedTypes are questions that are no lookups, with what they are told.
var refusedTypes = map[rrType]rcode{
	0: formatError, typeOPT: formatError,
	typeAXFR: refused, typeIXFR: refused,
	typeTKEY: notImplemented, typeTSIG: notImplemented,
}

// anyRecord is the whole answer to a question for any type of a name (RFC 8482 4.2).
var anyRecord = appendRecord(nil, typeHINFO, []byte("\x07RFC8482\x00"))

// distrusted names mean something to clients that no guest may take by asking
// for a lease with that name; a reservation can still give them.
var distrusted = map[string]bool{"localhost": true, "wpad": true, "isatap": true}

// builtin are the routes that hold for every network: names that nobody else
// can know about (RFC 6303, 6761, 7686, 9462). Names of a site, such as those
// in test and home.arpa, are not among them, since the host's resolvers are the site's.
var builtin = sync.OnceValue(func() map[string]route {
	loopback := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	routes := map[string]route{
		mustPack("localhost"): {sets: addrSets(loopback)},
		mustPack("invalid"):   {},
		mustPack("onion"):     {},
		// Who looks here for a resolver's encrypted service finds none.
		mustPack("resolver.arpa"): {sets: []rrset{}},
	}
	for _, p := range []string{
		"0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24",
		"255.255.255.255/32", "::/128", "::1/128", "fe80::/10", "2001:db8::/32",
	} {
		for _, z := range reverseZones(netip.MustParsePrefix(p)) {
			routes[mustPack(z)] = route{}
		}
	}
	for _, a := range loopback {
		routes[reverseWire(a)] = route{sets: []rrset{ptrSet(mustPack("localhost"))}}
	}
	return routes
})

// mustPack is packName for names that are made of what has been checked.
func mustPack(name string) string {
	wire, err := packName(name)
	if err != nil {
		panic("dns: " + err.Error())
	}
	return wire
}

// reverseZones are the names of the reverse zones that together make up a prefix.
func reverseZones(p netip.Prefix) []string {
	p = p.Masked()
	step := 4
	if p.Addr().Is4() {
		step = 8
	}
	whole := (p.Bits() + step - 1) / step * step
	var zones []string
	addr := p.Addr()
	for range 1 << (whole - p.Bits()) {
		sub := netip.PrefixFrom(addr, whole)
		zones = append(zones, reverseName(sub))
		addr = nextPrefix(sub)
	}
	return zones
}

// nextPrefix is the first address behind a prefix.
func nextPrefix(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	if p.Bits() == 0 {
		return p.Addr()
	}
	i := (p.Bits() - 1) / 8
	carry := 1 << ((8 - p.Bits()%8) % 8)
	for ; i >= 0 && carry > 0; i-- {
		carry += int(b[i])
		b[i] = byte(carry)
		carry >>= 8
	}
	next, _ := netip.AddrFromSlice(b)
	return next
}

// newZone compiles a configuration.
func newZone(c Config) (*zone, error) {
	if err := c.checkForwarders(); err != nil {
		return nil, err
	}
	z := &zone{
		nodes: map[string]*node{}, existing: map[string]bool{}, routes: map[string]route{},
		bridge: c.Bridge, clients: slices.Clone(c.Clients),
	}
	for _, l := range c.Listen {
		z.own = append(z.own, l.Addr())
	}
	if c.Domain != "" {
		var err error
		if z.domain, err = packName(c.Domain); err != nil {
			return nil, fmt.Errorf("domain: %w", err)
		}
	}
	for _, add := range []func(Config) error{z.addRoutes, z.addHosts, z.addTXTs, z.addSRVs} {
		if err := add(c); err != nil {
			return nil, err
		}
	}
	for name := range z.nodes {
		for ; len(name) > 1; name = name[1+name[0]:] {
			z.existing[name] = true
		}
	}
	z.existing[rootName] = true
	if z.domain != "" {
		z.existing[z.domain] = true // guests come and go below it
	}
	return z, nil
}

// addRoutes enters what is forwarded where. Where two entries name the same
// domain, keeping it local wins over a forwarder.
func (z *zone) addRoutes(c Config) error {
	host := route{ask: hostResolvers}
	if c.Isolated {
		host = route{}
	}
	servers := map[string][]netip.AddrPort{}
	for _, f := range c.Forwarders {
		domain, err := packName(f.Domain)
		if err != nil {
			return fmt.Errorf("forwarder domain: %w", err)
		}
		if f.Addr.IsValid() {
			servers[domain] = append(servers[domain], f.Addr)
		} else if _, ok := z.routes[domain]; !ok {
			z.routes[domain] = host
		}
	}
	for domain, addrs := range servers {
		z.routes[domain] = route{ask: newUpstreams(addrs)}
	}
	z.other = host
	if r, ok := z.routes[rootName]; ok {
		z.other = r
		delete(z.routes, rootName)
	}
	z.plain = z.other
	if !c.ForwardPlainNames {
		z.plain = route{}
	}

	local := slices.Clone(c.LocalPtr)
	for _, p := range c.Clients {
		if a := p.Addr(); a.IsPrivate() || a.IsLinkLocalUnicast() {
			local = append(local, p)
		}
	}
	for _, p := range local {
		for _, name := range reverseZones(p) {
			z.routes[mustPack(name)] = route{}
		}
	}
	if c.LocalOnly && z.domain != "" {
		z.routes[z.domain] = route{}
	}
	return nil
}

// addHosts enters the names of addresses, forward and reverse.
func (z *zone) addHosts(c Config) error {
	seen := map[string]bool{} // a reservation and a DNS host may say the same
	for _, h := range c.Hosts {
		if !h.Addr.IsValid() {
			return fmt.Errorf("host %s has no address", strings.Join(h.Names, ","))
		}
		for i, name := range h.Names {
			wire, err := packName(name)
			if err == nil && wire == rootName {
				err = fmt.Errorf("a name is empty")
			}
			if err != nil {
				return fmt.Errorf("host %s: %w", h.Addr, err)
			}
			full := z.qualify(wire)
			for _, w := range slices.Compact([]string{wire, full}) {
				if key := w + h.Addr.String(); !seen[key] {
					seen[key] = true
					z.add(w, true, addrSets([]netip.Addr{h.Addr})...)
				}
			}
			if reverse := reverseWire(h.Addr); i == 0 && z.nodes[reverse] == nil {
				z.add(reverse, true, ptrSet(full))
			}
		}
	}
	return nil
}

// qualify puts a plain name into the network's domain, if it has one and that is not too long.
func (z *zone) qualify(wire string) string {
	if z.domain == "" || !isPlain([]byte(wire)) || len(wire)-1+len(z.domain) > maxName {
		return wire
	}
	return wire[:len(wire)-1] + z.domain
}

// addTXTs enters the TXT records. A record is a sequence of strings of at
// most 255 octets, so a longer value is cut into several.
// Commas are part of the value, although dnsmasq would cut there.
func (z *zone) addTXTs(c Config) error {
	for _, t := range c.TXTs {
		wire, err := packName(t.Name)
		if err != nil {
			return fmt.Errorf("txt: %w", err)
		}
		if len(t.Value) > maxTXT {
			return fmt.Errorf("txt %q: value is longer than %d octets", t.Name, maxTXT)
		}
		var data []byte
		for chunk := range slices.Chunk([]byte(t.Value), 255) {
			data = append(append(data, byte(len(chunk))), chunk...)
		}
		if data == nil {
			data = []byte{0}
		}
		z.add(wire, false, rrset{typeTXT, 1, appendRecord(nil, typeTXT, data)})
	}
	return nil
}

// maxTXT keeps a TXT record well below what a message by TCP can hold.
const maxTXT = 32768

// addSRVs enters the SRV records (RFC 2782). Absent fields are as in dnsmasq,
// whose meaning the definitions have: no target says that there is no such
// service, and the port is 1.
func (z *zone) addSRVs(c Config) error {
	for _, v := range c.SRVs {
		wire, err := packName(srvOwner(v, c.Domain))
		if err != nil {
			return fmt.Errorf("srv: %w", err)
		}
		data, err := srvData(v)
		if err != nil {
			return fmt.Errorf("srv %s: target: %w", srvOwner(v, c.Domain), err)
		}
		z.add(wire, false, rrset{typeSRV, 1, appendRecord(nil, typeSRV, data)})
	}
	return nil
}

func srvData(v SRV) ([]byte, error) {
	target, err := packName(v.Target)
	if err != nil {
		return nil, err
	}
	data := make([]byte, 0, 6+len(target))
	data = binary.BigEndian.AppendUint16(data, uint16(v.Priority))
	data = binary.BigEndian.AppendUint16(data, uint16(v.Weight))
	data = binary.BigEndian.AppendUint16(data, uint16(cmp.Or(v.Port, 1)))
	return append(data, target...), nil
}

// reverseWire is the reverse name of an address in wire form.
func reverseWire(a netip.Addr) string { return mustPack(reverseName(netip.PrefixFrom(a, a.BitLen()))) }

// ptrSet is the PTR record that names a host.
func ptrSet(wire string) rrset { return rrset{typePTR, 1, appendRecord(nil, typePTR, []byte(wire))} }

// addrSets are the address records of a name.
func addrSets(addrs []netip.Addr) []rrset {
	var sets []rrset
	for _, typ := range []rrType{typeA, typeAAAA} {
		if wire, n := appendAddrs(nil, typ, addrs); n > 0 {
			sets = append(sets, rrset{typ, n, wire})
		}
	}
	return sets
}

// add gives a name further records.
func (z *zone) add(name string, whole bool, sets ...rrset) {
	n := z.nodes[name]
	if n == nil {
		n = &node{}
		z.nodes[name] = n
	}
	n.whole = n.whole || whole
	for _, set := range sets {
		i := slices.IndexFunc(n.sets, func(s rrset) bool { return s.typ == set.typ })
		if i < 0 {
			n.sets = append(n.sets, rrset{typ: set.typ})
			i = len(n.sets) - 1
		}
		n.sets[i].count += set.count
		n.sets[i].wire = slices.Concat(n.sets[i].wire, set.wire)
	}
}

// mayAsk reports whether the server talks to this address: a guest of the
// network, or the host, which reaches its own addresses from them or from loopback.
func (z *zone) mayAsk(from netip.Addr) bool {
	if from.IsLinkLocalUnicast() && from.Zone() == z.bridge {
		return true
	}
	from = from.WithZone("")
	return slices.ContainsFunc(z.clients, func(p netip.Prefix) bool { return p.Contains(from) }) ||
		from.IsLoopback() || slices.Contains(z.own, from)
}

// lookup answers a query, or names the servers to ask. The reply's records may
// be written to scratch.
func (z *zone) lookup(q *query, names Names, scratch []byte) (reply, *upstreams) {
	if code, ok := refusedTypes[q.typ]; ok {
		return reply{code: code}, nil
	}
	if q.class != classIN {
		return reply{code: refused}, nil
	}
	r, exists := z.ownRecords(q, names, scratch)
	if r.answers > 0 {
		return r, nil
	}
	via := z.route(q.name())
	if via.ask != nil && !exists {
		switch {
		case q.flags&flagRD == 0:
			return reply{code: refused}, nil
		case q.typ == typeANY:
			return anyReply, nil
		}
		return reply{}, via.ask
	}
	if set, ok := find(via.sets, q.typ); ok && !exists {
		return set.reply(), nil
	}
	switch exists = exists || via.sets != nil || z.existing[string(q.name())]; {
	case !exists:
		return reply{code: nameError, authoritative: true}, nil
	case q.typ == typeANY:
		return anyReply, nil
	default:
		return reply{authoritative: true}, nil
	}
}

// find returns the set of a type.
func find(sets []rrset, typ rrType) (rrset, bool) {
	i := slices.IndexFunc(sets, func(s rrset) bool { return s.typ == typ })
	if i < 0 {
		return rrset{}, false
	}
	return sets[i], true
}

func (s rrset) reply() reply { return reply{authoritative: true, answers: s.count, body: s.wire} }

var anyReply = reply{authoritative: true, answers: 1, body: anyRecord}

// ownRecords are our records that a query asks for. It reports whether the
// name is ours altogether, even if it has none of that type.
func (z *zone) ownRecords(q *query, names Names, scratch []byte) (reply, bool) {
	name := q.name()
	whole := false
	if n := z.nodes[string(name)]; n != nil {
		if set, ok := find(n.sets, q.typ); ok {
			return set.reply(), true
		}
		whole = n.whole
	}
	if names == nil {
		return reply{}, whole
	}
	if host, ok := z.guestLabel(name); ok && !distrusted[string(host)] {
		if addrs := names.LookupName(string(host)); len(addrs) > 0 {
			body, n := appendAddrs(scratch, q.typ, addrs)
			return rrset{q.typ, n, body}.reply(), true
		}
		return reply{}, whole
	}
	addr, ok := reverseAddr(name)
	if whole || !ok || !z.isGuest(addr) {
		return reply{}, whole
	}
	host, ok := names.LookupAddr(addr)
	if !ok {
		return reply{}, false
	}
	wire, err := packName(host)
	if err != nil || !isPlain([]byte(wire)) || distrusted[wire[1:len(wire)-1]] {
		return reply{}, false
	}
	if q.typ != typePTR {
		return reply{}, true
	}
	return rrset{typePTR, 1, appendRecord(scratch, typePTR, []byte(z.qualify(wire)))}.reply(), true
}

// guestLabel is the part of a name that could be a guest's: a single label,
// with nothing or the network's domain behind it. No lease can claim any other name.
func (z *zone) guestLabel(name []byte) ([]byte, bool) {
	end := 1 + int(name[0])
	if end == 1 {
		return nil, false
	}
	rest := name[end:]
	return name[1:end], len(rest) == 1 || string(rest) == z.domain
}

// isGuest reports whether an address is in one of the network's subnets.
func (z *zone) isGuest(a netip.Addr) bool {
	return slices.ContainsFunc(z.clients, func(p netip.Prefix) bool { return p.Contains(a) })
}

// route finds who knows about a name.
func (z *zone) route(name []byte) route {
	for rest := name; len(rest) > 1; rest = rest[1+rest[0]:] {
		if r, ok := z.routes[string(rest)]; ok {
			return r
		}
		if r, ok := builtin()[string(rest)]; ok {
			return r
		}
	}
	if isPlain(name) {
		return z.plain
	}
	return z.other
}

// isPlain reports whether a name is a single label.
func isPlain(name []byte) bool { return len(name) > 1 && len(name) == 2+int(name[0]) }

// appendAddrs writes the records of a type that hold these addresses.
func appendAddrs(out []byte, typ rrType, addrs []netip.Addr) ([]byte, uint16) {
	var count uint16
	for _, a := range addrs {
		switch {
		case typ == typeA && a.Is4():
			b := a.As4()
			out = appendRecord(out, typ, b[:])
		case typ == typeAAAA && a.Is6():
			b := a.As16()
			out = appendRecord(out, typ, b[:])
		default:
			continue
		}
		count++
	}
	return out, count
}
