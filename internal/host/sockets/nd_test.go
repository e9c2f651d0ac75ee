package sockets

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"viaduct/internal/lab"
)

var (
	guestLL  = netip.MustParseAddr("fe80::a")
	routerLL = netip.MustParseAddr("fe80::1")
)

// giveLinkLocal gives a link one link-local address, at once.
func giveLinkLocal(t *testing.T, link string, a netip.Addr) {
	t.Helper()
	lab.IP(t, "link set "+link+" addrgenmode none")
	lab.IP(t, "-6 addr flush dev "+link)
	lab.IP(t, "addr add "+a.String()+"/64 dev "+link+" nodad")
}

func listenND(t *testing.T, link string) *NDConn {
	t.Helper()
	c, err := ListenND(link)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// sendICMP sends a message from a link to all routers, its tag in the last byte.
func sendICMP(t *testing.T, link string, kind byte, hops int, tag byte) {
	t.Helper()
	l, err := net.InterfaceByName(link)
	if err != nil {
		t.Fatal(err)
	}
	pc, err := net.ListenPacket("ip6:ipv6-icmp", "::")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	p := ipv6.NewPacketConn(pc)
	if err := errors.Join(p.SetMulticastHopLimit(hops), p.SetMulticastInterface(l)); err != nil {
		t.Fatal(err)
	}
	// By number: package net remembers which numbers names had.
	to := &net.IPAddr{IP: net.IPv6linklocalallrouters, Zone: strconv.Itoa(l.Index)}
	if _, err := p.WriteTo([]byte{kind, 0, 0, 0, 0, 0, 0, tag}, nil, to); err != nil {
		t.Fatal(err)
	}
}

// hear is the tag of the next message of sendICMP from guestLL. What the kernel
// sends by itself has options and is passed over.
func hear(t *testing.T, c *NDConn) byte {
	t.Helper()
	if err := c.file.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		if n != 8 {
			continue
		}
		if from != guestLL {
			t.Errorf("%x from %s", buf[:n], from)
		}
		return buf[7]
	}
}

func TestNDConnHearsNeighborsSolicit(t *testing.T) {
	guest, server := lab.Cable(t)
	lab.ForeignLink(t, "oguest", "type veth peer name oserver")
	lab.IP(t, "link set oguest up")
	lab.IP(t, "link set oserver up")
	lab.AwaitCarrier(t, "oguest")
	giveLinkLocal(t, guest, guestLL)
	giveLinkLocal(t, "oguest", netip.MustParseAddr("fe80::b"))
	c := listenND(t, server)
	listenND(t, "oserver") // so that the host takes part in the group there
	const last = 99
	sendICMP(t, guest, routerSolicitation, 64, 1)     // from behind a router
	sendICMP(t, guest, 134, ndHopLimit, 2)            // an advertisement
	sendICMP(t, guest, 128, ndHopLimit, 3)            // a ping
	sendICMP(t, "oguest", routerSolicitation, 255, 4) // another link
	sendICMP(t, guest, routerSolicitation, ndHopLimit, last)
	if tag := hear(t, c); tag != last {
		t.Errorf("heard message %d", tag)
	}
	if l, err := net.InterfaceByName(server); err != nil || c.HardwareAddr().String() != l.HardwareAddr.String() {
		t.Errorf("hardware address %s", c.HardwareAddr())
	}
}

func TestNDConnWrites(t *testing.T) {
	guest, server := lab.Cable(t)
	giveLinkLocal(t, server, guestLL)
	c := listenND(t, server)
	other := listenND(t, guest)
	rs := []byte{routerSolicitation, 0, 0, 0, 0, 0, 0, 7}
	if err := c.WriteTo(rs, guestLL, netip.IPv6LinkLocalAllRouters()); err != nil {
		t.Fatal(err)
	}
	if tag := hear(t, other); tag != 7 {
		t.Errorf("heard message %d", tag)
	}
	if err := c.WriteTo(rs, netip.MustParseAddr("fe80::dead"), netip.IPv6LinkLocalAllNodes()); !errors.Is(err, unix.EINVAL) {
		t.Errorf("from an address that the link does not have: %v", err)
	}
}

// TestLinkLocalWithoutCarrier shows why a bridge is given its link-local
// address: it can be used at once, while the kernel's own waits for a guest and
// then for duplicates.
func TestLinkLocalWithoutCarrier(t *testing.T) {
	for i, b := range []string{"ndgiven", "ndkernel"} {
		lab.ForeignLink(t, b, "type bridge")
		// A bridge with a MAC of its own notices that it has no ports.
		lab.IP(t, fmt.Sprintf("link set %s address 52:54:00:00:00:0%d", b, i))
		lab.IP(t, "link set "+b+" up")
	}
	giveLinkLocal(t, "ndgiven", routerLL)
	if seen := lab.IP(t, "-6 addr show dev ndgiven"); !strings.Contains(seen, routerLL.String()) || strings.Contains(seen, "tentative") {
		t.Errorf("given: %s", seen)
	}
	lab.Eventually(t, 5*time.Second, func() error {
		link, addrs := lab.IP(t, "-o link show ndkernel"), lab.IP(t, "-6 addr show dev ndkernel")
		if !strings.Contains(link, "NO-CARRIER") || strings.Contains(addrs, "fe80::") {
			return fmt.Errorf("the kernel's own: %s%s", link, addrs)
		}
		return nil
	})
	c := listenND(t, "ndgiven")
	if err := c.WriteTo([]byte{134, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, routerLL, netip.IPv6LinkLocalAllNodes()); err != nil {
		t.Errorf("without carrier: %v", err)
	}
	// A guest brings the carrier, and is heard.
	lab.ForeignLink(t, "ndguest", "type veth peer name ndport")
	lab.IP(t, "link set ndport master ndgiven")
	lab.IP(t, "link set ndport up")
	lab.IP(t, "link set ndguest up")
	lab.AwaitCarrier(t, "ndgiven")
	giveLinkLocal(t, "ndguest", guestLL)
	sendICMP(t, "ndguest", routerSolicitation, ndHopLimit, 5)
	if tag := hear(t, c); tag != 5 {
		t.Errorf("heard message %d", tag)
	}
}

func TestNDConnEnds(t *testing.T) {
	_, server := lab.Cable(t)
	c := listenND(t, server)
	if !c.Bound() {
		t.Error("not bound")
	}
	lab.IP(t, "link set "+server+" down")
	if !c.Bound() {
		t.Error("not bound to a link that is down")
	}
	read := make(chan error, 1)
	go func() {
		_, _, err := c.ReadFrom(make([]byte, 100))
		read <- err
	}()
	lab.IP(t, "link del "+server)
	if c.Bound() {
		t.Error("bound to a link that was deleted")
	}
	if err := c.WriteTo(make([]byte, 16), routerLL, netip.IPv6LinkLocalAllNodes()); err == nil {
		t.Error("sent to a link that was deleted")
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := <-read; !errors.Is(err, os.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if _, err := ListenND(server); err == nil {
		t.Error("listening on a link that does not exist")
	}
	if c.Bound() {
		t.Error("bound after Close")
	}
}
