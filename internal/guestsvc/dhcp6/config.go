// Package dhcp6 is a DHCP server for the IPv6 guests of one network (RFC 8415):
// it leases addresses (IA_NA) and tells guests about name resolution. Routes
// and prefixes come from router advertisements. It promises an address only
// once the lease is on disk.
package dhcp6

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"

	"viaduct/internal/netdef"
)

// DefaultLease is the lease time where none is configured.
const DefaultLease = time.Hour

// Config says what a server offers. It is a value: two servers with equal
// configurations (reflect.DeepEqual) behave the same. One without ranges and
// hosts tells guests about name resolution only.
type Config struct {
	// Network is the UUID of the network, Name its name.
	Network netdef.UUID
	Name    string
	// Bridge is the device the guests are reached through.
	Bridge string
	// Address is the host's own address in the network with the subnet's length.
	Address netip.Prefix
	// Ranges are the addresses for guests without a reservation. Where they
	// overlap, the one that begins first counts.
	Ranges []Range
	// Hosts are the reservations.
	Hosts []Host
	// Lease is for how long addresses are given; 0 means DefaultLease.
	Lease time.Duration
	DNS   []netip.Addr
	// Search are the domains in which guests look for plain names.
	Search []string
	// Domain is the domain of the guests' own names.
	Domain string
}

// Range is a range of addresses, both ends included.
type Range struct {
	First, Last netip.Addr
	// Lease is 0 where Config.Lease counts.
	Lease time.Duration
	// Infinite leases never end.
	Infinite bool
}

// Host reserves an address for a guest, which is known by its DUID, or by its
// Name if that is not given. It is for one of the guest's interfaces: the
// first that asks.
type Host struct {
	DUID []byte
	// Name is the guest's host name; "" leaves it its own.
	Name string
	Addr netip.Addr
	// Lease is 0 where that of the address's range or Config.Lease counts.
	Lease time.Duration
	// Infinite leases never end.
	Infinite bool
}

// String is the configuration on one line, as a plan shows it.
func (c Config) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "on %s from %s", c.Bridge, c.Address)
	for i, r := range c.Ranges {
		fmt.Fprintf(&b, "%s %s-%s%s", [...]string{" range", ","}[min(i, 1)], r.First, r.Last, leaseText(r.Lease, r.Infinite))
	}
	for _, h := range c.Hosts {
		fmt.Fprintf(&b, " host %s=%s%s", h, h.Addr, leaseText(h.Lease, h.Infinite))
	}
	if c.stateful() {
		fmt.Fprintf(&b, " lease %s", cmp.Or(c.Lease, DefaultLease))
	} else {
		b.WriteString(" without addresses")
	}
	for _, a := range c.DNS {
		fmt.Fprintf(&b, " dns %s", a)
	}
	if c.Domain != "" {
		fmt.Fprintf(&b, " domain %s", c.Domain)
	}
	if len(c.Search) > 0 {
		fmt.Fprintf(&b, " search %s", strings.Join(c.Search, ","))
	}
	return b.String()
}

// stateful reports whether there are addresses to lease.
func (c Config) stateful() bool { return len(c.Ranges)+len(c.Hosts) > 0 }

func leaseText(d time.Duration, infinite bool) string {
	switch {
	case infinite:
		return " for ever"
	case d != 0:
		return " for " + d.String()
	}
	return ""
}

// String is how the guest is known.
func (h Host) String() string {
	if len(h.DUID) > 0 {
		return fmt.Sprintf("duid %x", h.DUID)
	}
	return h.Name
}

// The limits of a configuration.
const (
	maxRanges = 256
	maxHosts  = 1 << 16
	// maxPool is how many addresses all ranges may have together.
	maxPool = 1 << 16
	// What goes into every reply is bounded, so that it fits into one packet.
	maxDNS    = 16
	maxSearch = 512 // bytes
)

// The lengths of a DUID (RFC 8415 section 11.1).
const (
	minDUID = 3
	maxDUID = 130
)

// check reports the first value that cannot be served, and why.
func (c Config) check() error {
	switch {
	case !c.Address.IsValid() || !c.Address.Addr().Is6() || c.Address.Addr().Is4In6() || c.Address.Addr().IsLinkLocalUnicast():
		return fmt.Errorf("address %s: not a global IPv6 address with a prefix length", c.Address)
	case len(c.Ranges) > maxRanges:
		return fmt.Errorf("%d ranges: more than %d", len(c.Ranges), maxRanges)
	case len(c.Hosts) > maxHosts:
		return fmt.Errorf("%d hosts: more than %d", len(c.Hosts), maxHosts)
	case c.Lease < 0:
		return fmt.Errorf("lease %s: negative", c.Lease)
	case len(c.DNS) > maxDNS:
		return fmt.Errorf("%d dns servers: more than %d", len(c.DNS), maxDNS)
	}
	if err := c.checkRanges(); err != nil {
		return err
	}
	if err := c.checkHosts(); err != nil {
		return err
	}
	for _, a := range c.DNS {
		if !a.Is6() {
			return fmt.Errorf("dns %s: not an IPv6 address", a)
		}
	}
	if c.Domain != "" {
		if _, err := appendDomain(nil, c.Domain); err != nil {
			return fmt.Errorf("domain %q: %w", c.Domain, err)
		}
	}
	var wire []byte
	for _, d := range c.Search {
		var err error
		if wire, err = appendDomain(wire, d); err != nil {
			return fmt.Errorf("search %q: %w", d, err)
		}
		if len(wire) > maxSearch {
			return fmt.Errorf("search %q: more than %d bytes with those before", d, maxSearch)
		}
	}
	return nil
}

