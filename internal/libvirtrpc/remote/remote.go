// Package remote is a client of libvirt's daemons (src/remote/remote_protocol.x
// there): as much of one as it takes to manage the networks that such a daemon
// has of its own. Calls go one after the other.
package remote

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"slices"
	"time"

	"viaduct/internal/libvirtrpc/wire"
	"viaduct/internal/libvirtrpc/xdr"
	"viaduct/internal/netdef"
)

// The procedures that are called (enum remote_procedure).
const (
	procOpen         = 1
	procClose        = 2
	procStart        = 39
	procDefine       = 41
	procStop         = 42
	procXML          = 43
	procAutostart    = 44
	procSetAutostart = 48
	procUndefine     = 49
	procAuthList     = 66
	procAuthPolkit   = 70
	procIsActive     = 152
	procIsPersistent = 153
	procListAll      = 283
)

// The ways to authenticate (remote_auth_type) that this client knows.
const (
	authNone   = 0
	authPolkit = 2
)

const (
	// callTimeout bounds the wait for an answer. A daemon that systemd starts at
	// the first call needs some seconds.
	callTimeout = time.Minute
	// maxAnswer bounds an answer in octets: the list of maxNetworks names.
	maxAnswer   = 32 << 20
	maxNetworks = 16384 // REMOTE_NETWORK_LIST_MAX
	maxAuths    = 20    // REMOTE_AUTH_TYPE_LIST_MAX
)

// Error is an error that the daemon answered with.
type Error struct {
	Code    int32 // virErrorNumber
	Message string
}

func (e *Error) Error() string { return e.Message }

// Conn is a connection to a daemon. It is not for concurrent use.
type Conn struct {
	conn   net.Conn
	in     *bufio.Reader
	serial uint32
	stop   func() bool
}

// Dial connects to the daemon at a Unix socket and opens the URI there. The
// connection ends with the context.
func Dial(ctx context.Context, socket, uri string) (*Conn, error) {
	conn, err := (&net.Dialer{Timeout: callTimeout}).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	c := &Conn{conn: conn, in: bufio.NewReader(conn), stop: context.AfterFunc(ctx, func() { conn.Close() })}
	if err := c.open(uri); err != nil {
		c.Close()
		return nil, fmt.Errorf("open %s at %s: %w", uri, socket, err)
	}
	return c, nil
}

func (c *Conn) open(uri string) error {
	out, err := c.call(procAuthList, func(*xdr.Encoder) {})
	if err != nil {
		return err
	}
	ways := xdr.List(out, maxAuths, (*xdr.Decoder).Uint32)
	if err := out.End(); err != nil {
		return err
	}
	switch {
	case slices.Contains(ways, authNone) || len(ways) == 0:
	case slices.Contains(ways, authPolkit):
		if out, err = c.call(procAuthPolkit, func(*xdr.Encoder) {}); err == nil {
			_ = out.Uint32()
			err = out.End()
		}
		if err != nil {
			return err
		}
	default:
		return fmt.Errorf("the daemon asks for another way to authenticate than polkit (%v)", ways)
	}
	return c.act(procOpen, func(e *xdr.Encoder) {
		e.OptionalString(&uri)
		e.Uint32(0)
	})
}

// Close ends the connection.
func (c *Conn) Close() {
	c.act(procClose, func(*xdr.Encoder) {}) // politeness; the daemon bears its lack
	c.stop()
	c.conn.Close()
}

// call makes a call and waits for its answer. What the daemon says in between,
// such as events nobody asked for, is passed over.
func (c *Conn) call(procedure uint32, args func(*xdr.Encoder)) (*xdr.Decoder, error) {
	e := &xdr.Encoder{}
	args(e)
	c.serial++
	h := wire.Header{Program: wire.ProgramRemote, Version: wire.Version, Procedure: procedure, Serial: c.serial}
	c.conn.SetDeadline(time.Now().Add(callTimeout))
	if _, err := c.conn.Write(wire.Append(nil, h, e.Data())); err != nil {
		return nil, err
	}
	for {
		answer, payload, err := wire.Read(c.in, maxAnswer)
		switch {
		case err != nil:
			return nil, fmt.Errorf("wait for the answer to call %d: %w", procedure, err)
		case answer.Program != wire.ProgramRemote || answer.Type != wire.Reply || answer.Serial != h.Serial:
			continue
		case answer.Status != wire.OK:
			return nil, readError(xdr.NewDecoder(payload))
		}
		return xdr.NewDecoder(payload), nil
	}
}

// readError reads the beginning of a virNetMessageError, which is all that is of use.
func readError(d *xdr.Decoder) error {
	code := d.Int32()
	d.Int32() // its domain
	message := d.OptionalString()
	if message == nil {
		return &Error{Code: code, Message: fmt.Sprintf("error %d without a text", code)}
	}
	return &Error{Code: code, Message: *message}
}

// act makes a call that answers with nothing.
func (c *Conn) act(procedure uint32, args func(*xdr.Encoder)) error {
	out, err := c.call(procedure, args)
	if err != nil {
		return err
	}
	return out.End()
}

// Network is a network of the daemon's.
type Network struct {
	Name string
	UUID netdef.UUID
}

func (n Network) write(e *xdr.Encoder) {
	e.String(n.Name)
	e.UUID(n.UUID)
}

func readNetwork(d *xdr.Decoder) Network { return Network{d.String(), d.UUID()} }

// Networks lists all networks, active or not.
func (c *Conn) Networks() ([]Network, error) {
	out, err := c.call(procListAll, func(e *xdr.Encoder) {
		e.Uint32(1) // names, and not only their number
		e.Uint32(0) // of all
	})
	if err != nil {
		return nil, err
	}
	list := xdr.List(out, maxNetworks, readNetwork)
	out.Uint32() // how many there are
	return list, out.End()
}

// XML is a network's definition: the live one, or the one that its next start uses.
func (c *Conn) XML(n Network, inactive bool) (string, error) {
	out, err := c.call(procXML, func(e *xdr.Encoder) {
		n.write(e)
		e.Bool(inactive)
	})
	if err != nil {
		return "", err
	}
	xml := out.String()
	return xml, out.End()
}

// State is what a network is besides its definition.
type State struct{ Active, Persistent, Autostart bool }

// State asks for the state of a network.
func (c *Conn) State(n Network) (s State, err error) {
	for _, ask := range []struct {
		procedure uint32
		into      *bool
	}{{procIsActive, &s.Active}, {procIsPersistent, &s.Persistent}, {procAutostart, &s.Autostart}} {
		out, err := c.call(ask.procedure, n.write)
		if err != nil {
			return s, err
		}
		*ask.into = out.Int32() != 0
		if err := out.End(); err != nil {
			return s, err
		}
	}
	return s, nil
}

// Define makes a persistent network, or replaces the definition of one.
func (c *Conn) Define(xml string) (Network, error) {
	out, err := c.call(procDefine, func(e *xdr.Encoder) { e.String(xml) })
	if err != nil {
		return Network{}, err
	}
	n := readNetwork(out)
	return n, out.End()
}

// Start starts a network.
func (c *Conn) Start(n Network) error { return c.act(procStart, n.write) }

// Stop stops a network.
func (c *Conn) Stop(n Network) error { return c.act(procStop, n.write) }

// Undefine takes away the definition.
func (c *Conn) Undefine(n Network) error { return c.act(procUndefine, n.write) }

// SetAutostart says whether the network starts with the host.
func (c *Conn) SetAutostart(n Network, on bool) error {
	return c.act(procSetAutostart, func(e *xdr.Encoder) {
		n.write(e)
		e.Bool(on)
	})
}
