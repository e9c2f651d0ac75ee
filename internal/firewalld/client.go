// Package firewalld keeps links in zones of the host's firewalld. What it has
// is mirrored as the kernel's state is: read once, and followed by its signals.
// See firewalld.dbus(5).
package firewalld

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"

	"viaduct/internal/hoststate"
)

const (
	busName    = "org.fedoraproject.FirewallD1"
	objectPath = "/org/fedoraproject/FirewallD1"
	zones      = busName + ".zone"
	policies   = busName + ".policy"

	// patience is how long firewalld may take to answer one call, and the bus to
	// take us.
	patience = 5 * time.Second
	// reloading is how long it may take to load all that it has.
	reloading = time.Minute
	// While there is no bus, or firewalld does not tell what it has, it is tried
	// again after pauses that grow up to the longer of these.
	firstPause = 100 * time.Millisecond
	lastPause  = time.Minute
)

// errSilent says that firewalld has left a call unanswered. What else waits for
// it then does not wait as long itself.
var errSilent = errors.New("firewalld does not answer")

var errNoBus = errors.New("the message bus is gone")

// Connect connects to the system's message bus.
func Connect(ctx context.Context) (*dbus.Conn, error) {
	return dbus.ConnectSystemBus(dbus.WithContext(ctx), dbus.WithSignalHandler(dbus.NewSequentialSignalHandler()))
}

// Client is the host.Applier for zones of links.
type Client struct {
	connect func(context.Context) (*dbus.Conn, error)
	log     *slog.Logger
	events  chan []hoststate.Key
	wake    chan struct{} // there may be a bus now
	cancel  context.CancelFunc
	task    sync.WaitGroup

	// turn is held by the one call under way, so that what is mirrored is what
	// firewalld did last.
	turn chan struct{}

	mu     sync.Mutex
	conn   *dbus.Conn // nil while there is none
	tried  chan struct{}
	facts  hoststate.Firewalld
	zoneOf map[string]string // by link
	silent time.Time         // when it left a call unanswered
	// withdrawn says that a zone of ours is loaded but not to stay.
	withdrawn bool
}

// New makes a client that begins to follow what firewalld does, if there is any.
func New(connect func(context.Context) (*dbus.Conn, error), log *slog.Logger) *Client {
	c := &Client{
		connect: connect, log: log, events: make(chan []hoststate.Key, 1), wake: make(chan struct{}, 1),
		turn: make(chan struct{}, 1), tried: make(chan struct{}),
	}
	var ctx context.Context
	ctx, c.cancel = context.WithCancel(context.Background())
	c.task.Go(func() { c.run(ctx) })
	return c
}

// Close ends the client. Links stay in their zones.
func (c *Client) Close() {
	c.cancel()
	c.task.Wait()
}

// Facts tells what is known of firewalld. It waits for the first look only.
func (c *Client) Facts() hoststate.Firewalld {
	c.mu.Lock()
	tried, connected := c.tried, c.conn != nil
	c.mu.Unlock()
	if !connected {
		c.poke()
	}
	await(tried)
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.facts
}

// Look has a fresh look before it tells.
func (c *Client) Look() hoststate.Firewalld {
	c.mu.Lock()
	connected := c.conn != nil
	if !connected {
		select {
		case <-c.tried:
			c.tried = make(chan struct{})
		default: // that is a fresh one
		}
	}
	c.mu.Unlock()
	if connected {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := c.read(ctx); err != nil {
			c.log.Warn("ask firewalld for its zones", "error", err)
		}
	}
	return c.Facts()
}

func (c *Client) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func await(done <-chan struct{}) {
	select {
	case <-done:
		return
	default:
	}
	limit := time.NewTimer(patience)
	defer limit.Stop()
	select {
	case <-done:
	case <-limit.C:
	}
}

// looked says to those who wait that a look has ended.
func (c *Client) looked() {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.tried:
	default:
		close(c.tried)
	}
}

