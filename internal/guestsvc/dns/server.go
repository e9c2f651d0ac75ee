package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"viaduct/internal/netdef"
)

// Deps is what a server needs from others.
type Deps struct {
	// Listen opens the sockets for UDP and TCP on an address. The first must be a
	// *net.UDPConn or have its methods for netip addresses.
	Listen func(netip.AddrPort) (net.PacketConn, net.Listener, error)
	// Names are those of the network's leases; may be nil.
	Names Names
	// Resolver is shared by all networks of the host.
	Resolver *Resolver
	Log      *slog.Logger
}

// Limits of what one client may use.
const (
	maxWaitingOfClient = 128
	maxConnsOfClient   = 16
)

// Server is the DNS server of one network.
type Server struct {
	network netdef.UUID
	deps    Deps
	log     *slog.Logger
	zone    atomic.Pointer[zone]

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	// waiting and conns bound what each client holds; see Resolver for the sums.
	waiting, conns *gate[netip.Addr]

	mu        sync.Mutex // of what follows; also held while it is changed
	config    Config
	listeners map[netip.AddrPort]*listener
}

// Start starts a server. It answers as soon as Start returns.
func Start(c Config, deps Deps) (*Server, error) {
	s := &Server{
		network:   c.Network,
		deps:      deps,
		log:       deps.Log.With("network", c.Name),
		waiting:   newGate[netip.Addr](maxWaitingOfNetwork, maxWaitingOfClient),
		conns:     newGate[netip.Addr](maxConnsOfNetwork, maxConnsOfClient),
		listeners: map[netip.AddrPort]*listener{},
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if err := s.Reconfigure(c); err != nil {
		s.cancel()
		return nil, err
	}
	return s, nil
}

// Reconfigure makes the server be as c says. Queries find either the old or the
// new state; sockets of addresses that stay are kept. If it fails, nothing has changed.
// The network that the server belongs to cannot change.
func (s *Server) Reconfigure(c Config) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.Network != s.network || s.ctx.Err() != nil {
		return fmt.Errorf("configure dns of network '%s': the server is closed or another network's", c.Name)
	}
	z, err := newZone(c)
	if err != nil {
		return fmt.Errorf("configure dns of network '%s': %w", c.Name, err)
	}
	opened := map[netip.AddrPort]*listener{}
	for _, addr := range c.Listen {
		if s.listeners[addr] != nil || opened[addr] != nil {
			continue
		}
		l, err := s.open(addr)
		if err != nil {
			for _, l := range opened {
				l.close()
			}
			return fmt.Errorf("listen for dns on %s: %w", addr, err)
		}
		opened[addr] = l
	}
	s.config = c
	s.zone.Store(z)
	for addr, l := range opened {
		s.listeners[addr] = l
		s.deps.Resolver.listening(addr.Addr(), +1)
		s.wg.Go(func() { s.serveUDP(l.udp) })
		s.wg.Go(func() { s.serveTCP(l.tcp) })
	}
	for addr, l := range s.listeners {
		if !slices.Contains(c.Listen, addr) {
			s.remove(addr, l)
		}
	}
	return nil
}

// Config returns the configuration in force.
func (s *Server) Config() Config {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.config
}

// Close stops the server and waits until nothing of it runs.
func (s *Server) Close() {
	s.cancel()
	s.mu.Lock()
	for addr, l := range s.listeners {
		s.remove(addr, l)
	}
	s.mu.Unlock()
	s.wg.Wait()
}

func (s *Server) remove(addr netip.AddrPort, l *listener) {
	l.close()
	delete(s.listeners, addr)
	s.deps.Resolver.listening(addr.Addr(), -1)
}

// listener is the two sockets of an address.
type listener struct {
	udp udpConn
	tcp net.Listener
}

func (s *Server) open(addr netip.AddrPort) (*listener, error) {
	pc, tcp, err := s.deps.Listen(addr)
	if err != nil {
		return nil, err
	}
	udp, ok := pc.(udpConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("%T is no UDP socket", pc), pc.Close(), tcp.Close())
	}
	return &listener{udp, tcp}, nil
}

func (l *listener) close() {
	l.udp.Close()
	l.tcp.Close()
}

// desk is what it takes to answer one query after the other.
type desk struct {
	query   query
	in      [maxMessage]byte
	out     []byte
	scratch [maxUDP]byte
}

// desks are for those who need one only for a while.
var desks = sync.Pool{New: func() any { return new(desk) }}

// answer composes the answer to the message in d.in[:n], or returns nil and
// whom to ask for it. If both are nil the message deserves none. The answer
// is good until the desk is used again.
func (s *Server) answer(d *desk, n int, from netip.Addr, tcp bool) ([]byte, *upstreams) {
	q := &d.query
	code, ok := q.parse(d.in[:n])
	if !ok {
		return nil, nil
	}
	z := s.zone.Load()
	r := reply{code: code}
	var ask *upstreams
	switch {
	case !z.mayAsk(from):
		r.code = refused
	case code == success:
		r, ask = z.lookup(q, s.deps.Names, d.scratch[:0])
	}
	if ask != nil {
		kept, ok := s.deps.Resolver.cached(q, ask)
		if !ok {
			return nil, ask
		}
		r = kept
	}
	d.out = r.append(d.out[:0], q, limit(q, tcp))
	return d.out, nil
}

// limit is how long an answer may be.
func limit(q *query, tcp bool) int {
	if tcp {
		return maxTCP
	}
	return q.udpLimit()
}

// client is who gets an answer, and where to.
type client interface {
	addr() netip.Addr
	tcp() bool
	send(msg []byte)
}

// forward lets a query wait for the servers outside, in the background, and
// then answers it; at once, with a failure, if too many wait already.
func (s *Server) forward(q *query, via *upstreams, to client) {
	leave, ok := enterBoth(s.waiting, to.addr(), s.deps.Resolver.waiting, s.network)
	if !ok {
		to.send(failure.append(nil, q, limit(q, to.tcp())))
		return
	}
	s.wg.Go(func() {
		defer leave()
		r := s.deps.Resolver.resolve(s.ctx, q, via)
		to.send(r.append(nil, q, limit(q, to.tcp())))
	})
}
