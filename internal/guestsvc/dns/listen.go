package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// udpConn is what a server needs of a *net.UDPConn.
type udpConn interface {
	net.PacketConn
	ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error)
	WriteToUDPAddrPort(b []byte, addr netip.AddrPort) (int, error)
}

// errorPause keeps a socket that fails for a while from being read in a tight loop.
const errorPause = 100 * time.Millisecond

// serveUDP answers what arrives, one after the other: what is known here takes
// microseconds, and everything else waits elsewhere.
func (s *Server) serveUDP(conn udpConn) {
	d := new(desk)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(d.in[:])
		if err != nil {
			if s.failed("read dns query", err) {
				return
			}
			continue
		}
		addr := from.Addr().Unmap()
		out, ask := s.answer(d, n, addr, false)
		switch {
		case ask != nil:
			s.forward(d.query.clone(), ask, udpClient{conn, from})
		case out != nil:
			// Who is gone needs no answer; who wants one asks again.
			conn.WriteToUDPAddrPort(out, from)
		}
	}
}

// failed reports whether an error means that the socket has been closed.
// Otherwise it logs it and pauses.
func (s *Server) failed(what string, err error) bool {
	if errors.Is(err, net.ErrClosed) {
		return true
	}
	s.log.Warn(what, "error", err)
	select {
	case <-s.ctx.Done():
		return true
	case <-time.After(errorPause):
		return false
	}
}

type udpClient struct {
	conn udpConn
	to   netip.AddrPort
}

func (c udpClient) addr() netip.Addr { return c.to.Addr().Unmap() }
func (c udpClient) tcp() bool        { return false }
func (c udpClient) send(msg []byte)  { c.conn.WriteToUDPAddrPort(msg, c.to) }

// How long a connection may be idle, and how long a client may take to accept an answer.
const (
	idleTimeout  = 10 * time.Second
	writeTimeout = 2 * time.Second
)

// serveTCP accepts connections of those who may ask, as many as there is room for.
func (s *Server) serveTCP(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			if s.failed("accept dns connection", err) {
				return
			}
			continue
		}
		from, err := netip.ParseAddrPort(conn.RemoteAddr().String())
		if err != nil || !s.admit(conn, from.Addr().Unmap()) {
			conn.Close()
		}
	}
}

// admit serves a connection in the background if its client may have it.
func (s *Server) admit(conn net.Conn, from netip.Addr) bool {
	if !s.zone.Load().mayAsk(from) {
		return false
	}
	leave, ok := enterBoth(s.conns, from, s.deps.Resolver.conns, s.network)
	if !ok {
		return false
	}
	s.wg.Go(func() {
		defer leave()
		s.serveConn(&tcpClient{conn: conn, from: from})
	})
	return true
}

// serveConn answers a connection's queries until it is idle, closed or
// breaks the rules. Answers may overtake each other (RFC 7766 6.2.1.1).
func (s *Server) serveConn(c *tcpClient) {
	defer c.conn.Close()
	// Answers still on their way are sent before the connection closes.
	defer c.pending.Wait()
	stop := context.AfterFunc(s.ctx, func() { c.conn.Close() })
	defer stop()
	d := desks.Get().(*desk)
	defer desks.Put(d)
	for {
		c.conn.SetReadDeadline(time.Now().Add(idleTimeout))
		n, err := readFrame(c.conn, d.in[:])
		if err != nil {
			return
		}
		out, ask := s.answer(d, n, c.from, true)
		switch {
		case ask != nil:
			c.pending.Add(1)
			s.forward(d.query.clone(), ask, c)
		case out != nil:
			c.write(out)
		default:
			return
		}
	}
}

var errTooLong = errors.New("message too long")

// readFrame reads a message with the length before it (RFC 1035 4.2.2).
func readFrame(r io.Reader, buf []byte) (int, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return 0, err
	}
	n := int(binary.BigEndian.Uint16(size[:]))
	if n > len(buf) {
		return 0, errTooLong
	}
	return io.ReadFull(r, buf[:n])
}

// tcpClient is a connection.
type tcpClient struct {
	conn    net.Conn
	from    netip.Addr
	pending sync.WaitGroup // answers that are still to be sent

	mu sync.Mutex // of writing
}

func (c *tcpClient) addr() netip.Addr { return c.from }
func (c *tcpClient) tcp() bool        { return true }

// send writes an answer that was pending.
func (c *tcpClient) send(msg []byte) {
	defer c.pending.Done()
	c.write(msg)
}

func (c *tcpClient) write(msg []byte) {
	frame := append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(msg)), uint16(len(msg))), msg...)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	if _, err := c.conn.Write(frame); err != nil {
		c.conn.Close() // a half-written answer cannot be followed by another
	}
}
