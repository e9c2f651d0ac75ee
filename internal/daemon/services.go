package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"syscall"
	"time"

	"github.com/godbus/dbus/v5"

	"viaduct/internal/dhcpclient"
	"viaduct/internal/guestsvc"
	"viaduct/internal/guestsvc/dhcp4"
	"viaduct/internal/guestsvc/dhcp6"
	"viaduct/internal/guestsvc/dns"
	"viaduct/internal/guestsvc/dnsmasq"
	"viaduct/internal/guestsvc/leases"
	"viaduct/internal/guestsvc/ra"
	"viaduct/internal/guestsvc/resolved"
	"viaduct/internal/guestsvc/tftp"
	"viaduct/internal/host/sockets"
	"viaduct/internal/hostdns"
	"viaduct/internal/hoststate"
	"viaduct/internal/netdef"
	"viaduct/internal/plan"
	"viaduct/internal/store"
	"viaduct/internal/uplink"
)

// starters says how each type of service is started. The function that comes
// with them ends what the services share.
func starters(c Config, db *leases.DB, names *resolved.Client, duid []byte) (map[string]guestsvc.Starter, func()) {
	resolver := dns.NewResolver(c.ResolvConf, c.Log)
	return map[string]guestsvc.Starter{
		plan.ServiceDHCP4: starter(func(c4 dhcp4.Config) (guestsvc.Service, error) { return startDHCP4(c4, db, c.Log) }),
		plan.ServiceDHCP6: starter(func(c6 dhcp6.Config) (guestsvc.Service, error) { return startDHCP6(c6, db, duid, c.Log) }),
		plan.ServiceRA:    starter(func(cr ra.Config) (guestsvc.Service, error) { return startRA(cr, c.Log) }),
		plan.ServiceDNS: starter(func(cd dns.Config) (guestsvc.Service, error) {
			s, err := dns.Start(cd, dns.Deps{Listen: sockets.ListenDNS, Names: db.Table(cd.Network), Resolver: resolver, Log: c.Log})
			if err != nil {
				return nil, err
			}
			return dnsService{s}, nil
		}),
		plan.ServiceResolved: starter(func(cr resolved.Config) (guestsvc.Service, error) {
			l, err := names.Start(cr)
			if err != nil {
				return nil, err
			}
			return resolvedService{linkService[resolved.Config]{l, registeredLink, cr.Bridge, []boundConn{l}, nil}}, nil
		}),
		plan.ServiceTFTP: starter(func(ct tftp.Config) (guestsvc.Service, error) {
			s, err := tftp.Start(ct, tftp.Deps{Listen: sockets.ListenUDP, Log: c.Log})
			if err != nil {
				return nil, err
			}
			return tftpService{s}, nil
		}),
	}, resolver.Close
}

// startServices makes the manager of all services, and has it take up those
// that have outlived the last daemon. The function that comes with it ends what
// ends with the process.
func startServices(c Config, db *leases.DB, st *store.Store, duid []byte) (*guestsvc.Manager, func()) {
	names := resolved.NewClient(resolved.Deps{Connect: func() (*dbus.Conn, error) { return dbus.ConnectSystemBus() }, Index: sockets.LinkIndex, Log: c.Log})
	types, closeResolver := starters(c, db, names, duid)
	services := guestsvc.NewManager(types, c.Log)
	key := func(network netdef.UUID) hoststate.Key {
		return hoststate.ServiceKey(plan.ServiceDnsmasq, network.String())
	}
	deps := dnsmasq.Deps{Leases: db.Table, DUID: duid, Log: c.Log, Died: func(network netdef.UUID) { services.Changed(key(network)) }}
	types[plan.ServiceDnsmasq] = starter(func(cd dnsmasq.Config) (guestsvc.Service, error) {
		s, err := dnsmasq.Start(cd, deps)
		if err != nil {
			return nil, err
		}
		return dnsmasqService{s}, nil
	})
	types[plan.ServiceDHCPClient] = starter(func(cc dhcpclient.Config) (guestsvc.Service, error) {
		client, err := dhcpclient.Start(cc, dhcpclient.Deps{
			Open:    func(link string) (net.PacketConn, error) { return sockets.OpenDatagrams(link, sockets.DHCP4Client) },
			Listen:  func(at netip.AddrPort) (net.PacketConn, error) { return sockets.ListenUDP(at) },
			Taken:   func(address netip.Addr) (bool, error) { return answers(cc, address) },
			Load:    func() (uplink.Lease, bool, error) { return st.UplinkLease(cc.Bridge) },
			Save:    func(l uplink.Lease) error { return st.PutUplinkLease(cc.Bridge, l) },
			Changed: func() { services.Changed(hoststate.ServiceKey(plan.ServiceDHCPClient, cc.Bridge)) },
			Log:     c.Log,
		})
		return dhcpClient{client}, err
	})
	for _, s := range dnsmasq.Find(c.dnsmasqDir(), deps) {
		config := s.Config()
		services.Adopt(hoststate.Service{Type: plan.ServiceDnsmasq, Network: config.Network.String(), Config: config}, dnsmasqService{s})
	}
	hostNames := hostdns.Open(hostdns.Deps{Resolved: names, Path: c.ResolvConf, Load: st.Resolving, Save: st.PutResolving, Log: c.Log})
	types[plan.ServiceHostDNS] = starter(func(n uplink.Names) (guestsvc.Service, error) {
		return hostDNS{hostNames, n.Link}, hostNames.Set(n)
	})
	for _, n := range hostNames.Links() {
		services.Adopt(hoststate.Service{Type: plan.ServiceHostDNS, Network: n.Link, Config: n}, hostDNS{hostNames, n.Link})
	}
	return services, func() {
		services.Close()
		hostNames.Close()
		names.Close()
		closeResolver()
	}
}

