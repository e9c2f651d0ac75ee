// Package dispatch answers libvirt's clients on behalf of a driver: it reads
// calls, tells who makes them, runs the driver's procedures and sends replies
// and events. What all drivers answer alike, about the connection itself, is
// here; networks and the like are the drivers'.
package dispatch

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"time"

	"viaduct/internal/libvirtrpc/xdr"
)

// Driver is a kind of objects that clients manage over their connection.
type Driver struct {
	// Name is libvirt's name of the driver, such as "network", which is also
	// the scheme of its URI.
	Name string
	// Domain is the part of libvirt that errors come from, if nothing else is
	// known of them (virErrorDomain).
	Domain int32
	// Procedures are what it answers, by their numbers (enum remote_procedure).
	Procedures map[uint32]Procedure
}

// Procedure is one call of the protocol.
type Procedure struct {
	// Run reads all arguments from c.In, ends with c.In.End(), and only then
	// does anything. What it writes to c.Out is sent if it returns nil.
	Run func(c *Call) error
	// Changes is the function of libvirt's API that a client with read-only
	// access may not call; "" for what only looks.
	Changes string
	// early says that it may be called before the connection is open, and
	// stranger, that it may be before the client has authenticated.
	early, stranger bool
}

// Call is a call that is being answered.
type Call struct {
	context.Context
	*Session
	In  *xdr.Decoder
	Out *xdr.Encoder
	// After, if it is set by a call that succeeds, runs after the reply.
	After func()
}

// The limits of what clients can make the server hold. libvirt's defaults are
// 5000 clients too, and 5 calls.
const (
	maxClients = 5000
	// maxOfUser bounds the connections of one user who may not change anything.
	maxOfUser = 100
	// maxCalls is how many calls of one connection are worked on at once. Then
	// nothing is read from it until one is answered.
	maxCalls = 32
	// smallPayload bounds what those may send who cannot change anything, and
	// so have nothing large to say.
	smallPayload = 64 << 10
)

// Server serves one driver on one socket.
type Server struct {
	Driver Driver
	// ReadOnly says that clients of this socket may look only.
	ReadOnly bool
	Access   Access
	Log      *slog.Logger
	// KeepaliveInterval and KeepaliveCount say how long a client that promised
	// to answer may be silent before it is asked whether it is there, and how
	// often it is asked. Zero stands for libvirt's 5 s and 5.
	KeepaliveInterval time.Duration
	KeepaliveCount    int

	mu      sync.Mutex
	clients int
	ofUser  map[uint32]int
}

const (
	defaultKeepaliveInterval = 5 * time.Second
	defaultKeepaliveCount    = 5
)

// Serve answers clients on l, which it closes, until the context ends.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	if s.KeepaliveInterval == 0 {
		s.KeepaliveInterval, s.KeepaliveCount = defaultKeepaliveInterval, defaultKeepaliveCount
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		client, err := s.Access.identify(c)
		if err != nil {
			s.Log.Warn("turn a client away", "error", err)
			c.Close()
			continue
		}
		if !s.enter(client) {
			s.Log.Warn("turn a client away", "error", "there are too many", "client", client)
			c.Close()
			continue
		}
		wg.Go(func() {
			defer s.leave(client)
			newSession(s, c, client).run(ctx)
		})
	}
}

// enter counts a client in, unless there are too many.
func (s *Server) enter(c client) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.clients >= maxClients || !c.trusted && s.ofUser[c.UID] >= maxOfUser {
		return false
	}
	if s.ofUser == nil {
		s.ofUser = map[uint32]int{}
	}
	s.clients++
	s.ofUser[c.UID]++
	return true
}

func (s *Server) leave(c client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clients--
	if s.ofUser[c.UID]--; s.ofUser[c.UID] == 0 {
		delete(s.ofUser, c.UID)
	}
}
