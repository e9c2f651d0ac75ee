// Package resolved has systemd-resolved ask a network's DNS server for the
// names in the network's domain, so that the host itself knows its guests by
// name, and the name servers of the host's own lease for all others. See
// org.freedesktop.resolve1(5).
package resolved

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"
)

// Config is what systemd-resolved is told of a link.
type Config struct {
	Network string // the network's name; "" where the link is an uplink
	Bridge  string
	// Domain is the one whose names the servers are asked for; "" if they are for all names.
	Domain  string
	Servers []netip.AddrPort
	// Search are tried behind names without a dot.
	Search []string
}

// String tells the whole configuration on one line, as a plan shows it.
func (c Config) String() string {
	var s strings.Builder
	fmt.Fprintf(&s, "on %s", c.Bridge)
	if c.Domain != "" {
		s.WriteString(" domain " + c.Domain)
	}
	for _, d := range c.Search {
		s.WriteString(" search " + d)
	}
	for _, a := range c.Servers {
		s.WriteString(" server " + a.String())
	}
	return s.String()
}

// Deps are what a Client needs of the world.
type Deps struct {
	// Connect connects to the system's message bus.
	Connect func() (*dbus.Conn, error)
	// Index is the kernel's number of the link of that name.
	Index func(name string) (int, error)
	Log   *slog.Logger
}

const (
	busName    = "org.freedesktop.resolve1"
	objectPath = "/org/freedesktop/resolve1"
	manager    = busName + ".Manager."

	// patience is how long a start waits for systemd-resolved.
	patience = 2 * time.Second
	// While there is no bus, a connection is tried again after pauses that grow up to the longer of these.
	firstPause = 100 * time.Millisecond
	lastPause  = time.Minute

	dnsPort = 53
)

// Client tells systemd-resolved of all networks that want it, and again
// whenever it has started anew: it keeps what it was told in /run, unless
// somebody has configured it otherwise or cleaned up.
type Client struct {
	deps Deps

	mu      sync.Mutex
	links   map[*Link]bool // those to be registered
	running bool
	wake    chan struct{}
	cancel  context.CancelFunc
	task    sync.WaitGroup
}

// NewClient makes a client that does nothing before the first Start.
func NewClient(d Deps) *Client {
	return &Client{deps: d, links: map[*Link]bool{}, wake: make(chan struct{}, 1)}
}

// Link is the registration of one network's link.
type Link struct {
	client *Client

	mu     sync.Mutex
	config Config
	index  int
	told   bool // systemd-resolved has been told, in its present life
	missed bool // the log says that it could not be told
	tried  chan struct{}
}

// Start has a network's names resolved, from now on or from when
// systemd-resolved runs. Only a link that is not there is an error.
func (c *Client) Start(config Config) (*Link, error) {
	index, err := c.deps.Index(config.Bridge)
	if err != nil {
		return nil, fmt.Errorf("register name servers of %s: %w", config.Bridge, err)
	}
	l := &Link{client: c, config: config, index: index, tried: make(chan struct{})}
	c.mu.Lock()
	c.links[l] = true
	if !c.running {
		c.running = true
		var ctx context.Context
		ctx, c.cancel = context.WithCancel(context.Background())
		c.task.Go(func() { c.run(ctx) })
	}
	c.mu.Unlock()
	l.ask()
	return l, nil
}

// Close ends the client. What systemd-resolved was told stays.
func (c *Client) Close() {
	c.mu.Lock()
	if c.running {
		c.cancel()
	}
	c.mu.Unlock()
	c.task.Wait()
}

// Reconfigure tells systemd-resolved something else of the same link.
func (l *Link) Reconfigure(config Config) error {
	l.mu.Lock()
	l.config, l.told, l.tried = config, false, make(chan struct{})
	l.mu.Unlock()
	l.ask()
	return nil
}

// Bound reports whether the link is still the one that was registered, and not
// a new one of the same name.
func (l *Link) Bound() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	index, err := l.client.deps.Index(l.config.Bridge)
	return err == nil && index == l.index
}

// Told reports whether systemd-resolved runs and knows.
func (l *Link) Told() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.told
}

// Close has systemd-resolved forget the link.
func (l *Link) Close() error {
	c := l.client
	c.mu.Lock()
	delete(c.links, l)
	c.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.told {
		return nil
	}
	l.told = false
	conn, err := c.deps.Connect()
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return call(ctx, conn, "RevertLink", int32(l.index))
}

// ask wakes the client and waits for its attempt, but not for long.
func (l *Link) ask() {
	l.mu.Lock()
	tried := l.tried
	l.mu.Unlock()
	select {
	case l.client.wake <- struct{}{}:
	default:
	}
	select {
	case <-tried:
	case <-time.After(patience):
	}
}

// run keeps a connection to the bus while there is one.
func (c *Client) run(ctx context.Context) {
	for pause := firstPause; ctx.Err() == nil; pause = min(2*pause, lastPause) {
		conn, signals, err := c.connect(ctx)
		if err == nil {
			pause = firstPause
			err = c.serve(ctx, conn, signals)
			_ = conn.Close()
			c.restarted()
		}
		c.missed(err)
		select {
		case <-ctx.Done():
		case <-c.wake:
		case <-time.After(pause):
		}
	}
}

