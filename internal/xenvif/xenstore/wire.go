// Package xenstore is a client of Xen's store, the small tree of strings by
// which the parts of a Xen host agree on what each guest gets. It speaks the
// protocol of docs/misc/xenstore.txt and xen/include/public/io/xs_wire.h in
// Xen's sources, on xenstored's Unix socket.
package xenstore

import (
	"encoding/binary"
	"fmt"
	"io"
	"strings"
)

// Op is the type of a message (enum xsd_sockmsg_type).
type Op uint32

// The types that a client of ours needs.
const (
	OpDirectory        Op = 1
	OpRead             Op = 2
	OpWatch            Op = 4
	OpUnwatch          Op = 5
	OpTransactionStart Op = 6
	OpTransactionEnd   Op = 7
	OpWrite            Op = 11
	OpRemove           Op = 13
	OpWatchEvent       Op = 15
	OpError            Op = 16
)

var opNames = map[Op]string{
	OpDirectory: "list", OpRead: "read", OpWatch: "watch", OpUnwatch: "unwatch", OpTransactionStart: "begin transaction",
	OpTransactionEnd: "end transaction", OpWrite: "write", OpRemove: "remove", OpWatchEvent: "watch event", OpError: "error",
}

func (o Op) String() string {
	if name, ok := opNames[o]; ok {
		return name
	}
	return fmt.Sprintf("op(%d)", uint32(o))
}

const (
	headerSize = 16
	// MaxPayload bounds what follows a header, in octets (XENSTORE_PAYLOAD_MAX).
	MaxPayload = 4096
	// maxPath bounds an absolute path, in octets (XENSTORE_ABS_PATH_MAX).
	maxPath = 3072
)

// Message is a request, its answer, or the news of a watch.
type Message struct {
	Op      Op
	Request uint32 // the answer carries the number of its request
	Tx      uint32 // the transaction, 0 for none
	Payload []byte // mostly strings that end with NUL
}

// ReadMessage reads a message. io.EOF says that the other end is gone.
func ReadMessage(r io.Reader) (Message, error) {
	var head [headerSize]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return Message{}, err
	}
	word := func(i int) uint32 { return binary.NativeEndian.Uint32(head[4*i:]) }
	m := Message{Op: Op(word(0)), Request: word(1), Tx: word(2)}
	if word(3) > MaxPayload {
		return Message{}, fmt.Errorf("read message: a payload of %d octets is too long", word(3))
	}
	m.Payload = make([]byte, word(3))
	if _, err := io.ReadFull(r, m.Payload); err != nil {
		return Message{}, fmt.Errorf("read message: it ends too early: %w", err)
	}
	return m, nil
}

// Append appends the message to b as it goes over the wire.
func (m Message) Append(b []byte) []byte {
	for _, v := range []uint32{uint32(m.Op), m.Request, m.Tx, uint32(len(m.Payload))} {
		b = binary.NativeEndian.AppendUint32(b, v)
	}
	return append(b, m.Payload...)
}

// Strings are the payload's strings, each of which ends with NUL.
func (m Message) Strings() []string {
	text := strings.TrimSuffix(string(m.Payload), "\x00")
	if text == "" && len(m.Payload) == 0 {
		return nil
	}
	return strings.Split(text, "\x00")
}

// Terminated is a payload of strings, each ended with NUL.
func Terminated(list ...string) []byte {
	var b []byte
	for _, s := range list {
		b = append(append(b, s...), 0)
	}
	return b
}
