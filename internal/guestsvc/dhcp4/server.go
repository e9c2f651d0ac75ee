package dhcp4

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

	"viaduct/internal/guestsvc/leases"
	"viaduct/internal/guestsvc/outbox"
	"viaduct/internal/guestsvc/throttle"
	"viaduct/internal/netdef"
)

// FrameConn sends and receives whole Ethernet frames on one device. Reading,
// writing and closing may happen at the same time; nobody reads or writes twice
// at a time.
type FrameConn interface {
	// ReadFrame waits for a frame and returns its length. After Close it fails
	// with an error that is os.ErrClosed or net.ErrClosed.
	ReadFrame(buf []byte) (int, error)
	WriteFrame(frame []byte) error
	// HardwareAddr is the device's own address.
	HardwareAddr() net.HardwareAddr
	Close() error
}

// Deps are what a server works with.
type Deps struct {
	// Frames are the IPv4 frames of the bridge; the server closes it.
	Frames FrameConn
	// Prober may be nil: then addresses are offered without asking.
	Prober Prober
	Leases *leases.Table
	Now    func() time.Time
	Log    *slog.Logger
}

const (
	// maxInFlight bounds the leases that are on their way to the disk. What
	// comes then is not answered; clients ask again.
	maxInFlight = 1024
	// maxConflicts is how many addresses in use by others are tried for one DISCOVER.
	maxConflicts = 8
	// maxFrame is more than any frame with a DHCP message for us.
	maxFrame = 2048
)

// Server is a running DHCP server.
type Server struct {
	deps Deps
	log  *throttle.Log

	mu     sync.Mutex
	state  *state
	closed bool

	// durable holds ACKs until their leases are on disk.
	durable *outbox.Box[*reply]
	running sync.WaitGroup

	writing sync.Mutex
	frame   []byte // what is written
}

// reply is a message to be sent, as it was decided on.
type reply struct {
	settings *settings
	to       *message
	verdict  verdict
	err      error // why the lease is not on disk
}

// Start starts a server. It owns deps.Frames also if it fails.
func Start(c Config, deps Deps) (*Server, error) {
	settings, err := newSettings(c)
	if err != nil {
		deps.Frames.Close()
		return nil, err
	}
	deps.Log = deps.Log.With("network", c.Name)
	s := &Server{
		deps: deps, log: throttle.New(deps.Log, deps.Now),
		state:   newState(settings, deps.Leases, deps.Now()),
		durable: outbox.New[*reply](maxInFlight),
	}
	deps.Leases.ReserveNames(leases.IPv4, settings.reserved)
	s.running.Go(s.listen)
	s.running.Go(func() { s.durable.Send(s.confirm) })
	return s, nil
}

// Reconfigure changes to another configuration of the same network and bridge.
// Leases, offers and quarantined addresses stay. On error nothing changes.
func (s *Server) Reconfigure(c Config) error {
	settings, err := newSettings(c)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.state.Config; c.Network != old.Network || c.Bridge != old.Bridge {
		return fmt.Errorf("configure dhcp4 of network '%s': network or bridge cannot change while it runs", c.Name)
	}
	s.deps.Leases.ReserveNames(leases.IPv4, settings.reserved)
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
	err := s.deps.Frames.Close()
	s.running.Wait()
	return err
}

func (s *Server) listen() {
	if err := readFrames(s.deps.Frames, make([]byte, maxFrame), s.receive); err != nil {
		s.deps.Log.Error("dhcp server is deaf", "error", err)
	}
}

// maxReadFailures in a row mean that a connection will not recover.
const maxReadFailures = 64

// readFrames hands every frame to handle until the connection is closed. Other errors
// pass: a device that goes down says so once, and comes back silently.
func readFrames(conn FrameConn, buf []byte, handle func([]byte)) error {
	failures := 0
	for {
		n, err := conn.ReadFrame(buf)
		switch {
		case err == nil:
			failures = 0
			handle(buf[:n])
		case errors.Is(err, os.ErrClosed), errors.Is(err, net.ErrClosed):
			return nil
		default:
			if failures++; failures > maxReadFailures {
				return err
			}
		}
	}
}

// receive handles one frame.
func (s *Server) receive(frame []byte) {
	d, err := parseFrame(frame)
	own := netdef.MAC(s.deps.Frames.HardwareAddr())
	if err != nil || d.srcMAC == own {
		return
	}
	m, err := parseMessage(d.payload)
	if err != nil {
		s.log.Say(slog.LevelDebug, "dhcp message ignored", "mac", d.srcMAC, "error", err)
		return
	}
	m.from = d.srcMAC

	s.mu.Lock()
	if !s.state.isAddressee(d) {
		s.mu.Unlock()
		return
	}
	now := s.deps.Now()
	s.state.Expire(now)
	r, do := s.carryOut(m, decide(s.state, m, now), now)
	s.mu.Unlock()
	s.follow(r, do, 0)
}

// isAddressee reports whether a datagram is for us or for all. The address
// decides, since the bridge may have got another MAC.
func (s *settings) isAddressee(d datagram) bool {
	switch d.dst.Addr() {
	case s.server:
		return true
	case broadcastAddr, broadcast(s.Address):
		return d.dstMAC.IsMulticast()
	}
	return false
}

// next is what follows a verdict once the lock is given back.
type next uint8

const (
	goOn  next = iota // nothing now
	send              // send the reply
	probe             // probe the address that the reply would offer
)

