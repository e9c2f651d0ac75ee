package netdef

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// UUID identifies a network or a port. The zero value means "not given".
type UUID [16]byte

// NewUUID makes a random UUID (RFC 9562 version 4).
func NewUUID() UUID {
	var u UUID
	rand.Read(u[:]) // never fails, see crypto/rand
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	return u
}

// ParseUUID reads a UUID: 32 hex digits, with dashes anywhere before octets.
func ParseUUID(s string) (UUID, error) {
	var u UUID
	rest := strings.Trim(s, cBlanks)
	for i := range u {
		rest = strings.TrimLeft(rest, "-")
		if len(rest) < 2 {
			return UUID{}, Errorf(ErrInternal, "malformed uuid element")
		}
		if _, err := hex.Decode(u[i:i+1], []byte(rest[:2])); err != nil {
			return UUID{}, Errorf(ErrInternal, "malformed uuid element")
		}
		rest = rest[2:]
	}
	if rest != "" {
		return UUID{}, Errorf(ErrInternal, "malformed uuid element")
	}
	return u, nil
}

func (u UUID) String() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

// IsZero reports whether the UUID is not given.
func (u UUID) IsZero() bool { return u == UUID{} }

// MarshalText implements encoding.TextMarshaler.
func (u UUID) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (u *UUID) UnmarshalText(b []byte) (err error) {
	*u, err = ParseUUID(string(b))
	return err
}

// MAC is an Ethernet address. The zero value means "not given".
type MAC [6]byte

// ParseMAC reads six octets of one or two hex digits, separated by colons.
func ParseMAC(s string) (MAC, error) {
	var m MAC
	parts := strings.Split(s, ":")
	if len(parts) != len(m) {
		return MAC{}, Errorf(ErrXML, "MAC address '%s' has %d octets instead of 6", s, len(parts))
	}
	for i, p := range parts {
		if len(p) == 0 || len(p) > 2 {
			return MAC{}, Errorf(ErrXML, "MAC address '%s': octet '%s' is not one or two hex digits", s, p)
		}
		b, err := hex.DecodeString(strings.Repeat("0", 2-len(p)) + p)
		if err != nil {
			return MAC{}, Errorf(ErrXML, "MAC address '%s': octet '%s' is not hexadecimal", s, p)
		}
		m[i] = b[0]
	}
	return m, nil
}

// NewMAC makes a random unicast address with QEMU's prefix 52:54:00.
func NewMAC() MAC {
	m := MAC{0x52, 0x54, 0x00}
	rand.Read(m[3:])
	return m
}

func (m MAC) String() string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// IsZero reports whether the address is not given.
func (m MAC) IsZero() bool { return m == MAC{} }

// IsMulticast reports whether the address is a group address.
func (m MAC) IsMulticast() bool { return m[0]&1 == 1 }

// MarshalText implements encoding.TextMarshaler.
func (m MAC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (m *MAC) UnmarshalText(b []byte) (err error) {
	*m, err = ParseMAC(string(b))
	return err
}

// NamedUUID is the UUID that always belongs to the name (RFC 9562 version 8).
func NamedUUID(name string) UUID {
	sum := sha256.Sum256([]byte(name))
	u := UUID(sum[:16])
	u[6] = u[6]&0x0f | 0x80
	u[8] = u[8]&0x3f | 0x80
	return u
}