// connect makes a connection by which we hear when systemd-resolved starts and stops.
func (c *Client) connect(ctx context.Context) (*dbus.Conn, <-chan *dbus.Signal, error) {
	conn, err := c.deps.Connect()
	if err != nil {
		return nil, nil, err
	}
	signals := make(chan *dbus.Signal, 16)
	conn.Signal(signals)
	err = conn.AddMatchSignalContext(ctx, dbus.WithMatchSender("org.freedesktop.DBus"), dbus.WithMatchInterface("org.freedesktop.DBus"),
		dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, busName))
	if err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	return conn, signals, nil
}

// serve registers links over one connection until it ends.
func (c *Client) serve(ctx context.Context, conn *dbus.Conn, signals <-chan *dbus.Signal) error {
	for {
		c.tellAll(ctx, conn)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.wake:
		case s, open := <-signals:
			if !open {
				return errors.New("the message bus has ended the connection")
			}
			if len(s.Body) == 3 && s.Body[0] == busName {
				c.restarted()
			}
		}
	}
}

func (c *Client) all() []*Link {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []*Link
	for l := range c.links {
		list = append(list, l)
	}
	return list
}

// restarted notes that systemd-resolved may know nothing of us.
func (c *Client) restarted() {
	for _, l := range c.all() {
		l.mu.Lock()
		l.told = false
		l.mu.Unlock()
	}
}

// missed notes that nothing could be told.
func (c *Client) missed(err error) {
	for _, l := range c.all() {
		l.mu.Lock()
		l.note(err)
		l.mu.Unlock()
	}
}

func (c *Client) tellAll(ctx context.Context, conn *dbus.Conn) {
	for _, l := range c.all() {
		l.tell(ctx, conn)
	}
}

func (l *Link) tell(ctx context.Context, conn *dbus.Conn) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.told {
		return
	}
	err := l.config.register(ctx, conn, int32(l.index))
	l.told = err == nil
	l.note(err)
}

// note says how an attempt ended. It needs l.mu.
func (l *Link) note(err error) {
	log := l.client.deps.Log.With("network", l.config.Network)
	if l.config.Network == "" {
		log = l.client.deps.Log.With("link", l.config.Bridge)
	}
	switch {
	case err == nil && l.config.Network == "":
		log.Info("systemd-resolved asks the name servers of this link", "servers", l.config.Servers)
		l.missed = false
	case err == nil:
		log.Info("the host resolves the names of this network", "domain", l.config.Domain)
		l.missed = false
	case l.config.Network == "" && unavailable(err): // there are other ways to tell the host
	case !l.missed && !errors.Is(err, context.Canceled):
		l.missed = true
		if unavailable(err) {
			log.Warn("failed to register name server: systemd-resolved is not available", "error", err)
		} else {
			log.Warn("failed to register name server", "error", err)
		}
	}
	select {
	case <-l.tried:
	default:
		close(l.tried)
	}
}

// unavailable reports whether there is no systemd-resolved to talk to.
func unavailable(err error) bool {
	var refusal dbus.Error
	return !errors.As(err, &refusal) || refusal.Name == "org.freedesktop.DBus.Error.NameHasNoOwner" ||
		refusal.Name == "org.freedesktop.DBus.Error.ServiceUnknown"
}

// address and domain are how systemd-resolved takes them.
type (
	address struct {
		Family int32
		Addr   []byte
	}
	addressEx struct {
		Family int32
		Addr   []byte
		Port   uint16
		Name   string
	}
	domain struct {
		Name      string
		RouteOnly bool
	}
)

// Address families, as the kernel numbers them.
const (
	inet  = 2
	inet6 = 10
)

// register tells systemd-resolved of the servers and their domains. The first
// only chooses who is asked, and is not tried behind names without a dot.
func (c Config) register(ctx context.Context, conn *dbus.Conn, index int32) error {
	var plain []address
	var ex []addressEx
	other := false
	for _, s := range c.Servers {
		family := int32(inet)
		if s.Addr().Is6() {
			family = inet6
		}
		plain = append(plain, address{family, s.Addr().AsSlice()})
		ex = append(ex, addressEx{family, s.Addr().AsSlice(), s.Port(), ""})
		other = other || s.Port() != dnsPort
	}
	var err error
	if other {
		err = call(ctx, conn, "SetLinkDNSEx", index, ex)
	} else {
		err = call(ctx, conn, "SetLinkDNS", index, plain)
	}
	if err != nil {
		return err
	}
	domains := []domain{}
	if c.Domain != "" {
		domains = append(domains, domain{c.Domain, true})
	}
	for _, d := range c.Search {
		domains = append(domains, domain{d, false})
	}
	return call(ctx, conn, "SetLinkDomains", index, domains)
}

// call calls a method of systemd-resolved, without starting it: where it does
// not run, the host does not use it.
func call(ctx context.Context, conn *dbus.Conn, method string, args ...any) error {
	err := conn.Object(busName, objectPath).CallWithContext(ctx, manager+method, dbus.FlagNoAutoStart, args...).Err
	if err != nil {
		return fmt.Errorf("call %s of systemd-resolved: %w", method, err)
	}
	return nil
}
