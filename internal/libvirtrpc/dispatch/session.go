package dispatch

import (
	"bufio"
	"context"
	"io"
	"net"
	"sync"
	"time"

	"viaduct/internal/libvirtrpc/wire"
	"viaduct/internal/libvirtrpc/xdr"
	"viaduct/internal/netdef"
)

// Session is one client's connection.
type Session struct {
	server *Server
	conn   net.Conn
	client client
	alive  keepalive

	calls   chan struct{} // holds a token for every call that is worked on
	answers sync.WaitGroup
	tasks   sync.WaitGroup
	ctx     context.Context // ends with the connection

	writing sync.Mutex // held while a message is written

	mu            sync.Mutex // guards the rest
	authenticated bool
	opened        bool
	readOnly      bool
	identity      Identity
	state         any // what the driver keeps for it, see State
}

func newSession(s *Server, c net.Conn, who client) *Session {
	return &Session{
		server: s, conn: c, client: who, calls: make(chan struct{}, maxCalls),
		authenticated: who.trusted, readOnly: s.ReadOnly, identity: who.identity(),
	}
}

// ReadOnly says that the client may look only.
func (s *Session) ReadOnly() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.readOnly
}

// Identity is on whose behalf the client acts.
func (s *Session) Identity() Identity {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.identity
}

// State returns what the driver keeps for this session. The first call makes it.
func State[T any](s *Session, make func() *T) *T {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == nil {
		s.state = make()
	}
	return s.state.(*T)
}

// Go runs a task that ends with the connection: then its context ends.
func (s *Session) Go(task func(ctx context.Context)) {
	s.tasks.Go(func() { task(s.ctx) })
}

// Close ends the connection.
func (s *Session) Close() { s.conn.Close() }

// run answers calls until the client leaves or sends what is no message at all.
func (s *Session) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	s.ctx = ctx
	stop := context.AfterFunc(ctx, func() { s.conn.Close() })
	defer func() {
		s.answers.Wait() // what a client began goes on when it leaves
		cancel()
		s.conn.Close()
		stop()
		s.alive.stop()
		s.tasks.Wait()
	}()
	r := bufio.NewReader(s.conn)
	for {
		h, payload, err := wire.Read(r, s.limit())
		if err != nil {
			if err != io.EOF {
				s.server.Log.Debug("client leaves in disorder", "client", s.client, "error", err)
				s.conn.Close()
			}
			return
		}
		s.alive.heard()
		if !s.take(ctx, h, payload) {
			return
		}
	}
}

// limit is how large a message may be.
func (s *Session) limit() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.authenticated && !s.readOnly {
		return wire.MaxPayload
	}
	return smallPayload
}

// take has one message answered. It waits while too many are already.
func (s *Session) take(ctx context.Context, h wire.Header, payload []byte) bool {
	switch {
	case h.Program == wire.ProgramKeepalive:
		if h.Type == wire.Message && h.Procedure == wire.Ping {
			return s.send(wire.Header{Program: wire.ProgramKeepalive, Version: wire.Version, Procedure: wire.Pong, Type: wire.Message}, nil) == nil
		}
		return true
	case h.Type != wire.Call: // such as what is left of a stream
		return true
	}
	s.alive.pause()
	select {
	case s.calls <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	s.alive.resume()
	s.answers.Go(func() {
		defer func() { <-s.calls }()
		reply, out, after := s.answer(ctx, h, payload)
		if s.send(reply, out) != nil {
			s.conn.Close()
		}
		if after != nil {
			after()
		}
	})
	return true
}

// writeTimeout bounds how long a client may take to accept a message.
const writeTimeout = 30 * time.Second

func (s *Session) send(h wire.Header, payload []byte) error {
	data := wire.Append(make([]byte, 0, 28+len(payload)), h, payload)
	s.writing.Lock()
	defer s.writing.Unlock()
	s.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	_, err := s.conn.Write(data)
	return err
}

// Event sends a message that answers no call.
func (s *Session) Event(procedure uint32, payload []byte) error {
	// libvirt's own daemon numbers all of them 1.
	return s.send(wire.Header{Program: wire.ProgramRemote, Version: wire.Version, Procedure: procedure, Type: wire.Message, Serial: 1}, payload)
}

// answer is the reply to one call.
func (s *Session) answer(ctx context.Context, h wire.Header, payload []byte) (wire.Header, []byte, func()) {
	c := &Call{Context: ctx, Session: s, In: xdr.NewDecoder(payload), Out: &xdr.Encoder{}}
	err := s.call(c, h)
	h.Type, h.Status = wire.Reply, wire.OK
	if err != nil {
		h.Status, c.After = wire.Error, nil
		return h, encodeFailure(err, s.server.Driver.Domain), nil
	}
	return h, c.Out.Data(), c.After
}

func (s *Session) call(c *Call, h wire.Header) error {
	if h.Program != wire.ProgramRemote || h.Version != wire.Version {
		return netdef.Errorf(netdef.ErrRPC, "Cannot find program %d version %d", h.Program, h.Version)
	}
	p, ours := connectProcedures[h.Procedure]
	if !ours {
		p, ours = s.server.Driver.Procedures[h.Procedure]
	}
	foreign := foreignName(h.Procedure)
	s.mu.Lock()
	authenticated, opened, readOnly := s.authenticated, s.opened, s.readOnly
	s.mu.Unlock()
	switch {
	case !ours && foreign == "":
		return netdef.Errorf(netdef.ErrRPC, "unknown procedure: %d", h.Procedure)
	case !p.stranger && !authenticated:
		return netdef.Errorf(netdef.ErrRPC, "authentication required")
	case !p.early && !opened:
		return errNotOpen
	case !ours:
		return &noSupport{foreign}
	case p.Changes != "" && readOnly:
		return netdef.Errorf(netdef.ErrOperationDenied, "read only access prevents %s", p.Changes)
	}
	err := p.Run(c)
	if p.Changes != "" {
		s.audit(p.Changes, err)
	}
	if err != nil && c.In.End() != nil {
		s.server.Log.Debug("refuse a call", "client", s.client, "procedure", h.Procedure, "error", err)
		return netdef.Errorf(netdef.ErrRPC, "Unable to decode message payload")
	}
	return err
}

// audit keeps who changed what.
func (s *Session) audit(function string, err error) {
	if err != nil {
		s.server.Log.Info("refused a change", "call", function, "by", s.Identity(), "error", err)
		return
	}
	s.server.Log.Info("changed", "call", function, "by", s.Identity())
}
