// Package dhcpclient is the host's own DHCP client for bridges that no other
// program configures: it gets a lease, keeps it through renewals, restarts of the
// daemon and of the host, and says when it has another one or none. The protocol's
// messages are insomniacslk/dhcp's, the life of a lease is RFC 2131's.
package dhcpclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"

	"viaduct/internal/hoststate"
	"viaduct/internal/uplink"
)

// Config is what a client is for.
type Config struct {
	Bridge string
	MAC    hoststate.MAC // by which servers know the client
}

// String tells the whole configuration on one line, as a plan shows it.
func (c Config) String() string { return fmt.Sprintf("on %s mac %s", c.Bridge, c.MAC) }

// Deps are what a Client needs of the world.
type Deps struct {
	// Open opens a connection that receives and sends IPv4 datagrams on the
	// link, to all that are on it, whether it has an address or not.
	Open func(link string) (net.PacketConn, error)
	// Listen listens on an address of the host's.
	Listen func(netip.AddrPort) (net.PacketConn, error)
	// Taken reports whether somebody else on the link uses an address. It may take
	// some seconds.
	Taken func(netip.Addr) (bool, error)
	// Load returns the lease that there was, and whether it was got since the
	// host came up.
	Load func() (l uplink.Lease, sameBoot bool, err error)
	// Save has the lease on disk before it returns.
	Save func(uplink.Lease) error
	// Changed says that another lease was saved.
	Changed func()
	Log     *slog.Logger
}

const (
	// A message is answered within this time, or sent again after twice the time,
	// so often (RFC 2131 section 4.1).
	firstWait = 4 * time.Second
	tries     = 4
	// rebootTries is how often a server is asked whether it knows the lease that
	// there was before the host was switched off.
	rebootTries = 2
	// restPause follows when nobody answers, an offer came to nothing, or an address
	// was declined (RFC 2131 section 3.1 (5)).
	restPause = 10 * time.Second
	// leastWait is the shortest time between two requests for more time (RFC
	// 2131 section 4.4.5).
	leastWait = time.Minute
)

