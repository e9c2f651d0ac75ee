package dhcp4

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"viaduct/internal/guestsvc/domain"
)

// option is an option of a reply, ready for the wire.
type option struct {
	code  uint8
	value []byte
	// always is set for what a client gets even if it does not ask: without
	// these it cannot use its address, and some clients never ask.
	always bool
}

// The codes of options that we send, by their names in RFC 2132 and later ones.
var (
	optMask           = dhcpv4.OptionSubnetMask.Code()
	optRouter         = dhcpv4.OptionRouter.Code()
	optDNS            = dhcpv4.OptionDomainNameServer.Code()
	optHostName       = dhcpv4.OptionHostName.Code()
	optDomain         = dhcpv4.OptionDomainName.Code()
	optMTU            = dhcpv4.OptionInterfaceMTU.Code()
	optBroadcast      = dhcpv4.OptionBroadcastAddress.Code()
	optLeaseTime      = dhcpv4.OptionIPAddressLeaseTime.Code()
	optMessageType    = dhcpv4.OptionDHCPMessageType.Code()
	optServer         = dhcpv4.OptionServerIdentifier.Code()
	optRequests       = dhcpv4.OptionParameterRequestList.Code()
	optText           = dhcpv4.OptionMessage.Code()
	optMaxSize        = dhcpv4.OptionMaximumDHCPMessageSize.Code()
	optRenewal        = dhcpv4.OptionRenewTimeValue.Code()
	optRebinding      = dhcpv4.OptionRebindingTimeValue.Code()
	optClientID       = dhcpv4.OptionClientIdentifier.Code()
	optBootServerName = dhcpv4.OptionTFTPServerName.Code()
	optBootFile       = dhcpv4.OptionBootfileName.Code()
	optFQDN           = dhcpv4.OptionFQDN.Code()
	optRelayAgent     = dhcpv4.OptionRelayAgentInformation.Code()
	optSearch         = dhcpv4.OptionDNSDomainSearchList.Code()
	optRoutes         = dhcpv4.OptionClasslessStaticRoute.Code()
)

// configuredOptions are the options that are the same for all clients, the
// more important ones first: the last are left out where a reply gets too long.
func configuredOptions(s *settings) []option {
	var list []option
	add := func(code uint8, value []byte, always bool) {
		if len(value) > 0 {
			list = append(list, option{code, value, always})
		}
	}
	mask := ^uint32(0) << (32 - s.Address.Bits())
	add(optMask, binary.BigEndian.AppendUint32(nil, mask), true)
	add(optRouter, addrBytes(s.Router), true)
	add(optDNS, addrBytes(s.DNS), true)
	bcast := broadcast(s.Address).As4()
	add(optBroadcast, bcast[:], true)
	add(optRoutes, routeBytes(s), false)
	if s.MTU != 0 {
		add(optMTU, binary.BigEndian.AppendUint16(nil, uint16(s.MTU)), false)
	}
	add(optDomain, []byte(s.Domain), false)
	add(optBootFile, []byte(s.BootFile), false)
	if s.BootFile != "" && s.ServerName == "" {
		add(optBootServerName, []byte(s.bootServer().String()), false)
	}
	add(optBootServerName, []byte(s.ServerName), false)
	add(optSearch, domain.List(s.Search), false) // RFC 3397, which also allows compression
	return list
}

func (s *settings) bootServer() netip.Addr {
	if s.BootServer.IsValid() {
		return s.BootServer
	}
	return s.server
}

func addrBytes(addrs []netip.Addr) []byte {
	var b []byte
	for _, a := range addrs {
		b = append(b, a.AsSlice()...)
	}
	return b
}

// routeBytes is option 121 (RFC 3442). A client that gets it ignores option 3,
// so the default route is in it as well.
func routeBytes(s *settings) []byte {
	if len(s.Routes) == 0 {
		return nil
	}
	routes := s.Routes
	hasDefault := slices.ContainsFunc(routes, func(r Route) bool { return r.Destination.Bits() == 0 })
	if len(s.Router) > 0 && !hasDefault {
		anywhere := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		routes = append(slices.Clone(routes), Route{Destination: anywhere, Gateway: s.Router[0]})
	}
	var b []byte
	for _, r := range routes {
		dst := r.Destination.Masked()
		b = append(b, byte(dst.Bits()))
		b = append(b, dst.Addr().AsSlice()[:(dst.Bits()+7)/8]...)
		b = append(b, r.Gateway.AsSlice()...)
	}
	return b
}

// Sizes of what is around the options (RFC 2131 sections 2 and 3).
const (
	// datagramHeaders are those of IP and UDP, which count in option 57.
	datagramHeaders = 20 + 8
	// fixedPart is the message up to the options, the magic cookie included.
	fixedPart = 240
	// minMaxSize is what every client must be able to receive.
	minMaxSize = 576
)

