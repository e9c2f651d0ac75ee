package sockets

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"viaduct/internal/lab"
)

// loopback brings up the loopback link of the test's namespace.
func loopback(t testing.TB) { lab.IP(t, "link set lo up") }

func TestListenDNSServesBothProtocols(t *testing.T) {
	loopback(t)
	for _, addr := range []string{"127.0.0.1:53", "127.0.0.1:0", "[::1]:53", "[::1]:0"} {
		t.Run(addr, func(t *testing.T) {
			u, l, err := ListenDNS(netip.MustParseAddrPort(addr))
			if err != nil {
				t.Fatal(err)
			}
			defer u.Close()
			defer l.Close()
			if _, ok := u.(*net.UDPConn); !ok {
				t.Errorf("packets come from a %T", u)
			}
			if u.LocalAddr().String() != l.Addr().String() {
				t.Errorf("udp on %s, tcp on %s", u.LocalAddr(), l.Addr())
			}
			c, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
			c, err = net.Dial("udp", u.LocalAddr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := c.Write([]byte("question")); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 20)
			if n, _, err := u.ReadFrom(buf); err != nil || string(buf[:n]) != "question" {
				t.Errorf("read %q, %v", buf[:n], err)
			}
		})
	}
}

func TestListenDNSBeforeTheAddressExists(t *testing.T) {
	for _, addr := range []string{"192.0.2.1:53", "[2001:db8::1]:53"} {
		u, l, err := ListenDNS(netip.MustParseAddrPort(addr))
		if err != nil {
			t.Errorf("%s: %v", addr, err)
			continue
		}
		u.Close()
		l.Close()
	}
}

func TestListenDNSSeesOthers(t *testing.T) {
	loopback(t)
	self, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	reuse := net.ListenConfig{Control: freeBind}
	for _, other := range []struct{ network, addr string }{
		{"udp4", "0.0.0.0:53"}, {"udp", "[::]:53"}, {"udp", "127.0.0.1:53"},
		{"tcp4", "0.0.0.0:53"}, {"tcp", "[::]:53"}, {"tcp", "127.0.0.1:53"},
	} {
		t.Run(other.network+" "+other.addr, func(t *testing.T) {
			var c interface{ Close() error }
			var err error
			if other.network[:3] == "udp" {
				c, err = net.ListenPacket(other.network, other.addr)
			} else {
				c, err = reuse.Listen(t.Context(), other.network, other.addr)
			}
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			u, l, err := ListenDNS(netip.MustParseAddrPort("127.0.0.1:53"))
			if !errors.Is(err, unix.EADDRINUSE) {
				t.Errorf("listening beside it: %v, want EADDRINUSE", err)
			}
			if err == nil {
				u.Close()
				l.Close()
			}
			want := Holder{strings.TrimSpace(string(self)), os.Getpid(), netip.MustParseAddrPort(other.addr), other.network[:3]}
			if got := PortHolders(53); len(got) != 1 || got[0] != want {
				t.Errorf("holders: %v, want %v", got, want)
			}
		})
	}
	if got := PortHolders(53); len(got) != 0 {
		t.Errorf("holders of a free port: %v", got)
	}
}

func TestPortHoldersIgnoresConnections(t *testing.T) {
	loopback(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := PortHolders(c.LocalAddr().(*net.TCPAddr).AddrPort().Port()); len(got) != 0 {
		t.Errorf("a connection counts as a listener: %v", got)
	}
}

// procUDP is /proc/net/udp and /proc/net/udp6, from machines of little-endian order.
const procUDP = `   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  410: 0100007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 20713 2 0000000000000000 0
  411: 00000000000000000000000001000000:0035 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 20714 2 0000000000000000 0
`

func TestParseSockets(t *testing.T) {
	got := parseSockets(strings.NewReader(procUDP + "junk\n  1: zz:0035 0:0 07 0 0 0 0 0 9 x\n"))
	want := []socketLine{
		{netip.MustParseAddrPort("127.0.0.1:53"), "07", 20713},
		{netip.MustParseAddrPort("[::1]:53"), "07", 20714},
	}
	if len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("got %v, want %v", got, want)
	}
}

func FuzzParseSockets(f *testing.F) {
	f.Add(procUDP)
	f.Fuzz(func(t *testing.T, s string) {
		for _, l := range parseSockets(strings.NewReader(s)) {
			if !l.local.IsValid() {
				t.Errorf("an invalid address came out of %q", s)
			}
		}
	})
}
