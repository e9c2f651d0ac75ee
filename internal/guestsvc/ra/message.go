package ra

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/mdlayher/ndp"
)

const (
	// maxMessage is what fits into the smallest IPv6 packet that all links
	// carry: hosts drop advertisements that come in fragments (RFC 6980).
	maxMessage = 1280 - 40
	// maxGone bounds the withdrawals that are remembered.
	maxGone = 64
)

// kind is a kind of thing that guests remember from an advertisement.
type kind uint8

const (
	onLink kind = iota
	autonomous
	route
	server
	domain
)

// promise is one thing that guests remember from an advertisement, and use
// until its lifetime ends, unless it is withdrawn by a lifetime of 0.
type promise struct {
	kind   kind
	prefix netip.Prefix // a server's is as long as its address
	domain string
}

// promises are all that an advertisement of c makes.
func (c Config) promises() []promise {
	var all []promise
	for _, p := range c.Prefixes {
		if p.OnLink {
			all = append(all, promise{kind: onLink, prefix: p.Prefix})
		}
		if p.Autonomous {
			all = append(all, promise{kind: autonomous, prefix: p.Prefix})
		}
	}
	for _, r := range c.Routes {
		all = append(all, promise{kind: route, prefix: r.Prefix})
	}
	for _, a := range c.RDNSS {
		all = append(all, promise{kind: server, prefix: netip.PrefixFrom(a, a.BitLen())})
	}
	for _, name := range c.DNSSL {
		all = append(all, promise{kind: domain, domain: name})
	}
	return all
}

// advert is an advertisement.
type advert struct {
	config Config
	// gone are the promises that it withdraws, the latest first.
	gone    []promise
	message []byte
	plain   []byte // without withdrawals
}

// forget makes it an advertisement that withdraws nothing any more.
func (a *advert) forget() { a.gone, a.message = nil, a.plain }

// newAdvert makes the advertisement of c that follows on former, the first one
// for nil. It withdraws what former promised, or withdrew itself, and c does
// not promise. mac is the router's.
func newAdvert(c Config, mac net.HardwareAddr, former *advert) (*advert, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	a := &advert{config: c}
	if former != nil {
		a.gone = withdrawn(slices.Concat(former.config.promises(), former.gone), c.promises())
	}
	return a, a.marshal(mac)
}

// farewell is the last advertisement, which takes back all: guests drop the
// default route at once and use their addresses for nothing new (RFC 4861
// section 6.2.5, RFC 6204 L-13).
func (a *advert) farewell(mac net.HardwareAddr) (*advert, error) {
	c := a.config
	return newAdvert(Config{Source: c.Source, HopLimit: c.HopLimit, Interval: c.Interval}, mac, a)
}

// withdrawn are the former promises that are not kept.
func withdrawn(former, kept []promise) []promise {
	var gone []promise
	for _, p := range former {
		if !slices.Contains(kept, p) && !slices.Contains(gone, p) && len(gone) < maxGone {
			gone = append(gone, p)
		}
	}
	return gone
}

// marshal makes the message. Of the withdrawals only the first may fit: the
// others run out by their lifetimes.
func (a *advert) marshal(mac net.HardwareAddr) error {
	c := a.config
	m := &ndp.RouterAdvertisement{
		CurrentHopLimit: c.hopLimit(), ManagedConfiguration: c.Managed, OtherConfiguration: c.Other,
		RouterLifetime: c.RouterLifetime, Options: c.options(mac),
	}
	b, err := ndp.MarshalMessage(m)
	switch {
	case err != nil:
		return err
	case len(b) > maxMessage:
		return fmt.Errorf("all prefixes, routes and servers: %d bytes, more than the %d of one advertisement", len(b), maxMessage)
	}
	a.message, a.plain = b, b
	for _, o := range withdrawals(a.gone) {
		m.Options = append(m.Options, o)
		b, err := ndp.MarshalMessage(m)
		if err != nil {
			return err
		}
		if len(b) > maxMessage {
			break
		}
		a.message = b
	}
	return nil
}

