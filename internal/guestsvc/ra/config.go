// Package ra advertises the host as IPv6 router to the guests of one network:
// prefixes, the way out, MTU and routes (RFC 4861, RFC 4191), and name servers
// (RFC 8106). It tells guests at once what changes, and when the network ends.
package ra

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"viaduct/internal/netdef"
)

// What is advertised where the configuration leaves it open.
const (
	DefaultHopLimit = 64
	DefaultInterval = 600 * time.Second // RFC 4861 section 6.2.1
	// DefaultValid and DefaultPreferred are shorter than RFC 4861 has them: a
	// guest that was paused while its prefix went learns it no sooner.
	DefaultValid     = 24 * time.Hour
	DefaultPreferred = 12 * time.Hour
	// DefaultRouterLifetime is for planners; it is the longest that RFC 4861
	// allows. The host tells guests when it ceases to be their router, so a
	// shorter one would only cut them off while no daemon runs.
	DefaultRouterLifetime = 9000 * time.Second
)

// Infinite is a lifetime that does not end.
const Infinite = 0xffffffff * time.Second

// Config says what a network's router advertises. It is a value: two routers
// with equal configurations (reflect.DeepEqual) behave the same.
type Config struct {
	// Network is the UUID of the network, Name its name.
	Network netdef.UUID
	Name    string
	// Bridge is the device the guests are reached through.
	Bridge string
	// Source is the link-local address of the bridge. Guests know their router
	// by it, so it should be the same whenever the network starts.
	Source netip.Addr
	// Prefixes are those of the link.
	Prefixes []Prefix
	// Managed and Other send guests to DHCPv6 for addresses, or for everything
	// but addresses.
	Managed, Other bool
	// RouterLifetime is for how long guests use the host as default router, in
	// whole seconds; 0 in a network without a way out.
	RouterLifetime time.Duration
	// MTU is 0 where guests need not be told.
	MTU   int
	RDNSS []netip.Addr
	// DNSSL are the domains in which guests look for plain names.
	DNSSL []string
	// Routes are told to guests besides the default route.
	Routes []RouteInfo
	// HopLimit is what guests put into their packets; 0 means DefaultHopLimit.
	HopLimit uint8
	// Interval is the longest time between two advertisements to all guests; 0
	// means DefaultInterval. The shortest is a third of it.
	Interval time.Duration
}

// Prefix is a prefix of the link (RFC 4861 section 4.6.2).
type Prefix struct {
	Prefix netip.Prefix // masked
	// OnLink says that all addresses in it are on the link.
	OnLink bool
	// Autonomous lets guests make addresses of it; it must be a /64 then.
	Autonomous bool
	// Valid and Preferred are for how long its addresses may be used at all,
	// and for new connections; 0 means DefaultValid and DefaultPreferred.
	Valid, Preferred time.Duration
}

// RouteInfo is a route by way of the host (RFC 4191 section 2.3).
type RouteInfo struct {
	Prefix netip.Prefix // masked
	// Lifetime is 0 where Config.Interval's threefold will do.
	Lifetime   time.Duration
	Preference Preference
}

// Preference is how a route compares with the same one of another router.
type Preference int8

// The preferences of RFC 4191 section 2.1.
const (
	Low    Preference = -1
	Medium Preference = 0
	High   Preference = 1
)

func (p Preference) String() string {
	return map[Preference]string{Low: "low", Medium: "medium", High: "high"}[p]
}

// String is the configuration on one line, as a plan shows it.
func (c Config) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "on %s from %s", c.Bridge, c.Source)
	for _, p := range c.Prefixes {
		fmt.Fprintf(&b, " prefix %s", p.Prefix)
		for _, flag := range []struct {
			set  bool
			word string
		}{{p.OnLink, "on-link"}, {p.Autonomous, "autonomous"}} {
			if flag.set {
				b.WriteString(" " + flag.word)
			}
		}
		fmt.Fprintf(&b, " valid %s preferred %s", lifetimeText(p.valid()), lifetimeText(p.preferred()))
	}
	for _, flag := range []struct {
		set  bool
		word string
	}{{c.Managed, "managed"}, {c.Other, "other"}} {
		if flag.set {
			b.WriteString(" " + flag.word)
		}
	}
	if c.RouterLifetime > 0 {
		fmt.Fprintf(&b, " router for %s", c.RouterLifetime)
	} else {
		b.WriteString(" no router")
	}
	for _, r := range c.Routes {
		fmt.Fprintf(&b, " route %s for %s", r.Prefix, lifetimeText(cmp.Or(r.Lifetime, c.lifetime())))
		if r.Preference != Medium {
			fmt.Fprintf(&b, " preference %s", r.Preference)
		}
	}
	for _, a := range c.RDNSS {
		fmt.Fprintf(&b, " dns %s", a)
	}
	if len(c.DNSSL) > 0 {
		fmt.Fprintf(&b, " search %s", strings.Join(c.DNSSL, ","))
	}
	if c.MTU != 0 {
		fmt.Fprintf(&b, " mtu %d", c.MTU)
	}
	fmt.Fprintf(&b, " hop limit %d every %s", c.hopLimit(), c.interval())
	return b.String()
}

func lifetimeText(d time.Duration) string {
	if d >= Infinite {
		return "for ever"
	}
	return d.String()
}

func (p Prefix) valid() time.Duration { return min(cmp.Or(p.Valid, DefaultValid), Infinite) }

