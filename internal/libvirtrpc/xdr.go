package libvirtrpc

import (
	"encoding/binary"
	"errors"
	"fmt"

	"viaduct/internal/netdef"
)

// maxString bounds a string on the wire, in bytes (REMOTE_STRING_MAX).
const maxString = 4194304

var errShort = errors.New("decode message: it ends too early")

// decoder reads XDR (RFC 4506). The first error sticks, so that callers check
// once, at the end. No length is believed before it is compared with what is
// there.
type decoder struct {
	data []byte
	err  error
}

func (d *decoder) take(n int) []byte {
	if d.err == nil && (n < 0 || n > len(d.data)) {
		d.err = errShort
	}
	if d.err != nil {
		return nil
	}
	b := d.data[:n]
	d.data = d.data[n:]
	return b
}

func (d *decoder) uint32() uint32 {
	b := d.take(4)
	if b == nil {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

func (d *decoder) int32() int32 { return int32(d.uint32()) }

func (d *decoder) string() string {
	n := d.uint32()
	if d.err == nil && n > maxString {
		d.err = fmt.Errorf("decode message: a string of %d bytes is too long", n)
	}
	if d.err != nil {
		return ""
	}
	s := string(d.take(int(n)))
	d.take(int(-n & 3))
	return s
}

// optionalString is nil where none was sent.
func (d *decoder) optionalString() *string {
	switch d.uint32() {
	case 0:
		return nil
	case 1:
		s := d.string()
		return &s
	}
	if d.err == nil {
		d.err = errors.New("decode message: an optional value is neither there nor not")
	}
	return nil
}

func (d *decoder) uuid() netdef.UUID {
	var u netdef.UUID
	copy(u[:], d.take(len(u)))
	return u
}

// network reads remote_nonnull_network.
func (d *decoder) network() networkRef { return networkRef{d.string(), d.uuid()} }

// end reports what went wrong, data that is left over included.
func (d *decoder) end() error {
	if d.err == nil && len(d.data) > 0 {
		return fmt.Errorf("decode message: %d bytes are left over", len(d.data))
	}
	return d.err
}

// networkRef is how the protocol names a network.
type networkRef struct {
	Name string
	UUID netdef.UUID
}

// encoder writes XDR.
type encoder struct{ data []byte }

func (e *encoder) uint32(v uint32) { e.data = binary.BigEndian.AppendUint32(e.data, v) }
func (e *encoder) int32(v int32)   { e.uint32(uint32(v)) }

func (e *encoder) bool(v bool) {
	if v {
		e.uint32(1)
	} else {
		e.uint32(0)
	}
}

func (e *encoder) string(s string) {
	e.uint32(uint32(len(s)))
	e.data = append(e.data, s...)
	e.data = append(e.data, make([]byte, -len(s)&3)...)
}

func (e *encoder) network(n networkRef) {
	e.string(n.Name)
	e.data = append(e.data, n.UUID[:]...)
}

// The fields of an error that never carry anything here.
const (
	errorLevel    = 2  // VIR_ERR_ERROR
	domainNetwork = 19 // VIR_FROM_NETWORK
	domainRPC     = 7  // VIR_FROM_RPC
	domainXML     = 5  // VIR_FROM_XML
)

// domains says which part of libvirt errors of a code come from, if not from
// the network driver.
var domains = map[netdef.Code]int32{netdef.ErrRPC: domainRPC, netdef.ErrXMLDetail: domainXML}

// failure writes virNetMessageError.
func (e *encoder) failure(err error) {
	var known *netdef.Error
	if !errors.As(err, &known) {
		known = netdef.Errorf(netdef.ErrInternal, "%w", err)
	}
	domain, ok := domains[known.Code]
	if !ok {
		domain = domainNetwork
	}
	message, format := known.Error(), known.Code.Prefix()+"%s"
	e.int32(int32(known.Code))
	e.int32(domain)
	e.bool(true)
	e.string(message)
	e.int32(errorLevel)
	e.bool(false) // domain object
	e.bool(true)
	e.string(format)
	e.bool(true)
	e.string(known.Detail)
	e.bool(false) // third string
	e.int32(-1)
	e.int32(-1)
	e.bool(false) // network object
}