// options are those of an advertisement without withdrawals.
func (c Config) options(mac net.HardwareAddr) []ndp.Option {
	// With its MAC guests need not ask for it.
	options := []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: mac}}
	if c.MTU != 0 {
		options = append(options, ndp.NewMTU(uint32(c.MTU)))
	}
	for _, p := range c.Prefixes {
		options = append(options, &ndp.PrefixInformation{
			Prefix: p.Prefix.Addr(), PrefixLength: uint8(p.Prefix.Bits()),
			OnLink: p.OnLink, AutonomousAddressConfiguration: p.Autonomous,
			ValidLifetime: p.valid(), PreferredLifetime: p.preferred(),
		})
	}
	for _, r := range c.Routes {
		options = append(options, routeOption(r.Prefix, min(cmp.Or(r.Lifetime, c.lifetime()), Infinite), r.Preference))
	}
	if len(c.RDNSS) > 0 {
		options = append(options, &ndp.RecursiveDNSServer{Lifetime: c.lifetime(), Servers: c.RDNSS})
	}
	if len(c.DNSSL) > 0 {
		options = append(options, searchOption(c.lifetime(), c.DNSSL...))
	}
	return options
}

func routeOption(p netip.Prefix, lifetime time.Duration, preference Preference) ndp.Option {
	const bits = 3 // the preference is a number of two bits with a sign
	return &ndp.RouteInformation{
		Prefix: p.Addr(), PrefixLength: uint8(p.Bits()),
		RouteLifetime: lifetime, Preference: ndp.Preference(preference & bits),
	}
}

func searchOption(lifetime time.Duration, domains ...string) ndp.Option {
	o := &ndp.DNSSearchList{Lifetime: lifetime}
	for _, name := range domains {
		o.DomainNames = append(o.DomainNames, strings.TrimSuffix(name, "."))
	}
	return o
}

// withdrawals are the options that take promises back. Guests may keep an
// address for up to two hours, but use it for nothing new (RFC 4862 section
// 5.5.3).
func withdrawals(gone []promise) []ndp.Option {
	var options []ndp.Option
	prefixes := map[netip.Prefix]*ndp.PrefixInformation{}
	for _, p := range gone {
		switch p.kind {
		case onLink, autonomous:
			o := prefixes[p.prefix]
			if o == nil {
				o = &ndp.PrefixInformation{Prefix: p.prefix.Addr(), PrefixLength: uint8(p.prefix.Bits())}
				prefixes[p.prefix] = o
				options = append(options, o)
			}
			o.OnLink = o.OnLink || p.kind == onLink
			o.AutonomousAddressConfiguration = o.AutonomousAddressConfiguration || p.kind == autonomous
		case route:
			options = append(options, routeOption(p.prefix, 0, Medium))
		case server:
			options = append(options, &ndp.RecursiveDNSServer{Servers: []netip.Addr{p.prefix.Addr()}})
		case domain:
			options = append(options, searchOption(0, p.domain))
		}
	}
	return options
}

const (
	typeSolicitation = 133
	solicitationHead = 8 // type, code, checksum, reserved
	optionUnit       = 8 // bytes in which the length of an option is counted
	sourceLinkLayer  = 1 // type of option
)

// checkSolicitation reports why a message is not a valid router solicitation
// (RFC 4861 section 6.1.1). What options say does not matter to the answer, so
// it is not looked at. The hop limit and the checksum have been checked.
func checkSolicitation(b []byte, from netip.Addr) error {
	switch {
	case len(b) < solicitationHead:
		return fmt.Errorf("%d bytes: shorter than a router solicitation", len(b))
	case b[0] != typeSolicitation || b[1] != 0:
		return fmt.Errorf("type %d code %d: not a router solicitation", b[0], b[1])
	}
	for b = b[solicitationHead:]; len(b) > 0; {
		if len(b) < optionUnit {
			return errors.New("option cut off")
		}
		size := int(b[1]) * optionUnit
		switch {
		case size == 0 || size > len(b):
			return fmt.Errorf("option %d: %d bytes of %d", b[0], size, len(b))
		case b[0] == sourceLinkLayer && from.IsUnspecified():
			return errors.New("names a MAC but no address")
		}
		b = b[size:]
	}
	return nil
}
