package xenscript

import (
	"bytes"
	be "encoding/binary"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"viaduct/internal/lab"
)

const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherAll  = 3
)

// wire is a link of a node on which frames can be sent and seen as they are.
type wire struct {
	fd, index int
	t         *testing.T
}

func (x *xenHost) wire(n *lab.Node, link string) *wire {
	x.t.Helper()
	w := &wire{t: x.t}
	x.must(n.Do(func() error {
		i, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		w.index = i.Index
		if w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(swap(etherAll))); err != nil {
			return err
		}
		return unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: swap(etherAll), Ifindex: i.Index})
	}))
	x.t.Cleanup(func() { unix.Close(w.fd) })
	return w
}

// swap is a number of the host's order in the network's.
func swap(v uint16) uint16 { return v<<8 | v>>8 }

func (w *wire) send(frame []byte) {
	w.t.Helper()
	if err := unix.Sendto(w.fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: w.index}); err != nil {
		w.t.Fatalf("send a frame: %v", err)
	}
}

// heard reports which of the marks came by before the last of them did.
func (w *wire) heard(marks ...string) map[string]bool {
	w.t.Helper()
	found := map[string]bool{}
	deadline := time.Now().Add(10 * time.Second)
	buf := make([]byte, 2048)
	for time.Now().Before(deadline) {
		unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000})
		n, _, err := unix.Recvfrom(w.fd, buf, 0)
		if err != nil {
			continue
		}
		for i, mark := range marks {
			if bytes.Contains(buf[:n], []byte(mark)) {
				found[mark] = true
				if i == len(marks)-1 {
					return found
				}
			}
		}
	}
	w.t.Fatalf("'%s' was not heard", marks[len(marks)-1])
	return nil
}

func ether(to, from net.HardwareAddr, kind uint16, payload []byte) []byte {
	f := append(append([]byte{}, to...), from...)
	return append(be.BigEndian.AppendUint16(f, kind), payload...)
}

// datagram is an IPv4 packet with a UDP datagram that holds the mark.
func datagram(from, to netip.Addr, mark string) []byte {
	p := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
	be.BigEndian.PutUint16(p[2:], uint16(28+len(mark)))
	p = append(append(p, from.AsSlice()...), to.AsSlice()...)
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(be.BigEndian.Uint16(p[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	be.BigEndian.PutUint16(p[10:], ^uint16(sum))
	p = append(p, 0x12, 0x34, 0, 9, 0, 0, 0, 0)
	be.BigEndian.PutUint16(p[24:], uint16(8+len(mark)))
	return append(p, mark...)
}

// arp is an ARP request for the target by that sender. Behind it is a mark.
func arp(hardware net.HardwareAddr, sender, target netip.Addr, mark string) []byte {
	p := append([]byte{0, 1, 8, 0, 6, 4, 0, 1}, hardware...)
	p = append(append(p, sender.AsSlice()...), 0, 0, 0, 0, 0, 0)
	return append(append(p, target.AsSlice()...), mark...)
}

// A guest whose addresses are known speaks as itself or is not heard, on a
// bridge, in NAT and routed: neither under another MAC nor IP address, nor by ARP.
func TestSpoofing(t *testing.T) {
	broadcast := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	other := net.HardwareAddr{0, 0x16, 0x3e, 9, 9, 9}
	for _, tt := range []struct {
		face, ip, stranger, gateway string
		guard                       string
	}{
		{"vif-bridge", "192.168.122.50", "192.168.122.51", "192.168.122.1", ""},
		{"vif-nat", "10.0.0.5", "10.0.0.6", "10.0.0.132", ""},
		{"vif-route", "203.0.113.50", "203.0.113.51", "203.0.113.2", ""},
		{"vif-bridge", "192.168.122.50", "192.168.122.51", "192.168.122.1", "no"},
		{"vif-route", "203.0.113.50", "203.0.113.51", "203.0.113.2", "no"},
	} {
		t.Run(strings.Trim(tt.face+" "+tt.guard, " "), func(t *testing.T) {
			x := newXenHost(t)
			x.must(x.daemon.Start())
			n := x.nic(tt.face, 5, 0, keys{"ip": tt.ip})
			if tt.guard != "" {
				n.env = []string{"VIADUCT_GUARD=" + tt.guard}
			}
			g := n.attach()
			n.connected()
			if tt.face == "vif-bridge" {
				x.in(g.Node, "ip addr add "+tt.ip+"/24 dev eth0")
				x.in(g.Node, "ip route add default via "+tt.gateway)
			} else {
				x.static(g, "eth0", tt.gateway, "", tt.ip+"/32")
			}
			x.reaches(g.Node, x.echo())
			x.in(g.Node, "ping -n -c 1 -W 5 "+tt.gateway)
			router, err := net.ParseMAC(lladdr(x.in(g.Node, "ip neigh show "+tt.gateway)))
			x.must(err)
			far, near := x.wire(x.host.Outside.Node, "eth0"), x.wire(g.Node, "eth0")
			own, stranger, outside := addr(tt.ip), addr(tt.stranger), x.host.Outside.Addr
			for _, f := range [][]byte{
				ether(router, other, etherIPv4, datagram(own, outside, "another-mac")),
				ether(router, n.mac(), etherIPv4, datagram(stranger, outside, "another-ip")),
				ether(router, n.mac(), etherIPv4, datagram(addr("8.8.8.8"), outside, "outside-ip")),
				ether(broadcast, n.mac(), etherARP, arp(n.mac(), stranger, addr(tt.gateway), "")),
				ether(broadcast, n.mac(), etherARP, arp(other, own, addr(tt.gateway), "")),
				ether(router, n.mac(), etherIPv4, datagram(own, outside, "itself")),
			} {
				near.send(f)
			}
			heard := far.heard("another-mac", "another-ip", "outside-ip", "itself")
			neighbours := x.in(x.host.Node, "ip neigh")
			if tt.guard == "no" {
				// What is routed passes the network's own rules too, which know its addresses.
				if !heard["another-mac"] || !heard["another-ip"] && tt.face != "vif-route" || !strings.Contains(neighbours, tt.stranger+" ") {
					t.Errorf("not guarded, and yet only this was heard: %v\n%s", heard, neighbours)
				}
				return
			}
			if len(heard) > 1 {
				t.Errorf("heard %v", heard)
			}
			if strings.Contains(neighbours, tt.stranger+" ") || strings.Contains(neighbours, other.String()) {
				t.Errorf("the host believes what the guest's ARP says:\n%s", neighbours)
			}
			x.reaches(g.Node, x.echo())
		})
	}
}

// lladdr is the link-layer address in a line of "ip neigh".
func lladdr(line string) string {
	words := strings.Fields(line)
	for i, w := range words[:max(len(words)-1, 0)] {
		if w == "lladdr" {
			return words[i+1]
		}
	}
	return ""
}