// Client keeps one bridge's lease.
type Client struct {
	config Config
	deps   Deps
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// Start begins to get a lease, or to keep the one that there is.
func Start(config Config, d Deps) (*Client, error) {
	d.Log = d.Log.With("bridge", config.Bridge)
	lease, sameBoot, err := d.Load()
	if err != nil {
		return nil, fmt.Errorf("start DHCP client on %s: %w", config.Bridge, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &Client{config: config, deps: d, cancel: cancel}
	c.done.Go(func() { c.run(ctx, lease, sameBoot) })
	return c, nil
}

// Close ends the client. The lease stays: the server hears nothing.
func (c *Client) Close() error {
	c.cancel()
	c.done.Wait()
	return nil
}

// run is the client's life (RFC 2131 figure 5).
func (c *Client) run(ctx context.Context, lease uplink.Lease, sameBoot bool) {
	own := netip.Addr{} // the host has it already, and goes on with it
	if !lease.Server.IsValid() {
		own = lease.Address.Addr()
	}
	last, failed := lease, false
	if (!sameBoot || own.IsValid()) && lease.Address.IsValid() {
		lease = c.reboot(ctx, lease, own)
		last.Address = lease.Address
	}
	for ctx.Err() == nil {
		if lease.Held(time.Now()) {
			last, failed, own = lease, false, netip.Addr{}
			lease = c.hold(ctx, lease)
			continue
		}
		got, err := c.acquire(ctx, last)
		if err == nil {
			err = c.unused(got, own)
		}
		if err == nil {
			lease, err = got, c.keep(got)
		}
		if errors.Is(err, errTaken) {
			last.Address, failed = netip.Prefix{}, false
		}
		if err == nil || ctx.Err() != nil {
			continue
		}
		if !failed { // not again each minute
			c.deps.Log.Warn("no DHCP lease yet", "error", err)
		}
		failed = true
		wait(ctx, restPause)
	}
}

// reboot asks for the lease that there was before (INIT-REBOOT). If nobody says
// anything, what is left of it may be used (RFC 2131 section 3.2), unless somebody
// else uses it.
func (c *Client) reboot(ctx context.Context, lease uplink.Lease, own netip.Addr) uplink.Lease {
	got, err := c.request(ctx, lease, rebootTries, "")
	var nak *nakError
	switch {
	case err == nil:
		lease = got
	case errors.As(err, &nak), !lease.Held(time.Now()):
		c.deps.Log.Info("the DHCP lease of before is gone", "address", lease.Address, "reason", err)
		return uplink.Lease{Address: lease.Address} // asked for once more, among others
	default:
		c.deps.Log.Warn("no DHCP server answers: what is left of the lease is used", "lease", lease, "error", err)
	}
	if taken := c.unused(lease, own); errors.Is(taken, errTaken) {
		c.deps.Log.Warn("the DHCP lease of before is of no use", "reason", taken)
		wait(ctx, restPause)
		return uplink.Lease{}
	}
	if err := c.keep(lease); err != nil {
		c.deps.Log.Error("keep DHCP lease", "error", err)
	}
	return lease
}

// hold keeps a lease as long as servers let it (BOUND, RENEWING, REBINDING), and
// returns what is left when they do not: none.
func (c *Client) hold(ctx context.Context, lease uplink.Lease) uplink.Lease {
	for ctx.Err() == nil {
		now := time.Now()
		if now.Before(lease.Renew) {
			wait(ctx, lease.Renew.Sub(now))
			continue
		}
		if !now.Before(lease.Expires) {
			c.lose(lease.MTU, "it has expired")
			break
		}
		how, next := renewing, lease.Rebind
		if !now.Before(lease.Rebind) {
			how, next = rebinding, lease.Expires
		}
		// Half of what is left until the next stage, but not too often.
		within, cancel := context.WithTimeout(ctx, min(max(next.Sub(now)/2, leastWait), next.Sub(now)))
		got, err := c.request(within, lease, 1, how)
		var nak *nakError
		switch {
		case err == nil:
			lease = got
			if err := c.keep(lease); err != nil {
				c.deps.Log.Error("keep DHCP lease", "error", err)
			}
		case errors.As(err, &nak):
			cancel()
			c.lose(lease.MTU, err.Error())
			return uplink.Lease{}
		default:
			<-within.Done() // an error that comes at once is no reason to ask at once
		}
		cancel()
	}
	return uplink.Lease{}
}

// keep has the lease on disk, and then says so.
func (c *Client) keep(lease uplink.Lease) error {
	if err := c.deps.Save(lease); err != nil {
		return err
	}
	c.deps.Log.Info("DHCP lease", "lease", lease)
	c.deps.Changed()
	return nil
}

// lose gives a lease up. The MTU stays until a server tells another.
func (c *Client) lose(mtu int, why string) {
	c.deps.Log.Warn("DHCP lease lost", "reason", why)
	if err := c.deps.Save(uplink.Lease{MTU: mtu}); err != nil {
		c.deps.Log.Error("forget DHCP lease", "error", err)
	}
	c.deps.Changed()
}

// wait waits, unless the context ends.
func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// stage is how a lease is asked for again; "" is INIT-REBOOT.
type stage string

const (
	renewing  stage = "renewing"  // its own server
	rebinding stage = "rebinding" // any server
)

// nakError says that a server does not let the host have the address.
type nakError struct{ server, message string }

func (e *nakError) Error() string {
	return fmt.Sprintf("the DHCP server %s says no: %q", e.server, e.message)
}

// errTaken says that somebody else has the address that a server gives.
var errTaken = errors.New("somebody else on the link uses it")

// unused is an error if somebody else uses the address of a lease that the host has not
// used until now. Its server hears of that.
func (c *Client) unused(lease uplink.Lease, own netip.Addr) error {
	address := lease.Address.Addr()
	if address == own {
		return nil
	}
	taken, err := c.deps.Taken(address)
	if err != nil || !taken {
		return err
	}
	return fmt.Errorf("decline %s: %w", address, errors.Join(errTaken, c.decline(lease)))
}

// decline tells a server that the address is of no use (RFC 2131 section 4.4.4).
func (c *Client) decline(lease uplink.Lease) error {
	raw, err := c.deps.Open(c.config.Bridge)
	if err != nil {
		return err
	}
	message, err := dhcpv4.New(dhcpv4.WithHwAddr(c.config.MAC[:]), dhcpv4.WithMessageType(dhcpv4.MessageTypeDecline),
		dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(lease.Address.Addr().AsSlice())), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(lease.Server.AsSlice())))
	if err == nil {
		_, err = nclient4.NewBroadcastUDPConn(raw, &net.UDPAddr{Port: dhcpv4.ClientPort}).WriteTo(message.ToBytes(), nclient4.DefaultServers)
	}
	return errors.Join(err, raw.Close())
}

// acquire gets a new lease, if possible for the address of the last.
func (c *Client) acquire(ctx context.Context, last uplink.Lease) (uplink.Lease, error) {
	client, err := c.broadcasting(netip.Addr{}, tries)
	if err != nil {
		return uplink.Lease{}, err
	}
	defer client.Close()
	asked := dhcpv4.WithRequestedOptions(options...)
	discover := []dhcpv4.Modifier{asked}
	if wanted := last.Address.Addr(); wanted.IsValid() {
		discover = append(discover, dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(wanted.AsSlice())))
	}
	offer, err := client.DiscoverOffer(ctx, discover...)
	if err != nil {
		return uplink.Lease{}, fmt.Errorf("find a DHCP server on %s: %w", c.config.Bridge, err)
	}
	sent := time.Now()
	got, err := client.RequestFromOffer(ctx, offer, asked)
	if err != nil {
		return uplink.Lease{}, fmt.Errorf("request a lease on %s: %w", c.config.Bridge, err)
	}
	return leaseOf(got.ACK, uplink.Lease{MTU: last.MTU}, sent)
}

