package dhcpclient

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"go.uber.org/goleak"

	"viaduct/internal/hoststate"
	"viaduct/internal/uplink"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lan is a link with a DHCP server, and the disk of a host on it.
type lan struct {
	mu     sync.Mutex
	began  time.Time
	heard  []string
	conns  []*conn
	answer func(m *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 // nil while the server is gone
	lease  uplink.Lease
	same   bool   // the lease is of this boot
	taken  string // an address that somebody else has
	saves  int
}

// conn is a connection to the lan, whole datagrams or what UDP carries.
type conn struct {
	net.PacketConn
	lan   *lan
	whole bool
	in    chan []byte
	end   chan struct{}
}

func (c *conn) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case p := <-c.in:
		return copy(b, p), &net.UDPAddr{}, nil
	case <-c.end:
		return 0, nil, os.ErrClosed
	}
}

func (c *conn) Close() error { close(c.end); return nil }

func (c *conn) WriteTo(b []byte, _ net.Addr) (int, error) {
	payload, how := b, "unicast"
	if c.whole {
		payload, how = b[28:], "broadcast from "+netip.AddrFrom4([4]byte(b[12:16])).String()
	}
	m, err := dhcpv4.FromBytes(payload)
	if err != nil {
		return 0, err
	}
	l := c.lan
	l.mu.Lock()
	defer l.mu.Unlock()
	line := fmt.Sprintf("%s %s %s", time.Since(l.began).Round(time.Second), m.MessageType(), how)
	if ip := m.RequestedIPAddress(); ip != nil {
		line += " for " + ip.String()
	}
	if !m.ClientIPAddr.IsUnspecified() {
		line += " by " + m.ClientIPAddr.String()
	}
	l.heard = append(l.heard, line)
	if l.answer == nil {
		return len(b), nil
	}
	if reply := l.answer(m); reply != nil {
		p := datagram(reply.ToBytes())
		for _, to := range l.conns {
			select {
			case to.in <- p:
			default:
			}
		}
	}
	return len(b), nil
}

// datagram is what a server sends to all.
func datagram(payload []byte) []byte {
	p := make([]byte, 28, 28+len(payload))
	p[0], p[8], p[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(p[2:], uint16(28+len(payload)))
	copy(p[12:], []byte{192, 0, 2, 1})
	copy(p[16:], []byte{255, 255, 255, 255})
	binary.BigEndian.PutUint16(p[20:], 67)
	binary.BigEndian.PutUint16(p[22:], 68)
	binary.BigEndian.PutUint16(p[24:], uint16(8+len(payload)))
	return append(p, payload...)
}

func (l *lan) open(whole bool) *conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := &conn{lan: l, whole: whole, in: make(chan []byte, 16), end: make(chan struct{})}
	if whole { // what comes is heard there
		l.conns = append(l.conns, c)
	}
	return c
}

func (l *lan) start(t *testing.T) *Client {
	t.Helper()
	l.began = time.Now()
	c, err := Start(Config{Bridge: "br0", MAC: hoststate.MAC{0x52, 0x54, 0, 1, 2, 3}}, Deps{
		Open:   func(string) (net.PacketConn, error) { return l.open(true), nil },
		Listen: func(netip.AddrPort) (net.PacketConn, error) { return l.open(false), nil },
		Taken: func(a netip.Addr) (bool, error) {
			l.mu.Lock()
			defer l.mu.Unlock()
			return a.String() == l.taken, nil
		},
		Load: func() (uplink.Lease, bool, error) { return l.lease, l.same, nil },
		Save: func(lease uplink.Lease) error {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.lease, l.same, l.saves = lease, true, l.saves+1
			return nil
		},
		Changed: func() {},
		Log:     slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// server gives the address for 1000 s.
func server(address string) func(*dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
	return func(m *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
		typ := dhcpv4.MessageTypeAck
		if m.MessageType() == dhcpv4.MessageTypeDiscover {
			typ = dhcpv4.MessageTypeOffer
		}
		asked := m.RequestedIPAddress()
		if asked == nil {
			asked = m.ClientIPAddr
		}
		if typ == dhcpv4.MessageTypeAck && asked.String() != address {
			typ = dhcpv4.MessageTypeNak
		}
		reply, err := dhcpv4.NewReplyFromRequest(m, dhcpv4.WithMessageType(typ), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(192, 0, 2, 1))))
		if err != nil {
			panic(err)
		}
		if typ != dhcpv4.MessageTypeNak {
			reply.YourIPAddr = net.ParseIP(address)
			reply.UpdateOption(dhcpv4.OptIPAddressLeaseTime(1000 * time.Second))
			reply.UpdateOption(dhcpv4.OptSubnetMask(net.CIDRMask(24, 32)))
			reply.UpdateOption(dhcpv4.OptRouter(net.IPv4(192, 0, 2, 1)))
		}
		return reply
	}
}

func (l *lan) set(answer func(*dhcpv4.DHCPv4) *dhcpv4.DHCPv4) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.answer = answer
}

