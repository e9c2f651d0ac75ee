package dhcp6

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"

	"viaduct/internal/guestsvc/leases"
	"viaduct/internal/guestsvc/outbox"
	"viaduct/internal/guestsvc/throttle"
)

// PacketConn receives what clients on one link send to servers, and sends to
// clients there. All may happen at the same time, but nobody reads twice at a
// time. *sockets.DHCP6Conn is one.
type PacketConn interface {
	// ReadPacket waits for a message and returns its length, the address it
	// came from, without a zone, and whether it was sent to the group of all
	// servers rather than to an address of the host. After Close it fails with
	// an error that is os.ErrClosed or net.ErrClosed.
	ReadPacket(buf []byte) (n int, from netip.Addr, group bool, err error)
	// WritePacket sends a message to the client at an address on the link.
	WritePacket(message []byte, to netip.Addr) error
	Close() error
}

// Deps are what a server works with.
type Deps struct {
	// Conn is tied to the bridge; the server closes it.
	Conn   PacketConn
	Leases *leases.Table
	// DUID identifies the server (RFC 8415 section 11). It must stay the same
	// over restarts, or else clients ask for a server that is gone until their
	// leases have to be rebound.
	DUID []byte
	Now  func() time.Time
	Log  *slog.Logger
}

// maxInFlight bounds the replies whose leases are on their way to the disk.
// What comes then is not answered; clients ask again.
const maxInFlight = 1024

// Server is a running DHCP server.
type Server struct {
	deps Deps
	log  *throttle.Log

	mu     sync.Mutex
	state  *state
	closed bool

	// durable holds replies until their leases are on disk.
	durable *outbox.Box[*reply]
	running sync.WaitGroup
}

// reply is a message to be sent, as it was decided on.
type reply struct {
	settings *settings
	to       *message
	answer   answer

	mu   sync.Mutex
	left int   // changes of leases that are not on disk yet
	err  error // why one never will be
}

// Start starts a server. It owns deps.Conn also if it fails.
func Start(c Config, deps Deps) (*Server, error) {
	settings, err := newSettings(c, deps.DUID)
	if err != nil {
		return nil, errors.Join(err, deps.Conn.Close())
	}
	deps.Log = deps.Log.With("network", c.Name)
	s := &Server{
		deps: deps, log: throttle.New(deps.Log, deps.Now),
		state:   newState(settings, deps.Leases, deps.Now()),
		durable: outbox.New[*reply](maxInFlight),
	}
	deps.Leases.ReserveNames(leases.IPv6, settings.reserved)
	s.running.Go(s.listen)
	s.running.Go(func() { s.durable.Send(s.confirm) })
	return s, nil
}

// Reconfigure changes to another configuration of the same network and bridge.
// Leases, offers and quarantined addresses stay. On error nothing changes.
func (s *Server) Reconfigure(c Config) error {
	settings, err := newSettings(c, s.deps.DUID)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.state.Config; c.Network != old.Network || c.Bridge != old.Bridge {
		return fmt.Errorf("configure dhcp6 of network '%s': network or bridge cannot change while it runs", c.Name)
	}
	s.deps.Leases.ReserveNames(leases.IPv6, settings.reserved)
	fresh := newState(settings, s.deps.Leases, s.deps.Now())
	fresh.Inherit(s.state.Pool)
	s.state = fresh
	return nil
}

// Close stops the server. Leases that are not on disk yet are not confirmed
// any more; their clients ask again.
func (s *Server) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	s.durable.Close()
	err := s.deps.Conn.Close()
	s.running.Wait()
	return err
}

// maxReadFailures in a row mean that a connection will not recover.
const maxReadFailures = 64

// listen handles every message until the connection is closed. Other errors
// pass: a link that goes down says so once, and comes back silently.
func (s *Server) listen() {
	buf := make([]byte, maxMessage)
	failures := 0
	for {
		n, from, group, err := s.deps.Conn.ReadPacket(buf)
		switch {
		case err == nil:
			failures = 0
			s.receive(buf[:n], from, group)
		case errors.Is(err, os.ErrClosed), errors.Is(err, net.ErrClosed):
			return
		default:
			if failures++; failures > maxReadFailures {
				s.deps.Log.Error("dhcp6 server is deaf", "error", err)
				return
			}
		}
	}
}