func (c Config) dnsmasqDir() string { return filepath.Join(c.RunDir, "dnsmasq") }

// Three questions within a second and a bit are what a host may ask before it uses
// an address (RFC 5227 section 2.1.1, whose pauses are longer).
const (
	addressAsked = 3
	addressWait  = 400 * time.Millisecond
)

// answers reports whether somebody else on the link has the address.
func answers(c dhcpclient.Config, address netip.Addr) (bool, error) {
	arp, err := sockets.OpenFrames(c.Bridge, sockets.ARPReplies)
	if err != nil {
		return false, err
	}
	prober := dhcp4.NewARPProber(arp, addressWait)
	defer prober.Close()
	for range addressAsked {
		who := make(chan netdef.MAC, 1)
		prober.Probe(address, func(mac netdef.MAC) { who <- mac })
		if mac := <-who; !mac.IsZero() && hoststate.MAC(mac) != c.MAC {
			return true, nil
		}
	}
	return false, nil
}

// dhcpClient gives the host's own DHCP client the face of a guestsvc.Service.
type dhcpClient struct{ *dhcpclient.Client }

// Alive is always true: its connections are opened for each question.
func (dhcpClient) Alive() bool { return true }

func (dhcpClient) Reconfigure(fmt.Stringer) error { return guestsvc.ErrOtherLink }

// hostDNS is one link by which the host finds names, which outlives the process.
type hostDNS struct {
	host *hostdns.Host
	link string
}

// Alive is always true: what somebody else changes is looked after at once.
func (hostDNS) Alive() bool { return true }

func (s hostDNS) Reconfigure(c fmt.Stringer) error { return s.host.Set(c.(uplink.Names)) }
func (s hostDNS) Close() error                     { return s.host.Remove(s.link) }
func (hostDNS) Leave() error                       { return nil }

// dnsmasqService gives a dnsmasq the face of a guestsvc.Service.
type dnsmasqService struct{ *dnsmasq.Service }

func (s dnsmasqService) Reconfigure(c fmt.Stringer) error {
	return s.Service.Reconfigure(c.(dnsmasq.Config))
}

// starter makes a guestsvc.Starter, which knows no types of configuration, of
// a function that starts one type of service.
func starter[C fmt.Stringer](start func(C) (guestsvc.Service, error)) guestsvc.Starter {
	return func(config fmt.Stringer) (guestsvc.Service, error) { return start(config.(C)) }
}

func startDHCP4(c dhcp4.Config, db *leases.DB, log *slog.Logger) (guestsvc.Service, error) {
	frames, err := sockets.OpenFrames(c.Bridge, sockets.DHCP4Server)
	if err != nil {
		return nil, err
	}
	arp, err := sockets.OpenFrames(c.Bridge, sockets.ARPReplies)
	if err != nil {
		return nil, errors.Join(err, frames.Close())
	}
	prober := dhcp4.NewARPProber(arp, dhcp4.ProbeWait)
	s, err := dhcp4.Start(c, dhcp4.Deps{Frames: frames, Prober: prober, Leases: db.Table(c.Network), Now: time.Now, Log: log})
	if err != nil {
		return nil, errors.Join(err, prober.Close())
	}
	return linkService[dhcp4.Config]{s, bridge4, c.Bridge, []boundConn{frames, arp}, prober.Close}, nil
}

func startDHCP6(c dhcp6.Config, db *leases.DB, duid []byte, log *slog.Logger) (guestsvc.Service, error) {
	conn, err := sockets.ListenDHCP6(c.Bridge)
	if err != nil {
		return nil, err
	}
	s, err := dhcp6.Start(c, dhcp6.Deps{Conn: conn, Leases: db.Table(c.Network), DUID: duid, Now: time.Now, Log: log})
	if err != nil {
		return nil, err
	}
	return linkService[dhcp6.Config]{s, bridge6, c.Bridge, []boundConn{conn}, nil}, nil
}

