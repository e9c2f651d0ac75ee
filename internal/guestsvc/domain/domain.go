// Package domain writes domain names as the options of DHCP carry them: in the
// wire form of DNS (RFC 1035 section 3.1), without compression.
package domain

import (
	"errors"
	"strings"
)

// The longest name without the dot at its end, and the longest label in it.
const maxName, maxLabel = 253, 63

var errName = errors.New("not a domain name")

// Append appends a name, with or without a dot at its end. On error b is as long
// as it was.
func Append(b []byte, name string) ([]byte, error) {
	name = strings.TrimSuffix(name, ".")
	if name == "" || len(name) > maxName {
		return b, errName
	}
	wire := b
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > maxLabel {
			return b, errName
		}
		wire = append(wire, byte(len(label)))
		wire = append(wire, label...)
	}
	return append(wire, 0), nil
}

// List is a list of names, one after the other, without those that are none.
func List(names []string) []byte {
	var b []byte
	for _, n := range names {
		b, _ = Append(b, n)
	}
	return b
}
