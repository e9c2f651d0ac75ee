package dhcp6

import (
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"go.uber.org/goleak"

	"viaduct/internal/guestsvc/domain"
	"viaduct/internal/guestsvc/guestsvctest"
	"viaduct/internal/guestsvc/leases"
	"viaduct/internal/lab"
	"viaduct/internal/netdef"
)

var (
	network = netdef.UUID{1}
	start   = time.Unix(1_700_000_000, 0)
	ourDUID = []byte{0, 2, 0, 0, 0, 9, 's', 'e', 'r', 'v', 'e', 'r'}
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// duid is that of the n-th guest.
func duid(n byte) []byte { return []byte{0, 2, 0, 0, 0, 9, n} }

// linkLocal is the address that the n-th guest sends from.
func linkLocal(n byte) netip.Addr {
	a := addr("fe80::5054:ff:fe00:0").As16()
	a[15] = n
	return netip.AddrFrom16(a)
}

// testConfig serves ::0 to ::20 of a /64, and has one reservation of each
// sort. The range contains the host's own address on purpose.
func testConfig() Config {
	return Config{
		Network: network, Name: "default", Bridge: "virbr0", Address: netip.MustParsePrefix("2001:db8:7::1/64"),
		Ranges: []Range{{First: addr("2001:db8:7::"), Last: addr("2001:db8:7::20")}},
		Hosts: []Host{
			{DUID: duid(50), Name: "fifty", Addr: addr("2001:db8:7::50")},
			{Name: "named", Addr: addr("2001:db8:7::52")},
			{DUID: duid(10), Addr: addr("2001:db8:7::10")}, // inside the range
		},
		DNS: []netip.Addr{addr("2001:db8:7::1")}, Domain: "example.test", Search: []string{"example.test"},
	}
}

// bigConfig has as many addresses as there may be.
func bigConfig() Config {
	c := testConfig()
	c.Ranges = []Range{{First: addr("2001:db8:7::1:0"), Last: addr("2001:db8:7::1:ffff")}}
	return c
}

// lease is a lease of the n-th guest's association 1.
func lease(a string, n byte, left time.Duration) netdef.Lease {
	return netdef.Lease{Network: network, Addr: addr(a), PrefixLen: 64, ClientID: duid(n), IAID: 1, Expiry: start.Add(left)}
}

const (
	solicit = dhcpv6.MessageTypeSolicit
	request = dhcpv6.MessageTypeRequest
	confirm = dhcpv6.MessageTypeConfirm
	renew   = dhcpv6.MessageTypeRenew
	rebind  = dhcpv6.MessageTypeRebind
	release = dhcpv6.MessageTypeRelease
	decline = dhcpv6.MessageTypeDecline
	inform  = dhcpv6.MessageTypeInformationRequest
)

// mod changes a message of a client.
type mod func(*dhcpv6.Message)

func iaid(n uint32) [4]byte { return [4]byte(binary.BigEndian.AppendUint32(nil, n)) }

func identity(addrs []string) dhcpv6.IdentityOptions {
	var o dhcpv6.IdentityOptions
	for _, a := range addrs {
		o.Add(&dhcpv6.OptIAAddress{IPv6Addr: addr(a).AsSlice(), ValidLifetime: time.Hour})
	}
	return o
}

// na adds an association for addresses.
func na(id uint32, addrs ...string) mod {
	return func(p *dhcpv6.Message) { p.AddOption(&dhcpv6.OptIANA{IaId: iaid(id), Options: identity(addrs)}) }
}

// ta adds an association for temporary addresses.
func ta(id uint32, addrs ...string) mod {
	return func(p *dhcpv6.Message) { p.AddOption(&dhcpv6.OptIATA{IaId: iaid(id), Options: identity(addrs)}) }
}

// pd adds an association for prefixes.
func pd(id uint32) mod {
	return func(p *dhcpv6.Message) { p.AddOption(&dhcpv6.OptIAPD{IaId: iaid(id)}) }
}

func server(id []byte) mod {
	return func(p *dhcpv6.Message) { p.AddOption(generic(dhcpv6.OptionServerID, id)) }
}

func rapid(p *dhcpv6.Message) { p.AddOption(generic(dhcpv6.OptionRapidCommit, nil)) }

// named adds option 39 with a name in wire form.
func named(name string, flags byte) mod {
	return func(p *dhcpv6.Message) {
		b, err := domain.Append([]byte{flags}, name)
		if err != nil {
			panic(err)
		}
		p.AddOption(generic(dhcpv6.OptionFQDN, b))
	}
}

func asking(codes ...dhcpv6.OptionCode) mod {
	return func(p *dhcpv6.Message) { p.AddOption(dhcpv6.OptRequestedOption(codes...)) }
}

func anonymous(p *dhcpv6.Message) { p.Options.Del(dhcpv6.OptionClientID) }

// packet is a message of the n-th guest.
func packet(t testing.TB, kind dhcpv6.MessageType, n byte, mods ...mod) *dhcpv6.Message {
	t.Helper()
	p, err := dhcpv6.NewMessage()
	if err != nil {
		t.Fatal(err)
	}
	p.MessageType = kind
	p.AddOption(generic(dhcpv6.OptionClientID, duid(n)))
	for _, m := range mods {
		m(p)
	}
	return p
}

func testSettings(t testing.TB, c Config) *settings {
	t.Helper()
	s, err := newSettings(c, ourDUID)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// datagram is a message on its way.
type datagram struct {
	payload []byte
	peer    netip.Addr
	group   bool
}

// wire is a PacketConn between a server and a test.
type wire struct {
	in, out chan datagram
	quit    chan struct{}
	once    sync.Once
}

func newWire() *wire {
	return &wire{in: make(chan datagram, 64), out: make(chan datagram, 8192), quit: make(chan struct{})}
}

func (w *wire) ReadPacket(buf []byte) (int, netip.Addr, bool, error) {
	select {
	case d := <-w.in:
		return copy(buf, d.payload), d.peer, d.group, nil
	case <-w.quit:
		return 0, netip.Addr{}, false, net.ErrClosed
	}
}

func (w *wire) WritePacket(b []byte, to netip.Addr) error {
	select {
	case w.out <- datagram{payload: append([]byte(nil), b...), peer: to}:
		return nil
	case <-w.quit:
		return net.ErrClosed
	}
}

func (w *wire) Close() error {
	w.once.Do(func() { close(w.quit) })
	return nil
}

// rig is a server with everything around it.
type rig struct {
	t       testing.TB
	clock   *guestsvctest.Clock
	journal *guestsvctest.Journal
	table   *leases.Table
	wire    *wire
	server  *Server
}

func newRig(t testing.TB, c Config) *rig {
	t.Helper()
	r := &rig{t: t, clock: guestsvctest.NewClock(start), journal: &guestsvctest.Journal{}}
	r.table = leases.New(r.journal, nil, r.clock.Now).Table(network)
	r.start(c, io.Discard)
	return r
}

// start starts a server, the second time with the leases that the first left.
func (r *rig) start(c Config, log io.Writer) {
	r.t.Helper()
	r.wire = newWire()
	s, err := Start(c, Deps{
		Conn: r.wire, Leases: r.table, DUID: ourDUID, Now: r.clock.Now, Log: slog.New(slog.NewTextHandler(log, nil)),
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.server = s
	r.t.Cleanup(func() { s.Close() })
}

// send sends a message of a guest to all servers.
func (r *rig) send(p *dhcpv6.Message) {
	r.wire.in <- datagram{p.ToBytes(), linkLocal(1), true}
}

const patience = 10 * time.Second

// receive is the next message of the server.
func (r *rig) receive() *dhcpv6.Message {
	r.t.Helper()
	select {
	case d := <-r.wire.out:
		p, err := dhcpv6.MessageFromBytes(d.payload)
		if err != nil {
			r.t.Fatalf("the server sent %x: %v", d.payload, err)
		}
		return p
	case <-time.After(patience):
		r.t.Fatal("no reply")
		return nil
	}
}

// ask sends a message and returns the reply.
func (r *rig) ask(p *dhcpv6.Message) *dhcpv6.Message {
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
	if got := r.ask(packet(r.t, inform, 200)); got.MessageType != dhcpv6.MessageTypeReply {
		r.t.Fatalf("information-request: %v", got)
	}
}

// silent fails if the server says anything; what was sent before must be settled.
func (r *rig) silent() {
	r.t.Helper()
	select {
	case d := <-r.wire.out:
		r.t.Fatalf("unexpected reply %x", d.payload)
	default:
	}
}

// given is the address in the first association of a reply; invalid if none.
func given(p *dhcpv6.Message) netip.Addr {
	i := p.Options.OneIANA()
	if i == nil || i.Options.OneAddress() == nil || i.Options.OneAddress().ValidLifetime == 0 {
		return netip.Addr{}
	}
	return netip.AddrFrom16([16]byte(i.Options.OneAddress().IPv6Addr))
}

// obtain gets a lease the usual way and returns the address.
func (r *rig) obtain(n byte, mods ...mod) netip.Addr {
	r.t.Helper()
	advertised := given(r.ask(packet(r.t, solicit, n, append(mods, na(1))...)))
	if !advertised.IsValid() {
		r.t.Fatal("no address advertised")
	}
	leased := given(r.ask(packet(r.t, request, n, append(mods, na(1, advertised.String()), server(ourDUID))...)))
	if leased != advertised {
		r.t.Fatalf("leased %v, but advertised %v", leased, advertised)
	}
	return leased
}

func TestMain(m *testing.M) {
	lab.Init()
	goleak.VerifyTestMain(m)
}
