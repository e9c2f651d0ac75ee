package sockets

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// freePortTries is how many ports are tried where any will do.
const freePortTries = 20

// ListenDNS listens on one address and port for UDP and TCP. The address need
// not be on the host yet. It fails with EADDRINUSE if another program listens
// there, or on all addresses. Port 0 chooses one that is free for both. The
// first is a *net.UDPConn.
func ListenDNS(addr netip.AddrPort) (net.PacketConn, net.Listener, error) {
	for try := 1; ; try++ {
		u, t, err := listenBoth(addr)
		if err == nil || addr.Port() != 0 || try == freePortTries || !errors.Is(err, unix.EADDRINUSE) {
			return u, t, err
		}
	}
}

func listenBoth(addr netip.AddrPort) (net.PacketConn, net.Listener, error) {
	// Package net sets SO_REUSEADDR for TCP only. Between two UDP sockets that
	// have it the kernel sees no conflict.
	config := net.ListenConfig{Control: freeBind}
	udp, err := config.ListenPacket(context.Background(), "udp", addr.String())
	if err != nil {
		return nil, nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	port := udp.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	tcp, err := config.Listen(context.Background(), "tcp", netip.AddrPortFrom(addr.Addr(), port).String())
	if err != nil {
		_ = udp.Close()
		return nil, nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	return udp, tcp, nil
}

// ListenUDP listens on one address and port, which need not be on the host yet.
func ListenUDP(addr netip.AddrPort) (*net.UDPConn, error) {
	config := net.ListenConfig{Control: freeBind}
	conn, err := config.ListenPacket(context.Background(), "udp", addr.String())
	if err != nil {
		return nil, err
	}
	return conn.(*net.UDPConn), nil
}

// freeBind lets a socket bind to an address that the host does not have.
func freeBind(network, _ string, c syscall.RawConn) error {
	level, option := unix.SOL_IP, unix.IP_FREEBIND
	if network == "udp6" || network == "tcp6" {
		level, option = unix.SOL_IPV6, unix.IPV6_FREEBIND
	}
	var err error
	ctrlErr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, 1) })
	return errors.Join(ctrlErr, err)
}