// receive handles one message.
func (s *Server) receive(payload []byte, from netip.Addr, group bool) {
	m, err := parseMessage(payload, from, group)
	if err != nil {
		s.log.Say(slog.LevelDebug, "dhcp6 message ignored", "from", from, "error", err)
		return
	}
	s.mu.Lock()
	if !from.IsLinkLocalUnicast() && !s.state.Address.Contains(from) {
		s.mu.Unlock()
		s.log.Say(slog.LevelDebug, "dhcp6 message ignored", "from", from, "error", "sender is of another link")
		return
	}
	now := s.deps.Now()
	s.state.Expire(now)
	r := &reply{settings: s.state.settings, to: m, answer: s.state.answer(m, now)}
	ready := s.commit(r, now)
	s.mu.Unlock()
	s.note(r)
	if ready {
		s.send(r)
	}
}

// note tells the log what was decided.
func (s *Server) note(r *reply) {
	if s.deps.Log.Enabled(context.Background(), slog.LevelDebug) {
		s.deps.Log.Debug("dhcp6", "client", fmt.Sprintf("%x", r.to.clientID), "from", r.to.from, "message", r.to.kind, "answer", r.answer)
	}
	for _, v := range r.answer.ias {
		switch {
		case v.status == statusNoAddress && r.settings.stateful():
			s.log.Say(slog.LevelWarn, "dhcp6 has no free address", "client", fmt.Sprintf("%x", r.to.clientID))
		case v.gone.IsValid() && r.answer.quarantine:
			s.log.Say(slog.LevelWarn, "dhcp6 address is in use by somebody without a lease",
				"address", v.gone, "declined by", fmt.Sprintf("%x", r.to.clientID))
		}
	}
}

// commit changes leases as the answer says, and reports whether the reply can
// be sent at once; else it is sent when all changes are on disk. The caller
// holds the lock.
func (s *Server) commit(r *reply, now time.Time) bool {
	if r.answer.kind != dhcpv6.MessageTypeReply {
		return r.answer.kind != dhcpv6.MessageTypeNone
	}
	for _, v := range r.answer.ias {
		if v.addr.IsValid() || v.gone.IsValid() {
			r.left++
		}
	}
	if r.left == 0 {
		return true
	}
	if !s.durable.Enter() {
		s.log.Say(slog.LevelWarn, "dhcp6 message dropped: the disk does not keep up", "from", r.to.from)
		return false
	}
	done := func(err error) { s.written(r, err) }
	for _, v := range r.answer.ias {
		switch {
		case v.addr.IsValid():
			s.lease(v, r.to, now, done)
		case v.gone.IsValid() && r.answer.quarantine:
			s.deps.Leases.Remove(v.gone, done)
			s.state.Quarantine(v.gone, now)
		case v.gone.IsValid():
			s.release(v.gone, now, done)
		}
	}
	return false
}

// lease leases the address of a verdict.
func (s *Server) lease(v verdict, m *message, now time.Time, done func(error)) {
	st := s.state
	former, moved := st.leases.ByDUID(m.clientID, v.ia.id)
	st.leases.Put(st.leaseOf(v, m, now), done)
	st.Withdraw(st.OfferTo(leases.DUIDKey(m.clientID, v.ia.id)))
	st.Settle(v.addr)
	if moved {
		st.Settle(former.Addr)
	}
}

// release ends a lease, but keeps it in mind: the client may come back.
func (s *Server) release(addr netip.Addr, now time.Time, done func(error)) {
	l, _ := s.deps.Leases.ByAddr(addr)
	l.Expiry = now
	s.deps.Leases.Put(l, done)
	s.state.Settle(addr)
}

// written counts a change that is on disk, or never will be.
func (s *Server) written(r *reply, err error) {
	r.mu.Lock()
	r.left--
	r.err = errors.Join(r.err, err)
	last := r.left == 0
	r.mu.Unlock()
	if !last {
		return
	}
	s.durable.Ready(r)
}

// confirm sends a reply, if its leases are on disk.
func (s *Server) confirm(r *reply) {
	if r.err != nil {
		s.log.Say(slog.LevelError, "dhcp6 lease not written", "error", r.err)
		return
	}
	s.send(r)
}

func (s *Server) send(r *reply) {
	if err := s.deps.Conn.WritePacket(r.settings.reply(r.to, r.answer).ToBytes(), r.to.from); err != nil {
		s.log.Say(slog.LevelWarn, "dhcp6 reply not sent", "to", r.to.from, "error", err)
	}
}
