// Package sockets opens what the servers for guests and the host's own DHCP
// client speak through: frames of one link, DHCPv6 and neighbor discovery on one
// link, DNS and TFTP at one address. Where a port is taken it finds out by whom.
package sockets

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"viaduct/internal/host/nl"
)

// Filter says which of the frames that a link receives are wanted. The kernel
// applies it, so that others do not wake us.
type Filter struct {
	etherType uint16
	program   []bpf.Instruction
}

// Offsets in an Ethernet frame without a VLAN tag that carries IPv4 or ARP.
const (
	offEtherType = 12
	offIPv4      = 14
	offFragment  = offIPv4 + 6 // flags and fragment offset
	offIPv4Proto = offIPv4 + 9
	offARPOp     = 14 + 6
)

// DHCP4Server passes what DHCPv4 clients send to servers, DHCP4Client what
// servers send to clients.
var DHCP4Server, DHCP4Client = datagramsTo(67), datagramsTo(68)

// datagramsTo passes IPv4 datagrams, whole ones, to a port of UDP.
func datagramsTo(port uint32) Filter {
	return Filter{unix.ETH_P_IP, []bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_OUTGOING, SkipTrue: 10},
		bpf.LoadAbsolute{Off: offEtherType, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.ETH_P_IP, SkipTrue: 8},
		bpf.LoadAbsolute{Off: offIPv4Proto, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_UDP, SkipTrue: 6},
		bpf.LoadAbsolute{Off: offFragment, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x3fff, SkipTrue: 4}, // more fragments, or not the first
		bpf.LoadMemShift{Off: offIPv4},
		bpf.LoadIndirect{Off: offIPv4 + 2, Size: 2}, // the destination port
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: port, SkipTrue: 1},
		bpf.RetConstant{Val: maxFrame},
		bpf.RetConstant{Val: 0},
	}}
}

// ARPReplies passes the answers to ARP requests.
var ARPReplies = Filter{unix.ETH_P_ARP, []bpf.Instruction{
	bpf.LoadExtension{Num: bpf.ExtType},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_OUTGOING, SkipTrue: 5},
	bpf.LoadAbsolute{Off: offEtherType, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.ETH_P_ARP, SkipTrue: 3},
	bpf.LoadAbsolute{Off: offARPOp, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 2, SkipTrue: 1}, // a reply, RFC 826
	bpf.RetConstant{Val: maxFrame},
	bpf.RetConstant{Val: 0},
}}

const (
	// maxFrame is how many bytes of a frame are of interest.
	maxFrame = 1 << 16
	// frameQueue is how many bytes of frames the kernel may hold for us: some
	// thousand, so that none is lost when all guests boot at once. It takes no
	// memory as long as there are none.
	frameQueue = 2 << 20
)

// FrameConn sends and receives whole Ethernet frames on one link.
type FrameConn struct {
	file  *os.File
	index int
	mac   net.HardwareAddr
}

// OpenFrames opens a connection to the link called ifname for the frames that
// pass the filter. Frames of any kind can be sent.
func OpenFrames(ifname string, filter Filter) (*FrameConn, error) {
	// Protocol 0 receives nothing until the filter is there.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open frames on %s: %w", ifname, err)
	}
	bound, err := bindFrames(fd, ifname, filter)
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("open frames on %s: %w", ifname, err)
	}
	return &FrameConn{
		file: os.NewFile(uintptr(fd), "frames of "+ifname), index: bound.Ifindex, mac: bound.Addr[:min(bound.Halen, 8)],
	}, nil
}

// bindFrames makes a packet socket receive what passes the filter on a link,
// and returns what it is bound to.
func bindFrames(fd int, ifname string, filter Filter) (*unix.SockaddrLinklayer, error) {
	index, err := linkIndex(fd, ifname)
	if err != nil {
		return nil, err
	}
	if err := nl.AttachFilter(fd, filter.program); err != nil {
		return nil, os.NewSyscallError("attach filter", err)
	}
	if err := nl.SetReceiveQueue(fd, frameQueue); err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: nl.NetworkOrder(filter.etherType), Ifindex: index}); err != nil {
		return nil, os.NewSyscallError("bind", err)
	}
	bound, err := packetName(fd)
	return bound, os.NewSyscallError("getsockname", err)
}

// linkIndex asks the kernel for the index of one link. Package net would list
// all links of the host, and keep the list in memory with any address in it.
func linkIndex(fd int, ifname string) (int, error) {
	req, err := unix.NewIfreq(ifname)
	if err == nil {
		err = unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, req)
	}
	if err != nil {
		return 0, os.NewSyscallError("find link", err)
	}
	return int(req.Uint32()), nil
}

// LinkIndex is the kernel's number of a link, which a new link of the same name
// does not share.
func LinkIndex(ifname string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	return linkIndex(fd, ifname)
}

// packetName is the link that a packet socket is bound to, with its address.
func packetName(fd int) (*unix.SockaddrLinklayer, error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return nil, err
	}
	if ll, ok := sa.(*unix.SockaddrLinklayer); ok {
		return ll, nil
	}
	return nil, unix.EAFNOSUPPORT
}

// ReadFrame waits for a frame and returns its length. What does not fit into
// buf is cut off. While the link is down, or gone, it waits. After Close it
// fails with os.ErrClosed, after the deadline with os.ErrDeadlineExceeded.
func (c *FrameConn) ReadFrame(buf []byte) (int, error) {
	for {
		n, err := c.file.Read(buf)
		// That the link went down is told once; when it is up again, frames
		// just come.
		if !errors.Is(err, unix.ENETDOWN) {
			return n, err
		}
	}
}

// Bound reports whether the link is still there. The kernel does not wake a
// reader when it removes a link that was down, and another link of the same
// name needs another connection.
func (c *FrameConn) Bound() bool {
	raw, err := c.file.SyscallConn()
	if err != nil {
		return false
	}
	index := 0
	err = raw.Control(func(fd uintptr) {
		if bound, err := packetName(int(fd)); err == nil {
			index = bound.Ifindex
		}
	})
	return err == nil && index == c.index
}

// WriteFrame sends a frame, headers included.
func (c *FrameConn) WriteFrame(frame []byte) error {
	_, err := c.file.Write(frame)
	return err
}

// HardwareAddr is the link's Ethernet address when the connection was opened.
func (c *FrameConn) HardwareAddr() net.HardwareAddr { return c.mac }

// SetReadDeadline makes reads fail that wait beyond t; the zero time lets them wait.
func (c *FrameConn) SetReadDeadline(t time.Time) error { return c.file.SetReadDeadline(t) }

// closers limits how many threads wait for the kernel to close packet sockets.
var closers = make(chan struct{}, 16)

// Close ends waiting reads at once. The kernel closes a packet socket only
// after an RCU grace period of some 10 ms, which happens in the background: a
// second descriptor keeps the socket open meanwhile, or else the last of our
// reads to end would be the one that waits.
func (c *FrameConn) Close() error {
	raw, err := c.file.SyscallConn()
	if err != nil {
		return err
	}
	second := -1
	if err := raw.Control(func(fd uintptr) {
		if n, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0); err == nil {
			second = n
		}
	}); err != nil {
		return err
	}
	err = c.file.Close()
	if second >= 0 {
		go func() {
			closers <- struct{}{}
			_ = unix.Close(second)
			<-closers
		}()
	}
	return err
}
