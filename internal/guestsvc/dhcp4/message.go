package dhcp4

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"viaduct/internal/guestsvc/leases"
	"viaduct/internal/netdef"
)

// message is what a client sent, checked as far as that is possible without
// knowing anything about the client.
type message struct {
	packet   *dhcpv4.DHCPv4
	kind     dhcpv4.MessageType
	mac      netdef.MAC
	clientID []byte // option 61; nil if there is none
	key      string // see leases.ClientKey
	// ciaddr, requested (option 50), server (option 54) and relay (giaddr) are
	// invalid where the client left them out.
	ciaddr, requested, server, relay netip.Addr
	// name is the client's own host name, one label; "" if it has none that is valid.
	name string
	// from is the Ethernet address that the frame came from.
	from netdef.MAC
}

// The reasons for ignoring a message.
var (
	errNotRequest = errors.New("not a request (op)")
	errNotDHCP    = errors.New("no message type: BOOTP is not served")
	errHardware   = errors.New("not an Ethernet address (htype, hlen, chaddr)")
	errClientID   = errors.New("client identifier longer than 255 bytes")
)

// parseMessage reads the payload of a datagram.
func parseMessage(payload []byte) (*message, error) {
	p, err := dhcpv4.FromBytes(payload)
	if err != nil {
		return nil, fmt.Errorf("parse message: %w", err)
	}
	m := &message{packet: p, kind: p.MessageType(), clientID: p.Options[dhcpv4.OptionClientIdentifier.Code()]}
	switch {
	case p.OpCode != dhcpv4.OpcodeBootRequest:
		return nil, errNotRequest
	case m.kind == dhcpv4.MessageTypeNone:
		return nil, errNotDHCP
	case p.HWType != iana.HWTypeEthernet || len(p.ClientHWAddr) != len(m.mac):
		return nil, errHardware
	case len(m.clientID) > 255:
		return nil, errClientID
	}
	m.mac = netdef.MAC(p.ClientHWAddr)
	if m.mac.IsZero() || m.mac.IsMulticast() {
		return nil, errHardware
	}
	m.key = leases.ClientKey(m.clientID, m.mac)
	m.ciaddr = given(p.ClientIPAddr)
	m.requested = given(p.Options[dhcpv4.OptionRequestedIPAddress.Code()])
	m.server = given(p.Options[dhcpv4.OptionServerIdentifier.Code()])
	m.relay = given(p.GatewayIPAddr)
	m.name = clientName(p.Options)
	return m, nil
}

// given is the address, invalid where it is missing or 0.0.0.0.
func given(b net.IP) netip.Addr {
	if len(b) != net.IPv4len || b.Equal(net.IPv4zero) {
		return netip.Addr{}
	}
	return netip.AddrFrom4([4]byte(b))
}

// clientName is the name that a client gives itself by option 12 or, before
// that, by option 81 (RFC 4702).
func clientName(o dhcpv4.Options) string {
	if f := o[dhcpv4.OptionFQDN.Code()]; len(f) > fqdnHeader {
		if name := leases.HostLabel(fqdnName(f)); name != "" {
			return name
		}
	}
	return leases.HostLabel(string(o[dhcpv4.OptionHostName.Code()]))
}

// The layout of option 81 (RFC 4702 section 2): flags, two bytes without use, the name.
const (
	fqdnHeader = 3

	fqdnServerUpdates = 1 << 0 // S: the server enters the name into the DNS
	fqdnOverridden    = 1 << 1 // O: S is not what the client wanted
	fqdnWire          = 1 << 2 // E: the name is in DNS wire form, else ASCII
	fqdnNoUpdate      = 1 << 3 // N: nobody shall enter it
)

// fqdnName is the first label, or all, of the name in option 81.
func fqdnName(f []byte) string {
	name := f[fqdnHeader:]
	if f[0]&fqdnWire == 0 {
		return string(name)
	}
	n := int(name[0])
	if n > 63 || n >= len(name) {
		return ""
	}
	return string(name[1 : 1+n])
}
