package dhcp6

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"

	"viaduct/internal/guestsvc/leases"
	"viaduct/internal/netdef"
)

// message is what a client sent, checked as far as that is possible without
// knowing anything about the client.
type message struct {
	kind  dhcpv6.MessageType
	xid   dhcpv6.TransactionID
	from  netip.Addr
	group bool // sent to all servers, not to an address of ours
	// clientID and serverID are DUIDs, empty where there is none.
	clientID, serverID []byte
	ias                []ia
	rapid              bool
	// wants are the options that the client asks for; nil if it sent no list.
	wants map[dhcpv6.OptionCode]bool
	// fqdn are the flags of option 39; -1 if there is none.
	fqdn int
	// name is the client's own host name, one label; "" if it has none that is valid.
	name string
	mac  netdef.MAC // zero where nothing tells it
}

// ia is an identity association (RFC 8415 section 4.2).
type ia struct {
	code  dhcpv6.OptionCode // OptionIANA, OptionIATA or OptionIAPD
	id    uint32
	addrs []netip.Addr
}

// The limits of a message.
const (
	// maxMessage is more than any message for us has: clients cannot send more
	// than fits into a packet on most links.
	maxMessage = 2048
	// maxIAs bounds the addresses that one message takes.
	maxIAs   = 8
	maxAddrs = 16
)

// The reasons for ignoring a message.
var (
	errHeader   = errors.New("shorter than its header")
	errRelay    = errors.New("relayed, and relays are not served")
	errClientID = errors.New("no client identifier of a valid length")
	errServerID = errors.New("a server identifier where none may be, or none where one must be")
	errIAs      = fmt.Errorf("more than %d identity associations", maxIAs)
	errAddrs    = fmt.Errorf("more than %d addresses in one identity association", maxAddrs)
	errShort    = errors.New("option shorter than it must be")
	errInform   = errors.New("an identity association in an information-request")
	errKind     = errors.New("no message for a server")
)

// rawOption leaves the value of an option as it is, for only few are read.
func rawOption(code dhcpv6.OptionCode, data []byte) (dhcpv6.Option, error) {
	return &dhcpv6.OptionGeneric{OptionCode: code, OptionData: data}, nil
}

// options calls each for every option in b until it fails.
func options(b []byte, each func(dhcpv6.OptionCode, []byte) error) error {
	var list dhcpv6.Options
	if err := list.FromBytesWithParser(b, rawOption); err != nil {
		return fmt.Errorf("parse options: %w", err)
	}
	for _, o := range list {
		if err := each(o.Code(), o.ToBytes()); err != nil {
			return fmt.Errorf("parse option %s: %w", o.Code(), err)
		}
	}
	return nil
}

// headerSize is that of message type and transaction identifier.
const headerSize = 4

// parseMessage reads the payload of a datagram that came from an address.
func parseMessage(payload []byte, from netip.Addr, group bool) (*message, error) {
	if len(payload) < headerSize {
		return nil, errHeader
	}
	m := &message{
		kind: dhcpv6.MessageType(payload[0]), xid: dhcpv6.TransactionID(payload[1:headerSize]),
		from: from, group: group, fqdn: -1,
	}
	if m.kind == dhcpv6.MessageTypeRelayForward {
		return nil, errRelay
	}
	rule, ok := rules[m.kind]
	if !ok {
		return nil, errKind
	}
	if err := options(payload[headerSize:], m.read); err != nil {
		return nil, err
	}
	switch {
	case rule.client && len(m.clientID) == 0:
		return nil, errClientID
	case rule.server == must && len(m.serverID) == 0, rule.server == mustNot && len(m.serverID) > 0:
		return nil, errServerID
	case m.kind == dhcpv6.MessageTypeInformationRequest && len(m.ias) > 0:
		return nil, errInform
	}
	m.mac = hardwareAddr(from, m.clientID)
	return m, nil
}

// rule says what a message of a kind must have (RFC 8415 section 16), and what
// is said to it.
type rule struct {
	client bool // a client identifier
	server presence
	// unicast has those that were sent to one server refused with a reason
	// rather than ignored (section 18.4).
	unicast bool
	answer  func(*state, *message, time.Time) answer
}

