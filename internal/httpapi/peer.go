package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"syscall"
	"unsafe"

	"viaduct/internal/netdef"
)

// soPeerGroups is SO_PEERGROUPS (Linux 4.13): the supplementary groups that
// the peer had when it connected.
const soPeerGroups = 59

// peer is who is at the other end of a connection, as the kernel says.
type peer struct {
	uid    uint32
	groups []uint32
}

func peerOf(c *net.UnixConn) (peer, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return peer{}, err
	}
	var p peer
	var optErr error
	err = raw.Control(func(fd uintptr) {
		var cred *syscall.Ucred
		if cred, optErr = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED); optErr != nil {
			return
		}
		p.uid = cred.Uid
		p.groups, optErr = peerGroups(fd)
		p.groups = append(p.groups, cred.Gid)
	})
	return p, errors.Join(err, optErr)
}

func peerGroups(fd uintptr) ([]uint32, error) {
	groups := make([]uint32, 32)
	for {
		size := uint32(len(groups) * 4)
		_, _, errno := syscall.Syscall6(syscall.SYS_GETSOCKOPT, fd, syscall.SOL_SOCKET, soPeerGroups,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch {
		case errno == 0:
			return groups[:size/4], nil
		case errno != syscall.ERANGE || int(size) <= len(groups)*4:
			return nil, fmt.Errorf("read peer groups: %w", errno)
		}
		groups = make([]uint32, size/4) // the kernel says how many there are
	}
}

// access says what a connection may do.
type access struct {
	change bool
	who    string
}

type accessKey struct{}

// accessOf decides for one connection. Whoever the socket's permissions let in
// may look; changing things takes root, the user who runs the daemon, or a
// member of the socket's group.
func accessOf(c net.Conn) access {
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return access{who: "a connection that is not local"}
	}
	p, err := peerOf(uc)
	if err != nil {
		return access{who: "an unknown user"}
	}
	who := fmt.Sprintf("uid %d", p.uid)
	if p.uid == 0 || int(p.uid) == os.Geteuid() {
		return access{change: true, who: who}
	}
	info, err := os.Stat(uc.LocalAddr().String())
	if err != nil {
		return access{who: who}
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return access{change: ok && slices.Contains(p.groups, st.Gid), who: who}
}

func withAccess(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, accessKey{}, accessOf(c))
}

// mayChange returns an error if the connection that ctx belongs to may only look.
func mayChange(ctx context.Context) error {
	a, _ := ctx.Value(accessKey{}).(access)
	if a.change {
		return nil
	}
	return netdef.Errorf(netdef.ErrOperationDenied,
		"%s has read only access: changes are for root and for members of the socket's group", a.who)
}