// preferred never exceeds valid, also where only that is configured.
func (p Prefix) preferred() time.Duration {
	return min(cmp.Or(p.Preferred, DefaultPreferred), p.valid())
}

func (c Config) hopLimit() uint8         { return cmp.Or(c.HopLimit, DefaultHopLimit) }
func (c Config) interval() time.Duration { return cmp.Or(c.Interval, DefaultInterval) }

// lifetime is that of what has none of its own: name servers may miss two
// advertisements (RFC 8106 section 5.1).
func (c Config) lifetime() time.Duration { return 3 * c.interval() }

// The limits of RFC 4861 section 6.2.1.
const (
	minInterval       = 4 * time.Second
	maxInterval       = 1800 * time.Second
	maxRouterLifetime = 9000 * time.Second
	minMTU, maxMTU    = 1280, 1 << 16
)

// What the codec can put into one option: 248 bytes with a head of 8.
const (
	maxServers = 15
	maxSearch  = 240 // bytes
	maxLabel   = 63  // bytes, RFC 1035 section 2.3.4
)

// check reports the first value that cannot be advertised, and why. Whether all
// together fits is seen when the message is made.
func (c Config) check() error {
	switch {
	case !c.Source.Is6() || !c.Source.IsLinkLocalUnicast() || c.Source.Zone() != "":
		return fmt.Errorf("source %s: not a link-local address", c.Source)
	case c.interval() < minInterval || c.interval() > maxInterval:
		return fmt.Errorf("interval %s: not between %s and %s", c.Interval, minInterval, maxInterval)
	case c.RouterLifetime != 0 && (c.RouterLifetime < c.interval() || c.RouterLifetime > maxRouterLifetime):
		return fmt.Errorf("router lifetime %s: neither 0 nor between the interval %s and %s",
			c.RouterLifetime, c.interval(), maxRouterLifetime)
	case c.MTU != 0 && (c.MTU < minMTU || c.MTU > maxMTU):
		return fmt.Errorf("mtu %d: not between %d and %d", c.MTU, minMTU, maxMTU)
	case len(c.RDNSS) > maxServers:
		return fmt.Errorf("%d dns servers: more than %d", len(c.RDNSS), maxServers)
	}
	seen := map[netip.Prefix]bool{}
	for _, p := range c.Prefixes {
		err := checkPrefix(p.Prefix)
		switch {
		case err != nil:
			return fmt.Errorf("prefix %s: %w", p.Prefix, err)
		case seen[p.Prefix]:
			return fmt.Errorf("prefix %s: given twice", p.Prefix)
		case p.Prefix.Addr().IsLinkLocalUnicast() || p.Prefix.Addr().IsMulticast():
			return fmt.Errorf("prefix %s: not for guests' own addresses", p.Prefix)
		case p.Autonomous && p.Prefix.Bits() != 64:
			return fmt.Errorf("prefix %s: guests make addresses of a /64 only", p.Prefix)
		case p.Valid < 0 || p.Preferred < 0 || p.Preferred > p.valid():
			return fmt.Errorf("prefix %s: preferred for %s, valid for %s", p.Prefix, p.Preferred, p.valid())
		}
		seen[p.Prefix] = true
	}
	clear(seen)
	for _, r := range c.Routes {
		err := checkPrefix(r.Prefix)
		switch {
		case err != nil:
			return fmt.Errorf("route %s: %w", r.Prefix, err)
		case seen[r.Prefix]:
			return fmt.Errorf("route %s: given twice", r.Prefix)
		case r.Lifetime < 0:
			return fmt.Errorf("route %s: lifetime %s: negative", r.Prefix, r.Lifetime)
		case r.Preference < Low || r.Preference > High:
			return fmt.Errorf("route %s: preference %d: not between %d and %d", r.Prefix, r.Preference, Low, High)
		}
		seen[r.Prefix] = true
	}
	for _, a := range c.RDNSS {
		if !a.Is6() || a.Is4In6() || a.Zone() != "" {
			return fmt.Errorf("dns %s: not an IPv6 address", a)
		}
	}
	size := 0
	for _, name := range c.DNSSL {
		if err := checkDomain(name); err != nil {
			return fmt.Errorf("search %q: %w", name, err)
		}
		if size += domainSize(name); size > maxSearch {
			return fmt.Errorf("search %q: more than %d bytes of domains", name, maxSearch)
		}
	}
	return nil
}

func checkPrefix(p netip.Prefix) error {
	switch {
	case !p.IsValid() || !p.Addr().Is6() || p.Addr().Is4In6():
		return errors.New("not an IPv6 prefix")
	case p != p.Masked():
		return errors.New("has bits set beyond its length")
	}
	return nil
}

// checkDomain reports why a domain cannot be told to guests (RFC 1035 section 3.1).
func checkDomain(name string) error {
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		if label == "" || len(label) > maxLabel {
			return fmt.Errorf("label %q: not of 1 to %d bytes", label, maxLabel)
		}
	}
	for i := range len(name) {
		if name[i] <= ' ' || name[i] > '~' {
			return fmt.Errorf("byte %#x: not a character of domains", name[i])
		}
	}
	return nil
}

// domainSize is how many bytes a domain takes: one more for the length of
// its first label, and one for the end.
func domainSize(name string) int { return len(strings.TrimSuffix(name, ".")) + 2 }
