package dhcp6

import (
	"encoding/binary"
	"math"
	"net/netip"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"

	"viaduct/internal/guestsvc/domain"
)

// forever is the lifetime that never ends (RFC 8415 section 7.7).
const forever = math.MaxUint32 * time.Second

// The times that clients are told besides those of leases.
const (
	// refreshTime is when a guest without a lease asks for its options anew.
	refreshTime = time.Hour
	// maxRetry is how long at most a guest waits before it asks again where
	// nobody answers: the least that RFC 8415 allows (section 21.24), since a
	// network may be started after its guests.
	maxRetry = time.Minute
)

// preference has clients take our offer without waiting for others (RFC 8415
// section 18.2.1): who serves the network is up to the host.
const preference = 255

func generic(code dhcpv6.OptionCode, data []byte) dhcpv6.Option {
	return &dhcpv6.OptionGeneric{OptionCode: code, OptionData: data}
}

func seconds(code dhcpv6.OptionCode, d time.Duration) dhcpv6.Option {
	return generic(code, binary.BigEndian.AppendUint32(nil, uint32(d/time.Second)))
}

// configuredOptions are the options that a client gets if it asks for them.
func configuredOptions(c Config) []dhcpv6.Option {
	list := []dhcpv6.Option{
		seconds(dhcpv6.OptionSolMaxRT, maxRetry),
		seconds(dhcpv6.OptionInfMaxRT, maxRetry),
	}
	if len(c.DNS) > 0 {
		list = append(list, generic(dhcpv6.OptionDNSRecursiveNameServer, addrBytes(c.DNS)))
	}
	if len(c.Search) > 0 {
		list = append(list, generic(dhcpv6.OptionDomainSearchList, domain.List(c.Search)))
	}
	return list
}

// unasked are what a client gets that sends no list of what it wants.
var unasked = map[dhcpv6.OptionCode]bool{dhcpv6.OptionDNSRecursiveNameServer: true, dhcpv6.OptionDomainSearchList: true}

func addrBytes(addrs []netip.Addr) []byte {
	var b []byte
	for _, a := range addrs {
		b = append(b, a.AsSlice()...)
	}
	return b
}

// reply makes the message that says the answer.
func (s *settings) reply(m *message, a answer) *dhcpv6.Message {
	r := &dhcpv6.Message{MessageType: a.kind, TransactionID: m.xid}
	r.AddOption(generic(dhcpv6.OptionServerID, s.duid))
	if len(m.clientID) > 0 {
		r.AddOption(generic(dhcpv6.OptionClientID, m.clientID))
	}
	if a.status != nil {
		r.AddOption(a.status)
	}
	times := a.shortest()
	for _, v := range a.ias {
		if !v.gone.IsValid() {
			r.AddOption(v.option(times))
		}
	}
	if a.bare {
		return r
	}
	if a.kind == dhcpv6.MessageTypeAdvertise {
		r.AddOption(generic(dhcpv6.OptionPreference, []byte{preference}))
	}
	if a.rapid {
		r.AddOption(generic(dhcpv6.OptionRapidCommit, nil))
	}
	wants := m.wants
	if wants == nil {
		wants = unasked
	}
	for _, o := range s.options {
		if wants[o.Code()] {
			r.AddOption(o)
		}
	}
	if m.kind == dhcpv6.MessageTypeInformationRequest && wants[dhcpv6.OptionInformationRefreshTime] {
		r.AddOption(seconds(dhcpv6.OptionInformationRefreshTime, refreshTime))
	}
	if a.name != "" && m.fqdn >= 0 && wants[dhcpv6.OptionFQDN] {
		if b := s.fqdn(byte(m.fqdn), a.name); b != nil {
			r.AddOption(generic(dhcpv6.OptionFQDN, b))
		}
	}
	return r
}

// shortest is the shortest lifetime in an answer. All identity associations
// are renewed when the first has to be (RFC 8415 section 18.2.4).
func (a answer) shortest() time.Duration {
	d := forever
	for _, v := range a.ias {
		if v.addr.IsValid() {
			d = min(d, v.lease)
		}
	}
	return d
}

// option is the verdict as the client gets it. Its times follow from the lifetime.
func (v verdict) option(lifetime time.Duration) dhcpv6.Option {
	var inner dhcpv6.Options
	address := func(a netip.Addr, d time.Duration) {
		inner.Add(&dhcpv6.OptIAAddress{IPv6Addr: a.AsSlice(), PreferredLifetime: d, ValidLifetime: d})
	}
	if v.addr.IsValid() {
		address(v.addr, v.lease)
	}
	for _, a := range v.ended {
		address(a, 0)
	}
	if v.status != nil {
		inner.Add(v.status)
	}
	id := [4]byte(binary.BigEndian.AppendUint32(nil, v.ia.id))
	switch v.ia.code {
	case dhcpv6.OptionIATA:
		return &dhcpv6.OptIATA{IaId: id, Options: dhcpv6.IdentityOptions{Options: inner}}
	case dhcpv6.OptionIAPD:
		return &dhcpv6.OptIAPD{IaId: id, Options: dhcpv6.PDOptions{Options: inner}}
	}
	o := &dhcpv6.OptIANA{IaId: id, Options: dhcpv6.IdentityOptions{Options: inner}}
	switch {
	case !v.addr.IsValid():
	case lifetime == forever:
		o.T1, o.T2 = forever, forever
	default: // as section 21.4 recommends
		o.T1, o.T2 = lifetime/2, lifetime/10*8
	}
	return o
}

// The flags of option 39 (RFC 4704 section 4.1).
const (
	fqdnServerUpdates = 1 << 0 // S: the server enters the name into the DNS
	fqdnOverridden    = 1 << 1 // O: S is not what the client wanted
	fqdnNoUpdate      = 1 << 2 // N: nobody shall enter it
)

// fqdn is the answer to option 39 (RFC 4704 section 6): names of guests are
// always ours to publish, unless the client wants none. Without a domain the
// name is partial: it has no end.
func (s *settings) fqdn(asked byte, name string) []byte {
	flags := asked & fqdnNoUpdate
	if flags == 0 {
		flags = fqdnServerUpdates
		if asked&fqdnServerUpdates == 0 {
			flags |= fqdnOverridden
		}
	}
	b := []byte{flags}
	var err error
	switch {
	case strings.Contains(name, "."):
		b, err = domain.Append(b, name)
	case s.Domain != "":
		b, err = domain.Append(b, name+"."+s.Domain)
	default:
		b, err = domain.Append(b, name)
		b = b[:len(b)-1]
	}
	if err != nil {
		return nil
	}
	return b
}