func startRA(c ra.Config, log *slog.Logger) (guestsvc.Service, error) {
	conn, err := sockets.ListenND(c.Bridge)
	if err != nil {
		return nil, err
	}
	s, err := ra.Start(c, ra.Deps{Conn: conn, Log: log})
	if err != nil {
		return nil, err
	}
	return raService{linkService[ra.Config]{s, routerOf, routerOf(c), []boundConn{conn}, nil}, s}, nil
}

func bridge4(c dhcp4.Config) string { return c.Bridge }
func bridge6(c dhcp6.Config) string { return c.Bridge }

// routerOf names the link and the address that guests know their router by:
// with another one it is another router.
func routerOf(c ra.Config) string { return c.Bridge + " " + c.Source.String() }

// boundConn is a connection that is tied to a link.
type boundConn interface{ Bound() bool }

// linkService gives a server that is tied to its bridge the face of a
// guestsvc.Service.
type linkService[C fmt.Stringer] struct {
	server interface {
		Reconfigure(C) error
		Close() error
	}
	linkOf func(C) string // what it is tied to
	link   string
	conns  []boundConn
	also   func() error // closes what the server does not; may be nil
}

func (s linkService[C]) Reconfigure(config fmt.Stringer) error {
	c := config.(C)
	if s.linkOf(c) != s.link {
		return guestsvc.ErrOtherLink
	}
	return s.server.Reconfigure(c)
}

// Alive is false once the bridge is gone: such a connection does not move to a
// new link of the same name.
func (s linkService[C]) Alive() bool {
	for _, c := range s.conns {
		if !c.Bound() {
			return false
		}
	}
	return true
}

func (s linkService[C]) Close() error {
	err := s.server.Close()
	if s.also != nil {
		err = errors.Join(err, s.also())
	}
	return err
}

// raService is a router, which may leave without telling its guests.
type raService struct {
	linkService[ra.Config]
	router *ra.Server
}

func (s raService) Leave() error { return s.router.Leave() }

func registeredLink(c resolved.Config) string { return c.Bridge }

// resolvedService is a registration, which outlives the process.
type resolvedService struct{ linkService[resolved.Config] }

func (resolvedService) Leave() error { return nil }

// dnsService gives the DNS server the face of a guestsvc.Service.
type dnsService struct{ *dns.Server }

func (s dnsService) Reconfigure(c fmt.Stringer) error { return s.Server.Reconfigure(c.(dns.Config)) }

// Alive is always true: sockets bound to an address outlive the link that has it.
func (s dnsService) Alive() bool { return true }

func (s dnsService) Close() error {
	s.Server.Close()
	return nil
}

// tftpService gives the TFTP server the face of a guestsvc.Service.
type tftpService struct{ *tftp.Server }

func (s tftpService) Reconfigure(c fmt.Stringer) error { return s.Server.Reconfigure(c.(tftp.Config)) }

// Alive is always true, as with DNS.
func (s tftpService) Alive() bool { return true }

const (
	dnsPort = 53
	// Where another program holds the port on all addresses, DNS takes the
	// first free one of these behind a redirect.
	firstOtherDNSPort = 5353 + 1
	otherDNSPorts     = 64
)

// choosesDNSPort returns the function that finds a port for a network's DNS.
func choosesDNSPort(log *slog.Logger) func(netip.Addr) (uint16, error) {
	return func(addr netip.Addr) (uint16, error) {
		err := tryDNSPort(addr, dnsPort)
		if err == nil {
			return dnsPort, nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			return 0, err
		}
		for port := uint16(firstOtherDNSPort); port < firstOtherDNSPort+otherDNSPorts; port++ {
			if tryDNSPort(addr, port) != nil {
				continue
			}
			log.Warn("another program holds the DNS port on all addresses, so guests' queries are redirected",
				"port", dnsPort, "held by", holders(addr), "redirected to", port)
			return port, nil
		}
		return 0, fmt.Errorf("find a port for DNS at %s: 53 is held by %s, and no other is free", addr, holders(addr))
	}
}

// tryDNSPort finds out whether DNS can be served at the address and port.
func tryDNSPort(addr netip.Addr, port uint16) error {
	u, l, err := sockets.ListenDNS(netip.AddrPortFrom(addr, port))
	if err != nil {
		return err
	}
	return errors.Join(u.Close(), l.Close())
}

// holders names the programs that keep the DNS port from being served at addr.
func holders(addr netip.Addr) string {
	text := ""
	for _, h := range sockets.PortHolders(dnsPort) {
		if !h.Addr.Addr().IsUnspecified() && h.Addr.Addr() != addr {
			continue
		}
		if text != "" {
			text += ", "
		}
		text += fmt.Sprintf("%s (process %d, %s %s)", h.Program, h.PID, h.Proto, h.Addr)
	}
	if text == "" {
		return "an unknown program"
	}
	return text
}
