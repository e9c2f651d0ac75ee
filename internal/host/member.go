package host

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"viaduct/internal/hoststate"
)

func (a *linkApplier) applyMember(verb hoststate.Verb, m hoststate.Member) error {
	l, exists := a.mirror.link(m.Link)
	bridge, bridgeExists := a.mirror.link(m.Bridge)
	master := bridge.index
	switch {
	case verb == hoststate.Delete:
		if exists && l.master == 0 {
			return a.shapers.removePlace(l.index) // it has left by itself
		}
		if !exists || !bridgeExists || l.master != bridge.index {
			return nil
		}
		master = 0
	case !exists:
		return errVanished(m.Link)
	case !bridgeExists:
		return errVanished(m.Bridge)
	case l.master != 0 && l.master != master && !a.ownBridge(l.master):
		return fmt.Errorf("link %s is a port of a bridge that was not made by viaduct: %w", m.Link, unix.EBUSY)
	}
	if verb != hoststate.Delete && m.MAC != (hoststate.MAC{}) && m.MAC != l.mac {
		if err := a.setMAC(l, m.MAC); err != nil {
			return fmt.Errorf("set the MAC address: %w", err)
		}
	}
	if l.master == master {
		return nil
	}
	enslave := func(e *netlink.AttributeEncoder) { e.Uint32(unix.IFLA_MASTER, uint32(master)) }
	if verb == hoststate.Delete && !bridge.ours() {
		// The host's bridge stays up, and so a link that leaves it is taken
		// down: it would lead its guest to the host itself.
		body, err := linkBody(l.index, 0, unix.IFF_UP, enslave)
		if err != nil {
			return err
		}
		err = allow(a.rtnl.do(unix.RTM_SETLINK, 0, body), unix.ENODEV)
		return errors.Join(err, a.shapers.removePlace(l.index))
	}
	err := a.request(unix.RTM_SETLINK, 0, l.index, enslave)
	switch {
	case verb == hoststate.Delete:
		err = errors.Join(err, a.shapers.removePlace(l.index))
	case err == nil:
		_ = a.shapers.prepare(l.index) // a limit says so if that cannot be
		_ = a.introduce(l, bridge)     // it saves the guest some time and no more
	}
	return err
}

// introduce tells who is at the other end of a port where the addresses of its
// bridge are found. A guest whose cable was out has forgotten that, and has asked
// for it in vain: it asks again only once a second. Ports of bridges that filter
// by VLAN may be kept apart from the host, so they are told nothing.
func (a *linkApplier) introduce(port, bridge link) error {
	if !bridge.ours() || bridge.filters {
		return nil
	}
	var frames [][]byte
	a.mirror.now(func() {
		for at := range a.mirror.addrs {
			if at.index == bridge.index {
				frames = append(frames, introduction(bridge.mac, at.prefix.Addr()))
			}
		}
	})
	if len(frames) == 0 {
		return nil
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	for _, f := range frames {
		err = errors.Join(err, unix.Sendto(fd, f, 0, &unix.SockaddrLinklayer{Ifindex: port.index}))
	}
	return errors.Join(err, unix.Close(fd))
}

// introduction is the frame that says to all who has an address: an ARP request
// for the address itself (RFC 5227, section 3), or a neighbor advertisement that
// nobody has asked for (RFC 4861, section 7.2.6). The latter is that of a router,
// since a guest takes a former router for none otherwise.
func introduction(mac hoststate.MAC, addr netip.Addr) []byte {
	if addr.Is4() {
		b := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac[:]...)
		for _, v := range []uint16{unix.ETH_P_ARP, unix.ARPHRD_ETHER, unix.ETH_P_IP, 6<<8 | 4, 1} {
			b = binary.BigEndian.AppendUint16(b, v)
		}
		b = append(append(b, mac[:]...), addr.AsSlice()...)
		return append(append(b, make([]byte, len(mac))...), addr.AsSlice()...)
	}
	const router, override, linkAddress, hops = 1 << 7, 1 << 5, 2, 255
	all := netip.IPv6LinkLocalAllNodes()
	body := append([]byte{router | override, 0, 0, 0}, addr.AsSlice()...)
	body = append(append(body, linkAddress, 1), mac[:]...)
	message := icmp.Message{Type: ipv6.ICMPTypeNeighborAdvertisement, Body: &icmp.RawBody{Data: body}}
	advertisement, err := message.Marshal(icmp.IPv6PseudoHeader(net.IP(addr.AsSlice()), net.IP(all.AsSlice())))
	if err != nil {
		panic("host: " + err.Error()) // a body of bytes always goes
	}
	b := append([]byte{0x33, 0x33, 0, 0, 0, 1}, mac[:]...)
	b = binary.BigEndian.AppendUint16(b, unix.ETH_P_IPV6)
	b = append(b, 6<<4, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(advertisement)))
	b = append(b, unix.IPPROTO_ICMPV6, hops)
	b = append(append(b, addr.AsSlice()...), all.AsSlice()...)
	return append(b, advertisement...)
}