var rules = map[dhcpv6.MessageType]rule{
	dhcpv6.MessageTypeSolicit:            {true, mustNot, false, answerSolicit},
	dhcpv6.MessageTypeRequest:            {true, must, true, answerRequest},
	dhcpv6.MessageTypeConfirm:            {true, mustNot, false, answerConfirm},
	dhcpv6.MessageTypeRenew:              {true, must, true, answerRenew},
	dhcpv6.MessageTypeRebind:             {true, mustNot, false, answerRenew},
	dhcpv6.MessageTypeRelease:            {true, must, true, answerRelease},
	dhcpv6.MessageTypeDecline:            {true, must, true, answerDecline},
	dhcpv6.MessageTypeInformationRequest: {false, may, false, answerInform},
}

// presence says whether something has to be there.
type presence uint8

const (
	may presence = iota
	must
	mustNot
)

// read takes one option in.
func (m *message) read(code dhcpv6.OptionCode, data []byte) error {
	switch code {
	case dhcpv6.OptionClientID:
		if len(data) < minDUID || len(data) > maxDUID {
			return errClientID
		}
		m.clientID = append([]byte(nil), data...)
	case dhcpv6.OptionServerID:
		if len(data) == 0 {
			return errServerID
		}
		m.serverID = append([]byte(nil), data...)
	case dhcpv6.OptionIANA, dhcpv6.OptionIATA, dhcpv6.OptionIAPD:
		if len(m.ias) == maxIAs {
			return errIAs
		}
		a, err := parseIA(code, data)
		if err != nil {
			return err
		}
		m.ias = append(m.ias, a)
	case dhcpv6.OptionRapidCommit:
		m.rapid = true
	case dhcpv6.OptionORO:
		if m.wants == nil {
			m.wants = make(map[dhcpv6.OptionCode]bool, len(data)/2)
		}
		for ; len(data) >= 2; data = data[2:] {
			m.wants[dhcpv6.OptionCode(binary.BigEndian.Uint16(data))] = true
		}
	case dhcpv6.OptionFQDN:
		if len(data) > 0 {
			m.fqdn = int(data[0])
			m.name = leases.HostLabel(firstLabel(data[1:]))
		}
	}
	return nil
}

// parseIA reads an identity association (RFC 8415 sections 21.4, 21.5, 21.21).
func parseIA(code dhcpv6.OptionCode, data []byte) (ia, error) {
	const id, times = 4, 8
	header := id + times
	if code == dhcpv6.OptionIATA {
		header = id
	}
	if len(data) < header {
		return ia{}, errShort
	}
	a := ia{code: code, id: binary.BigEndian.Uint32(data)}
	err := options(data[header:], func(code dhcpv6.OptionCode, data []byte) error {
		if code != dhcpv6.OptionIAAddr {
			return nil
		}
		const size = 16 + times
		if len(data) < size {
			return errShort
		}
		if len(a.addrs) == maxAddrs {
			return errAddrs
		}
		a.addrs = append(a.addrs, netip.AddrFrom16([16]byte(data)))
		return nil
	})
	return a, err
}

// firstLabel is the first label of a name in wire form (RFC 1035 section 3.1).
func firstLabel(name []byte) string {
	if len(name) == 0 {
		return ""
	}
	n := int(name[0])
	if n > 63 || n >= len(name) {
		return ""
	}
	return string(name[1 : 1+n])
}

// hardwareAddr is the client's Ethernet address as far as it tells: by the
// interface identifier of its own address (RFC 4291 appendix A), or by a DUID
// that is made of it (RFC 8415 sections 11.2 and 11.4), which may be that of
// another interface of the client.
func hardwareAddr(from netip.Addr, duid []byte) netdef.MAC {
	const universal = 1 << 1 // the bit that an interface identifier has inverted
	id := from.As16()
	if id[11] == 0xff && id[12] == 0xfe {
		if mac := (netdef.MAC{id[8] ^ universal, id[9], id[10], id[13], id[14], id[15]}); !mac.IsMulticast() {
			return mac
		}
	}
	return leases.DUIDMAC(duid)
}
