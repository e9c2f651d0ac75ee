package xenstore

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"viaduct/internal/xenvif/direct"
)

// Brief is a client for a program that has little to ask and no time to lose: it
// sends all that it has to say at once, and then waits for the answers. It knows
// neither transactions nor watches, and is for one goroutine.
type Brief struct {
	conn    *direct.Conn
	answers *bufio.Reader
	last    uint32 // the number of the last request
	// device says that the other end is the kernel, which takes one request
	// with each write.
	device bool
}

// OpenBrief connects to the store of this domain: by xenstored's socket, or
// where there is none by the kernel's device. All has to be done by the
// deadline.
func OpenBrief(getenv func(string) string, deadline time.Time) (*Brief, error) {
	socket := SocketPath(getenv)
	conn, err := direct.Dial(socket, deadline)
	if err == nil {
		return newBrief(conn, false), nil
	}
	err = fmt.Errorf("connect to xenstore at %s: %w", socket, err)
	switch conn, failed := direct.Open(device, deadline); {
	case failed == nil:
		return newBrief(conn, true), nil
	case !errors.Is(failed, fs.ErrNotExist):
		err = errors.Join(err, failed)
	}
	return nil, err
}

func newBrief(conn *direct.Conn, device bool) *Brief {
	return &Brief{conn: conn, answers: bufio.NewReader(conn), device: device}
}

// Extend moves the deadline.
func (b *Brief) Extend(deadline time.Time) { b.conn.Extend(deadline) }

// Close ends the connection.
func (b *Brief) Close() error { return b.conn.Close() }

// ReadAll returns the values of keys, in their order. A key that is not there,
// or not for the caller, has the value "".
func (b *Brief) ReadAll(paths ...string) ([]string, error) {
	requests := make([]Message, len(paths))
	for i, path := range paths {
		requests[i] = Message{Op: OpRead, Payload: Terminated(path)}
	}
	values := make([]string, len(paths))
	err := b.exchange(requests, func(i int, answer Message) error {
		err := answerError(OpRead, answer)
		if refused := Errno(""); err == nil || errors.As(err, &refused) {
			values[i] = string(answer.Payload)
			if err != nil {
				values[i] = ""
			}
			return nil
		}
		return err
	})
	return values, err
}

// Change is a key that is set to a value, or removed with all below it. To
// remove one that is not there is fine.
type Change struct {
	Path, Value string
	Remove      bool
}

// Change carries changes out in their order, each whether or not those before it
// succeed.
func (b *Brief) Change(changes ...Change) error {
	requests := make([]Message, len(changes))
	for i, c := range changes {
		requests[i] = Message{Op: OpWrite, Payload: append(Terminated(c.Path), c.Value...)}
		if c.Remove {
			requests[i] = Message{Op: OpRemove, Payload: Terminated(c.Path)}
		}
	}
	var refused []error
	err := b.exchange(requests, func(i int, answer Message) error {
		op := requests[i].Op
		if err := answerError(op, answer); err != nil && !(op == OpRemove && errors.Is(err, ErrNotExist)) {
			refused = append(refused, fmt.Errorf("%s %s: %w", op, changes[i].Path, err))
		}
		return nil
	})
	return errors.Join(append(refused, err)...)
}

// exchange sends requests and hands out their answers, which the store gives in
// the same order.
func (b *Brief) exchange(requests []Message, each func(i int, answer Message) error) error {
	first := b.last + 1
	var all []byte
	for _, m := range requests {
		if path, _, _ := strings.Cut(string(m.Payload), "\x00"); path == "" || len(path) > maxPath {
			return fmt.Errorf("%s %.100q: not a path", m.Op, path)
		}
		if len(m.Payload) > MaxPayload {
			return fmt.Errorf("%s: a payload of %d octets is too long", m.Op, len(m.Payload))
		}
		b.last++
		m.Request = b.last
		all = m.Append(all)
		if b.device {
			if _, err := b.conn.Write(all); err != nil {
				return err
			}
			all = all[:0]
		}
	}
	if len(all) > 0 {
		if _, err := b.conn.Write(all); err != nil {
			return err
		}
	}
	for i := range requests {
		answer, err := ReadMessage(b.answers)
		switch {
		case errors.Is(err, io.EOF):
			return fmt.Errorf("lost the connection: %w", err)
		case err != nil:
			return err
		case answer.Request != first+uint32(i):
			return fmt.Errorf("the store answers request %d, and not %d", answer.Request, first+uint32(i))
		}
		if err := each(i, answer); err != nil {
			return err
		}
	}
	return nil
}
