package plan

import (
	"net/netip"

	"viaduct/internal/guestsvc/dnsmasq"
	"viaduct/internal/hoststate"
	"viaduct/internal/netdef"
)

// ServiceDnsmasq stands in for all other services that guests have.
const ServiceDnsmasq = "dnsmasq"

// Dnsmasq says when and how dnsmasq serves guests in our place.
type Dnsmasq struct {
	// Dir is the folder for what it runs with.
	Dir string
	// ResolvConf lists the host's resolvers.
	ResolvConf string
	// Always is for networks that do not say by whom they are to be served.
	Always bool
}

// Serves reports whether the network's guests are served by dnsmasq. One with
// options of dnsmasq's own always is: nobody else understands them.
func (d Dnsmasq) Serves(n *netdef.Network) bool {
	s, _ := n.Settings() // validated
	switch {
	case len(n.DnsmasqOptions) > 0:
		return true
	case s.Backend != "":
		return s.Backend == netdef.BackendDnsmasq
	}
	return d.Always
}

// addDnsmasq plans the one service that is all services, if there is anything to serve.
func addDnsmasq(f *Fragment, n *netdef.Network, facts Facts) error {
	v6 := hasFamily(n, netip.Addr.Is6)
	dhcp := servesDHCP4(n)
	if !ServesDNS(n) && !dhcp && !v6 && len(tftpIPs(n)) == 0 {
		return nil
	}
	if v6 {
		f.Own.Add(routerAddress(n))
	}
	c, err := dnsmasq.ConfigOf(n, dnsmasq.Settings{Dir: facts.Dnsmasq.Dir, ResolvConf: facts.Dnsmasq.ResolvConf, DNSPort: facts.DNSPort})
	if err != nil {
		return err
	}
	f.Own.Add(hoststate.Service{Type: ServiceDnsmasq, Network: n.UUID.String(), Config: c})
	return nil
}
