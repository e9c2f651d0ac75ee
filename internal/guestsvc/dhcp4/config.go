// Package dhcp4 is a DHCP server for the IPv4 guests of one network (RFC 2131,
// RFC 2132). It reads and writes Ethernet frames on the network's bridge, so
// that no firewall rule of the host stops it and guests without an address
// can be answered, and it promises an address only once the lease is on disk.
package dhcp4

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"viaduct/internal/guestsvc/domain"
	"viaduct/internal/guestsvc/leases"
	"viaduct/internal/guestsvc/pool"
	"viaduct/internal/netdef"
)

// DefaultLease is the lease time where none is configured.
const DefaultLease = time.Hour

// Config says what a server offers. It is a value: two servers with equal
// configurations (reflect.DeepEqual) behave the same.
type Config struct {
	// Network is the UUID of the network, Name its name.
	Network netdef.UUID
	Name    string
	// Bridge is the device the guests are reached through.
	Bridge string
	// Address is the host's own address in the network with the subnet's length;
	// it is the server identifier as well.
	Address netip.Prefix
	// Ranges are the addresses for guests without a reservation. Where they
	// overlap, the one that begins first counts.
	Ranges []Range
	// Hosts are the reservations.
	Hosts []Host
	// Lease is for how long addresses are given; 0 means DefaultLease.
	Lease time.Duration
	// Router is empty in a network without a way out.
	Router []netip.Addr
	DNS    []netip.Addr
	Domain string
	// Search are the domains in which guests look for plain names.
	Search []string
	// MTU is 0 where guests need not be told.
	MTU int
	// Routes are told to guests besides the default route through the first Router.
	Routes []Route
	// BootFile is what guests boot over the network, "" for nothing; from
	// BootServer, or the host if that is invalid.
	BootFile   string
	BootServer netip.Addr
	// ServerName is the name of the boot server.
	ServerName string
}

// Range is a range of addresses, both ends included.
type Range = pool.Range

// Host reserves an address for a guest. The guest is known by its client
// identifier or its MAC; or by its Name, if neither is given.
type Host struct {
	MAC      netdef.MAC // zero: not given
	ClientID []byte
	// Name is given to the guest as its host name; "" leaves it its own.
	Name string
	Addr netip.Addr
	// Lease is 0 where that of the address's range or Config.Lease counts.
	Lease time.Duration
	// Infinite leases never end.
	Infinite bool
}

// Route is a classless static route (RFC 3442).
type Route struct {
	Destination netip.Prefix
	Gateway     netip.Addr
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
	fmt.Fprintf(&b, " lease %s", cmp.Or(c.Lease, DefaultLease))
	for _, list := range []struct {
		word  string
		addrs []netip.Addr
	}{{"router", c.Router}, {"dns", c.DNS}} {
		for _, a := range list.addrs {
			fmt.Fprintf(&b, " %s %s", list.word, a)
		}
	}
	for _, r := range c.Routes {
		fmt.Fprintf(&b, " route %s via %s", r.Destination, r.Gateway)
	}
	if c.Domain != "" {
		fmt.Fprintf(&b, " domain %s", c.Domain)
	}
	if len(c.Search) > 0 {
		fmt.Fprintf(&b, " search %s", strings.Join(c.Search, ","))
	}
	if c.MTU != 0 {
		fmt.Fprintf(&b, " mtu %d", c.MTU)
	}
	if c.BootFile != "" {
		fmt.Fprintf(&b, " boot %s", c.BootFile)
		if c.BootServer.IsValid() {
			fmt.Fprintf(&b, " from %s", c.BootServer)
		}
	}
	if c.ServerName != "" {
		fmt.Fprintf(&b, " server %s", c.ServerName)
	}
	return b.String()
}

// String is how the guest is known.
func (h Host) String() string {
	switch {
	case len(h.ClientID) > 0:
		return fmt.Sprintf("id %x", h.ClientID)
	case !h.MAC.IsZero():
		return h.MAC.String()
	}
	return h.Name
}

// maxHosts is how many reservations there may be.
const maxHosts = 1 << 16

