package dhcp4

import (
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"go.uber.org/goleak"

	"viaduct/internal/guestsvc/guestsvctest"
	"viaduct/internal/guestsvc/leases"
	"viaduct/internal/lab"
	"viaduct/internal/netdef"
)

var (
	network = netdef.UUID{1}
	start   = time.Unix(1_700_000_000, 0)
	bridge  = netdef.MAC{0x52, 0x54, 0, 0xff, 0xff, 1}
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// guest is the MAC of the n-th guest.
func guest(n byte) netdef.MAC { return netdef.MAC{0x52, 0x54, 0, 0, 0, n} }

// testConfig serves .2 to .20 of a /24, and has one reservation of each sort.
// The range contains the host's own address on purpose.
func testConfig() Config {
	return Config{
		Network: network, Name: "default", Bridge: "virbr0", Address: netip.MustParsePrefix("192.168.122.1/24"),
		Ranges: []Range{{First: addr("192.168.122.0"), Last: addr("192.168.122.20")}},
		Hosts: []Host{
			{MAC: guest(50), Name: "fifty", Addr: addr("192.168.122.50")},
			{ClientID: []byte{0, 'i', 'd'}, Addr: addr("192.168.122.51")},
			{Name: "named", Addr: addr("192.168.122.52")},
			{MAC: guest(10), Addr: addr("192.168.122.10")}, // inside the range
		},
		Router: []netip.Addr{addr("192.168.122.1")}, DNS: []netip.Addr{addr("192.168.122.1")},
		Domain: "example.test", Search: []string{"example.test"},
	}
}

func lease(a string, mac netdef.MAC, left time.Duration) netdef.Lease {
	return netdef.Lease{Network: network, Addr: addr(a), PrefixLen: 24, MAC: mac, Expiry: start.Add(left)}
}

// mod changes a message of a client.
type mod func(*dhcpv4.DHCPv4)

func requested(a string) mod {
	return func(p *dhcpv4.DHCPv4) { p.UpdateOption(dhcpv4.OptRequestedIPAddress(net.ParseIP(a))) }
}
func server(a string) mod {
	return func(p *dhcpv4.DHCPv4) { p.UpdateOption(dhcpv4.OptServerIdentifier(net.ParseIP(a))) }
}
func ciaddr(a string) mod { return func(p *dhcpv4.DHCPv4) { p.ClientIPAddr = net.ParseIP(a).To4() } }
func giaddr(a string) mod { return func(p *dhcpv4.DHCPv4) { p.GatewayIPAddr = net.ParseIP(a).To4() } }
func clientID(b ...byte) mod {
	return func(p *dhcpv4.DHCPv4) { p.UpdateOption(dhcpv4.OptClientIdentifier(b)) }
}
func named(n string) mod { return func(p *dhcpv4.DHCPv4) { p.UpdateOption(dhcpv4.OptHostName(n)) } }
func asking(codes ...dhcpv4.OptionCode) mod {
	return func(p *dhcpv4.DHCPv4) { p.UpdateOption(dhcpv4.OptParameterRequestList(codes...)) }
}
func leaseTime(d time.Duration) mod {
	return func(p *dhcpv4.DHCPv4) { p.UpdateOption(dhcpv4.OptIPAddressLeaseTime(d)) }
}
func rawOption(code uint8, value ...byte) mod {
	return func(p *dhcpv4.DHCPv4) { p.Options[code] = value }
}
func broadcastFlag(p *dhcpv4.DHCPv4) { p.SetBroadcast() }

const (
	discover = dhcpv4.MessageTypeDiscover
	request  = dhcpv4.MessageTypeRequest
	decline  = dhcpv4.MessageTypeDecline
	released = dhcpv4.MessageTypeRelease
	inform   = dhcpv4.MessageTypeInform
)

// packet is a message of a client.
func packet(t testing.TB, kind dhcpv4.MessageType, mac netdef.MAC, mods ...mod) *dhcpv4.DHCPv4 {
	t.Helper()
	p, err := dhcpv4.New(dhcpv4.WithHwAddr(mac[:]), dhcpv4.WithMessageType(kind))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mods {
		m(p)
	}
	return p
}

func parse(t testing.TB, p *dhcpv4.DHCPv4) *message {
	t.Helper()
	m, err := parseMessage(p.ToBytes())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func testSettings(t testing.TB, c Config) *settings {
	t.Helper()
	s, err := newSettings(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// wire is a FrameConn between a server and a test.
type wire struct {
	in, out chan []byte
	quit    chan struct{}
	once    sync.Once
}

func newWire() *wire {
	return &wire{in: make(chan []byte, 64), out: make(chan []byte, 8192), quit: make(chan struct{})}
}

func (w *wire) ReadFrame(buf []byte) (int, error) {
	select {
	case f := <-w.in:
		return copy(buf, f), nil
	case <-w.quit:
		return 0, net.ErrClosed
	}
}

func (w *wire) WriteFrame(f []byte) error {
	select {
	case w.out <- append([]byte(nil), f...):
		return nil
	case <-w.quit:
		return net.ErrClosed
	}
}

func (w *wire) HardwareAddr() net.HardwareAddr { return bridge[:] }

func (w *wire) Close() error {
	w.once.Do(func() { close(w.quit) })
	return nil
}

// answering is a Prober that answers at once: with the MAC that uses the address.
type answering map[netip.Addr]netdef.MAC

func (a answering) Probe(addr netip.Addr, answer func(netdef.MAC)) { answer(a[addr]) }

// rig is a server with everything around it.
type rig struct {
	t       testing.TB
	clock   *guestsvctest.Clock
	journal *guestsvctest.Journal
	table   *leases.Table
	wire    *wire
	server  *Server
}

func newRig(t testing.TB, c Config, prober Prober) *rig {
	t.Helper()
	r := &rig{t: t, clock: guestsvctest.NewClock(start), journal: &guestsvctest.Journal{}, wire: newWire()}
	r.table = leases.New(r.journal, nil, r.clock.Now).Table(network)
	r.start(c, prober)
	return r
}

// start starts a server, the second time with the leases that the first left.
func (r *rig) start(c Config, prober Prober) {
	r.t.Helper()
	r.wire = newWire()
	s, err := Start(c, Deps{
		Frames: r.wire, Prober: prober, Leases: r.table, Now: r.clock.Now, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.server = s
	r.t.Cleanup(func() { s.Close() })
}

// send sends a message of a client to the server.
func (r *rig) send(p *dhcpv4.DHCPv4) {
	r.t.Helper()
	src, dst := netip.IPv4Unspecified(), broadcastAddr
	d := datagram{
		srcMAC: netdef.MAC(p.ClientHWAddr), dstMAC: broadcastMAC,
		src: netip.AddrPortFrom(src, clientPort), dst: netip.AddrPortFrom(dst, serverPort), payload: p.ToBytes(),
	}
	r.wire.in <- appendFrame(nil, d)
}

const patience = 10 * time.Second

// receive is the next message of the server.
func (r *rig) receive() *dhcpv4.DHCPv4 {
	r.t.Helper()
	select {
	case f := <-r.wire.out:
		// Only the port differs from what servers receive.
		payload := f[ethernetHeader+ipHeader+udpHeader:]
		p, err := dhcpv4.FromBytes(payload)
		if err != nil {
			r.t.Fatalf("the server sent %x: %v", f, err)
		}
		return p
	case <-time.After(patience):
		r.t.Fatal("no reply")
		return nil
	}
}

// ask sends a message and returns the reply.
func (r *rig) ask(p *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
	r.t.Helper()
	r.send(p)
	reply := r.receive()
	if reply.TransactionID != p.TransactionID {
		r.t.Fatalf("reply to %v, want one to %v", reply, p)
	}
	return reply
}

// settled returns when the server has handled everything sent so far.
func (r *rig) settled() {
	r.t.Helper()
	probe := packet(r.t, inform, guest(200), ciaddr("192.168.122.200"))
	if got := r.ask(probe); got.MessageType() != dhcpv4.MessageTypeAck {
		r.t.Fatalf("inform: %v", got)
	}
}

// obtain gets a lease the usual way and returns the address.
func (r *rig) obtain(mac netdef.MAC, mods ...mod) netip.Addr {
	r.t.Helper()
	offer := r.ask(packet(r.t, discover, mac, mods...))
	if offer.MessageType() != dhcpv4.MessageTypeOffer {
		r.t.Fatalf("discover: %v", offer)
	}
	ack := r.ask(packet(r.t, request, mac, append(mods,
		requested(offer.YourIPAddr.String()), server(offer.ServerIdentifier().String()))...))
	if ack.MessageType() != dhcpv4.MessageTypeAck || !ack.YourIPAddr.Equal(offer.YourIPAddr) {
		r.t.Fatalf("request: %v", ack)
	}
	return given(ack.YourIPAddr)
}

func TestMain(m *testing.M) {
	lab.Init()
	goleak.VerifyTestMain(m)
}