// said are the messages so far, and forgets them.
func (l *lan) said() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	said := l.heard
	l.heard = nil
	return said
}

func (l *lan) has() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.lease.Held(time.Now()) {
		return ""
	}
	return l.lease.Address.String()
}

func expect(t *testing.T, l *lan, has string, said ...string) {
	t.Helper()
	if got := l.has(); got != has {
		t.Errorf("has %q, want %q", got, has)
	}
	if got := l.said(); !slices.Equal(got, said) {
		t.Errorf("said %s", cmp.Diff(said, got))
	}
}

// A lease is renewed with its server from T1 on, with any from T2 on, is used
// until its end, and then another one is got.
func TestLeaseLivesAsRFC2131HasIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lan{answer: server("192.0.2.7")}
		c := l.start(t)
		synctest.Wait()
		expect(t, l, "192.0.2.7/24", "0s DISCOVER broadcast from 0.0.0.0", "0s REQUEST broadcast from 0.0.0.0 for 192.0.2.7")
		time.Sleep(501 * time.Second)
		expect(t, l, "192.0.2.7/24", "8m20s REQUEST unicast by 192.0.2.7") // T1
		l.set(nil)
		time.Sleep(990 * time.Second)
		expect(t, l, "192.0.2.7/24",
			"16m40s REQUEST unicast by 192.0.2.7", "19m48s REQUEST unicast by 192.0.2.7", "21m21s REQUEST unicast by 192.0.2.7", "22m21s REQUEST unicast by 192.0.2.7",
			"22m55s REQUEST broadcast from 192.0.2.7 by 192.0.2.7", "23m58s REQUEST broadcast from 192.0.2.7 by 192.0.2.7")
		time.Sleep(10 * time.Second) // past its end
		if got := l.has(); got != "" {
			t.Errorf("still has %s", got)
		}
		time.Sleep(10 * time.Minute)
		l.said()
		l.set(server("192.0.2.9"))
		time.Sleep(2 * time.Minute)
		if got := l.has(); got != "192.0.2.9/24" {
			t.Errorf("has %q", got)
		}
		c.Close()
	})
}

// A server that does not know the lease any more is obeyed at once.
func TestNakBringsAnotherLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lan{answer: server("192.0.2.7")}
		c := l.start(t)
		synctest.Wait()
		l.said()
		l.set(server("192.0.2.8"))
		time.Sleep(501 * time.Second)
		expect(t, l, "192.0.2.8/24", "8m20s REQUEST unicast by 192.0.2.7", "8m20s DISCOVER broadcast from 0.0.0.0 for 192.0.2.7",
			"8m20s REQUEST broadcast from 0.0.0.0 for 192.0.2.8")
		c.Close()
	})
}

// Another daemon goes on with the lease and asks nobody; after a reboot the host
// asks for what it had, and uses what is left of it where nobody answers.
func TestLeaseOutlivesDaemonAndHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lan{answer: server("192.0.2.7")}
		c := l.start(t)
		synctest.Wait()
		c.Close()
		l.said()
		saves := l.saves
		c = l.start(t)
		time.Sleep(400 * time.Second)
		expect(t, l, "192.0.2.7/24")
		c.Close()
		if l.saves != saves {
			t.Error("it was written again")
		}
		l.same = false
		c = l.start(t)
		synctest.Wait()
		expect(t, l, "192.0.2.7/24", "0s REQUEST broadcast from 0.0.0.0 for 192.0.2.7")
		c.Close()
		l.same = false
		l.set(nil)
		c = l.start(t)
		time.Sleep(time.Minute)
		expect(t, l, "192.0.2.7/24", "0s REQUEST broadcast from 0.0.0.0 for 192.0.2.7", "4s REQUEST broadcast from 0.0.0.0 for 192.0.2.7")
		if !l.same {
			t.Error("it is not said to be of this boot")
		}
		c.Close()
	})
}

