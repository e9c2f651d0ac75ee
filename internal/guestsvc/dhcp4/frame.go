package dhcp4

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"viaduct/internal/netdef"
)

// The parts of an Ethernet frame with a UDP datagram in it.
const (
	ethernetHeader = 14
	ipHeader       = 20 // without options
	udpHeader      = 8

	typeIPv4 = 0x0800
	protoUDP = 17

	serverPort = 67
	clientPort = 68

	ttl          = 64
	dontFragment = 0x4000
	// fragmentBits are "more fragments" and the offset.
	fragmentBits = 0x3fff
)

var (
	broadcastMAC  = netdef.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	broadcastAddr = netip.AddrFrom4([4]byte{255, 255, 255, 255})
)

// The reasons for ignoring a frame.
var (
	errShort     = errors.New("frame is cut short")
	errNotUDP    = errors.New("not an unfragmented UDP datagram over IPv4")
	errChecksum  = errors.New("wrong checksum in the IP header")
	errNotServer = errors.New("not for the DHCP server port")
)

// datagram is a UDP datagram with the addresses around it.
type datagram struct {
	srcMAC, dstMAC netdef.MAC
	src, dst       netip.AddrPort
	payload        []byte
}

// parseFrame takes an Ethernet frame apart, if it is one for a DHCP server. The
// payload is part of the frame.
func parseFrame(frame []byte) (datagram, error) {
	if len(frame) < ethernetHeader+ipHeader {
		return datagram{}, errShort
	}
	d := datagram{dstMAC: netdef.MAC(frame[0:6]), srcMAC: netdef.MAC(frame[6:12])}
	ip := frame[ethernetHeader:]
	if binary.BigEndian.Uint16(frame[12:]) != typeIPv4 || ip[0]>>4 != 4 || ip[9] != protoUDP ||
		binary.BigEndian.Uint16(ip[6:])&fragmentBits != 0 {
		return datagram{}, errNotUDP
	}
	header, total := int(ip[0]&15)*4, int(binary.BigEndian.Uint16(ip[2:]))
	if header < ipHeader || total < header+udpHeader || total > len(ip) {
		return datagram{}, errShort
	}
	if checksum(sum(0, ip[:header])) != 0 {
		return datagram{}, errChecksum
	}
	udp := ip[header:total]
	if binary.BigEndian.Uint16(udp[2:]) != serverPort {
		return datagram{}, errNotServer
	}
	length := int(binary.BigEndian.Uint16(udp[4:]))
	if length < udpHeader || length > len(udp) {
		return datagram{}, errShort
	}
	// The UDP checksum is not looked at: a guest of the same host leaves it to
	// the hardware that its frame never passes.
	d.src = netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip[12:])), binary.BigEndian.Uint16(udp))
	d.dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip[16:])), serverPort)
	d.payload = udp[udpHeader:length]
	return d, nil
}

// appendFrame appends the datagram as an Ethernet frame, checksums included.
func appendFrame(b []byte, d datagram) []byte {
	b = append(b, d.dstMAC[:]...)
	b = append(b, d.srcMAC[:]...)
	b = binary.BigEndian.AppendUint16(b, typeIPv4)

	start := len(b)
	src, dst := d.src.Addr().As4(), d.dst.Addr().As4()
	length := uint16(udpHeader + len(d.payload))
	b = append(b, 4<<4|ipHeader/4, 0)
	b = binary.BigEndian.AppendUint16(b, ipHeader+length)
	b = binary.BigEndian.AppendUint16(b, 0) // identification: not needed without fragments (RFC 6864)
	b = binary.BigEndian.AppendUint16(b, dontFragment)
	b = append(b, ttl, protoUDP, 0, 0)
	b = append(b, src[:]...)
	b = append(b, dst[:]...)
	binary.BigEndian.PutUint16(b[start+10:], checksum(sum(0, b[start:])))

	start = len(b)
	b = binary.BigEndian.AppendUint16(b, d.src.Port())
	b = binary.BigEndian.AppendUint16(b, d.dst.Port())
	b = binary.BigEndian.AppendUint16(b, length)
	b = append(b, 0, 0)
	b = append(b, d.payload...)
	c := checksum(udpSum(src, dst, b[start:]))
	if c == 0 {
		c = 0xffff // 0 would mean that there is none (RFC 768)
	}
	binary.BigEndian.PutUint16(b[start+6:], c)
	return b
}

// udpSum is the sum of a UDP datagram and the pseudo header before it (RFC 768).
func udpSum(src, dst [4]byte, udp []byte) uint32 {
	s := sum(sum(uint32(protoUDP)+uint32(len(udp)), src[:]), dst[:])
	return sum(s, udp)
}

// sum adds the 16-bit words of b. The inputs of this package are too short to
// overflow it.
func sum(s uint32, b []byte) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		s += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	return s
}

// checksum is the one's complement of a sum (RFC 1071).
func checksum(s uint32) uint16 {
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}
