package host

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// rtnl talks to the kernel by netlink, for the most part about links and
// routes. Every request in flight has a
// socket of its own, because a request is over only when the kernel is done
// with it and the removal of a bridge takes tens of milliseconds.
type rtnl struct {
	protocol int // of netlink
	idle     chan *netlink.Conn
}

// maxIdle is how many sockets are kept for later requests.
const maxIdle = 8

// maxDumps is how often an interrupted dump is begun again. The kernel
// interrupts one when what it lists changes meanwhile.
const maxDumps = 50

func newRTNL() *rtnl { return newNetlink(unix.NETLINK_ROUTE) }

func newNetlink(protocol int) *rtnl {
	return &rtnl{protocol: protocol, idle: make(chan *netlink.Conn, maxIdle)}
}

// with runs f with a socket from the pool.
func (r *rtnl) with(f func(*netlink.Conn) error) error {
	var c *netlink.Conn
	select {
	case c = <-r.idle:
	default:
		var err error
		if c, err = netlink.Dial(r.protocol, nil); err != nil {
			return fmt.Errorf("open netlink socket: %w", err)
		}
		// Older kernels lack this; the error is then the bare number.
		_ = c.SetOption(netlink.ExtendedAcknowledge, true)
	}
	err := f(c)
	if errno := unix.Errno(0); err == nil || errors.As(err, &errno) && errno != unix.ENOBUFS {
		select {
		case r.idle <- c:
			return err
		default:
		}
	}
	_ = c.Close()
	return err
}

// do sends one request and waits for the kernel's answer to it.
func (r *rtnl) do(typ netlink.HeaderType, flags netlink.HeaderFlags, body []byte) error {
	err := r.with(func(c *netlink.Conn) error {
		_, err := c.Execute(netlink.Message{
			Header: netlink.Header{Type: typ, Flags: netlink.Request | netlink.Acknowledge | flags},
			Data:   body,
		})
		return err
	})
	return kernelError(err)
}

// get asks for one object.
func (r *rtnl) get(typ netlink.HeaderType, body []byte) (reply []netlink.Message, err error) {
	err = r.with(func(c *netlink.Conn) (err error) {
		reply, err = c.Execute(netlink.Message{Header: netlink.Header{Type: typ, Flags: netlink.Request}, Data: body})
		return err
	})
	return reply, kernelError(err)
}

// kernelError reduces a netlink error to what the kernel said.
func kernelError(err error) error {
	var op *netlink.OpError
	if !errors.As(err, &op) {
		return err
	}
	if op.Message != "" {
		return fmt.Errorf("%w (%s)", op.Err, op.Message)
	}
	return op.Err
}

// dump lists all objects that the request of the given type lists. It is the
// only place that may: a dump costs time in proportion to the whole host, and
// forgetting to repeat an interrupted one loses objects.
func (r *rtnl) dump(typ netlink.HeaderType, body []byte) ([]netlink.Message, error) {
	for range maxDumps {
		var reply []netlink.Message
		err := r.with(func(c *netlink.Conn) (err error) {
			reply, err = c.Execute(netlink.Message{
				Header: netlink.Header{Type: typ, Flags: netlink.Request | netlink.Dump},
				Data:   body,
			})
			return err
		})
		interrupted := slices.ContainsFunc(reply, func(m netlink.Message) bool {
			return m.Header.Flags&netlink.DumpInterrupted != 0
		})
		switch {
		case errors.Is(err, unix.EINTR), err == nil && interrupted:
			continue
		case err != nil:
			return nil, kernelError(err)
		}
		return reply, nil
	}
	return nil, fmt.Errorf("list the host's network: interrupted %d times by changes", maxDumps)
}

// close closes the sockets that are not in use.
func (r *rtnl) close() {
	for {
		select {
		case c := <-r.idle:
			_ = c.Close()
		default:
			return
		}
	}
}

// linkBody is the body of a link request: an ifinfomsg and attributes. Index 0
// leaves it to the attributes to name the link.
func linkBody(index int, flags, change uint32, attrs func(*netlink.AttributeEncoder)) ([]byte, error) {
	b := make([]byte, 0, 128)
	b = append(b, unix.AF_UNSPEC, 0, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, uint32(index))
	b = binary.NativeEndian.AppendUint32(b, flags)
	b = binary.NativeEndian.AppendUint32(b, change)
	return appendAttrs(b, attrs)
}

func appendAttrs(b []byte, attrs func(*netlink.AttributeEncoder)) ([]byte, error) {
	if attrs == nil {
		return b, nil
	}
	e := netlink.NewAttributeEncoder()
	attrs(e)
	enc, err := e.Encode()
	return append(b, enc...), err
}
