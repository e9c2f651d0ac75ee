package dns

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"go.uber.org/goleak"

	"viaduct/internal/guestsvc/guestsvctest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// leases is a fixed set of guests' names.
type leases map[string][]netip.Addr

func (l leases) LookupName(host string) []netip.Addr { return l[host] }

func (l leases) LookupAddr(a netip.Addr) (string, bool) {
	for name, addrs := range l {
		if slices.Contains(addrs, a) {
			return name, true
		}
	}
	return "", false
}

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// listenLoopback opens both sockets on one port, a free one if none is given.
func listenLoopback(addr netip.AddrPort) (net.PacketConn, net.Listener, error) {
	for {
		l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(addr))
		if err != nil {
			return nil, nil, err
		}
		port := l.Addr().(*net.TCPAddr).AddrPort().Port()
		pc, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr.Addr(), port)))
		if err == nil {
			return pc, l, nil
		}
		l.Close()
		if addr.Port() != 0 {
			return nil, nil, err
		}
	}
}

// fixture is a resolver, servers that use it, and a way to ask them.
type fixture struct {
	*testing.T
	resolver   *Resolver
	clock      *guestsvctest.Clock
	resolvConf string
}

// newFixture makes a resolver that is quick to lose patience.
func newFixture(t *testing.T) *fixture {
	f := &fixture{T: t, clock: guestsvctest.NewClock(time.Unix(1e9, 0)), resolvConf: filepath.Join(t.TempDir(), "resolv.conf")}
	f.resolver = NewResolver(f.resolvConf, slog.New(slog.DiscardHandler))
	f.resolver.now = f.clock.Now
	f.resolver.patience = 300 * time.Millisecond
	f.resolver.limit = 1500 * time.Millisecond
	t.Cleanup(f.resolver.Close)
	return f
}

// nameservers writes the host's list of resolvers. They must be on one port.
func (f *fixture) nameservers(list ...*upstream) {
	f.Helper()
	var s strings.Builder
	f.resolver.conf.mu.Lock()
	defer f.resolver.conf.mu.Unlock()
	for _, u := range list {
		fmt.Fprintf(&s, "nameserver %s\n", u.addr.Addr())
		f.resolver.conf.port = u.addr.Port()
	}
	if err := os.WriteFile(f.resolvConf, []byte(s.String()), 0o600); err != nil {
		f.Fatal(err)
	}
}

// server is a running server and the address it got.
type server struct {
	*Server
	addr netip.AddrPort
}

var loopback = netip.MustParseAddr("127.0.0.1")