// An address that somebody else has is declined, after ten seconds another one is
// asked for; but nobody asks about what the host has already.
func TestTakenAddressIsDeclined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lan{answer: server("192.0.2.7"), taken: "192.0.2.7"}
		c := l.start(t)
		synctest.Wait()
		expect(t, l, "", "0s DISCOVER broadcast from 0.0.0.0", "0s REQUEST broadcast from 0.0.0.0 for 192.0.2.7", "0s DECLINE broadcast from 0.0.0.0 for 192.0.2.7")
		l.set(server("192.0.2.8"))
		time.Sleep(11 * time.Second)
		expect(t, l, "192.0.2.8/24", "10s DISCOVER broadcast from 0.0.0.0", "10s REQUEST broadcast from 0.0.0.0 for 192.0.2.8")
		c.Close()

		// After a reboot somebody else may have it.
		l.taken, l.same = "192.0.2.8", false
		c = l.start(t)
		synctest.Wait()
		expect(t, l, "192.0.2.8/24", "0s REQUEST broadcast from 0.0.0.0 for 192.0.2.8", "0s DECLINE broadcast from 0.0.0.0 for 192.0.2.8")
		l.set(server("192.0.2.9"))
		time.Sleep(11 * time.Second)
		expect(t, l, "192.0.2.9/24", "10s DISCOVER broadcast from 0.0.0.0", "10s REQUEST broadcast from 0.0.0.0 for 192.0.2.9")
		c.Close()

		// What the host has from another client is its own, whoever answers for it.
		l.taken, l.lease = "192.0.2.9", uplink.Lease{Address: netip.MustParsePrefix("192.0.2.9/24")}
		c = l.start(t)
		synctest.Wait()
		expect(t, l, "192.0.2.9/24", "0s REQUEST broadcast from 0.0.0.0 for 192.0.2.9")
		c.Close()
	})
}

func TestLeaseOf(t *testing.T) {
	request, err := dhcpv4.New(dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest), dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.IPv4(192, 0, 2, 7))))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change dhcpv4.Modifier
		want   string // of the lease or the error
	}{
		"plain":         {dhcpv4.WithoutOption(dhcpv4.OptionNTPServers), "192.0.2.7/24 from 192.0.2.1 until 2026-01-01T00:16:40Z, 0.0.0.0/0 via 192.0.2.1"},
		"no mask":       {dhcpv4.WithoutOption(dhcpv4.OptionSubnetMask), "192.0.2.7/24 from"},
		"holes in mask": {dhcpv4.WithNetmask(net.IPv4Mask(255, 0, 255, 0)), "no subnet has the mask"},
		"no time":       {dhcpv4.WithoutOption(dhcpv4.OptionIPAddressLeaseTime), "a lease of 0s"},
		"for ever":      {dhcpv4.WithLeaseTime(0xffffffff), "until 2162-02-"},
		"no server":     {dhcpv4.WithoutOption(dhcpv4.OptionServerIdentifier), "no server says"},
		"MTU":           {dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionInterfaceMTU, []byte{5, 120})), ", mtu 1400"},
		"no MTU":        {dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionInterfaceMTU, []byte{2, 64})), "via 192.0.2.1$"},
		"multicast":     {dhcpv4.WithYourIP(net.IPv4(224, 0, 0, 1)), "is no address of a host"},
		"classless routes": {dhcpv4.WithOption(dhcpv4.OptClasslessStaticRoute(
			&dhcpv4.Route{Dest: &net.IPNet{IP: net.IPv4(10, 0, 0, 0), Mask: net.CIDRMask(8, 32)}, Router: net.IPv4(192, 0, 2, 9)},
		)), "10.0.0.0/8 via 192.0.2.9"},
	} {
		ack := server("192.0.2.7")(request)
		c.change(ack)
		lease, err := leaseOf(ack, uplink.Lease{}, time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
		got := lease.String()
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got+"$", c.want) || name == "classless routes" && strings.Contains(got, "0.0.0.0/0") {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// Whatever a server says is an error, or a lease that a host can have.
func FuzzLeaseOf(f *testing.F) {
	request, _ := dhcpv4.New(dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest), dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.IPv4(192, 0, 2, 7))))
	f.Add(server("192.0.2.7")(request).ToBytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := dhcpv4.FromBytes(b)
		if err != nil {
			return
		}
		now := time.Now()
		l, err := leaseOf(m, uplink.Lease{}, now)
		if err != nil {
			return
		}
		if !l.Address.Addr().Is4() || !l.Server.Is4() || !now.Before(l.Renew) || l.Rebind.Before(l.Renew) || !l.Rebind.Before(l.Expires) ||
			len(l.Routes) > maxRoutes || len(l.DNS) > maxServers {
			t.Errorf("%+v", l)
		}
		for _, r := range l.State(7).Routes {
			if !r.Dst.IsValid() || r.Dst != r.Dst.Masked() {
				t.Errorf("route %v", r)
			}
		}
	})
}