// check reports the first value that cannot be served, and why.
func (c Config) check() error {
	switch {
	case !c.Address.IsValid() || !c.Address.Addr().Is4():
		return fmt.Errorf("address %s: not an IPv4 address with a prefix length", c.Address)
	case len(c.Hosts) > maxHosts:
		return fmt.Errorf("%d hosts: more than %d", len(c.Hosts), maxHosts)
	case c.Lease < 0:
		return fmt.Errorf("lease %s: negative", c.Lease)
	case c.MTU < 0 || c.MTU > 0xffff:
		return fmt.Errorf("mtu %d: not between 0 and 65535", c.MTU)
	case len(c.BootFile) >= 128:
		return fmt.Errorf("boot file %q: longer than 127 bytes", c.BootFile)
	case len(c.ServerName) >= 64:
		return fmt.Errorf("server name %q: longer than 63 bytes", c.ServerName)
	case len(c.Domain) > 255:
		return fmt.Errorf("domain %q: longer than 255 bytes", c.Domain)
	case c.BootServer.IsValid() && !c.BootServer.Is4():
		return fmt.Errorf("boot server %s: not an IPv4 address", c.BootServer)
	}
	if err := pool.Check(c.Ranges, c.Address, pool.MaxSize); err != nil {
		return err
	}
	roles := c.roles()
	seen := map[netip.Addr]bool{}
	for _, h := range c.Hosts {
		switch {
		case h.MAC.IsZero() && len(h.ClientID) == 0 && h.Name == "":
			return fmt.Errorf("host %s: neither mac, client id nor name", h.Addr)
		case !c.Address.Contains(h.Addr):
			return fmt.Errorf("host %s: address %s: not in %s", h, h.Addr, c.Address.Masked())
		case slices.Contains(roles, h.Addr):
			return fmt.Errorf("host %s: address %s: belongs to the network itself", h, h.Addr)
		case seen[h.Addr]:
			return fmt.Errorf("host %s: address %s: reserved twice", h, h.Addr)
		case len(h.ClientID) > 255 || len(h.Name) > 255:
			return fmt.Errorf("host %s: name or client id longer than 255 bytes", h)
		case h.Lease < 0:
			return fmt.Errorf("host %s: lease %s: negative", h, h.Lease)
		}
		seen[h.Addr] = true
	}
	for _, a := range slices.Concat(c.Router, c.DNS) {
		if !a.Is4() {
			return fmt.Errorf("router or dns %s: not an IPv4 address", a)
		}
	}
	for _, r := range c.Routes {
		if !r.Destination.IsValid() || !r.Destination.Addr().Is4() || !r.Gateway.Is4() {
			return fmt.Errorf("route %s via %s: not IPv4", r.Destination, r.Gateway)
		}
	}
	for _, d := range c.Search {
		if _, err := domain.Append(nil, d); err != nil {
			return fmt.Errorf("search %q: %w", d, err)
		}
	}
	return nil
}

// roles are the addresses that are for no guest: the host's own, the subnet's
// and its broadcast address.
func (c Config) roles() []netip.Addr {
	if c.Address.Bits() >= 31 {
		return []netip.Addr{c.Address.Addr()}
	}
	return []netip.Addr{c.Address.Addr(), c.Address.Masked().Addr(), broadcast(c.Address)}
}

// broadcast is the last address of a subnet.
func broadcast(p netip.Prefix) netip.Addr {
	a := p.Addr().As4()
	v := binary.BigEndian.Uint32(a[:]) | uint32(uint64(1)<<(32-p.Bits())-1)
	binary.BigEndian.PutUint32(a[:], v)
	return netip.AddrFrom4(a)
}

// settings are a Config made ready for answering. They are never changed,
// only replaced.
type settings struct {
	Config
	server   netip.Addr // our address and identifier
	space    *pool.Space
	hostAt   map[netip.Addr]*Host
	byMAC    map[netdef.MAC]*Host
	byID     map[string]*Host
	byName   map[string]*Host // in lower case
	reserved map[string]netip.Addr
	options  []option
}

func newSettings(c Config) (*settings, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("configure dhcp4 of network '%s': %w", c.Name, err)
	}
	s := &settings{
		Config: c, server: c.Address.Addr(),
		hostAt: map[netip.Addr]*Host{}, byMAC: map[netdef.MAC]*Host{}, byID: map[string]*Host{},
		byName: map[string]*Host{}, reserved: map[string]netip.Addr{},
	}
	for i := range s.Hosts {
		h := &s.Hosts[i]
		s.hostAt[h.Addr] = h
		if len(h.ClientID) > 0 {
			s.byID[string(h.ClientID)] = h
		}
		if !h.MAC.IsZero() {
			s.byMAC[h.MAC] = h
		}
		if h.Name == "" {
			continue
		}
		s.reserved[h.Name] = h.Addr
		if len(h.ClientID) == 0 && h.MAC.IsZero() {
			s.byName[strings.ToLower(h.Name)] = h
		}
	}
	s.space = pool.NewSpace(c.Ranges, c.roles(), slices.Collect(maps.Keys(s.hostAt)))
	s.options = configuredOptions(s)
	return s, nil
}

// hostOf is the reservation of the client that sent a message, nil if it has none.
func (s *settings) hostOf(m *message) *Host {
	if h := s.byID[string(m.clientID)]; h != nil {
		return h
	}
	if h := s.byMAC[m.mac]; h != nil {
		return h
	}
	return s.byName[strings.ToLower(m.name)]
}

// leaseTime is for how long the address is given, 0 for ever.
func (s *settings) leaseTime(a netip.Addr) time.Duration {
	var d time.Duration
	if h := s.hostAt[a]; h != nil {
		if h.Infinite {
			return 0
		}
		d = h.Lease
	}
	if r, ok := s.space.RangeOf(a); ok && d == 0 {
		if r.Infinite {
			return 0
		}
		d = r.Lease
	}
	if d = cmp.Or(d, s.Lease, DefaultLease); d >= maxLease {
		return 0
	}
	return d
}

// state is what an answer depends on: the settings, and who has which address.
type state struct {
	*settings
	*pool.Pool
	leases *leases.Table
}

func newState(s *settings, table *leases.Table, now time.Time) *state {
	keyOf := func(l netdef.Lease) string { return leases.ClientKey(l.ClientID, l.MAC) }
	return &state{settings: s, Pool: pool.New(s.space, table, keyOf, now), leases: table}
}
