package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"
)

// Builtin is the lab's own DHCP client, for machines where none is installed. It
// renews only on demand and does not look for address conflicts.
var Builtin DHCPClient = builtin{}

type builtin struct{}

func (builtin) Name() string    { return "builtin" }
func (builtin) Tools() []string { return nil }

// builtinTry is how long the client waits for an answer before it repeats itself.
const builtinTry = time.Second

func (builtin) start(ctx context.Context, g *Guest) (dhcpSession, error) {
	s := &builtinSession{guest: g}
	return s, s.converse(nil, func(c *nclient4.Client) (err error) {
		s.lease, err = c.Request(ctx, dhcpv4.WithOption(dhcpv4.OptHostName(g.Name)),
			dhcpv4.WithRequestedOptions(dhcpv4.OptionHostName, dhcpv4.OptionDNSDomainSearchList,
				dhcpv4.OptionInterfaceMTU, dhcpv4.OptionClasslessStaticRoute, dhcpv4.OptionBroadcastAddress))
		return err
	})
}

type builtinSession struct {
	guest *Guest
	lease *nclient4.Lease
}

// converse opens a client for one exchange: from source, or, without one, by raw
// frames as an interface without an address must.
func (s *builtinSession) converse(source net.IP, exchange func(*nclient4.Client) error) error {
	options := []nclient4.ClientOpt{nclient4.WithTimeout(builtinTry), nclient4.WithRetry(5)}
	if source != nil {
		options = append(options,
			nclient4.WithUnicast(&net.UDPAddr{IP: source, Port: nclient4.ClientPort}),
			nclient4.WithServerAddr(&net.UDPAddr{IP: s.lease.ACK.ServerIdentifier(), Port: nclient4.ServerPort}))
	}
	var client *nclient4.Client
	err := s.guest.Do(func() (err error) {
		client, err = nclient4.New("eth0", options...)
		return err
	})
	if err != nil {
		return err
	}
	defer client.Close()
	return exchange(client)
}

func (s *builtinSession) bound(context.Context) (map[string]string, error) {
	if err := s.apply(); err != nil {
		return nil, err
	}
	options := make(map[string]string)
	for code, value := range s.lease.ACK.Options {
		options[strconv.Itoa(int(code))] = fmt.Sprintf("%x", value)
	}
	options[optHostname] = s.lease.ACK.HostName()
	options[optLease] = strconv.Itoa(int(s.lease.ACK.IPAddressLeaseTime(0) / time.Second))
	return options, nil
}

// apply configures the guest as it was told.
func (s *builtinSession) apply() error {
	ack, nl := s.lease.ACK, s.guest.nl
	link, err := nl.LinkByName("eth0")
	if err != nil {
		return err
	}
	if mtu, err := dhcpv4.GetUint16(dhcpv4.OptionInterfaceMTU, ack.Options); err == nil {
		if err := nl.LinkSetMTU(link, int(mtu)); err != nil {
			return fmt.Errorf("set MTU %d: %w", mtu, err)
		}
	}
	mask := ack.SubnetMask()
	if mask == nil {
		return errors.New("the server sent no subnet mask")
	}
	if err := nl.AddrReplace(link, &netlink.Addr{IPNet: &net.IPNet{IP: ack.YourIPAddr, Mask: mask}}); err != nil {
		return fmt.Errorf("set address %s: %w", ack.YourIPAddr, err)
	}
	for to, gateway := range s.routes() {
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(to)}
		if gateway.IsUnspecified() {
			route.Scope = netlink.SCOPE_LINK
		} else {
			route.Gw = gateway.AsSlice()
		}
		if err := nl.RouteReplace(route); err != nil {
			return fmt.Errorf("set route %s by %s: %w", to, gateway, err)
		}
	}
	return s.guest.writeFile("/etc/resolv.conf", s.resolvConf(), 0o644)
}

// routes are what option 121 says, or else the router of option 3 (RFC 3442).
func (s *builtinSession) routes() map[netip.Prefix]netip.Addr {
	routes := make(map[netip.Prefix]netip.Addr)
	for _, r := range s.lease.ACK.ClasslessStaticRoute() {
		gateway, _ := netip.AddrFromSlice(r.Router.To4())
		routes[toPrefix(r.Dest)] = gateway
	}
	if routers := s.lease.ACK.Router(); len(routes) == 0 && len(routers) > 0 {
		gateway, _ := netip.AddrFromSlice(routers[0].To4())
		routes[netip.PrefixFrom(netip.IPv4Unspecified(), 0)] = gateway
	}
	return routes
}

func (s *builtinSession) resolvConf() string {
	var text strings.Builder
	search := []string{s.lease.ACK.DomainName()}
	if list := s.lease.ACK.DomainSearch(); list != nil {
		search = append(search, list.Labels...)
	}
	search = slices.DeleteFunc(search, func(name string) bool { return name == "" })
	if len(search) > 0 {
		fmt.Fprintf(&text, "search %s\n", strings.Join(slices.Compact(search), " "))
	}
	for _, server := range s.lease.ACK.DNS() {
		fmt.Fprintf(&text, "nameserver %s\n", server)
	}
	return text.String()
}

func (s *builtinSession) renew(ctx context.Context) error {
	return s.converse(s.lease.ACK.YourIPAddr, func(c *nclient4.Client) error {
		lease, err := c.Renew(ctx, s.lease)
		if err == nil {
			s.lease = lease
		}
		return err
	})
}

func (s *builtinSession) release(context.Context) error {
	return s.converse(s.lease.ACK.YourIPAddr, func(c *nclient4.Client) error { return c.Release(s.lease) })
}

func (s *builtinSession) stop(context.Context) error { return nil }
