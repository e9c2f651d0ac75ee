// Package peer tells who is at the other end of a Unix socket, as the kernel
// says, for doors that let some users do more than others, and serves such
// sockets.
package peer

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"unsafe"
)

// soPeerGroups is SO_PEERGROUPS (Linux 4.13): the supplementary groups that
// the peer had when it connected.
const soPeerGroups = 59

// Peer is a process at the other end of a connection.
type Peer struct {
	PID int32
	UID uint32
	GID uint32
	// Groups are all groups that it is in.
	Groups []uint32
}

// Of asks the kernel for the peer of a connection.
func Of(c *net.UnixConn) (Peer, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return Peer{}, err
	}
	var p Peer
	var optErr error
	err = raw.Control(func(fd uintptr) {
		var cred *syscall.Ucred
		if cred, optErr = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED); optErr != nil {
			return
		}
		p.PID, p.UID, p.GID = cred.Pid, cred.Uid, cred.Gid
		p.Groups, optErr = groups(fd)
		p.Groups = append(p.Groups, cred.Gid)
	})
	return p, errors.Join(err, optErr)
}

func groups(fd uintptr) ([]uint32, error) {
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