// start runs a server on a free port of 127.0.0.1.
func (f *fixture) start(c Config, names Names) *server {
	f.Helper()
	s := &server{}
	c.Listen = []netip.AddrPort{netip.AddrPortFrom(loopback, 0)}
	var err error
	s.Server, err = Start(c, Deps{
		Names: names, Resolver: f.resolver, Log: slog.New(slog.DiscardHandler),
		Listen: func(a netip.AddrPort) (net.PacketConn, net.Listener, error) {
			pc, l, err := listenLoopback(a)
			if err == nil {
				s.addr = pc.LocalAddr().(*net.UDPAddr).AddrPort()
			}
			return pc, l, err
		},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(s.Close)
	return s
}

// forwarding is a network that lets everything out.
var forwarding = Config{Name: "default", Bridge: "virbr0", ForwardPlainNames: true, Clients: prefixes("192.168.122.0/24")}

// via is forwarding with forwarders instead of the host's resolvers.
func via(list ...*upstream) Config {
	c := forwarding
	for _, u := range list {
		c.Forwarders = append(c.Forwarders, Forwarder{Addr: u.addr})
	}
	return c
}

// exchange sends a message and returns the answer.
func (s *server) exchange(t *testing.T, network string, m *mdns.Msg) *mdns.Msg {
	t.Helper()
	c := mdns.Client{Net: network, Timeout: 5 * time.Second}
	got, _, err := c.Exchange(m, s.addr.String())
	if err != nil {
		t.Fatalf("%s: %v", m.Question[0].String(), err)
	}
	return got
}

// ask asks for a name by UDP and returns the answer in short form.
func (s *server) ask(t *testing.T, name string, typ uint16) string {
	t.Helper()
	return short(s.exchange(t, "udp", new(mdns.Msg).SetQuestion(name, typ)))
}

// short is the code of an answer and its records without names, such as
// "NOERROR A 10.0.0.1 ttl 60".
func short(m *mdns.Msg) string {
	words := []string{mdns.RcodeToString[m.Rcode]}
	if m.Truncated {
		words = append(words, "truncated")
	}
	for _, rr := range m.Answer {
		h := rr.Header()
		data := strings.ReplaceAll(strings.TrimPrefix(rr.String(), h.String()), "\t", " ")
		words = append(words, mdns.TypeToString[h.Rrtype], data)
		if h.Ttl > 0 {
			words = append(words, fmt.Sprintf("ttl %d", h.Ttl))
		}
	}
	return strings.Join(words, " ")
}

// upstream is a fake server outside.
type upstream struct {
	addr netip.AddrPort

	mu    sync.Mutex
	asked []*mdns.Msg
	from  []netip.AddrPort
}

// serve runs an upstream on 127.0.0.n with the port of another one, or on a free port.
func serve(t *testing.T, n byte, port uint16, handler func(w mdns.ResponseWriter, m *mdns.Msg)) *upstream {
	t.Helper()
	pc, l, err := listenLoopback(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, n}), port))
	if err != nil {
		t.Fatal(err)
	}
	u := &upstream{addr: pc.LocalAddr().(*net.UDPAddr).AddrPort()}
	note := mdns.HandlerFunc(func(w mdns.ResponseWriter, m *mdns.Msg) {
		u.mu.Lock()
		u.asked = append(u.asked, m.Copy())
		u.from = append(u.from, netip.MustParseAddrPort(w.RemoteAddr().String()))
		u.mu.Unlock()
		handler(w, m)
	})
	for _, srv := range []*mdns.Server{{PacketConn: pc, Handler: note}, {Listener: l, Handler: note}} {
		started, ended := make(chan struct{}), make(chan struct{})
		srv.NotifyStartedFunc = func() { close(started) }
		go func() {
			defer close(ended)
			srv.ActivateAndServe()
		}()
		<-started
		t.Cleanup(func() {
			srv.Shutdown()
			<-ended
		})
	}
	return u
}

// count is how many questions an upstream has got.
func (u *upstream) count() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.asked)
}

// records is a handler that answers every question with the same records, as
// zone file lines; the owner "@" is the name asked for. Records whose line
// starts with ";authority " go there.
func records(lines ...string) func(mdns.ResponseWriter, *mdns.Msg) {
	return func(w mdns.ResponseWriter, m *mdns.Msg) { w.WriteMsg(compose(m, mdns.RcodeSuccess, lines...)) }
}

func compose(m *mdns.Msg, code int, lines ...string) *mdns.Msg {
	r := new(mdns.Msg).SetRcode(m, code)
	r.RecursionAvailable, r.Compress = true, true
	for _, line := range lines {
		line, authority := strings.CutPrefix(line, ";authority ")
		rr, err := mdns.NewRR(strings.Replace(line, "@", m.Question[0].Name, 1))
		if err != nil {
			panic(err)
		}
		if authority {
			r.Ns = append(r.Ns, rr)
		} else {
			r.Answer = append(r.Answer, rr)
		}
	}
	if opt := m.IsEdns0(); opt != nil {
		r.SetEdns0(4096, opt.Do())
	}
	return r
}

// code is a handler that always answers with a code.
func code(c int, lines ...string) func(mdns.ResponseWriter, *mdns.Msg) {
	return func(w mdns.ResponseWriter, m *mdns.Msg) { w.WriteMsg(compose(m, c, lines...)) }
}

// hold runs an upstream on 127.0.0.2 that answers once it is released.
func hold(t *testing.T) (u *upstream, release func()) {
	t.Helper()
	released := make(chan struct{})
	u = serve(t, 2, 0, func(w mdns.ResponseWriter, m *mdns.Msg) {
		<-released
		records("@ 60 A 192.0.2.1")(w, m)
	})
	release = sync.OnceFunc(func() { close(released) })
	t.Cleanup(release)
	return u, release
}

// silence is a handler that never answers.
func silence(mdns.ResponseWriter, *mdns.Msg) {}

// count is how many are inside.
func (g *gate[K]) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.inside
}