// request asks for a lease that is known.
func (c *Client) request(ctx context.Context, lease uplink.Lease, tries int, how stage) (uplink.Lease, error) {
	client, to, err := c.reaching(lease, how, tries)
	if err != nil {
		return uplink.Lease{}, err
	}
	defer client.Close()
	modifiers := []dhcpv4.Modifier{
		dhcpv4.WithHwAddr(c.config.MAC[:]), dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest), dhcpv4.WithRequestedOptions(options...),
		dhcpv4.WithOption(dhcpv4.OptMaxMessageSize(nclient4.MaxMessageSize)),
	}
	own := lease.Address.Addr()
	if how == "" {
		modifiers = append(modifiers, dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(own.AsSlice())))
	} else {
		modifiers = append(modifiers, dhcpv4.WithClientIP(own.AsSlice()))
	}
	message, err := dhcpv4.New(modifiers...)
	if err != nil {
		return uplink.Lease{}, err
	}
	sent := time.Now()
	answer, err := client.SendAndRead(ctx, to, message, nclient4.IsMessageType(dhcpv4.MessageTypeAck, dhcpv4.MessageTypeNak))
	if err != nil {
		return uplink.Lease{}, fmt.Errorf("request %s on %s: %w", own, c.config.Bridge, err)
	}
	if answer.MessageType() == dhcpv4.MessageTypeNak {
		return uplink.Lease{}, &nakError{server: answer.ServerIdentifier().String(), message: answer.Message()}
	}
	return leaseOf(answer, lease, sent)
}

// reaching is a connection to those who are asked at a stage.
func (c *Client) reaching(lease uplink.Lease, how stage, tries int) (*nclient4.Client, *net.UDPAddr, error) {
	own := lease.Address.Addr()
	switch how {
	case renewing:
		if client, err := c.direct(own); err == nil {
			return client, net.UDPAddrFromAddrPort(netip.AddrPortFrom(lease.Server, dhcpv4.ServerPort)), nil
		}
		// Another program has the port on all addresses.
	case rebinding:
	default:
		own = netip.Addr{} // the address is not yet the host's
	}
	client, err := c.broadcasting(own, tries)
	return client, nclient4.DefaultServers, err
}

// broadcasting is a connection to all on the link, from an address of the host's
// if it has one.
func (c *Client) broadcasting(from netip.Addr, tries int) (*nclient4.Client, error) {
	raw, err := c.deps.Open(c.config.Bridge)
	if err != nil {
		return nil, err
	}
	wait, bound := firstWait, &net.UDPAddr{Port: dhcpv4.ClientPort}
	if from.IsValid() {
		wait, bound.IP = patient, from.AsSlice()
	}
	return c.speaking(link{PacketConn: hearing(raw), speak: nclient4.NewBroadcastUDPConn(raw, bound)}, wait, tries)
}

// patient is how long one request of a stage is waited for at most; the context
// ends it earlier.
const patient = 1000 * time.Hour

// direct is a connection to one server. It also hears what is said to all: that is
// how servers say no.
func (c *Client) direct(from netip.Addr) (*nclient4.Client, error) {
	speak, err := c.deps.Listen(netip.AddrPortFrom(from, dhcpv4.ClientPort))
	if err != nil {
		return nil, err
	}
	raw, err := c.deps.Open(c.config.Bridge)
	if err != nil {
		return nil, errors.Join(err, speak.Close())
	}
	return c.speaking(link{PacketConn: hearing(raw), speak: speak, also: speak}, patient, 1)
}

// hearing hears all that is said to DHCP clients on the link.
func hearing(raw net.PacketConn) net.PacketConn {
	return nclient4.NewBroadcastUDPConn(raw, &net.UDPAddr{Port: dhcpv4.ClientPort})
}

// link is a connection that speaks by another one than it hears by.
type link struct {
	net.PacketConn
	speak net.PacketConn
	also  io.Closer // nil where both are one
}

func (l link) WriteTo(b []byte, to net.Addr) (int, error) { return l.speak.WriteTo(b, to) }

func (l link) Close() error {
	err := l.PacketConn.Close()
	if l.also != nil {
		err = errors.Join(err, l.also.Close())
	}
	return err
}

func (c *Client) speaking(conn net.PacketConn, wait time.Duration, tries int) (*nclient4.Client, error) {
	client, err := nclient4.NewWithConn(conn, c.config.MAC[:], nclient4.WithTimeout(wait), nclient4.WithRetry(tries))
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return client, nil
}
