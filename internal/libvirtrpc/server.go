package libvirtrpc

import (
	"bufio"
	"context"
	"errors"
	"net"
	"sync"

	"viaduct/internal/engine"
	"viaduct/internal/netdef"
)

// Networks is what this door asks of the engine.
type Networks interface {
	Networks() []engine.Info
	Lookup(ref string) (engine.Info, error)
	ByName(name string) (engine.Info, error)
	Start(ctx context.Context, id netdef.UUID) error
	Destroy(ctx context.Context, id netdef.UUID) error
}

// Serve answers libvirt's clients until the context ends or the listener closes.
func Serve(ctx context.Context, l net.Listener, networks Networks) error {
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
		wg.Go(func() {
			s := session{conn: c, networks: networks}
			s.run(ctx)
		})
	}
}

// session is one client's connection.
type session struct {
	conn     net.Conn
	networks Networks
	opened   bool
	readOnly bool
}

// run answers calls one after the other until the client leaves or sends what
// is no message at all.
func (s *session) run(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() { s.conn.Close() })
	defer stop()
	defer s.conn.Close()
	r := bufio.NewReader(s.conn)
	for {
		h, payload, err := readFrame(r)
		if err != nil {
			return
		}
		if reply := s.answer(ctx, h, payload); reply != nil {
			if _, err := s.conn.Write(reply); err != nil {
				return
			}
		}
	}
}

const (
	keepalivePing = 1
	keepalivePong = 2
)

// answer is the reply to one message, nil if there is none to give.
func (s *session) answer(ctx context.Context, h header, payload []byte) []byte {
	if h.Program == programKeepalive {
		if h.Type == typeMessage && h.Procedure == keepalivePing {
			h.Procedure = keepalivePong
			return appendFrame(nil, h, nil)
		}
		return nil
	}
	if h.Type != typeCall {
		return nil
	}
	var out encoder
	err := s.call(ctx, h, &decoder{data: payload}, &out)
	h.Type, h.Status = typeReply, statusOK
	if err != nil {
		out = encoder{}
		out.failure(err)
		h.Status = statusError
	}
	return appendFrame(nil, h, out.data)
}

func (s *session) call(ctx context.Context, h header, in *decoder, out *encoder) error {
	if h.Program != programRemote || h.Version != programVersion {
		return netdef.Errorf(netdef.ErrRPC, "Cannot find program %d version %d", h.Program, h.Version)
	}
	p, ok := procedures[h.Procedure]
	switch {
	case notOurs[h.Procedure] != "":
		return netdef.Errorf(netdef.ErrNoSupport, "%s", notOurs[h.Procedure])
	case !ok:
		return netdef.Errorf(netdef.ErrRPC, "unknown procedure: %d", h.Procedure)
	case p.needsOpen && !s.opened:
		return netdef.Errorf(netdef.ErrInternal, "connection not open")
	case p.changes != "" && s.readOnly:
		return netdef.Errorf(netdef.ErrOperationDenied, "read only access prevents %s", p.changes)
	}
	err := p.run(ctx, s, in, out)
	var known *netdef.Error
	if errors.Is(err, errShort) || (err != nil && !errors.As(err, &known)) {
		return netdef.Errorf(netdef.ErrRPC, "%w", err)
	}
	return err
}