// run keeps a connection to the bus while there is one.
func (c *Client) run(ctx context.Context) {
	for pause := firstPause; ctx.Err() == nil; pause = min(2*pause, lastPause) {
		if c.serve(ctx) == nil {
			pause = firstPause
		}
		c.looked()
		select {
		case <-ctx.Done():
		case <-c.wake:
		case <-time.After(pause):
		}
	}
}

// serve follows firewalld by one connection until that ends. An error says that
// there was none.
func (c *Client) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	limit := time.AfterFunc(patience, cancel)
	conn, err := c.connect(ctx)
	if err != nil {
		limit.Stop()
		return err
	}
	defer conn.Close()
	signals := make(chan *dbus.Signal, 16)
	conn.Signal(signals)
	err = subscribe(ctx, conn)
	limit.Stop()
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.conn = conn
	c.mu.Unlock()
	c.follow(ctx, signals)
	c.mu.Lock()
	c.conn = nil
	c.mu.Unlock()
	c.forget()
	return nil
}

// subscribe asks the bus to tell what firewalld does, and whether there is one.
func subscribe(ctx context.Context, conn *dbus.Conn) error {
	for _, match := range [][]dbus.MatchOption{
		{dbus.WithMatchSender("org.freedesktop.DBus"), dbus.WithMatchInterface("org.freedesktop.DBus"),
			dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, busName)},
		{dbus.WithMatchSender(busName), dbus.WithMatchInterface(busName), dbus.WithMatchMember("Reloaded")},
		{dbus.WithMatchSender(busName), dbus.WithMatchInterface(zones)},
	} {
		if err := conn.AddMatchSignalContext(ctx, match...); err != nil {
			return err
		}
	}
	return nil
}

// follow hears what firewalld does until the connection ends. What could not be
// read is tried again.
func (c *Client) follow(ctx context.Context, signals <-chan *dbus.Signal) {
	retry := time.NewTimer(0)
	defer retry.Stop()
	pause := firstPause
	for {
		look := false
		select {
		case <-ctx.Done():
			return
		case <-retry.C:
			look = true
		case s, open := <-signals:
			if !open {
				return
			}
			look = c.heard(ctx, s)
		}
		if !look {
			continue
		}
		if err := c.read(ctx); err != nil && ctx.Err() == nil {
			c.log.Warn("ask firewalld for its zones", "error", err)
			retry.Reset(pause)
			pause = min(2*pause, lastPause)
		} else {
			pause = firstPause
		}
		c.looked()
	}
}

// heard notes what a signal says. It reports whether all may be different.
func (c *Client) heard(ctx context.Context, s *dbus.Signal) bool {
	switch s.Name {
	case "org.freedesktop.DBus.NameOwnerChanged", busName + ".Reloaded", zones + ".ZoneUpdated":
		return true
	case zones + ".InterfaceAdded", zones + ".InterfaceRemoved", zones + ".ZoneOfInterfaceChanged":
	default:
		return false
	}
	var zone, link string
	if dbus.Store(s.Body, &zone, &link) != nil {
		return true
	}
	if s.Name == zones+".InterfaceRemoved" {
		zone = ""
	}
	c.mu.Lock()
	known := c.zoneOf[link] == zone
	c.mu.Unlock()
	if known {
		return false
	}
	if c.take(ctx) != nil {
		return true
	}
	defer func() { <-c.turn }()
	// It may be what a call of ours has changed again since.
	if c.call(ctx, zones+".getZoneOfInterface", []any{link}, &zone) != nil {
		return true
	}
	if c.place(link, zone) {
		c.tell([]hoststate.Key{hoststate.ZonedKey(link)})
	}
	return false
}

// place mirrors that a link is in a zone, or in none. It reports whether that is
// new.
func (c *Client) place(link, zone string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.zoneOf == nil || c.zoneOf[link] == zone {
		return false
	}
	if zone == "" {
		delete(c.zoneOf, link)
	} else {
		c.zoneOf[link] = zone
	}
	return true
}

