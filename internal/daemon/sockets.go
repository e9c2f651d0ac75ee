package daemon

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/coreos/go-systemd/v22/activation"
)

// listen opens the sockets of all doors. Those that systemd opened already are
// taken over from it, recognised by their path.
func listen(doors []Door) (*listeners, error) {
	inherited, err := inheritedSockets()
	if err != nil {
		return nil, err
	}
	all := &listeners{}
	for _, d := range doors {
		for _, s := range d.Sockets {
			l := inherited[s.Path]
			if l == nil {
				if l, err = openSocket(s); err != nil {
					all.close()
					return nil, err
				}
			}
			all.open = append(all.open, opened{d, l})
		}
	}
	return all, nil
}

func inheritedSockets() (map[string]net.Listener, error) {
	list, err := activation.Listeners()
	if err != nil {
		return nil, fmt.Errorf("take over sockets: %w", err)
	}
	byPath := map[string]net.Listener{}
	for _, l := range list {
		if l != nil {
			byPath[l.Addr().String()] = l
		}
	}
	return byPath, nil
}

// openSocket makes a socket. One that is left from a daemon that was killed is
// replaced, one that somebody answers on is not.
func openSocket(s Socket) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(s.Path), 0o755); err != nil {
		return nil, fmt.Errorf("make socket folder: %w", err)
	}
	l, err := net.Listen("unix", s.Path)
	if errors.Is(err, syscall.EADDRINUSE) {
		if c, dial := net.Dial("unix", s.Path); dial == nil {
			c.Close()
			return nil, fmt.Errorf("listen on %s: another daemon answers there", s.Path)
		}
		if err := os.Remove(s.Path); err != nil {
			return nil, fmt.Errorf("remove stale socket: %w", err)
		}
		l, err = net.Listen("unix", s.Path)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", s.Path, err)
	}
	if err := own(s); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// own sets a socket's group and mode. A group that the host does not have
// leaves the socket to root.
func own(s Socket) error {
	if err := os.Chmod(s.Path, s.Mode); err != nil {
		return fmt.Errorf("set mode of socket: %w", err)
	}
	if s.Group == "" {
		return nil
	}
	g, err := user.LookupGroup(s.Group)
	if err != nil {
		return nil
	}
	gid, err := strconv.Atoi(g.Gid)
	if err != nil {
		return fmt.Errorf("group %s: %w", s.Group, err)
	}
	if err := os.Chown(s.Path, -1, gid); err != nil {
		return fmt.Errorf("set group of socket: %w", err)
	}
	return nil
}
