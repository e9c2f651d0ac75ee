// Package libvirtrpc is the door for libvirt's clients: it speaks the wire
// protocol of libvirt's daemons (src/rpc/virnetprotocol.x and
// src/remote/remote_protocol.x there) on a Unix socket, so that virsh takes
// Viaduct for virtnetworkd. It translates and decides nothing.
package libvirtrpc

import (
	"encoding/binary"
	"fmt"
	"io"
)

// The programs that share a connection, each of version 1.
const (
	programRemote    = 0x20008086
	programKeepalive = 0x6b656570
	programVersion   = 1
)

// The types of messages in use (virNetMessageType).
const (
	typeCall    = 0
	typeReply   = 1
	typeMessage = 2
)

// The states of a reply (virNetMessageStatus).
const (
	statusOK    = 0
	statusError = 1
)

const (
	headerSize = 24
	// maxCall bounds what is read from a client: a definition is the largest
	// thing one sends, and a string is at most 4 MiB.
	maxCall = headerSize + maxString + 1024
)

// header precedes every message.
type header struct {
	Program, Version, Procedure, Type, Serial, Status uint32
}

// readFrame reads one message. io.EOF says that the client is gone.
func readFrame(r io.Reader) (header, []byte, error) {
	var word [4]byte
	if _, err := io.ReadFull(r, word[:]); err != nil {
		return header{}, nil, err
	}
	length := binary.BigEndian.Uint32(word[:]) // counts itself
	if length < 4+headerSize || length > 4+maxCall {
		return header{}, nil, fmt.Errorf("read message: length %d is out of bounds", length)
	}
	body := make([]byte, length-4)
	if _, err := io.ReadFull(r, body); err != nil {
		return header{}, nil, fmt.Errorf("read message: %w", err)
	}
	var h header
	for i, p := range []*uint32{&h.Program, &h.Version, &h.Procedure, &h.Type, &h.Serial, &h.Status} {
		*p = binary.BigEndian.Uint32(body[4*i:])
	}
	return h, body[headerSize:], nil
}

// appendFrame appends a message to b.
func appendFrame(b []byte, h header, payload []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(4+headerSize+len(payload)))
	for _, v := range []uint32{h.Program, h.Version, h.Procedure, h.Type, h.Serial, h.Status} {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return append(b, payload...)
}