// read asks for all that is mirrored.
func (c *Client) read(ctx context.Context) error {
	c.mu.Lock()
	conn := c.conn
	c.mu.Unlock()
	if conn == nil {
		return nil
	}
	var running bool
	asking, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := conn.BusObject().CallWithContext(asking, "org.freedesktop.DBus.NameHasOwner", 0, busName).Store(&running)
	if err != nil || !running {
		c.forget()
		return err
	}
	c.mu.Lock()
	c.facts.Running = true
	c.mu.Unlock()
	if err := c.take(ctx); err != nil {
		return err
	}
	defer func() { <-c.turn }()
	return c.readAll(ctx)
}

// readAll is read of a firewalld that runs. The caller has the turn.
func (c *Client) readAll(ctx context.Context) error {
	facts := hoststate.Firewalld{Running: true}
	var active map[string]map[string][]string
	err := c.call(ctx, zones+".getZones", nil, &facts.Zones)
	if err == nil {
		err = c.call(ctx, zones+".getActiveZones", nil, &active)
	}
	if err == nil {
		var unknown dbus.Error // before firewalld 0.9
		if err = c.call(ctx, policies+".getPolicies", nil, &facts.Policies); errors.As(err, &unknown) {
			err = nil
		}
	}
	if err != nil {
		facts.Zones, facts.Policies, active = nil, nil, nil
	}
	slices.Sort(facts.Zones)
	slices.Sort(facts.Policies)
	zoneOf := map[string]string{}
	for zone, what := range active {
		for _, link := range what["interfaces"] {
			zoneOf[link] = zone
		}
	}
	c.mu.Lock()
	facts.Closed = c.facts.Closed
	same := facts.Equal(c.facts) && maps.Equal(zoneOf, c.zoneOf)
	c.facts, c.zoneOf = facts, zoneOf
	c.mu.Unlock()
	if !same {
		c.tell(nil)
	}
	return err
}

// forget notes that there is no firewalld.
func (c *Client) forget() {
	c.mu.Lock()
	was := c.facts.Running
	c.facts, c.zoneOf = hoststate.Firewalld{}, nil
	c.mu.Unlock()
	if was {
		c.tell(nil)
	}
}

// tell delivers an event. No keys say that everything may be different.
func (c *Client) tell(keys []hoststate.Key) {
	for {
		select {
		case c.events <- keys:
			return
		case earlier := <-c.events: // nobody has heard of that yet
			if len(earlier) == 0 || len(keys) == 0 {
				keys = nil
			} else {
				keys = append(earlier, keys...)
			}
		}
	}
}

// take waits for the turn to call firewalld, as long as it answers others.
func (c *Client) take(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case c.turn <- struct{}{}:
	}
	c.mu.Lock()
	silent := time.Since(c.silent) < patience
	c.mu.Unlock()
	if silent {
		<-c.turn
		return errSilent
	}
	return nil
}

// call calls a method of firewalld. The caller has the turn.
func (c *Client) call(ctx context.Context, method string, args []any, answer any) error {
	return c.callAt(ctx, objectPath, method, args, answer)
}

func (c *Client) callAt(ctx context.Context, path dbus.ObjectPath, method string, args []any, answer any) error {
	return c.callWithin(ctx, patience, path, method, args, answer)
}

// callWithin calls a method of an object of firewalld's, which is not started
// for it. An answer of nil is one that there is none of.
func (c *Client) callWithin(ctx context.Context, limit time.Duration, path dbus.ObjectPath, method string, args []any, answer any) error {
	c.mu.Lock()
	conn := c.conn
	c.mu.Unlock()
	if conn == nil {
		return fmt.Errorf("call %s: %w", method, errNoBus)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	call := conn.Object(busName, path).CallWithContext(ctx, method, dbus.FlagNoAutoStart, args...)
	err := call.Err
	if err == nil && answer != nil {
		err = call.Store(answer)
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		c.mu.Lock()
		c.silent = time.Now()
		c.mu.Unlock()
		err = errSilent
	}
	if err != nil {
		return fmt.Errorf("call %s: %w", method, err)
	}
	return nil
}
