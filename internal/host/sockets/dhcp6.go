package sockets

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"viaduct/internal/host/nl"
)

// The ports of DHCPv6 (RFC 8415 section 7.2).
const (
	dhcp6ServerPort = 547
	dhcp6ClientPort = 546
)

// allDHCP6Servers is the group that clients send to (RFC 8415 section 7.1).
var allDHCP6Servers = netip.MustParseAddr("ff02::1:2")

// DHCP6Conn receives what DHCPv6 clients on one link send to servers, and
// sends to clients there.
type DHCP6Conn struct {
	udp *net.UDPConn
	raw syscall.RawConn
}

// ListenDHCP6 listens on the link called ifname. There can be as many as there
// are links, since the kernel keeps sockets on different links apart. It fails
// with EADDRINUSE if another program listens on that link, or on all links.
func ListenDHCP6(ifname string) (*DHCP6Conn, error) {
	link, err := net.InterfaceByName(ifname)
	if err != nil {
		return nil, fmt.Errorf("listen for DHCPv6 on %s: %w", ifname, err)
	}
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		ctrlErr := c.Control(func(fd uintptr) { err = prepareDHCP6(int(fd), link.Index) })
		return errors.Join(ctrlErr, err)
	}}
	conn, err := config.ListenPacket(context.Background(), "udp6", netip.AddrPortFrom(netip.IPv6Unspecified(), dhcp6ServerPort).String())
	if err != nil {
		return nil, fmt.Errorf("listen for DHCPv6 on %s: %w", ifname, err)
	}
	udp := conn.(*net.UDPConn)
	raw, err := udp.SyscallConn()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen for DHCPv6 on %s: %w", ifname, err), udp.Close())
	}
	return &DHCP6Conn{udp: udp, raw: raw}, nil
}

// prepareDHCP6 ties a socket to a link before it is bound, or else it would be
// in the way of those on other links.
func prepareDHCP6(fd, index int) error {
	for _, o := range []struct {
		name                 string
		level, option, value int
	}{
		{"bind to link", unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, index},
		{"receive destinations", unix.SOL_IPV6, unix.IPV6_RECVPKTINFO, 1},
		{"leave loopback", unix.SOL_IPV6, unix.IPV6_MULTICAST_LOOP, 0},
	} {
		if err := unix.SetsockoptInt(fd, o.level, o.option, o.value); err != nil {
			return os.NewSyscallError(o.name, err)
		}
	}
	if err := nl.SetReceiveQueue(fd, frameQueue); err != nil {
		return err
	}
	group := &unix.IPv6Mreq{Multiaddr: allDHCP6Servers.As16(), Interface: uint32(index)}
	return os.NewSyscallError("join group", unix.SetsockoptIPv6Mreq(fd, unix.SOL_IPV6, unix.IPV6_ADD_MEMBERSHIP, group))
}

// ReadPacket waits for a message and returns its length, the address it came
// from, without a zone, and whether it was sent to the group of all servers
// rather than to an address of the host. What does not fit into buf is cut
// off. After Close it fails with net.ErrClosed.
func (c *DHCP6Conn) ReadPacket(buf []byte) (n int, from netip.Addr, group bool, err error) {
	var control [64]byte
	var size int
	var source unix.Sockaddr
	// Package net would look up the link's name for the zone, and list all links for it.
	waitErr := c.raw.Read(func(fd uintptr) bool {
		n, size, _, source, err = unix.Recvmsg(int(fd), buf, control[:], 0)
		return !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
	})
	if err := cmp.Or(waitErr, err); err != nil {
		return 0, netip.Addr{}, false, err
	}
	if sa, ok := source.(*unix.SockaddrInet6); ok {
		from = netip.AddrFrom16(sa.Addr)
	}
	return n, from, destination(control[:size]) == allDHCP6Servers, nil
}

// destination is the address that a datagram was sent to, by the message that
// IPV6_RECVPKTINFO makes the kernel add: the only one that is asked for.
func destination(control []byte) netip.Addr {
	const header = unix.SizeofCmsghdr
	if len(control) < header+unix.SizeofInet6Pktinfo {
		return netip.Addr{}
	}
	level, kind := binary.NativeEndian.Uint32(control[header-8:]), binary.NativeEndian.Uint32(control[header-4:])
	if level != unix.SOL_IPV6 || kind != unix.IPV6_PKTINFO {
		return netip.Addr{}
	}
	return netip.AddrFrom16([16]byte(control[header:]))
}

// WritePacket sends a message to the client at an address on the link.
func (c *DHCP6Conn) WritePacket(message []byte, to netip.Addr) error {
	_, err := c.udp.WriteToUDPAddrPort(message, netip.AddrPortFrom(to, dhcp6ClientPort))
	return err
}

// Bound reports whether the link is still there: see FrameConn.Bound.
func (c *DHCP6Conn) Bound() bool {
	var gone error
	err := c.raw.Control(func(fd uintptr) {
		// The kernel looks for the name of the link, and fails if there is none.
		_, gone = unix.GetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE)
	})
	return err == nil && gone == nil
}

// Close ends waiting reads at once.
func (c *DHCP6Conn) Close() error { return c.udp.Close() }
