package host

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/net/icmp"
	icmp4 "golang.org/x/net/ipv4"
	icmp6 "golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// askAgain is how long an answer is waited for before the question is repeated.
const askAgain = 100 * time.Millisecond

// nudReachable is what the kernel makes of a neighbour that has just answered.
const nudReachable = unix.NUD_REACHABLE

// Neighbour implements Host. The kernel does the asking, by ARP or neighbour
// discovery, so it also knows the answer.
func (h *kernelHost) Neighbour(ctx context.Context, link string, addr netip.Addr) error {
	l, ok := h.mirror.link(link)
	if !ok {
		return errVanished(link)
	}
	addr = addr.WithZone("")
	family := byte(unix.AF_INET)
	if addr.Is6() {
		family = unix.AF_INET6
	}
	body := func(state uint16, flags byte) ([]byte, error) {
		b := append(make([]byte, 0, 64), family, 0, 0, 0)
		b = binary.NativeEndian.AppendUint32(b, uint32(l.index))
		b = binary.NativeEndian.AppendUint16(b, state)
		return appendAttrs(append(b, flags, 0), func(e *netlink.AttributeEncoder) { e.Bytes(unix.NDA_DST, addr.AsSlice()) })
	}
	old, err := body(0, 0)
	if err != nil {
		return err
	}
	if h.neighbourState(family, l.index, addr)&(unix.NUD_PERMANENT|unix.NUD_NOARP) != 0 {
		return h.Echo(ctx, addr.WithZone(zoneOf(addr, link))) // the kernel was told, and does not ask
	}
	// What it said on another occasion does not count.
	if err := allow(h.rtnl.do(unix.RTM_DELNEIGH, 0, old), unix.ENOENT); err != nil {
		return fmt.Errorf("ask %s on %s: %w", addr, link, err)
	}
	for {
		ask, err := body(unix.NUD_NONE, unix.NTF_USE)
		if err == nil {
			err = h.rtnl.do(unix.RTM_NEWNEIGH, netlink.Create, ask)
		}
		if err != nil {
			return fmt.Errorf("ask %s on %s: %w", addr, link, err)
		}
		if h.neighbourState(family, l.index, addr)&nudReachable != 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer on %s: %w", addr, link, context.Cause(ctx))
		case <-time.After(askAgain / 4):
		}
	}
}

// zoneOf is the zone that an address needs on a link.
func zoneOf(addr netip.Addr, link string) string {
	if addr.Is6() && addr.IsLinkLocalUnicast() {
		return link
	}
	return ""
}

// neighbourState is NUD_* of a neighbour, 0 of one that is not known.
func (h *kernelHost) neighbourState(family byte, index int, addr netip.Addr) uint16 {
	msgs, err := h.rtnl.dump(unix.RTM_GETNEIGH, append([]byte{family}, make([]byte, ndmsgLen-1)...))
	if err != nil {
		return 0
	}
	for _, m := range msgs {
		if len(m.Data) < ndmsgLen || int(int32(binary.NativeEndian.Uint32(m.Data[4:]))) != index {
			continue
		}
		d, err := netlink.NewAttributeDecoder(m.Data[ndmsgLen:])
		if err != nil {
			continue
		}
		for d.Next() {
			if found, ok := netip.AddrFromSlice(d.Bytes()); ok && d.Type() == unix.NDA_DST && found == addr {
				return binary.NativeEndian.Uint16(m.Data[8:])
			}
		}
	}
	return 0
}

// Echo implements Host.
func (h *kernelHost) Echo(ctx context.Context, addr netip.Addr) error {
	network, typ, reply, proto := "ip4:icmp", icmp.Type(icmp4.ICMPTypeEcho), icmp.Type(icmp4.ICMPTypeEchoReply), 1
	if addr.Is6() {
		network, typ, reply, proto = "ip6:ipv6-icmp", icmp6.ICMPTypeEchoRequest, icmp6.ICMPTypeEchoReply, 58
	}
	c, err := icmp.ListenPacket(network, "")
	if err != nil {
		return fmt.Errorf("ping %s: %w", addr, err)
	}
	defer c.Close()
	id := int(uint16(time.Now().UnixNano()))
	buf := make([]byte, defaultMTU)
	for seq := 1; ctx.Err() == nil; seq++ {
		packet, err := (&icmp.Message{Type: typ, Body: &icmp.Echo{ID: id, Seq: seq}}).Marshal(nil)
		if err != nil {
			return err
		}
		// What cannot be sent now may be a moment later.
		_, _ = c.WriteTo(packet, &net.IPAddr{IP: addr.AsSlice(), Zone: addr.Zone()})
		for next := time.Now().Add(askAgain); ; {
			_ = c.SetReadDeadline(next)
			n, _, err := c.ReadFrom(buf)
			if err != nil {
				break
			}
			m, err := icmp.ParseMessage(proto, buf[:n])
			if err != nil || m.Type != reply {
				continue
			}
			if echo, ok := m.Body.(*icmp.Echo); ok && echo.ID == id {
				return nil
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(askAgain / 10):
		}
	}
	return fmt.Errorf("%s does not answer: %w", addr, context.Cause(ctx))
}

// Towards implements Host.
func (h *kernelHost) Towards(addr netip.Addr) string {
	family := byte(unix.AF_INET)
	if addr.Is6() {
		family = unix.AF_INET6
	}
	body, err := appendAttrs(append([]byte{family, byte(addr.BitLen())}, make([]byte, rtmsgLen-2)...), func(e *netlink.AttributeEncoder) {
		e.Bytes(unix.RTA_DST, addr.WithZone("").AsSlice())
	})
	if err != nil {
		return ""
	}
	reply, err := h.rtnl.get(unix.RTM_GETROUTE, body)
	if err != nil || len(reply) == 0 || len(reply[0].Data) < rtmsgLen {
		return ""
	}
	name := ""
	if d, err := netlink.NewAttributeDecoder(reply[0].Data[rtmsgLen:]); err == nil {
		for d.Next() {
			if d.Type() == unix.RTA_OIF {
				h.mirror.now(func() { name = h.mirror.links[int(d.Uint32())].name })
			}
		}
	}
	return name
}
