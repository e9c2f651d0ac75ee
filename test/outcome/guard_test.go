package outcome

import (
	"bytes"
	be "encoding/binary"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"viaduct/internal/lab"
)

// What a guest with the addresses below sends itself.
type mac [6]byte

var (
	everybody = mac{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	mine      = mac{0x52, 0x54, 0, 0, 0x50, 9}
	another   = mac{0x52, 0x54, 0, 0, 0x50, 10}
)

func ether(from mac, kind uint16, payload []byte) []byte {
	f := append(everybody[:], from[:]...)
	return append(be.BigEndian.AppendUint16(f, kind), payload...)
}

// arp4 is an ARP message of that operation.
func arp4(op uint16, hardware mac, sender string) []byte {
	p := []byte{0, 1, 8, 0, 6, 4, byte(op >> 8), byte(op)}
	p = append(append(p, hardware[:]...), addr(sender).AsSlice()...)
	return append(append(p, make([]byte, 6)...), addr("192.168.50.77").AsSlice()...)
}

// ip4 is an IPv4 packet to everybody.
func ip4(from string, proto byte, payload []byte) []byte {
	p := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, proto, 0, 0}
	be.BigEndian.PutUint16(p[2:], uint16(20+len(payload)))
	p = append(append(p, addr(from).AsSlice()...), 255, 255, 255, 255)
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(be.BigEndian.Uint16(p[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	be.BigEndian.PutUint16(p[10:], ^uint16(sum))
	return append(p, payload...)
}

// ip6 is an IPv6 packet to all nodes.
func ip6(from string, proto byte, payload []byte) []byte {
	p := []byte{0x60, 0, 0, 0, byte(len(payload) >> 8), byte(len(payload)), proto, 255}
	p = append(append(p, addr(from).AsSlice()...), addr("ff02::1").AsSlice()...)
	return append(p, payload...)
}

func udp(from, to uint16, payload []byte) []byte {
	p := be.BigEndian.AppendUint16(be.BigEndian.AppendUint16(nil, from), to)
	return append(be.BigEndian.AppendUint16(p, uint16(8+len(payload))), append([]byte{0, 0}, payload...)...)
}

// bootp is the beginning of a DHCPv4 message.
func bootp(client mac) []byte {
	p := make([]byte, 240)
	copy(p, []byte{1, 1, 6, 0})
	copy(p[28:], client[:])
	return p
}

// discovery is a message of neighbour discovery with a target, unless that is
// "", and an option with a link-layer address, unless its type is 0.
func discovery(kind byte, target string, option byte, linkAddr mac) []byte {
	p := []byte{kind, 0, 0, 0, 0, 0, 0, 0}
	if target != "" {
		p = append(p, addr(target).AsSlice()...)
	}
	if option != 0 {
		p = append(append(p, option, 1), linkAddr[:]...)
	}
	return p
}

const (
	etherIPv4, etherARP, etherIPv6, etherVLAN = 0x0800, 0x0806, 0x86dd, 0x8100
	protoUDP, protoTCP, protoICMP6            = 17, 6, 58
)

// attempts are frames of a guest with the MAC mine and the addresses
// 192.168.50.9 and fd00:50::9, and whether they may pass.
func attempts() []attempt {
	probe := []byte("............")
	tagged := func(tags int, payload []byte) []byte {
		for range tags {
			payload = append([]byte{0, 5}, payload...)
			payload = append(payload[:2:2], append(be.BigEndian.AppendUint16(nil, etherIPv4), payload[2:]...)...)
		}
		return payload
	}
	nonceFirst := append(append(discovery(135, "fd00:50::1", 0, mine), 14, 1, 1, 2, 3, 4, 5, 6), append([]byte{1, 1}, another[:]...)...)
	return []attempt{
		{"IPv4", ether(mine, etherIPv4, ip4("192.168.50.9", protoUDP, udp(9, 9, probe))), true},
		{"IPv4 from another MAC", ether(another, etherIPv4, ip4("192.168.50.9", protoUDP, udp(9, 9, probe))), false},
		{"another's IPv4", ether(mine, etherIPv4, ip4("192.168.50.10", protoUDP, udp(9, 9, probe))), false},
		{"the gateway's IPv4", ether(mine, etherIPv4, ip4("192.168.50.1", protoUDP, udp(9, 9, probe))), false},
		{"an outside IPv4", ether(mine, etherIPv4, ip4("8.8.8.8", protoUDP, udp(53, 9, probe))), false},
		{"no IPv4", ether(mine, etherIPv4, ip4("0.0.0.0", protoUDP, udp(9, 9, probe))), false},
		{"DHCP request", ether(mine, etherIPv4, ip4("0.0.0.0", protoUDP, udp(68, 67, bootp(mine)))), true},
		{"DHCP request as another", ether(mine, etherIPv4, ip4("0.0.0.0", protoUDP, udp(68, 67, bootp(another)))), false},
		{"DHCP answer", ether(mine, etherIPv4, ip4("192.168.50.9", protoUDP, udp(67, 68, bootp(another)))), false},
		{"ARP request", ether(mine, etherARP, arp4(1, mine, "192.168.50.9")), true},
		{"ARP answer", ether(mine, etherARP, arp4(2, mine, "192.168.50.9")), true},
		{"ARP probe", ether(mine, etherARP, arp4(1, mine, "0.0.0.0")), true},
		{"ARP for another's address", ether(mine, etherARP, arp4(2, mine, "192.168.50.10")), false},
		{"ARP for the gateway", ether(mine, etherARP, arp4(2, mine, "192.168.50.1")), false},
		{"ARP with another's MAC", ether(mine, etherARP, arp4(2, another, "192.168.50.9")), false},
		{"ARP of another kind", ether(mine, etherARP, append([]byte{0, 6}, arp4(2, mine, "192.168.50.9")[2:]...)), false},
		{"IPv6", ether(mine, etherIPv6, ip6("fd00:50::9", protoUDP, udp(9, 9, probe))), true},
		{"link-local IPv6", ether(mine, etherIPv6, ip6("fe80::77", protoUDP, udp(9, 9, probe))), true},
		{"another's IPv6", ether(mine, etherIPv6, ip6("fd00:50::10", protoUDP, udp(9, 9, probe))), false},
		{"the gateway's IPv6", ether(mine, etherIPv6, ip6("fd00:50::1", protoUDP, udp(9, 9, probe))), false},
		{"no IPv6", ether(mine, etherIPv6, ip6("::", protoUDP, udp(9, 9, probe))), false},
		{"duplicate address detection", ether(mine, etherIPv6, ip6("::", protoICMP6, discovery(135, "fd00:50::44", 0, mine))), true},
		{"neighbour solicitation", ether(mine, etherIPv6, ip6("fd00:50::9", protoICMP6, discovery(135, "fd00:50::1", 1, mine))), true},
		{"neighbour solicitation with another's MAC", ether(mine, etherIPv6, ip6("fd00:50::9", protoICMP6, discovery(135, "fd00:50::1", 1, another))), false},
		{"neighbour solicitation with a late option", ether(mine, etherIPv6, ip6("fd00:50::9", protoICMP6, nonceFirst)), false},
		{"neighbour advertisement", ether(mine, etherIPv6, ip6("fd00:50::9", protoICMP6, discovery(136, "fd00:50::9", 2, mine))), true},
		{"bare neighbour advertisement", ether(mine, etherIPv6, ip6("fd00:50::9", protoICMP6, discovery(136, "fd00:50::9", 0, mine))), true},
		{"link-local neighbour advertisement", ether(mine, etherIPv6, ip6("fe80::77", protoICMP6, discovery(136, "fe80::77", 2, mine))), true},
		{"neighbour advertisement for another", ether(mine, etherIPv6, ip6("fd00:50::9", protoICMP6, discovery(136, "fd00:50::10", 2, mine))), false},
		{"neighbour advertisement for the gateway", ether(mine, etherIPv6, ip6("fd00:50::9", protoICMP6, discovery(136, "fd00:50::1", 2, mine))), false},
		{"neighbour advertisement with another's MAC", ether(mine, etherIPv6, ip6("fd00:50::9", protoICMP6, discovery(136, "fd00:50::9", 2, another))), false},
		{"router solicitation", ether(mine, etherIPv6, ip6("fe80::77", protoICMP6, discovery(133, "", 1, mine))), true},
		{"router solicitation with another's MAC", ether(mine, etherIPv6, ip6("fe80::77", protoICMP6, discovery(133, "", 1, another))), false},
		{"router advertisement", ether(mine, etherIPv6, ip6("fe80::77", protoICMP6, discovery(134, "::", 0, mine))), false},
		{"redirect", ether(mine, etherIPv6, ip6("fe80::77", protoICMP6, discovery(137, "fd00:50::10", 0, mine))), false},
		{"DHCPv6 request", ether(mine, etherIPv6, ip6("fe80::77", protoUDP, udp(546, 547, probe))), true},
		{"DHCPv6 answer", ether(mine, etherIPv6, ip6("fe80::77", protoUDP, udp(547, 546, probe))), false},
		{"another's IPv4 in a VLAN", ether(mine, etherVLAN, tagged(1, ip4("192.168.50.10", protoUDP, udp(9, 9, probe)))), false},
		{"another's IPv4 in a VLAN in a VLAN", ether(mine, etherVLAN, append([]byte{0, 5, 0x81, 0}, tagged(1, ip4("192.168.50.10", protoUDP, udp(9, 9, probe)))...)), false},
	}
}

type attempt struct {
	name   string
	frame  []byte
	passes bool
}

// seen reads what comes to a port until the last frame, and reports for each
// of the frames whether it was among that.
func (s *site) seen(port *os.File, frames []attempt, last []byte) map[string]bool {
	s.t.Helper()
	s.must(port.SetReadDeadline(time.Now().Add(10 * time.Second)))
	found := map[string]bool{}
	buf := make([]byte, 2048)
	for {
		n, err := port.Read(buf)
		s.must(err)
		if bytes.HasPrefix(buf[:n], last) {
			return found
		}
		for _, a := range frames {
			if bytes.HasPrefix(buf[:n], a.frame) {
				found[a.name] = true
			}
		}
	}
}

// awaitPort waits until frames of the guest arrive at the other port.
func (s *site) awaitPort(from, to *os.File) {
	s.t.Helper()
	hello := ether(mine, etherARP, arp4(1, mine, "192.168.50.9"))
	buf := make([]byte, 2048)
	lab.Eventually(s.t, 10*time.Second, func() error {
		if _, err := from.Write(hello); err != nil {
			return err
		}
		to.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		for {
			n, err := to.Read(buf)
			if err != nil {
				return err
			}
			if bytes.HasPrefix(buf[:n], hello) {
				return nil
			}
		}
	})
}

// A guarded guest speaks as itself or is not heard, and a guest that is not
// guarded says what it likes.
func TestGuestSpeaksAsItself(t *testing.T) {
	for _, calls := range []string{"0", "1"} {
		t.Run("bridge-nf-call-iptables "+calls, func(t *testing.T) {
			s := startSite(t)
			for _, k := range []string{"iptables", "ip6tables", "arptables"} {
				s.host.SetSysctl("net.bridge.bridge-nf-call-"+k, calls)
			}
			s.create(strings.Replace(xml6("a", 50, "<forward mode='nat'/>"), "</name>",
				"</name><metadata><v:settings xmlns:v='urn:viaduct:settings:1'><v:guard check='yes,192.168.50.9,fd00:50::9'/></v:settings></metadata>", 1))
			s.viaduct("port-create", "a", "--tap", "vm1", "--mac", fmt.Sprintf("%x:%x:%x:%x:%x:%x", mine[0], mine[1], mine[2], mine[3], mine[4], mine[5]))
			s.viaduct("port-create", "a", "--tap", "vm2", "--guard", "no")
			guest, watcher := s.host.OpenTap("vm1"), s.host.OpenTap("vm2")
			s.awaitPort(guest, watcher)
			s.awaitPort(watcher, guest)
			last := ether(mine, etherARP, arp4(2, mine, "192.168.50.9"))
			for _, way := range []struct {
				name     string
				from, to *os.File
				guarded  bool
			}{{"guarded", guest, watcher, true}, {"not guarded", watcher, guest, false}} {
				frames := attempts()
				for _, a := range frames {
					_, err := way.from.Write(a.frame)
					s.must(err)
				}
				last[41]++ // the address asked for, to tell it from the others
				way.from.Write(last)
				found := s.seen(way.to, frames, last)
				for _, a := range frames {
					if want := a.passes || !way.guarded; found[a.name] != want {
						t.Errorf("%s: %s passes: %v", way.name, a.name, found[a.name])
					}
				}
			}
		})
	}
}
