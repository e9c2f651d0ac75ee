package sockets

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"viaduct/internal/host/nl"
	"viaduct/internal/lab"
)

func openFrames(t testing.TB, link string, f Filter) *FrameConn {
	t.Helper()
	c, err := OpenFrames(link, f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

// ether is a broadcast frame, told apart by its tag.
func ether(etherType uint16, payload []byte, tag byte) []byte {
	f := []byte{255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, tag}
	f = binary.BigEndian.AppendUint16(f, etherType)
	return append(append(f, payload...), make([]byte, 46)...)
}

// ipv4 is a datagram with a header of so many bytes.
func ipv4(header int, proto byte, fragment, dport uint16) []byte {
	p := make([]byte, header+8)
	p[0] = 4<<4 | byte(header/4)
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	binary.BigEndian.PutUint16(p[6:], fragment)
	p[9] = proto
	binary.BigEndian.PutUint16(p[header:], 68)
	binary.BigEndian.PutUint16(p[header+2:], dport)
	return p
}

func arp(op byte) []byte { return []byte{0, 1, 8, 0, 6, 4, 0, op} }

func TestFilters(t *testing.T) {
	frames := []struct {
		name        string
		etherType   uint16
		payload     []byte
		dhcp, reply bool
	}{
		{"DHCP", unix.ETH_P_IP, ipv4(20, unix.IPPROTO_UDP, 0, 67), true, false},
		{"DHCP with IP options", unix.ETH_P_IP, ipv4(40, unix.IPPROTO_UDP, 0, 67), true, false},
		{"DHCP, don't fragment", unix.ETH_P_IP, ipv4(20, unix.IPPROTO_UDP, 0x4000, 67), true, false},
		{"to a client", unix.ETH_P_IP, ipv4(20, unix.IPPROTO_UDP, 0, 68), false, false},
		{"TCP", unix.ETH_P_IP, ipv4(20, unix.IPPROTO_TCP, 0, 67), false, false},
		{"first fragment", unix.ETH_P_IP, ipv4(20, unix.IPPROTO_UDP, 0x2000, 67), false, false},
		{"later fragment", unix.ETH_P_IP, ipv4(20, unix.IPPROTO_UDP, 0x0001, 67), false, false},
		{"IPv6", unix.ETH_P_IPV6, ipv4(20, unix.IPPROTO_UDP, 0, 67), false, false},
		{"ARP request", unix.ETH_P_ARP, arp(1), false, false},
		{"ARP reply", unix.ETH_P_ARP, arp(2), false, true},
	}
	guest, server := lab.Cable(t)
	sender := openFrames(t, guest, ARPReplies)
	conns := map[string]*FrameConn{"DHCP": openFrames(t, server, DHCP4Server), "ARP": openFrames(t, server, ARPReplies)}
	want := map[string][]string{}
	for i, f := range frames {
		// The server's own frames must not come back to it.
		for _, c := range []*FrameConn{sender, conns["DHCP"]} {
			if err := c.WriteFrame(ether(f.etherType, f.payload, byte(i))); err != nil {
				t.Fatal(err)
			}
		}
		if f.dhcp {
			want["DHCP"] = append(want["DHCP"], f.name)
		}
		if f.reply {
			want["ARP"] = append(want["ARP"], f.name)
		}
	}
	const last = 99
	sender.WriteFrame(ether(unix.ETH_P_IP, ipv4(20, unix.IPPROTO_UDP, 0, 67), last))
	sender.WriteFrame(ether(unix.ETH_P_ARP, arp(2), last))
	for name, c := range conns {
		var got []string
		buf := make([]byte, 1500)
		for {
			n, err := c.ReadFrame(buf)
			if err != nil {
				t.Fatal(err)
			}
			if n < 60 {
				t.Errorf("%s: frame of %d bytes", name, n)
			}
			if buf[11] == last {
				break
			}
			got = append(got, frames[buf[11]].name)
		}
		if fmt.Sprint(got) != fmt.Sprint(want[name]) {
			t.Errorf("%s received %q, want %q", name, got, want[name])
		}
	}
}

func TestFrameConnNamesItsLink(t *testing.T) {
	_, server := lab.Cable(t)
	c := openFrames(t, server, DHCP4Server)
	link, err := net.InterfaceByName(server)
	if err != nil {
		t.Fatal(err)
	}
	if c.index != link.Index || c.HardwareAddr().String() != link.HardwareAddr.String() {
		t.Errorf("link %d %s, want %d %s", c.index, c.HardwareAddr(), link.Index, link.HardwareAddr)
	}
	if _, err := OpenFrames("nosuch", DHCP4Server); err == nil {
		t.Error("opened frames on a link that does not exist")
	}
}

// readAsync reads one frame and delivers the error.
func readAsync(c *FrameConn) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := c.ReadFrame(make([]byte, 1500))
		done <- err
	}()
	return done
}

func TestFramesOutliveLinkDown(t *testing.T) {
	guest, server := lab.Cable(t)
	c := openFrames(t, server, DHCP4Server)
	read := readAsync(c)
	lab.IP(t, "link set "+server+" down")
	lab.IP(t, "link set "+server+" up")
	lab.AwaitCarrier(t, guest)
	lab.AwaitCarrier(t, server)
	sender := openFrames(t, guest, ARPReplies)
	if err := sender.WriteFrame(ether(unix.ETH_P_IP, ipv4(20, unix.IPPROTO_UDP, 0, 67), 1)); err != nil {
		t.Fatal(err)
	}
	if err := <-read; err != nil {
		t.Fatalf("after the link was down: %v", err)
	}
	if !c.Bound() {
		t.Error("not bound to a link that was down for a while")
	}
	for _, first := range []string{"down", "up"} {
		lab.IP(t, "link set "+server+" "+first)
	}
	lab.IP(t, "link del "+server)
	if c.Bound() {
		t.Error("bound to a link that was deleted")
	}
}

func TestFrameDeadlineAndClose(t *testing.T) {
	_, server := lab.Cable(t)
	c := openFrames(t, server, DHCP4Server)
	c.SetReadDeadline(time.Now().Add(time.Millisecond))
	if err := <-readAsync(c); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after the deadline: %v", err)
	}
	c.SetReadDeadline(time.Time{})
	read := readAsync(c)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-read; !errors.Is(err, os.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if err := c.Close(); err == nil {
		t.Error("a second Close found it open")
	}
}

// TestFrameCloseDoesNotWait compares with what the kernel makes a program wait
// that closes its packet sockets itself.
func TestFrameCloseDoesNotWait(t *testing.T) {
	_, server := lab.Cable(t)
	const n = 8
	var waited, plain time.Duration
	for range n {
		c := openFrames(t, server, DHCP4Server)
		read := readAsync(c)
		start := time.Now()
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		<-read
		waited += time.Since(start)

		raw, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(nl.NetworkOrder(unix.ETH_P_ARP)))
		if err != nil {
			t.Fatal(err)
		}
		start = time.Now()
		unix.Close(raw)
		plain += time.Since(start)
	}
	t.Logf("%d closes and ends of reads: %v; closing the sockets at once: %v", n, waited, plain)
	if waited > plain/2 {
		t.Errorf("closing took %v, not much less than the kernel's %v", waited, plain)
	}
}

func TestFrameConnsConcurrently(t *testing.T) {
	_, server := lab.Cable(t)
	var wg sync.WaitGroup
	for range 32 {
		c, err := OpenFrames(server, DHCP4Server)
		if err != nil {
			t.Fatal(err)
		}
		read := readAsync(c)
		wg.Go(func() {
			c.Close()
			<-read
		})
	}
	wg.Wait()
}
