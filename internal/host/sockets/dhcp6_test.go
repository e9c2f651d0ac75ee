package sockets

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"viaduct/internal/lab"
)

func listenDHCP6(t testing.TB, link string) *DHCP6Conn {
	t.Helper()
	c, err := ListenDHCP6(link)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.udp.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

// client6 is a DHCPv6 client's socket on a link. It is made when the link's
// address is usable, which is when the kernel has found no duplicate of it.
func client6(t testing.TB, link string) (*net.UDPConn, netip.Addr) {
	t.Helper()
	ifi, err := net.InterfaceByName(link)
	if err != nil {
		t.Fatal(err)
	}
	var conn *net.UDPConn
	var own netip.Addr
	lab.Eventually(t, 10*time.Second, func() error {
		addrs, err := ifi.Addrs()
		if err != nil {
			return err
		}
		for _, a := range addrs {
			p := netip.MustParsePrefix(a.String())
			if !p.Addr().IsLinkLocalUnicast() || p.Addr().Is4() {
				continue
			}
			own = p.Addr()
			conn, err = net.ListenUDP("udp6", &net.UDPAddr{IP: own.AsSlice(), Zone: strconv.Itoa(ifi.Index), Port: dhcp6ClientPort})
			return err
		}
		return errors.New("no link-local address")
	})
	t.Cleanup(func() { conn.Close() })
	return conn, own
}

// udp6 is a datagram to the servers' port.
func udp6(from, to netip.Addr, payload string) []byte {
	udp := binary.BigEndian.AppendUint16(nil, dhcp6ClientPort)
	udp = binary.BigEndian.AppendUint16(udp, dhcp6ServerPort)
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(payload)))
	udp = append(udp, 0, 0)
	udp = append(udp, payload...)
	pseudo := append(append(from.AsSlice(), to.AsSlice()...), 0, 0, 0, byte(len(udp)), 0, 0, 0, unix.IPPROTO_UDP)
	sum := uint32(0)
	for rest := append(append(pseudo, udp...), 0); len(rest) > 1; rest = rest[2:] {
		sum += uint32(binary.BigEndian.Uint16(rest))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(udp[6:], ^uint16(sum))
	p := []byte{6 << 4, 0, 0, 0, 0, byte(len(udp)), unix.IPPROTO_UDP, 64}
	return append(append(append(p, from.AsSlice()...), to.AsSlice()...), udp...)
}

func TestDHCP6ConnReads(t *testing.T) {
	guest, server := lab.Cable(t)
	lab.IP(t, "addr add 2001:db8::1/64 dev "+server+" nodad")
	c := listenDHCP6(t, server)
	sender := openFrames(t, guest, ARPReplies)
	link, err := net.InterfaceByName(server)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []struct {
		to    string
		mac   net.HardwareAddr
		group bool
	}{
		{"ff02::1:2", net.HardwareAddr{0x33, 0x33, 0, 1, 0, 2}, true},
		{"2001:db8::1", link.HardwareAddr, false},
	} {
		from := netip.MustParseAddr("fe80::5054:ff:fe00:77")
		frame := append(net.HardwareAddr{}, d.mac...)
		frame = append(frame, 2, 0, 0, 0, 0, 1, 0x86, 0xdd)
		frame = append(frame, udp6(from, netip.MustParseAddr(d.to), "solicit!")...)
		stop := repeat(t, func() error { return sender.WriteFrame(frame) })
		buf := make([]byte, 100)
		n, source, group, err := c.ReadPacket(buf)
		stop()
		if err != nil || string(buf[:n]) != "solicit!" || source != from || group != d.group {
			t.Errorf("to %s: read %q from %v, group %v, %v", d.to, buf[:n], source, group, err)
		}
	}
}

// repeat sends something every so often until stopped, since a kernel under
// load may not take the first packet to a new address yet.
func repeat(t *testing.T, send func() error) (stop func()) {
	t.Helper()
	if err := send(); err != nil {
		t.Fatal(err)
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				_ = send()
			}
		}
	}()
	return func() {
		close(done)
		<-ended
	}
}

func TestDHCP6ConnWrites(t *testing.T) {
	guest, server := lab.Cable(t)
	c := listenDHCP6(t, server)
	client6(t, server) // until the server has an address to send from
	conn, own := client6(t, guest)
	if err := c.WritePacket([]byte("advertise"), own); err != nil {
		t.Fatal(err)
	}
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, 100)
	if n, _, err := conn.ReadFrom(buf); err != nil || string(buf[:n]) != "advertise" {
		t.Errorf("the client read %q, %v", buf[:n], err)
	}
}

func TestDHCP6ConnIsOneLinks(t *testing.T) {
	guest, server := lab.Cable(t)
	c := listenDHCP6(t, server)
	listenDHCP6(t, guest)
	if _, err := ListenDHCP6(server); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("a second one on the same link: %v, want EADDRINUSE", err)
	}
	if _, err := ListenDHCP6("nosuch"); err == nil {
		t.Error("listens on a link that does not exist")
	}
	lab.IP(t, "link set "+server+" down")
	if !c.Bound() {
		t.Error("not bound to a link that is down")
	}
	lab.IP(t, "link del "+server)
	if c.Bound() {
		t.Error("bound to a link that was deleted")
	}
	read := make(chan error, 1)
	go func() {
		_, _, _, err := c.ReadPacket(make([]byte, 100))
		read <- err
	}()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-read; !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if c.Bound() {
		t.Error("bound after Close")
	}
}

func TestDHCP6ConnsOnManyLinks(t *testing.T) {
	const links = 200
	for i := range links {
		name := fmt.Sprintf("many%d", i)
		lab.ForeignLink(t, name, "type bridge")
		listenDHCP6(t, name)
	}
}
