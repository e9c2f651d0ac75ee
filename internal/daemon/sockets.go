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
)

// open opens the sockets of all doors. Those that systemd opened already are
// taken over from it, recognised by their path; those of them that no door asks
// for are closed: nobody would answer there.
func open(doors []Door, inherited map[string]net.Listener) (*listeners, error) {
	all := &listeners{}
	defer func() {
		for _, l := range inherited {
			l.Close()
		}
	}()
	for _, d := range doors {
		for _, s := range d.Sockets {
			l := inherited[s.Path]
			delete(inherited, s.Path)
			if l == nil && s.Passed {
				continue
			}
			if l == nil {
				var err error
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

// openSocket makes a socket. One that is left from a daemon that was killed is
// replaced, one that somebody answers on is not.
func openSocket(s Socket) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(s.Path), 0o755); err != nil {
		return nil, fmt.Errorf("make socket folder: %w", err)
	}
	l, err := net.Listen("unix", s.Path)
	if errors.Is(err, syscall.EADDRINUSE) {
		if err := removeStale(s.Path); err != nil {
			return nil, fmt.Errorf("listen on %s: %w", s.Path, err)
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

// removeStale removes a socket that nobody answers on, and nothing else.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if info.Mode().Type() != os.ModeSocket {
		return errors.New("something is there that is no socket")
	}
	c, err := net.Dial("unix", path)
	switch {
	case err == nil:
		c.Close()
		return errors.New("another daemon answers there")
	case !errors.Is(err, syscall.ECONNREFUSED):
		return err
	}
	return os.Remove(path)
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
