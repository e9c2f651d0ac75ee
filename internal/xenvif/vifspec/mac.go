package vifspec

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"strings"

	"viaduct/internal/netdef"
)

// prefix is that of Xen's own addresses; libxl leaves the highest bit of the
// fourth octet clear (tools/libs/light/libxl_nic.c).
var prefix = [3]byte{0x00, 0x16, 0x3e}

// ParseMAC reads a guest's address strictly: six octets, no group address, and
// not all of them zero.
func ParseMAC(text string) (netdef.MAC, error) {
	m, err := netdef.ParseMAC(text)
	switch {
	case err != nil:
		return m, err
	case m.IsMulticast():
		return m, fmt.Errorf("MAC address '%s' is a group address: the lowest bit of its first octet has to be 0", text)
	case m.IsZero():
		return m, fmt.Errorf("MAC address '%s' is what xl takes for none", text)
	}
	return m, nil
}

// GenerateMAC makes a random address of Xen's, as libxl does where none is given.
func GenerateMAC() netdef.MAC {
	var octets [3]byte
	rand.Read(octets[:]) // never fails, see crypto/rand
	return xenMAC(octets)
}

// StableMAC is an address of Xen's that a guest's interface has each time it is
// made: guest is its UUID or name, index the number of the interface.
func StableMAC(guest string, index int) netdef.MAC {
	h := sha256.New()
	h.Write(binary.BigEndian.AppendUint32(nil, uint32(index)))
	h.Write([]byte(strings.ToLower(guest)))
	return xenMAC([3]byte(h.Sum(nil)))
}

func xenMAC(octets [3]byte) netdef.MAC {
	return netdef.MAC{prefix[0], prefix[1], prefix[2], octets[0] & 0x7f, octets[1], octets[2]}
}

// LooseMAC is what xl makes of a MAC address (tools/xl/xl_parse.c): it takes
// hex numbers with any one character between them, ignores what follows the
// sixth, and of an address that it calls invalid keeps the octets before the
// fault.
func LooseMAC(text string) (m netdef.MAC, ok bool) {
	for i := range m {
		n, rest, digits := hexNumber(text)
		if !digits || n > 0xff {
			return m, false
		}
		m[i] = byte(n)
		if i == len(m)-1 {
			break
		}
		if rest == "" { // xl reads on behind the end of the text
			return m, false
		}
		text = rest[1:]
	}
	return m, true
}

const hexDigits = "0123456789abcdefABCDEF"

// hexNumber reads a number as strtoul does with base 16.
func hexNumber(s string) (n uint64, rest string, ok bool) {
	s = strings.TrimLeft(s, " \t\n\v\f\r")
	s, negative := strings.CutPrefix(s, "-")
	if !negative {
		s = strings.TrimPrefix(s, "+")
	}
	if len(s) > 2 && strings.EqualFold(s[:2], "0x") && strings.ContainsRune(hexDigits, rune(s[2])) {
		s = s[2:]
	}
	rest = strings.TrimLeft(s, hexDigits)
	digits := s[:len(s)-len(rest)]
	n, err := strconv.ParseUint(digits, 16, 32)
	if digits != "" && (err != nil || negative && n > 0) {
		n = math.MaxUint64
	}
	return n, rest, digits != ""
}
