// Package xdr reads and writes the part of XDR (RFC 4506) that libvirt's
// protocol uses. No length is believed before it is compared with a limit and
// with what is there, so that nothing is allocated for what was not sent.
package xdr

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// MaxString bounds a string on the wire, in octets (REMOTE_STRING_MAX).
const MaxString = 4194304

// ErrShort says that data end before what they begin.
var ErrShort = errors.New("decode message: it ends too early")

// Decoder reads values. The first error sticks, so that callers check once, by
// End; until then a Decoder that failed returns zero values.
type Decoder struct {
	data []byte
	err  error
}

// NewDecoder reads from data, which must not change meanwhile.
func NewDecoder(data []byte) *Decoder { return &Decoder{data: data} }

func (d *Decoder) fail(err error) {
	if d.err == nil {
		d.err = err
	}
}

func (d *Decoder) take(n int) []byte {
	if n > len(d.data) {
		d.fail(ErrShort)
	}
	if d.err != nil {
		return nil
	}
	b := d.data[:n]
	d.data = d.data[n:]
	return b
}

// Uint32 reads an unsigned integer or an enumeration.
func (d *Decoder) Uint32() uint32 {
	b := d.take(4)
	if b == nil {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

// Int32 reads an integer.
func (d *Decoder) Int32() int32 { return int32(d.Uint32()) }

// Uint64 reads an unsigned hyper integer.
func (d *Decoder) Uint64() uint64 {
	b := d.take(8)
	if b == nil {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}

// String reads a string of at most MaxString octets.
func (d *Decoder) String() string {
	n := d.Uint32()
	if n > MaxString {
		d.fail(fmt.Errorf("decode message: a string of %d octets is too long", n))
	}
	if d.err != nil {
		return ""
	}
	s := string(d.take(int(n)))
	d.take(int(-n & 3))
	return s
}

// present reads whether an optional value follows. Only 1 is said to mean that,
// but libvirt takes all but 0 for it, and go-libvirt sends 1<<24.
func (d *Decoder) present() bool {
	there := d.Uint32()
	return d.err == nil && there != 0
}

// OptionalString is nil where none was sent.
func (d *Decoder) OptionalString() *string { return Optional(d, (*Decoder).String) }

// Optional reads what may be left out; nil says that it was.
func Optional[T any](d *Decoder, read func(*Decoder) T) *T {
	if !d.present() {
		return nil
	}
	v := read(d)
	return &v
}

// UUID reads 16 octets.
func (d *Decoder) UUID() (u [16]byte) {
	copy(u[:], d.take(len(u)))
	return u
}

// List reads an array of at most limit items, each of which takes four octets
// at least. Memory is taken as items arrive.
func List[T any](d *Decoder, limit int, read func(*Decoder) T) []T {
	n := d.Uint32()
	if uint64(n) > uint64(limit) {
		d.fail(fmt.Errorf("decode message: a list of %d items is too long", n))
	}
	if uint64(n) > uint64(len(d.data)/4) {
		d.fail(ErrShort)
	}
	var list []T
	for range n {
		if d.err != nil {
			return nil
		}
		list = append(list, read(d))
	}
	return list
}

// Fail makes the decoder fail, for values that are out of their bounds.
func (d *Decoder) Fail(format string, args ...any) {
	d.fail(fmt.Errorf("decode message: "+format, args...))
}

// End reports what went wrong, data that are left over included.
func (d *Decoder) End() error {
	if d.err == nil && len(d.data) > 0 {
		return fmt.Errorf("decode message: %d octets are left over", len(d.data))
	}
	return d.err
}

// Encoder writes values.
type Encoder struct{ data []byte }

// Data is what has been written.
func (e *Encoder) Data() []byte { return e.data }

// Uint32 writes an unsigned integer or an enumeration.
func (e *Encoder) Uint32(v uint32) { e.data = binary.BigEndian.AppendUint32(e.data, v) }

// Int32 writes an integer.
func (e *Encoder) Int32(v int32) { e.Uint32(uint32(v)) }

// Uint64 writes an unsigned hyper integer.
func (e *Encoder) Uint64(v uint64) { e.data = binary.BigEndian.AppendUint64(e.data, v) }

// Bool writes 1 or 0.
func (e *Encoder) Bool(v bool) {
	if v {
		e.Uint32(1)
	} else {
		e.Uint32(0)
	}
}

// String writes a string.
func (e *Encoder) String(s string) {
	e.Uint32(uint32(len(s)))
	e.data = append(e.data, s...)
	e.data = append(e.data, make([]byte, -len(s)&3)...)
}

// OptionalString writes a string that may be left out.
func (e *Encoder) OptionalString(s *string) {
	e.Bool(s != nil)
	if s != nil {
		e.String(*s)
	}
}

// UUID writes 16 octets.
func (e *Encoder) UUID(u [16]byte) { e.data = append(e.data, u[:]...) }
