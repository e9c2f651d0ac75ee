// Package rpctest is a client of libvirt's protocol for tests. It can send
// what libvirt's own library never would.
package rpctest

import (
	"errors"
	"fmt"
	"net"
	"sync"

	"viaduct/internal/libvirtrpc/wire"
	"viaduct/internal/libvirtrpc/xdr"
)

// Failure is an error that the server answered with (virNetMessageError).
type Failure struct {
	Code, Domain        int32
	Message             string
	Level               int32
	Str1, Str2, Str3    string // "" also for those that are left out
	Number1, Number2    int32
	AboutGuest, AboutIt bool // whether a guest or a network was sent along
}

func (f *Failure) Error() string { return fmt.Sprintf("error %d: %s", f.Code, f.Message) }

// ReadFailure reads an error.
func ReadFailure(d *xdr.Decoder) *Failure {
	text := func() string {
		if s := d.OptionalString(); s != nil {
			return *s
		}
		return ""
	}
	f := &Failure{Code: d.Int32(), Domain: d.Int32(), Message: text(), Level: d.Int32()}
	f.AboutGuest = d.Uint32() == 1
	f.Str1, f.Str2, f.Str3 = text(), text(), text()
	f.Number1, f.Number2 = d.Int32(), d.Int32()
	f.AboutIt = d.Uint32() == 1
	return f
}

// Event is a message that answers no call.
type Event struct {
	Header wire.Header
	Data   *xdr.Decoder
}

// Client is a connection. Its calls may be made concurrently.
type Client struct {
	Conn net.Conn
	// Events has room for 4096 messages; more are dropped, and so are all but
	// the server's pings, which are answered, if Silent is not set.
	Events chan Event
	Silent bool // leave pings unanswered

	mu      sync.Mutex
	serial  uint32
	waiting map[uint32]chan reply
	err     error
	done    chan struct{}
}

type reply struct {
	header  wire.Header
	payload []byte
}

// ErrGone says that the server has closed the connection.
var ErrGone = errors.New("the server has closed the connection")

// Dial connects to a socket. It opens nothing.
func Dial(path string) (*Client, error) {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return nil, err
	}
	c := &Client{Conn: conn, Events: make(chan Event, 4096), waiting: map[uint32]chan reply{}, done: make(chan struct{})}
	go c.read()
	return c, nil
}

// Close ends the connection and waits for the reader's end.
func (c *Client) Close() {
	c.Conn.Close()
	<-c.done
}

// Done is closed when the connection has ended.
func (c *Client) Done() <-chan struct{} { return c.done }

func (c *Client) read() {
	defer close(c.done)
	for {
		h, payload, err := wire.Read(c.Conn, 64<<20)
		c.mu.Lock()
		if err != nil {
			for _, w := range c.waiting {
				close(w)
			}
			c.waiting, c.err = nil, ErrGone
			c.mu.Unlock()
			return
		}
		w := c.waiting[h.Serial]
		if h.Type == wire.Reply && w != nil {
			delete(c.waiting, h.Serial)
			w <- reply{h, payload}
			c.mu.Unlock()
			continue
		}
		c.mu.Unlock()
		if h.Program == wire.ProgramKeepalive && h.Procedure == wire.Ping && !c.Silent {
			h.Procedure = wire.Pong
			c.Send(h, nil)
			continue
		}
		select {
		case c.Events <- Event{h, xdr.NewDecoder(payload)}:
		default:
		}
	}
}

// Send sends a message as it is.
func (c *Client) Send(h wire.Header, payload []byte) error {
	_, err := c.Conn.Write(wire.Append(nil, h, payload))
	return err
}

// Call makes a call of the program for everything and returns its result, a
// *Failure, or ErrGone.
func (c *Client) Call(procedure uint32, args func(*xdr.Encoder)) (*xdr.Decoder, error) {
	e := &xdr.Encoder{}
	if args != nil {
		args(e)
	}
	return c.Raw(wire.Header{Program: wire.ProgramRemote, Version: wire.Version, Procedure: procedure}, e.Data())
}

// Raw makes a call with whatever is in header and payload, but for the serial
// number, which it chooses.
func (c *Client) Raw(h wire.Header, payload []byte) (*xdr.Decoder, error) {
	w := make(chan reply, 1)
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return nil, c.err
	}
	c.serial++
	h.Serial = c.serial
	c.waiting[h.Serial] = w
	c.mu.Unlock()
	if err := c.Send(h, payload); err != nil {
		return nil, ErrGone
	}
	r, ok := <-w
	switch {
	case !ok:
		return nil, ErrGone
	case r.header.Procedure != h.Procedure || r.header.Program != h.Program:
		return nil, fmt.Errorf("the reply %+v does not fit the call %+v", r.header, h)
	case r.header.Status == wire.Error:
		return nil, ReadFailure(xdr.NewDecoder(r.payload))
	}
	return xdr.NewDecoder(r.payload), nil
}

// Open does what libvirt's clients do first.
func (c *Client) Open(uri string, flags uint32) error {
	if _, err := c.Call(66, nil); err != nil {
		return err
	}
	_, err := c.Call(1, func(e *xdr.Encoder) {
		e.OptionalString(&uri)
		e.Uint32(flags)
	})
	return err
}
