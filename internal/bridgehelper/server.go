// Package bridgehelper is the door for QEMU's unprivileged users: the program
// that QEMU runs for -netdev bridge,br=NAME,helper=PATH (net/tap.c and
// qemu-bridge-helper.c in QEMU's sources), and the daemon's end of it. The
// program needs no privileges. It asks the daemon, which knows from the kernel
// who asks, looks into the list of what is allowed, makes the tap and hands it
// over as an open file; the tap lasts as long as somebody has that open.
package bridgehelper

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"viaduct/internal/peer"
)

// The limits of what users can make the server hold.
const (
	maxConns   = 64
	maxRequest = 64 // octets
	patience   = 5 * time.Second
)

// Server is the daemon's end. A request is a line with the name of a bridge,
// and " vnet" after it if the tap's frames are to have virtio's headers. The
// answer is an octet of zero together with the tap, or the text of an error.
type Server struct {
	// Allow is the file that lists who may have what.
	Allow string
	// OpenTap makes a tap in a bridge.
	OpenTap func(ctx context.Context, bridge string, vnetHeader bool) (*os.File, error)
	Log     *slog.Logger
}

// Serve answers on l, which it closes, until ctx is done.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	return peer.Serve(ctx, l, maxConns, func(c net.Conn) { s.answer(ctx, c) })
}

// answer serves one connection.
func (s *Server) answer(ctx context.Context, c net.Conn) {
	if c.SetDeadline(time.Now().Add(patience)) != nil {
		return
	}
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return
	}
	tap, err := s.tap(ctx, uc)
	if err != nil {
		fmt.Fprint(uc, err)
		return
	}
	defer tap.Close()
	// If nobody takes it, it is gone with the connection.
	if _, _, err := uc.WriteMsgUnix([]byte{0}, syscall.UnixRights(int(tap.Fd())), nil); err != nil {
		s.Log.Warn("hand over a tap", "error", err)
	}
}

// tap makes the tap that the peer asks for, if it may have one.
func (s *Server) tap(ctx context.Context, c *net.UnixConn) (*os.File, error) {
	bridge, vnet, err := readRequest(c)
	if err != nil {
		return nil, err
	}
	who, err := peer.Of(c)
	if err != nil {
		return nil, fmt.Errorf("find out who asks: %w", err)
	}
	if err := check(s.Allow, who, bridge); err != nil {
		s.Log.Warn("refused a tap", "bridge", bridge, "uid", who.UID, "error", err)
		return nil, err
	}
	tap, err := s.OpenTap(ctx, bridge, vnet)
	if err == nil {
		s.Log.Info("made a tap", "bridge", bridge, "uid", who.UID)
	}
	return tap, err
}

// readRequest reads what the other end wants.
func readRequest(r io.Reader) (bridge string, vnet bool, err error) {
	line, err := bufio.NewReader(io.LimitReader(r, maxRequest)).ReadString('\n')
	if err != nil {
		return "", false, fmt.Errorf("read request: %w", err)
	}
	bridge, option, hasOption := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
	if bridge == "" || bridge == "all" || hasOption && option != "vnet" {
		return "", false, fmt.Errorf("read request: %q names no bridge", line)
	}
	return bridge, hasOption, nil
}