func (c Config) checkRanges() error {
	pool := uint64(0)
	for _, r := range c.Ranges {
		if !c.Address.Contains(r.First) || !c.Address.Contains(r.Last) {
			return fmt.Errorf("range %s-%s: not in %s", r.First, r.Last, c.Address.Masked())
		}
		if r.Last.Less(r.First) {
			return fmt.Errorf("range %s-%s: ends before it begins", r.First, r.Last)
		}
		if r.Lease < 0 {
			return fmt.Errorf("range %s-%s: lease %s: negative", r.First, r.Last, r.Lease)
		}
		n, ok := distance(r.First, r.Last)
		if pool += uint64(n) + 1; !ok || pool > maxPool {
			return fmt.Errorf("range %s-%s: more than %d addresses in all ranges", r.First, r.Last, maxPool)
		}
	}
	return nil
}

func (c Config) checkHosts() error {
	seen := map[netip.Addr]bool{}
	for _, h := range c.Hosts {
		switch {
		case len(h.DUID) == 0 && h.Name == "":
			return fmt.Errorf("host %s: neither duid nor name", h.Addr)
		case len(h.DUID) > 0 && (len(h.DUID) < minDUID || len(h.DUID) > maxDUID):
			return fmt.Errorf("host %s: duid of %d bytes, not of %d to %d", h, len(h.DUID), minDUID, maxDUID)
		case !c.Address.Contains(h.Addr):
			return fmt.Errorf("host %s: address %s: not in %s", h, h.Addr, c.Address.Masked())
		case c.reservedByRole(h.Addr):
			return fmt.Errorf("host %s: address %s: belongs to the network itself", h, h.Addr)
		case seen[h.Addr]:
			return fmt.Errorf("host %s: address %s: reserved twice", h, h.Addr)
		case len(h.Name) > 255:
			return fmt.Errorf("host %s: name longer than 255 bytes", h)
		case h.Lease < 0:
			return fmt.Errorf("host %s: lease %s: negative", h, h.Lease)
		}
		seen[h.Addr] = true
	}
	return nil
}

// reservedByRole reports whether the address is the host's own or an anycast
// address of the subnet (RFC 4291 section 2.6.1, RFC 2526): none is for a guest.
func (c Config) reservedByRole(a netip.Addr) bool {
	if a == c.Address.Addr() {
		return true
	}
	if c.Address.Bits() < 127 && a == c.Address.Masked().Addr() {
		return true
	}
	b := a.As16()
	anycast := [...]byte{0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	return c.Address.Bits() == 64 && [7]byte(b[8:]) == anycast && b[15] >= 0x80
}

// settings are a Config made ready for answering. They are never changed,
// only replaced.
type settings struct {
	Config
	duid     []byte // our own
	spans    []span
	hostAt   map[netip.Addr]*Host
	byDUID   map[string]*Host
	byName   map[string]*Host // in lower case
	reserved map[string]netip.Addr
	options  []dhcpv6.Option // the same for all clients
}

func newSettings(c Config, duid []byte) (*settings, error) {
	err := c.check()
	if err == nil && (len(duid) < minDUID || len(duid) > maxDUID) {
		err = fmt.Errorf("server duid of %d bytes, not of %d to %d", len(duid), minDUID, maxDUID)
	}
	if err != nil {
		return nil, fmt.Errorf("configure dhcp6 of network %q: %w", c.Name, err)
	}
	s := &settings{
		Config: c, duid: duid, spans: newSpans(c.Ranges), hostAt: map[netip.Addr]*Host{},
		byDUID: map[string]*Host{}, byName: map[string]*Host{}, reserved: map[string]netip.Addr{},
	}
	for i := range s.Hosts {
		h := &s.Hosts[i]
		s.hostAt[h.Addr] = h
		if len(h.DUID) > 0 {
			s.byDUID[string(h.DUID)] = h
		}
		if h.Name == "" {
			continue
		}
		s.reserved[h.Name] = h.Addr
		if len(h.DUID) == 0 {
			s.byName[strings.ToLower(h.Name)] = h
		}
	}
	s.options = configuredOptions(c)
	return s, nil
}

// hostOf is the reservation of the client that sent a message, nil if it has none.
func (s *settings) hostOf(m *message) *Host {
	if h := s.byDUID[string(m.clientID)]; h != nil {
		return h
	}
	return s.byName[strings.ToLower(m.name)]
}

// inRanges reports whether the address is one for guests without a reservation.
func (s *settings) inRanges(a netip.Addr) bool {
	_, ok := s.indexOf(a)
	return ok && s.hostAt[a] == nil && !s.reservedByRole(a)
}

// leaseTime is for how long the address is given, forever if it never ends.
func (s *settings) leaseTime(a netip.Addr) time.Duration {
	var d time.Duration
	if h := s.hostAt[a]; h != nil {
		if h.Infinite {
			return forever
		}
		d = h.Lease
	}
	if i, ok := s.indexOf(a); ok && d == 0 {
		r := s.spanOf(i).of
		if r.Infinite {
			return forever
		}
		d = r.Lease
	}
	return min(cmp.Or(d, s.Lease, DefaultLease), forever)
}
