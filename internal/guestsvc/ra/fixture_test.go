package ra

import (
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/mdlayher/ndp"
	"go.uber.org/goleak"

	"viaduct/internal/lab"
	"viaduct/internal/netdef"
)

func TestMain(m *testing.M) {
	lab.Init()
	goleak.VerifyTestMain(m)
}

var (
	bridgeMAC = net.HardwareAddr{0x52, 0x54, 0, 0x11, 0x22, 0x33}
	routerLL  = addr("fe80::5054:ff:fe11:2233")
	guestLL   = addr("fe80::5054:ff:fe00:1")
	allNodes  = netip.IPv6LinkLocalAllNodes()
)

func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// slaac is a prefix that guests make addresses of.
func slaac(s string) Prefix { return Prefix{Prefix: prefix(s), OnLink: true, Autonomous: true} }

func testConfig() Config {
	return Config{
		Network: netdef.UUID{1}, Name: "six", Bridge: "virbr0", Source: routerLL,
		Prefixes: []Prefix{slaac("fd00:1::/64")}, RouterLifetime: DefaultRouterLifetime,
		RDNSS: []netip.Addr{addr("fd00:1::1")}, DNSSL: []string{"example.test"},
	}
}

// change is the test configuration with changes.
func change(f func(*Config)) Config {
	c := testConfig()
	f(&c)
	return c
}

// sending is a message that a server has sent.
type sending struct {
	at time.Time
	to netip.Addr
	m  *ndp.RouterAdvertisement
}

type heard struct {
	from    netip.Addr
	message []byte
}

// testLink is a Conn between a server and a test.
type testLink struct {
	in   chan heard
	quit chan struct{}
	once sync.Once

	mu   sync.Mutex
	sent []sending
	fail error // of sending
	bad  error // what the server did that no router may
}

func newTestLink() *testLink {
	return &testLink{in: make(chan heard), quit: make(chan struct{})}
}

func (l *testLink) ReadFrom(buf []byte) (int, netip.Addr, error) {
	select {
	case h := <-l.in:
		return copy(buf, h.message), h.from, nil
	case <-l.quit:
		return 0, netip.Addr{}, net.ErrClosed
	}
}

func (l *testLink) WriteTo(b []byte, from, to netip.Addr) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return l.fail
	}
	m, err := ndp.ParseMessage(b)
	if err != nil {
		l.bad = err
		return nil
	}
	if from != routerLL {
		l.bad = &net.AddrError{Err: "wrong source", Addr: from.String()}
	}
	l.sent = append(l.sent, sending{time.Now(), to, m.(*ndp.RouterAdvertisement)})
	return nil
}

func (l *testLink) HardwareAddr() net.HardwareAddr { return bridgeMAC }

func (l *testLink) Close() error {
	l.once.Do(func() { close(l.quit) })
	return nil
}

// take returns what was sent since the last time.
func (l *testLink) take() []sending {
	l.mu.Lock()
	defer l.mu.Unlock()
	sent := l.sent
	l.sent = nil
	return sent
}

func (l *testLink) setFail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fail = err
}

// solicit delivers a solicitation of a guest.
func (l *testLink) solicit(from netip.Addr) {
	l.in <- heard{from, []byte{typeSolicitation, 0, 0, 0, 0, 0, 0, 0}}
}

// startTest starts a server on a link of the test's.
func startTest(t *testing.T, c Config) (*Server, *testLink) {
	t.Helper()
	l := newTestLink()
	s, err := Start(c, Deps{Conn: l, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Leave(); err != nil {
			t.Error(err)
		}
		if l.bad != nil {
			t.Error(l.bad)
		}
	})
	return s, l
}

// find returns the options of one type.
func find[O ndp.Option](m *ndp.RouterAdvertisement) []O {
	var list []O
	for _, o := range m.Options {
		if o, ok := o.(O); ok {
			list = append(list, o)
		}
	}
	return list
}
