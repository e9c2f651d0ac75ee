package sockets

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// ndHopLimit is the hop limit of all neighbor discovery. No router forwards
	// a packet without lowering it, so what arrives with it is from the link
	// (RFC 4861 section 3.1).
	ndHopLimit = 255
	// routerSolicitation is a type of ICMPv6 message, RFC 4861 section 4.1.
	routerSolicitation = 133
	// ndQueue is how many bytes of messages the kernel may hold for us.
	ndQueue = 64 << 10
)

// allRouters is the group of all routers on a link.
var allRouters = netip.IPv6LinkLocalAllRouters().As16()

// NDConn is a router's side of neighbor discovery on one link: it receives
// router solicitations and sends any ICMPv6 message. The kernel checks and
// fills in the checksums.
type NDConn struct {
	file *os.File
	raw  syscall.RawConn
	link net.Interface
}

// ListenND opens a connection on the link called ifname, which must have IPv6
// but needs neither an address nor a carrier yet.
func ListenND(ifname string) (*NDConn, error) {
	link, err := net.InterfaceByName(ifname)
	if err != nil {
		return nil, fmt.Errorf("listen for router solicitations on %s: %w", ifname, err)
	}
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_ICMPV6)
	if err != nil {
		return nil, fmt.Errorf("listen for router solicitations on %s: %w", ifname, err)
	}
	if err := bindND(fd, *link); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("listen for router solicitations on %s: %w", ifname, err)
	}
	file := os.NewFile(uintptr(fd), "neighbor discovery of "+ifname)
	raw, err := file.SyscallConn()
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("listen for router solicitations on %s: %w", ifname, err)
	}
	return &NDConn{file: file, raw: raw, link: *link}, nil
}

func bindND(fd int, link net.Interface) error {
	var filter unix.ICMPv6Filter // a set bit keeps a type out
	for i := range filter.Data {
		filter.Data[i] = ^uint32(0)
	}
	filter.Data[routerSolicitation/32] &^= 1 << (routerSolicitation % 32)
	if err := unix.SetsockoptICMPv6Filter(fd, unix.SOL_ICMPV6, unix.ICMPV6_FILTER, &filter); err != nil {
		return os.NewSyscallError("set ICMPv6 filter", err)
	}
	if err := unix.BindToDevice(fd, link.Name); err != nil {
		return os.NewSyscallError("bind to link", err)
	}
	for _, o := range []struct {
		level, option, value int
		what                 string
	}{
		{unix.SOL_SOCKET, unix.SO_RCVBUF, ndQueue, "set receive buffer"},
		{unix.SOL_IPV6, unix.IPV6_UNICAST_HOPS, ndHopLimit, "set hop limit"},
		{unix.SOL_IPV6, unix.IPV6_MULTICAST_HOPS, ndHopLimit, "set multicast hop limit"},
		// The host does not advertise to itself.
		{unix.SOL_IPV6, unix.IPV6_MULTICAST_LOOP, 0, "switch multicast loop off"},
		{unix.SOL_IPV6, unix.IPV6_RECVHOPLIMIT, 1, "ask for hop limits"},
		{unix.SOL_IPV6, unix.IPV6_RECVPKTINFO, 1, "ask for links"},
	} {
		if err := unix.SetsockoptInt(fd, o.level, o.option, o.value); err != nil {
			return os.NewSyscallError(o.what, err)
		}
	}
	group := &unix.IPv6Mreq{Multiaddr: allRouters, Interface: uint32(link.Index)}
	return os.NewSyscallError("join all routers", unix.SetsockoptIPv6Mreq(fd, unix.SOL_IPV6, unix.IPV6_JOIN_GROUP, group))
}

// ReadFrom waits for a router solicitation from the link and returns the length
// of the ICMPv6 message and its sender, without a zone. What does not fit into
// buf is cut off. While the link is down, or gone, it waits. After Close it
// fails with os.ErrClosed.
func (c *NDConn) ReadFrom(buf []byte) (int, netip.Addr, error) {
	var control [128]byte
	for {
		var n, nc int
		var from unix.Sockaddr
		var err error
		waitErr := c.raw.Read(func(fd uintptr) bool {
			n, nc, _, from, err = unix.Recvmsg(int(fd), buf, control[:], 0)
			return err != unix.EAGAIN && err != unix.EINTR
		})
		switch {
		case errors.Is(waitErr, os.ErrDeadlineExceeded):
			return 0, netip.Addr{}, waitErr
		case waitErr != nil: // the raw connection's own word for it is not exported
			return 0, netip.Addr{}, fmt.Errorf("receive: %w", os.ErrClosed)
		}
		if err != nil {
			return 0, netip.Addr{}, os.NewSyscallError("receive", err)
		}
		if sa, ok := from.(*unix.SockaddrInet6); ok && c.fromLink(control[:nc]) {
			return n, netip.AddrFrom16(sa.Addr), nil
		}
	}
}

// fromLink tells from the control messages whether a message comes from a
// neighbor on our link. The few that arrived before the socket was bound may not.
func (c *NDConn) fromLink(control []byte) bool {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return false
	}
	hops, index := uint32(0), uint32(0)
	for _, m := range messages {
		switch {
		case m.Header.Level != unix.SOL_IPV6:
		case m.Header.Type == unix.IPV6_HOPLIMIT && len(m.Data) >= 4:
			hops = binary.NativeEndian.Uint32(m.Data)
		case m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= unix.SizeofInet6Pktinfo:
			index = binary.NativeEndian.Uint32(m.Data[16:]) // after the destination
		}
	}
	return hops == ndHopLimit && index == uint32(c.link.Index)
}

// WriteTo sends an ICMPv6 message from an address of the link. It never waits:
// where the queue is full it fails with EAGAIN. It fails with EINVAL if the
// link does not have the address, or still looks for duplicates of it. That
// the link has no carrier is no error, as with any other sending.
func (c *NDConn) WriteTo(message []byte, from, to netip.Addr) error {
	source := unix.PktInfo6(&unix.Inet6Pktinfo{Addr: from.As16(), Ifindex: uint32(c.link.Index)})
	dest := &unix.SockaddrInet6{Addr: to.As16(), ZoneId: uint32(c.link.Index)}
	var sendErr error
	if err := c.raw.Control(func(fd uintptr) {
		sendErr = unix.Sendmsg(int(fd), message, source, dest, unix.MSG_DONTWAIT)
	}); err != nil {
		return err
	}
	return os.NewSyscallError("send", sendErr)
}

// Bound reports whether the link is still there. The kernel does not wake a
// reader when it removes the link, and another link of the same name needs
// another connection.
func (c *NDConn) Bound() bool {
	bound := false
	err := c.raw.Control(func(fd uintptr) {
		name, err := unix.GetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE)
		bound = err == nil && name != ""
	})
	return err == nil && bound
}

// HardwareAddr is the link's Ethernet address when the connection was opened.
func (c *NDConn) HardwareAddr() net.HardwareAddr { return c.link.HardwareAddr }

// Close ends waiting reads at once.
func (c *NDConn) Close() error { return c.file.Close() }
