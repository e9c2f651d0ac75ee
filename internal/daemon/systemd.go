package daemon

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"syscall"

	"github.com/coreos/go-systemd/v22/activation"
)

// inheritance is what the service manager hands to a new daemon: sockets that
// clients may be waiting at already, and what an earlier daemon left in its
// store of file descriptors.
type inheritance struct {
	listeners map[string]net.Listener // by path
	owner     *os.File                // nil if there is none
}

// ownerName is what the socket that owns the nftables tables is called in the store.
const ownerName = "nft-owner"

// inherit takes over what the service manager has passed (sd_listen_fds(3)).
func inherit() inheritance {
	in := inheritance{listeners: map[string]net.Listener{}}
	for _, f := range activation.Files(true) {
		if f.Name() == ownerName && in.owner == nil {
			in.owner = f
			continue
		}
		if l, err := net.FileListener(f); err == nil {
			in.listeners[l.Addr().String()] = l
		}
		f.Close()
	}
	return in
}

// close closes what has not been taken.
func (in inheritance) close() {
	for _, l := range in.listeners {
		l.Close()
	}
	if in.owner != nil {
		in.owner.Close()
	}
}

// keepOwner leaves the socket that owns the tables in the service manager's
// store, where it outlives a crash of ours: meanwhile the tables stay
// protected, and the next daemon has nothing to claim.
func keepOwner(log *slog.Logger) func(*os.File) {
	return func(f *os.File) {
		defer f.Close()
		// FDPOLL=0: an error that waits on the socket is no reason to close it.
		err := notifyWith("FDSTORE=1\nFDNAME="+ownerName+"\nFDPOLL=0", f)
		if err != nil {
			log.Warn("leave the owner of the nftables tables with the service manager", "error", err)
		}
	}
}

// notifyWith sends the service manager a message and a file (sd_notify(3)).
// Where there is no manager it does nothing.
func notifyWith(state string, f *os.File) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	// Package net does not send files over a connected datagram socket.
	s, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("notify the service manager: %w", err)
	}
	defer syscall.Close(s)
	rights := syscall.UnixRights(int(f.Fd()))
	if err := syscall.Sendmsg(s, []byte(state), rights, &syscall.SockaddrUnix{Name: path}, 0); err != nil {
		return fmt.Errorf("notify the service manager: %w", err)
	}
	return nil
}