func (s *Server) follow(r reply, do next, conflicts int) {
	switch do {
	case send:
		s.send(r)
	case probe:
		s.deps.Prober.Probe(r.verdict.addr, func(by netdef.MAC) { s.probed(r, by, conflicts) })
	}
}

// carryOut does what was decided, except what needs no lock: that it returns.
// The caller holds the lock.
func (s *Server) carryOut(m *message, v verdict, now time.Time) (reply, next) {
	if s.deps.Log.Enabled(context.Background(), slog.LevelDebug) {
		s.deps.Log.Debug("dhcp", "client", m.mac, "message", m.kind, "verdict", v)
	}
	r := reply{settings: s.state.settings, to: m, verdict: v}
	switch v.action {
	case actOffer:
		return r, s.offer(m, v, now)
	case actAck:
		s.commit(r, now)
	case actNak:
		s.log.Say(slog.LevelInfo, "dhcp request refused", "mac", m.mac, "address", v.addr, "reason", v.why)
		return r, send
	case actInform:
		return r, send
	case actWithdraw:
		s.state.Withdraw(s.state.OfferTo(m.key))
	case actRelease:
		s.release(v.addr, now)
	case actQuarantine:
		s.deps.Leases.Remove(v.addr, s.logFailure)
		s.conflict(v.addr, m.mac, v.why, now)
	case actNothing:
		if v.why == whyExhausted {
			s.log.Say(slog.LevelWarn, "dhcp has no free address", "mac", m.mac)
		}
	}
	return reply{}, goOn
}

// offer keeps the address for the client.
func (s *Server) offer(m *message, v verdict, now time.Time) next {
	if !v.probe || s.deps.Prober == nil {
		s.state.Offer(v.addr, m.key, now).Ready = true
		return send
	}
	if h := s.state.OfferTo(m.key); h != nil && h.Addr == v.addr {
		return goOn // it is being probed, and the offer goes out when that is done
	}
	s.state.Offer(v.addr, m.key, now)
	return probe
}

// probed goes on with an offer when the address has been probed.
func (s *Server) probed(r reply, by netdef.MAC, conflicts int) {
	m, addr := r.to, r.verdict.addr
	s.mu.Lock()
	h := s.state.OfferTo(m.key)
	if s.closed || h == nil || h.Addr != addr || h.Ready {
		s.mu.Unlock()
		return
	}
	now := s.deps.Now()
	if by.IsZero() || by == m.mac {
		h.Ready = true
	} else {
		s.conflict(addr, by, "answers ARP", now)
		if conflicts++; conflicts >= maxConflicts {
			s.mu.Unlock()
			return
		}
	}
	// Much may have changed meanwhile, so it is decided anew.
	r, do := s.carryOut(m, decide(s.state, m, now), now)
	s.mu.Unlock()
	s.follow(r, do, conflicts)
}

// conflict keeps an address back that somebody uses without a lease.
func (s *Server) conflict(addr netip.Addr, mac netdef.MAC, how string, now time.Time) {
	s.log.Say(slog.LevelWarn, "dhcp address is in use by somebody without a lease", "address", addr, "mac", mac, "how", how)
	s.state.Quarantine(addr, now)
}

// commit leases the address. The reply is sent when the lease is on disk.
func (s *Server) commit(r reply, now time.Time) {
	if !s.durable.Enter() {
		s.log.Say(slog.LevelWarn, "dhcp request dropped: the disk does not keep up", "mac", r.to.mac)
		return
	}
	st, m, addr := s.state, r.to, r.verdict.addr
	l := st.leaseOf(r.verdict, m, now)
	l.Hostname = r.verdict.name
	former, moved := st.leases.ByClient(m.clientID, m.mac)
	st.leases.Put(l, func(err error) {
		r.err = err
		s.durable.Ready(&r)
	})
	st.Withdraw(st.OfferTo(m.key))
	st.Withdraw(st.OfferOf(addr))
	st.Settle(addr)
	if moved {
		st.Settle(former.Addr)
	}
}

// confirm sends an ACK, if its lease is on disk.
func (s *Server) confirm(r *reply) {
	if r.err != nil {
		s.logFailure(r.err)
		return
	}
	s.send(*r)
}

// release ends a lease, but keeps it in mind: the client may come back.
func (s *Server) release(addr netip.Addr, now time.Time) {
	l, _ := s.deps.Leases.ByAddr(addr)
	l.Expiry = now
	s.deps.Leases.Put(l, s.logFailure)
	s.state.Settle(addr)
}

func (s *Server) logFailure(err error) {
	if err != nil {
		s.log.Say(slog.LevelError, "dhcp lease not written", "error", err)
	}
}

// send writes a reply to the bridge.
func (s *Server) send(r reply) {
	mac, to := destination(r.to, r.verdict)
	d := datagram{
		srcMAC: netdef.MAC(s.deps.Frames.HardwareAddr()), dstMAC: mac,
		src: netip.AddrPortFrom(r.settings.server, serverPort), dst: to,
		payload: r.settings.reply(r.to, r.verdict).ToBytes(),
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	s.frame = appendFrame(s.frame[:0], d)
	if err := s.deps.Frames.WriteFrame(s.frame); err != nil {
		s.log.Say(slog.LevelWarn, "dhcp reply not sent", "to", to, "error", err)
	}
}
