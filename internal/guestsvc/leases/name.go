package leases

import (
	"encoding/binary"
	"strings"

	"viaduct/internal/netdef"
)

// notForGuests are names that no guest may take, since programs give them a
// meaning: the machine itself, and hosts that programs trust when they find them
// (CERT VU#598349).
var notForGuests = map[string]bool{"localhost": true, "wpad": true, "isatap": true}

// HostLabel is the first label of the name that a guest gives itself, if that
// is a valid host name (RFC 1123 section 2.1) that a guest may have, else "".
func HostLabel(name string) string {
	name = strings.TrimRight(name, "\x00")
	label, _, _ := strings.Cut(name, ".")
	if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' || notForGuests[strings.ToLower(label)] {
		return ""
	}
	for _, c := range []byte(label) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-':
		default:
			return ""
		}
	}
	return label
}

// DUIDMAC is the Ethernet address that a DUID is made of (RFC 8415 sections 11.2
// and 11.4), zero if it is made of something else. It may be that of another
// interface of the client.
func DUIDMAC(duid []byte) netdef.MAC {
	const (
		llt, ll  = 1, 3 // types of DUID
		ethernet = 1    // type of hardware
	)
	if len(duid) < 4 || binary.BigEndian.Uint16(duid[2:]) != ethernet {
		return netdef.MAC{}
	}
	at := map[uint16]int{llt: 8, ll: 4}[binary.BigEndian.Uint16(duid)]
	if at == 0 || len(duid) != at+6 {
		return netdef.MAC{}
	}
	mac := netdef.MAC(duid[at:])
	if mac.IsMulticast() {
		return netdef.MAC{}
	}
	return mac
}