// optionRoom is how many bytes of options the client can receive: what it
// says by option 57, but no more than goes into one frame.
func (s *settings) optionRoom(m *message) int {
	size := minMaxSize
	if v := m.packet.Options[optMaxSize]; len(v) == 2 {
		mtu := 1500
		if s.MTU != 0 {
			mtu = max(s.MTU, minMaxSize)
		}
		size = min(max(size, int(binary.BigEndian.Uint16(v))), mtu)
	}
	const endOption = 1
	return size - datagramHeaders - fixedPart - endOption
}

// reply makes the answer to a message that v decided on.
func (s *settings) reply(m *message, v verdict) *dhcpv4.DHCPv4 {
	q := m.packet
	r := &dhcpv4.DHCPv4{
		OpCode: dhcpv4.OpcodeBootReply, HWType: iana.HWTypeEthernet, TransactionID: q.TransactionID,
		Flags: q.Flags, GatewayIPAddr: q.GatewayIPAddr, ClientHWAddr: q.ClientHWAddr, Options: make(dhcpv4.Options, 16),
	}
	o := replyOptions{Options: r.Options, room: s.optionRoom(m)}
	kind := dhcpv4.MessageTypeAck
	switch v.action {
	case actOffer:
		kind = dhcpv4.MessageTypeOffer
	case actNak:
		kind = dhcpv4.MessageTypeNak
	}
	o.add(optMessageType, []byte{byte(kind)})
	o.add(optServer, s.server.AsSlice())
	o.add(optClientID, m.clientID) // RFC 6842
	o.add(optRelayAgent, q.Options[optRelayAgent])
	if v.action == actNak {
		// A relay that gets one must be told to broadcast it, as we do (section 4.3.2).
		if m.relay.IsValid() {
			r.SetBroadcast()
		}
		o.add(optText, []byte(v.why))
		return r
	}

	r.ClientIPAddr = q.ClientIPAddr
	if v.action == actOffer {
		r.ClientIPAddr = nil
	}
	if s.BootFile != "" {
		r.ServerIPAddr = s.bootServer().AsSlice()
		r.BootFileName, r.ServerHostName = s.BootFile, s.ServerName
	}
	if v.action != actInform {
		r.YourIPAddr = v.addr.AsSlice()
		o.addTimes(v.lease)
	}
	requested := q.Options[optRequests]
	wants := func(code uint8) bool { return len(requested) == 0 || slices.Contains(requested, code) }
	for _, opt := range s.options {
		if opt.always {
			o.add(opt.code, opt.value)
		}
	}
	if f := q.Options[optFQDN]; v.name != "" && len(f) >= fqdnHeader {
		o.add(optFQDN, s.fqdn(f[0], v.name))
	}
	if v.name != "" && wants(optHostName) {
		o.add(optHostName, []byte(v.name))
	}
	for _, opt := range s.options {
		if !opt.always && wants(opt.code) {
			o.add(opt.code, opt.value)
		}
	}
	return r
}

// replyOptions are options that fit into the room that the client has.
type replyOptions struct {
	dhcpv4.Options
	room int
}

// add adds an option unless it is empty, or too long for what room is left.
func (o *replyOptions) add(code uint8, value []byte) {
	// Values of more than 255 bytes are split (RFC 3396): each part has a header.
	need := len(value) + 2*((len(value)+254)/255)
	if len(value) == 0 || need > o.room {
		return
	}
	o.room -= need
	o.Options[code] = value
}

const (
	// forever is the lease time that never ends (RFC 2131 section 3.3).
	forever = ^uint32(0)
	// maxLease is what a lease has to be shorter than, or else never ends.
	maxLease = time.Duration(forever) * time.Second
)

// addTimes adds lease time, T1 and T2 (RFC 2131 section 4.4.5); a lease of 0 never ends.
func (o *replyOptions) addTimes(lease time.Duration) {
	if lease == 0 {
		o.add(optLeaseTime, binary.BigEndian.AppendUint32(nil, forever))
		return
	}
	for _, t := range []struct {
		code uint8
		time time.Duration
	}{{optLeaseTime, lease}, {optRenewal, lease / 2}, {optRebinding, lease / 8 * 7}} {
		o.add(t.code, binary.BigEndian.AppendUint32(nil, uint32(t.time/time.Second)))
	}
}

// fqdn is the answer to option 81 (RFC 4702 section 4): names of guests are
// always ours to publish, unless the client wants none.
func (s *settings) fqdn(asked byte, name string) []byte {
	flags := asked & (fqdnWire | fqdnNoUpdate)
	if asked&fqdnNoUpdate == 0 {
		flags |= fqdnServerUpdates
		if asked&fqdnServerUpdates == 0 {
			flags |= fqdnOverridden
		}
	}
	const unused = 255 // in place of result codes (RFC 4702 section 2.2)
	b := []byte{flags, unused, unused}
	if s.Domain != "" && !strings.Contains(name, ".") {
		name += "." + s.Domain
	}
	if asked&fqdnWire == 0 {
		return append(b, name...)
	}
	b, err := domain.Append(b, name)
	if err != nil {
		return nil
	}
	return b
}
