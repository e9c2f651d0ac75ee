package leases

import "strings"

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
