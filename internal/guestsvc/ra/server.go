package ra

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// Conn sends and receives neighbor discovery messages on one link. Reading,
// writing and closing may happen at the same time.
type Conn interface {
	// ReadFrom waits for a message that came with hop limit 255 and a good
	// checksum, and returns its length and sender. After Close it fails with an
	// error that is os.ErrClosed or net.ErrClosed.
	ReadFrom(buf []byte) (n int, from netip.Addr, err error)
	// WriteTo sends a message, whose checksum it fills in, from an address of
	// the link, with hop limit 255. It must not wait.
	WriteTo(message []byte, from, to netip.Addr) error
	// HardwareAddr is the link's own address.
	HardwareAddr() net.HardwareAddr
	Close() error
}

// Deps are what a server works with.
type Deps struct {
	// Conn is that of the bridge; the server closes it.
	Conn Conn
	Log  *slog.Logger
}

const (
	// maxRead is more than any solicitation.
	maxRead = 1280
	// maxReadFailures in a row mean that a connection will not recover.
	maxReadFailures = 64
)

// Server advertises a router.
type Server struct {
	conn Conn
	log  *slog.Logger

	mu       sync.Mutex
	advert   *advert
	schedule schedule
	timer    *time.Timer
	closed   bool

	running sync.WaitGroup
}

// Start starts advertising, at once. It owns deps.Conn also if it fails.
func Start(c Config, deps Deps) (*Server, error) {
	a, err := newAdvert(c, deps.Conn.HardwareAddr(), nil)
	if err != nil {
		_ = deps.Conn.Close()
		return nil, configureError(c, err)
	}
	s := &Server{conn: deps.Conn, log: deps.Log.With("network", c.Name), advert: a}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.timer = time.AfterFunc(maxInterval, s.tick)
	s.restart()
	s.running.Go(s.listen)
	return s, nil
}

func configureError(c Config, err error) error {
	return fmt.Errorf("configure router advertisements of network '%s': %w", c.Name, err)
}

// Reconfigure changes to another configuration of the same network and bridge
// and tells guests at once. The 3 s that RFC 4861 wants between two
// advertisements to all are for what guests bring about, not for a change by
// an administrator. On error nothing changes.
func (s *Server) Reconfigure(c Config) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.advert.config; c.Network != old.Network || c.Bridge != old.Bridge || c.Source != old.Source {
		return configureError(c, errors.New("network, bridge or source cannot change while it runs"))
	}
	a, err := newAdvert(c, s.conn.HardwareAddr(), s.advert)
	if err != nil {
		return configureError(c, err)
	}
	s.advert = a
	s.restart()
	return nil
}

// Wake advertises now, a few times. Call it when the link has come back or has
// got its address again.
func (s *Server) Wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.restart()
}

// Close ends the network's router: guests are told that it is none any more.
func (s *Server) Close() error { return s.stop(true) }

// Leave ends the server without a word to guests: the network lives on, only
// this process ends.
func (s *Server) Leave() error { return s.stop(false) }

func (s *Server) stop(farewell bool) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.timer.Stop()
	if farewell {
		s.takeLeave()
	}
	s.mu.Unlock()
	err := s.conn.Close()
	s.running.Wait()
	return err
}

// takeLeave sends the last advertisement. There is no time for more than one,
// as the link goes next; it may have gone already.
func (s *Server) takeLeave() {
	last, err := s.advert.farewell(s.conn.HardwareAddr())
	if err == nil {
		err = s.conn.WriteTo(last.message, s.advert.config.Source, netip.IPv6LinkLocalAllNodes())
	}
	if err != nil {
		s.log.Debug("guests not told that their router ends", "error", err)
	}
}

// restart advertises now and then in quick succession. The caller holds the lock.
func (s *Server) restart() {
	if s.closed {
		return
	}
	now := time.Now()
	s.schedule.setInterval(s.advert.config.interval())
	s.schedule.restart(now)
	s.work(now)
}

// tick does what has become due.
func (s *Server) tick() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.work(time.Now())
	}
}

// work sends what is due and sets the timer. The caller holds the lock.
func (s *Server) work(now time.Time) {
	all, some := s.schedule.due(now)
	if all {
		s.advertise(now)
	}
	for _, to := range some {
		if err := s.write(to); err != nil {
			s.log.Debug("router solicitation not answered", "guest", to, "error", err)
		}
	}
	s.timer.Reset(s.schedule.wake().Sub(now))
}

// advertise sends an advertisement to all guests.
func (s *Server) advertise(now time.Time) {
	err := s.write(netip.IPv6LinkLocalAllNodes())
	if err != nil && s.schedule.failures == 0 {
		s.log.Warn("router advertisement not sent", "error", err)
	}
	s.schedule.sent(err == nil, now)
	if s.schedule.quick == 0 {
		s.advert.forget() // what is gone has been said often enough
	}
}

func (s *Server) write(to netip.Addr) error {
	return s.conn.WriteTo(s.advert.message, s.advert.config.Source, to)
}

// listen hears solicitations until the connection is closed.
func (s *Server) listen() {
	buf := make([]byte, maxRead)
	for failures := 0; ; {
		n, from, err := s.conn.ReadFrom(buf)
		switch {
		case err == nil:
			failures = 0
			s.solicited(buf[:n], from)
		case errors.Is(err, os.ErrClosed), errors.Is(err, net.ErrClosed):
			return
		default:
			if failures++; failures > maxReadFailures {
				s.log.Error("router is deaf to solicitations", "error", err)
				return
			}
		}
	}
}

// solicited handles what should be a solicitation.
func (s *Server) solicited(message []byte, from netip.Addr) {
	if err := checkSolicitation(message, from); err != nil {
		s.log.Debug("router solicitation ignored", "guest", from, "error", err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	now := time.Now()
	s.schedule.solicited(from, now)
	s.timer.Reset(s.schedule.wake().Sub(now))
}
