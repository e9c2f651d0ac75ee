package xenvif

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"

	"viaduct/internal/netdef"
	"viaduct/internal/peer"
	"viaduct/internal/xenvif/hotplug"
)

// The limits of what scripts can make the server hold.
const (
	maxConns = 256
	patience = 5 * time.Second // for a request to come, and for its answer to go
)

// Server is the daemon's end of the scripts' socket.
type Server struct {
	Desk Desk
	Log  *slog.Logger

	turns turns
}

// turns has scripts for the same interface wait for each other: what one that
// was killed leaves behind is taken back before the next begins, not after.
type turns struct {
	mu    sync.Mutex
	taken map[netdef.UUID]*turn // by port
}

type turn struct {
	sync.Mutex
	users int // of whom one has it
}

// take waits for its turn, which ends when done is called.
func (t *turns) take(port netdef.UUID) (done func()) {
	t.mu.Lock()
	if t.taken == nil {
		t.taken = map[netdef.UUID]*turn{}
	}
	own := t.taken[port]
	if own == nil {
		own = &turn{}
		t.taken[port] = own
	}
	own.users++
	t.mu.Unlock()
	own.Lock()
	return func() {
		own.Unlock()
		t.mu.Lock()
		defer t.mu.Unlock()
		if own.users--; own.users == 0 {
			delete(t.taken, port)
		}
	}
}

// Serve answers on l, which it closes, until ctx is done. What is being worked
// on then is finished.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	return peer.Serve(ctx, l, maxConns, s.answer)
}

// errGone is what becomes of a script that has given up, or was killed: libxl
// thinks that its guest has no network, so it must not have any.
var errGone = errors.New("the script is gone")

// gone reports whether there is nobody any more at the other end.
func gone(c net.Conn) bool {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return false
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return true
	}
	closed := false
	err = raw.Read(func(fd uintptr) bool {
		n, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		closed = n == 0 && err == nil || errors.Is(err, syscall.ECONNRESET)
		return true
	})
	return closed || err != nil
}

// answer serves one script.
func (s *Server) answer(c net.Conn) {
	if c.SetReadDeadline(time.Now().Add(patience)) != nil {
		return
	}
	r, err := hotplug.ReadRequest(c)
	defer s.turns.take(portOf(r.Call))()
	var a hotplug.Answer
	leaves := r.Leaves()
	switch {
	case err != nil:
		a.Err = fmt.Errorf("the viaduct daemon does not understand its script, is one of them of another version? %w", err)
	case !leaves && gone(c):
		a.Err = errGone
	default:
		a = s.Desk.Do(r)
	}
	text, err := a.Message()
	if err == nil && c.SetWriteDeadline(time.Now().Add(patience)) == nil {
		_, err = c.Write(text)
	}
	if err != nil && a.Err == nil && !leaves {
		err = errors.Join(errGone, s.Desk.Do(hotplug.Request{Call: r.Leaving()}).Err)
	}
	if err != nil || a.Err != nil {
		s.Log.Warn("a vif's script", "command", r.Command, "link", r.Link, "error", cmp.Or(a.Err, err))
	}
}
