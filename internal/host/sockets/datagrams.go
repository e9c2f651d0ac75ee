package sockets

import (
	"errors"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// datagrams is a FrameConn as a net.PacketConn of the IPv4 datagrams in its
// frames. What is written goes to everybody on the link.
type datagrams struct{ *FrameConn }

// OpenDatagrams opens a connection to the link called ifname for the IPv4
// datagrams that pass the filter, whether the host has an address there or not.
func OpenDatagrams(ifname string, filter Filter) (net.PacketConn, error) {
	c, err := OpenFrames(ifname, filter)
	if err != nil {
		return nil, err
	}
	return datagrams{c}, nil
}

func (d datagrams) ReadFrom(b []byte) (int, net.Addr, error) {
	frame := make([]byte, offIPv4+len(b))
	n, err := d.ReadFrame(frame)
	if err != nil {
		return 0, nil, err
	}
	if n < offIPv4 {
		return 0, nil, errors.New("a frame without a header")
	}
	return copy(b, frame[offIPv4:n]), d.LocalAddr(), nil
}

func (d datagrams) WriteTo(b []byte, _ net.Addr) (int, error) {
	frame := make([]byte, 0, offIPv4+len(b))
	frame = append(frame, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)
	frame = append(frame, d.mac...)
	frame = append(frame, unix.ETH_P_IP>>8, unix.ETH_P_IP&0xff)
	if err := d.WriteFrame(append(frame, b...)); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (d datagrams) LocalAddr() net.Addr { return linkAddr(d.file.Name()) }

func (d datagrams) SetDeadline(t time.Time) error      { return d.file.SetDeadline(t) }
func (d datagrams) SetWriteDeadline(t time.Time) error { return d.file.SetWriteDeadline(t) }

// linkAddr is the address of a connection that has none.
type linkAddr string

func (linkAddr) Network() string  { return "link" }
func (a linkAddr) String() string { return string(a) }
