// Package wire frames the messages of libvirt's protocol
// (src/rpc/virnetprotocol.x there).
package wire

import (
	"encoding/binary"
	"fmt"
	"io"

	"viaduct/internal/libvirtrpc/xdr"
)

// The programs that share a connection, each of version 1.
const (
	ProgramRemote    = 0x20008086
	ProgramKeepalive = 0x6b656570
	Version          = 1
)

// The types of messages in use (virNetMessageType).
const (
	Call    = 0
	Reply   = 1
	Message = 2
)

// The states of a reply (virNetMessageStatus).
const (
	OK    = 0
	Error = 1
)

// The procedures of ProgramKeepalive. They are messages without payload.
const (
	Ping = 1
	Pong = 2
)

const (
	headerSize = 24
	// MaxPayload bounds what a client may send at once: a definition is the
	// largest thing one sends, and a string is at most 4 MiB.
	MaxPayload = xdr.MaxString + 4096
	// step is how much is allocated for a payload ahead of its arrival.
	step = 64 << 10
)

// Header precedes every message.
type Header struct {
	Program, Version, Procedure, Type, Serial, Status uint32
}

// Read reads one message with a payload of at most limit octets. io.EOF says
// that the other side is gone.
func Read(r io.Reader, limit int) (Header, []byte, error) {
	var head [4 + headerSize]byte
	if _, err := io.ReadFull(r, head[:4]); err != nil {
		return Header{}, nil, err
	}
	length := int64(binary.BigEndian.Uint32(head[:])) - int64(len(head)) // it counts itself
	if length < 0 || length > int64(limit) {
		return Header{}, nil, fmt.Errorf("read message: length %d is out of bounds", length+int64(len(head)))
	}
	if _, err := io.ReadFull(r, head[4:]); err != nil {
		return Header{}, nil, fmt.Errorf("read message: %w", err)
	}
	var h Header
	for i, p := range []*uint32{&h.Program, &h.Version, &h.Procedure, &h.Type, &h.Serial, &h.Status} {
		*p = binary.BigEndian.Uint32(head[4+4*i:])
	}
	var payload []byte
	for have := 0; have < int(length); have = len(payload) {
		payload = append(payload, make([]byte, min(int(length)-have, max(step, have)))...)
		if _, err := io.ReadFull(r, payload[have:]); err != nil {
			return Header{}, nil, fmt.Errorf("read message: %w", err)
		}
	}
	return h, payload, nil
}

// Append appends a message to b.
func Append(b []byte, h Header, payload []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(4+headerSize+len(payload)))
	for _, v := range []uint32{h.Program, h.Version, h.Procedure, h.Type, h.Serial, h.Status} {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return append(b, payload...)
}
