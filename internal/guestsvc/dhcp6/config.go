// Package dhcp6 is a DHCP server for the IPv6 guests of one network (RFC 8415):
// it leases addresses (IA_NA) and tells guests about name resolution. Routes
// and prefixes come from router advertisements. It promises an address only
// once the lease is on disk.
package dhcp6

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"

	"viaduct/internal/guestsvc/domain"
	"viaduct/internal/guestsvc/leases"
	"viaduct/internal/guestsvc/pool"
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
type Range = pool.Range

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
		fmt.Fprintf(&b, "%s %s", [...]string{" range", ","}[min(i, 1)], r)
	}
	for _, h := range c.Hosts {
		fmt.Fprintf(&b, " host %s=%s%s", h, h.Addr, pool.LeaseText(h.Lease, h.Infinite))
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

// String is how the guest is known.
func (h Host) String() string {
	if len(h.DUID) > 0 {
		return fmt.Sprintf("duid %x", h.DUID)
	}
	return h.Name
}

// The limits of a configuration.
const (
	maxHosts = 1 << 16
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
	case len(c.Hosts) > maxHosts:
		return fmt.Errorf("%d hosts: more than %d", len(c.Hosts), maxHosts)
	case c.Lease < 0:
		return fmt.Errorf("lease %s: negative", c.Lease)
	case len(c.DNS) > maxDNS:
		return fmt.Errorf("%d dns servers: more than %d", len(c.DNS), maxDNS)
	}
	if err := pool.Check(c.Ranges, c.Address, maxPool); err != nil {
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
		if _, err := domain.Append(nil, c.Domain); err != nil {
			return fmt.Errorf("domain %q: %w", c.Domain, err)
		}
	}
	var wire []byte
	for _, d := range c.Search {
		var err error
		if wire, err = domain.Append(wire, d); err != nil {
			return fmt.Errorf("search %q: %w", d, err)
		}
		if len(wire) > maxSearch {
			return fmt.Errorf("search %q: more than %d bytes with those before", d, maxSearch)
		}
	}
	return nil
}

func (c Config) checkHosts() error {
	roles := c.roles()
	seen := map[netip.Addr]bool{}
	for _, h := range c.Hosts {
		switch {
		case len(h.DUID) == 0 && h.Name == "":
			return fmt.Errorf("host %s: neither duid nor name", h.Addr)
		case len(h.DUID) > 0 && (len(h.DUID) < minDUID || len(h.DUID) > maxDUID):
			return fmt.Errorf("host %s: duid of %d bytes, not of %d to %d", h, len(h.DUID), minDUID, maxDUID)
		case !c.Address.Contains(h.Addr):
			return fmt.Errorf("host %s: address %s: not in %s", h, h.Addr, c.Address.Masked())
		case slices.Contains(roles, h.Addr):
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

// roles are the addresses that are for no guest: the host's own, and the
// subnet's anycast addresses (RFC 4291 section 2.6.1, RFC 2526).
func (c Config) roles() []netip.Addr {
	roles := []netip.Addr{c.Address.Addr()}
	if c.Address.Bits() < 127 {
		roles = append(roles, c.Address.Masked().Addr())
	}
	if c.Address.Bits() == 64 {
		b := c.Address.Addr().As16()
		copy(b[8:], []byte{0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
		for last := 0x80; last <= 0xff; last++ {
			b[15] = byte(last)
			roles = append(roles, netip.AddrFrom16(b))
		}
	}
	return roles
}

// settings are a Config made ready for answering. They are never changed,
// only replaced.
type settings struct {
	Config
	duid     []byte // our own
	space    *pool.Space
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
		return nil, fmt.Errorf("configure dhcp6 of network '%s': %w", c.Name, err)
	}
	s := &settings{
		Config: c, duid: duid, hostAt: map[netip.Addr]*Host{},
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
	s.space = pool.NewSpace(c.Ranges, c.roles(), slices.Collect(maps.Keys(s.hostAt)))
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

// leaseTime is for how long the address is given, forever if it never ends.
func (s *settings) leaseTime(a netip.Addr) time.Duration {
	var d time.Duration
	if h := s.hostAt[a]; h != nil {
		if h.Infinite {
			return forever
		}
		d = h.Lease
	}
	if r, ok := s.space.RangeOf(a); ok && d == 0 {
		if r.Infinite {
			return forever
		}
		d = r.Lease
	}
	return min(cmp.Or(d, s.Lease, DefaultLease), forever)
}

// state is what an answer depends on: the settings, and who has which address.
type state struct {
	*settings
	*pool.Pool
	leases *leases.Table
}

func newState(s *settings, table *leases.Table, now time.Time) *state {
	keyOf := func(l netdef.Lease) string { return leases.DUIDKey(l.ClientID, l.IAID) }
	return &state{settings: s, Pool: pool.New(s.space, table, keyOf, now), leases: table}
}
