// Package nl has the pieces of netlink that its libraries leave out: attributes
// read where they are, without an allocation, and filters and queues of sockets.
package nl

import (
	"encoding/binary"
	"iter"
	"os"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Attrs lists attributes as received. It ends at what is malformed.
func Attrs(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofNlAttr {
			size := int(binary.NativeEndian.Uint16(b))
			if size < unix.SizeofNlAttr || size > len(b) {
				return
			}
			typ := binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
			if !yield(typ, b[unix.SizeofNlAttr:size]) {
				return
			}
			b = b[min(Align(size), len(b)):]
		}
	}
}

// Attr returns the first attribute of the given type, or nil.
func Attr(b []byte, want uint16) []byte {
	for typ, v := range Attrs(b) {
		if typ == want {
			return v
		}
	}
	return nil
}

// Uint32 returns the number, in network byte order, in the attribute of the given type, or 0.
func Uint32(b []byte, want uint16) uint32 {
	if v := Attr(b, want); len(v) >= 4 {
		return binary.BigEndian.Uint32(v)
	}
	return 0
}

// String returns the text in the attribute of the given type, or "".
func String(b []byte, want uint16) string { return CString(Attr(b, want)) }

// CString is the text up to the first NUL.
func CString(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}

// AttachFilter lets the kernel choose what a socket gets.
func AttachFilter(fd int, program []bpf.Instruction) error {
	raw, err := bpf.Assemble(program)
	if err != nil {
		return err
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
}

// SetReceiveQueue lets the kernel hold so many bytes for a socket.
func SetReceiveQueue(fd, bytes int) error {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, bytes) == nil {
		return nil
	}
	// Without CAP_NET_ADMIN the system's limit applies.
	return os.NewSyscallError("set receive buffer", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, bytes))
}

// NetworkOrder is v as a number whose bytes in memory are in network order.
func NetworkOrder(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

// Align is the size that an attribute of n bytes takes up.
func Align(n int) int { return (n + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1) }
