// Package dns is the DNS server of the networks. It knows a network's guests
// by their leases and reservations, holds the records its definition lists,
// and passes everything else on to the host's resolvers or to the forwarders
// that the definition names, for the network's guests only.
//
// A Server answers for one network. What it is made of (names, rules which
// domain goes where) is a zone: an immutable value compiled from a Config and
// replaced whole. One Resolver, with its cache, serves all networks of a host.
package dns

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"viaduct/internal/netdef"
)

// Config is what a network's DNS server is to be. Equal configurations are
// reflect.DeepEqual.
type Config struct {
	Network netdef.UUID
	// Name is the network's name.
	Name   string
	Bridge string
	// Listen are the bridge's addresses, normally with port 53.
	Listen []netip.AddrPort
	// Clients are the subnets whose guests may ask. The host itself always may.
	Clients []netip.Prefix

	// Domain is the network's domain: guests are known by name with and without it. "" for none.
	Domain string
	// LocalOnly keeps questions about names in Domain from being forwarded.
	LocalOnly bool
	// ForwardPlainNames allows unknown names without a dot to be forwarded.
	ForwardPlainNames bool
	// Isolated keeps all questions from the host's resolvers. Forwarders with
	// an address are still asked: whoever names one wants that.
	Isolated   bool
	Forwarders []Forwarder

	// Hosts are names given to addresses: DNS hosts and DHCP reservations.
	Hosts []Host
	TXTs  []TXT
	SRVs  []SRV
	// LocalPtr are subnets whose reverse lookups are never forwarded. For
	// private subnets among Clients that holds anyway (RFC 6303).
	LocalPtr []netip.Prefix
}

// Forwarder is a server to ask, instead of the host's resolvers.
type Forwarder struct {
	// Domain limits it to a domain and what is below; "" for all names.
	Domain string
	// Addr is invalid where the host's resolvers are to be asked.
	Addr netip.AddrPort
}

// Host gives names to an address. A name without a dot is also known with the
// network's domain; the first name is the one that a reverse lookup finds.
type Host struct {
	Addr  netip.Addr
	Names []string
}

// TXT and SRV are records as definitions give them.
type (
	TXT = netdef.DNSTXT
	SRV = netdef.DNSSRV
)

// String tells the whole configuration on one line, as a plan shows it.
func (c Config) String() string {
	var s strings.Builder
	s.WriteString("on " + c.Bridge)
	for _, l := range c.Listen {
		s.WriteString(" listen " + l.String())
	}
	if c.Domain != "" {
		s.WriteString(" domain " + c.Domain)
	}
	for _, w := range []struct {
		on   bool
		word string
	}{{c.LocalOnly, "local-only"}, {!c.ForwardPlainNames, "no-plain-names"}, {c.Isolated, "isolated"}} {
		if w.on {
			s.WriteString(" " + w.word)
		}
	}
	for _, p := range c.Clients {
		s.WriteString(" clients " + p.String())
	}
	for _, p := range c.LocalPtr {
		s.WriteString(" local-ptr " + p.String())
	}
	for _, f := range c.Forwarders {
		s.WriteString(" forward " + f.String())
	}
	for _, h := range c.Hosts {
		fmt.Fprintf(&s, " host %s %s", h.Addr, strings.Join(h.Names, ","))
	}
	for _, t := range c.TXTs {
		fmt.Fprintf(&s, " txt %s %q", t.Name, t.Value)
	}
	for _, v := range c.SRVs {
		fmt.Fprintf(&s, " srv %s %s:%d priority %d weight %d", srvOwner(v, c.Domain), v.Target, v.Port, v.Priority, v.Weight)
	}
	return s.String()
}

// String names the domain, or "*", and who is asked about it.
func (f Forwarder) String() string {
	domain, to := "*", "host"
	if f.Domain != "" {
		domain = f.Domain
	}
	if f.Addr.IsValid() {
		to = f.Addr.String()
	}
	return domain + " to " + to
}

// srvOwner is the name of an SRV record. Without a domain of its own it is in the network's.
func srvOwner(v SRV, domain string) string {
	name := "_" + v.Service + "._" + v.Protocol
	if v.Domain != "" {
		domain = v.Domain
	}
	if domain != "" {
		name += "." + domain
	}
	return name
}

// checkForwarders refuses a server that would ask itself.
func (c Config) checkForwarders() error {
	for _, f := range c.Forwarders {
		if slices.Contains(c.Listen, f.Addr) {
			return fmt.Errorf("forwarder %s is this server itself", f.Addr)
		}
	}
	return nil
}
