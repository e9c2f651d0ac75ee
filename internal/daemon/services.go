package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"syscall"
	"time"

	"viaduct/internal/guestsvc"
	"viaduct/internal/guestsvc/dhcp4"
	"viaduct/internal/guestsvc/dns"
	"viaduct/internal/guestsvc/leases"
	"viaduct/internal/host"
	"viaduct/internal/plan"
)

// starters says how each type of service is started. The function that comes
// with them ends what the services share.
func starters(c Config, db *leases.DB) (map[string]guestsvc.Starter, func()) {
	resolver := dns.NewResolver(c.ResolvConf, c.Log)
	return map[string]guestsvc.Starter{
		plan.ServiceDHCP4: func(config fmt.Stringer) (guestsvc.Service, error) {
			return startDHCP4(config.(dhcp4.Config), db, c.Log)
		},
		plan.ServiceDNS: func(config fmt.Stringer) (guestsvc.Service, error) {
			cfg := config.(dns.Config)
			s, err := dns.Start(cfg, dns.Deps{Listen: host.ListenDNS, Names: db.Table(cfg.Network), Resolver: resolver, Log: c.Log})
			return dnsService{s}, err
		},
	}, resolver.Close
}

func startDHCP4(c dhcp4.Config, db *leases.DB, log *slog.Logger) (guestsvc.Service, error) {
	frames, err := host.OpenFrames(c.Bridge, host.DHCP4Server)
	if err != nil {
		return nil, err
	}
	arp, err := host.OpenFrames(c.Bridge, host.ARPReplies)
	if err != nil {
		return nil, errors.Join(err, frames.Close())
	}
	prober := dhcp4.NewARPProber(arp)
	s, err := dhcp4.Start(c, dhcp4.Deps{Frames: frames, Prober: prober, Leases: db.Table(c.Network), Now: time.Now, Log: log})
	if err != nil {
		return nil, errors.Join(err, frames.Close(), prober.Close())
	}
	return dhcp4Service{s, prober, c.Bridge, []*host.FrameConn{frames, arp}}, nil
}

// dhcp4Service and dnsService give the servers the face of a guestsvc.Service,
// which does not know their types of configuration.
type dhcp4Service struct {
	*dhcp4.Server
	prober *dhcp4.ARPProber
	bridge string
	conns  []*host.FrameConn
}

// Alive is false once the bridge is gone: a packet socket does not move to a
// new link of the same name.
func (s dhcp4Service) Alive() bool {
	for _, c := range s.conns {
		if !c.Bound() {
			return false
		}
	}
	return true
}

func (s dhcp4Service) Close() error { return errors.Join(s.Server.Close(), s.prober.Close()) }

func (s dhcp4Service) Reconfigure(c fmt.Stringer) error {
	config := c.(dhcp4.Config)
	if config.Bridge != s.bridge {
		return guestsvc.ErrOtherLink
	}
	return s.Server.Reconfigure(config)
}

type dnsService struct{ *dns.Server }

func (s dnsService) Reconfigure(c fmt.Stringer) error { return s.Server.Reconfigure(c.(dns.Config)) }

// Alive is always true: sockets bound to an address outlive the link that has it.
func (s dnsService) Alive() bool { return true }

func (s dnsService) Close() error {
	s.Server.Close()
	return nil
}

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
	u, l, err := host.ListenDNS(netip.AddrPortFrom(addr, port))
	if err != nil {
		return err
	}
	return errors.Join(u.Close(), l.Close())
}

// holders names the programs that keep the DNS port from being served at addr.
func holders(addr netip.Addr) string {
	text := ""
	for _, h := range host.PortHolders(dnsPort) {
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
