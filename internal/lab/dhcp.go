package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// DHCPClient is a program that configures a guest's eth0 by DHCPv4.
type DHCPClient interface {
	// Name is the program's, "builtin" for the lab's own.
	Name() string
	// Tools are the programs it needs installed.
	Tools() []string

	start(ctx context.Context, g *Guest) (dhcpSession, error)
}

// dhcpSession is a client at work in a guest.
type dhcpSession interface {
	// bound waits until the client has configured the guest, counted from
	// the session's start or its last renew, and returns the client's own words.
	bound(ctx context.Context) (map[string]string, error)
	renew(ctx context.Context) error
	release(ctx context.Context) error
	stop(ctx context.Context) error
}

// ErrUnsupported says that a DHCP client cannot do this on demand.
var ErrUnsupported = errors.New("the client cannot do this on demand")

// LeaseSeen is what a guest has after DHCP, read from the guest itself: its
// addresses, routes and resolv.conf.
type LeaseSeen struct {
	Addr    netip.Prefix // eth0's IPv4 address, with the prefix length it has there
	Router  netip.Addr   // the default route's gateway; zero if there is none
	DNS     []netip.Addr
	Domain  string
	Search  []string
	MTU     int
	Elapsed time.Duration // from the client's start until the guest was configured

	// Hostname and Lease are what the client says it was told; a Lease of
	// InfiniteLease never ends.
	Hostname string
	Lease    time.Duration
	// Options are the client's own words for all that it was told, by its
	// own names.
	Options map[string]string
}

// InfiniteLease is the lease time ffffffff (RFC 2131 section 3.3).
const InfiniteLease = 0xffffffff * time.Second

// RealClients are the DHCP clients that systems ship, as opposed to Builtin.
func RealClients() []DHCPClient { return []DHCPClient{Udhcpc, Dhclient, Dhcpcd, Networkd} }

// DHCP starts a client in the guest, in place of the one that may be running, and
// waits until it has configured eth0. Files that a client of the same kind left
// in the guest, such as its last lease, stay, as over a reboot of a machine.
func (g *Guest) DHCP(ctx context.Context, client DHCPClient) (LeaseSeen, error) {
	if err := g.StopDHCP(ctx); err != nil {
		return LeaseSeen{}, err
	}
	began := time.Now()
	session, err := client.start(ctx, g)
	if err != nil {
		return LeaseSeen{}, fmt.Errorf("start %s in %s: %w", client.Name(), g.Name, err)
	}
	g.client = session
	return g.awaitLease(ctx, began)
}

// Renew has the client renew its lease now and waits until it has.
func (g *Guest) Renew(ctx context.Context) (LeaseSeen, error) {
	if g.client == nil {
		return LeaseSeen{}, fmt.Errorf("renew in %s: no DHCP client runs", g.Name)
	}
	began := time.Now()
	if err := g.client.renew(ctx); err != nil {
		return LeaseSeen{}, fmt.Errorf("renew in %s: %w", g.Name, err)
	}
	return g.awaitLease(ctx, began)
}

// Release has the client give its lease back and ends it.
func (g *Guest) Release(ctx context.Context) error {
	if g.client == nil {
		return fmt.Errorf("release in %s: no DHCP client runs", g.Name)
	}
	if err := g.client.release(ctx); err != nil {
		return fmt.Errorf("release in %s: %w", g.Name, err)
	}
	return g.StopDHCP(ctx)
}

// StopDHCP ends the client as a power cut would: without a word to the
// server. The guest's addresses are removed.
func (g *Guest) StopDHCP(ctx context.Context) error {
	if g.client == nil {
		return nil
	}
	if err := g.client.stop(ctx); err != nil {
		return fmt.Errorf("stop the DHCP client of %s: %w", g.Name, err)
	}
	g.client = nil
	return g.flush()
}

// flush removes eth0's IPv4 addresses.
func (g *Guest) flush() error {
	link, err := g.nl.LinkByName("eth0")
	var unplugged netlink.LinkNotFoundError
	if errors.As(err, &unplugged) {
		return nil
	}
	if err != nil {
		return err
	}
	addrs, err := retryDump(func() ([]netlink.Addr, error) { return g.nl.AddrList(link, netlink.FAMILY_V4) })
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if err := g.nl.AddrDel(link, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("flush eth0 of %s: %w", g.Name, err)
		}
	}
	return nil
}

// awaitLease waits for the client and then looks at the guest.
func (g *Guest) awaitLease(ctx context.Context, began time.Time) (LeaseSeen, error) {
	options, err := g.client.bound(ctx)
	if err != nil {
		return LeaseSeen{}, fmt.Errorf("await a lease in %s: %w", g.Name, err)
	}
	elapsed := time.Since(began)
	seen, err := g.Configured()
	if err != nil {
		return LeaseSeen{}, err
	}
	seen.Elapsed, seen.Options = elapsed, options
	seen.Hostname = options[optHostname]
	seen.Lease, err = parseLeaseTime(options[optLease])
	return seen, err
}

// Configured reads what the guest has now, whoever gave it; Options and what
// comes from them stay empty.
func (g *Guest) Configured() (LeaseSeen, error) {
	var seen LeaseSeen
	link, err := g.nl.LinkByName("eth0")
	if err != nil {
		return seen, fmt.Errorf("look at eth0 of %s: %w", g.Name, err)
	}
	seen.MTU = link.Attrs().MTU
	addrs, err := retryDump(func() ([]netlink.Addr, error) { return g.nl.AddrList(link, netlink.FAMILY_V4) })
	if err != nil {
		return seen, err
	}
	if len(addrs) > 0 {
		seen.Addr = toPrefix(addrs[0].IPNet)
	}
	routes, err := retryDump(func() ([]netlink.Route, error) { return g.nl.RouteList(link, netlink.FAMILY_V4) })
	if err != nil {
		return seen, err
	}
	for _, r := range routes {
		if r.Gw != nil && (r.Dst == nil || toPrefix(r.Dst).Bits() == 0) {
			seen.Router, _ = netip.AddrFromSlice(r.Gw.To4())
		}
	}
	resolv, err := g.ReadFile("/etc/resolv.conf")
	seen.DNS, seen.Domain, seen.Search = parseResolvConf(resolv)
	return seen, err
}

// parseResolvConf reads the lines of resolv.conf(5) that matter here. Without a
// domain line the first of the search list is the domain.
func parseResolvConf(text string) (servers []netip.Addr, domain string, search []string) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			if addr, err := netip.ParseAddr(fields[1]); err == nil {
				servers = append(servers, addr)
			}
		case "domain":
			domain = fields[1]
		case "search":
			search = fields[1:]
		}
	}
	if domain == "" && len(search) > 0 {
		domain = search[0]
	}
	return servers, domain, search
}
