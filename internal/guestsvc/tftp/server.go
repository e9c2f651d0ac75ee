package tftp

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"viaduct/internal/guestsvc/throttle"
	"viaduct/internal/netdef"
)

// Limits of how many transfers there may be at once. A request beyond them is
// not answered; the client asks again.
const (
	maxTransfers         = 256
	maxTransfersOfClient = 16
)

// errorPause keeps a socket that fails for a while from being read in a tight loop.
const errorPause = 100 * time.Millisecond

// Deps is what a server needs from others.
type Deps struct {
	// Listen opens a UDP socket at an address that need not be on the host yet.
	Listen func(netip.AddrPort) (*net.UDPConn, error)
	Log    *slog.Logger
}

// Server is the TFTP server of one network.
type Server struct {
	network netdef.UUID
	deps    Deps
	log     *throttle.Log

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu        sync.Mutex
	config    Config
	listeners map[netip.AddrPort]*listener
	transfers map[client]*transfer
	of        map[netip.Addr]int // transfers of each client
}

// client is who reads a file: the address and port it asks from, and where.
type client struct{ at, from netip.AddrPort }

type listener struct {
	addr netip.AddrPort
	conn udpConn
}

// Start starts a server. It answers as soon as Start returns.
func Start(c Config, deps Deps) (*Server, error) {
	s := &Server{
		network: c.Network, deps: deps, log: throttle.New(deps.Log.With("network", c.Name), time.Now),
		listeners: map[netip.AddrPort]*listener{}, transfers: map[client]*transfer{}, of: map[netip.Addr]int{},
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if err := s.Reconfigure(c); err != nil {
		s.cancel()
		return nil, err
	}
	return s, nil
}

// Reconfigure makes the server be as c says. Transfers under way go on; on
// error nothing has changed. The network cannot change.
func (s *Server) Reconfigure(c Config) error {
	if err := c.check(); err != nil {
		return fmt.Errorf("configure tftp of network '%s': %w", c.Name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.Network != s.network || s.ctx.Err() != nil {
		return fmt.Errorf("configure tftp of network '%s': the server is closed or another network's", c.Name)
	}
	opened := map[netip.AddrPort]*listener{}
	wanted := map[netip.AddrPort]bool{}
	for _, e := range c.Exports {
		wanted[e.Listen] = true
		if s.listeners[e.Listen] != nil {
			continue
		}
		conn, err := s.deps.Listen(e.Listen)
		if err != nil {
			for _, l := range opened {
				l.conn.Close()
			}
			return fmt.Errorf("listen for tftp on %s: %w", e.Listen, err)
		}
		opened[e.Listen] = &listener{e.Listen, conn}
		if info, err := os.Stat(e.Root); err != nil || !info.IsDir() {
			s.deps.Log.Warn("guests find no files to boot from", "network", c.Name, "tftp root", e.Root,
				"error", cmp.Or(err, errors.New("not a folder")))
		}
	}
	s.config = c
	for addr, l := range opened {
		s.listeners[addr] = l
		s.wg.Go(func() { s.serve(l) })
	}
	for addr, l := range s.listeners {
		if !wanted[addr] {
			l.conn.Close()
			delete(s.listeners, addr)
		}
	}
	return nil
}

// Close stops the server and waits until nothing of it runs.
func (s *Server) Close() error {
	s.cancel()
	s.mu.Lock()
	for addr, l := range s.listeners {
		l.conn.Close()
		delete(s.listeners, addr)
	}
	s.mu.Unlock()
	s.wg.Wait()
	return nil
}

// serve reads what arrives at an address.
func (s *Server) serve(l *listener) {
	buf := make([]byte, 2+maxRequest+1)
	for {
		n, from, err := l.conn.ReadFromUDPAddrPort(buf)
		switch {
		case s.ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			select {
			case <-time.After(errorPause):
			case <-s.ctx.Done():
				return
			}
		default:
			s.packet(l, netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), buf[:n])
		}
	}
}

func (s *Server) packet(l *listener, from netip.AddrPort, p []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(p) < 4 || !s.config.mayRead(from.Addr()) || s.ctx.Err() != nil {
		return
	}
	who := client{l.addr, from}
	t := s.transfers[who]
	switch binary.BigEndian.Uint16(p) {
	case opRead:
		if t != nil && bytes.Equal(t.raw, p) {
			return // asked again, since the answer is late
		}
		s.end(who)
		s.begin(l, who, p)
	case opWrite:
		l.conn.WriteToUDPAddrPort(errorPacket(errReadOnly), from)
	case opAck:
		if t == nil {
			return
		}
		select {
		case t.acks <- binary.BigEndian.Uint16(p[2:]):
		default: // it has more to read than it can use
		}
	case opError:
		s.end(who)
	}
}

// end ends a client's transfer, if there is one. It needs s.mu.
func (s *Server) end(who client) {
	t := s.transfers[who]
	if t == nil {
		return
	}
	t.cancel()
	delete(s.transfers, who)
	if s.of[who.from.Addr()]--; s.of[who.from.Addr()] == 0 {
		delete(s.of, who.from.Addr())
	}
}

// begin begins a transfer. It needs s.mu.
func (s *Server) begin(l *listener, who client, p []byte) {
	if len(s.transfers) >= maxTransfers || s.of[who.from.Addr()] >= maxTransfersOfClient {
		s.log.Say(slog.LevelWarn, "too many tftp transfers at once", "client", who.from.Addr())
		return
	}
	r, err := parseRead(p[2:], cmp.Or(s.config.MTU, defaultMTU)-headers)
	if err != nil {
		l.conn.WriteToUDPAddrPort(errorPacket(err), who.from)
		return
	}
	root := ""
	for _, e := range s.config.Exports {
		if e.Listen == l.addr {
			root = e.Root
		}
	}
	ctx, cancel := context.WithCancel(s.ctx)
	t := &transfer{request: r, conn: l.conn, to: who.from, raw: bytes.Clone(p), acks: make(chan uint16, maxWindow), cancel: cancel}
	s.transfers[who] = t
	s.of[who.from.Addr()]++
	s.wg.Go(func() {
		s.run(ctx, t, root)
		s.mu.Lock()
		defer s.mu.Unlock()
		cancel()
		if s.transfers[who] == t { // and not a later one
			s.end(who)
		}
	})
}

func (s *Server) run(ctx context.Context, t *transfer, root string) {
	f, info, err := open(root, t.file)
	if err != nil {
		t.send(errorPacket(err))
		s.log.Say(slog.LevelInfo, "refused a file by tftp", "client", t.to.Addr(), "file", t.file, "error", err)
		return
	}
	defer f.Close()
	blocks, done := t.hand(ctx, f, info.Size())
	s.log.Say(slog.LevelInfo, "handed out a file by tftp", "client", t.to.Addr(), "file", t.file, "blocks", blocks, "complete", done)
}
