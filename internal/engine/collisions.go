package engine

import (
	"net/netip"
	"slices"

	"viaduct/internal/netdef"
	"viaduct/internal/plan"
)

// collisions refuses a definition whose subnets or bridge the host already has
// in use elsewhere. Subnets of any size that overlap count.
func (e *Engine) collisions(n *network, def *netdef.Network) error {
	own := map[string]bool{def.Bridge.Name: true}
	e.mu.Lock()
	if n.live != nil {
		own[n.live.Bridge.Name] = true
	}
	e.mu.Unlock()
	if l, ok := e.Host.Link(def.Bridge.Name); ok && def.Forward.Mode.OwnsBridge() && l.Alias != plan.Alias(def.UUID) {
		return netdef.Errorf(netdef.ErrInternal, "bridge name '%s' already in use.", def.Bridge.Name)
	}
	var wanted []netip.Prefix
	for _, ip := range def.IPs {
		wanted = append(wanted, ip.Prefix().Masked())
	}
	settings, err := def.Settings()
	if err != nil {
		return err
	}
	for _, have := range e.Host.Overlapping(wanted...) {
		if !own[have.Link] && !(have.Link == settings.Answer && isPart(have.Prefix, wanted)) {
			return netdef.Errorf(netdef.ErrInternal, "Network is already in use by interface %s", have.Link)
		}
	}
	return nil
}

// isPart reports whether those subnets that overlap with the prefix of a link
// are parts of it, which the host's own address there is in none of.
func isPart(have netip.Prefix, subnets []netip.Prefix) bool {
	return !slices.ContainsFunc(subnets, func(s netip.Prefix) bool {
		isAddress := have != have.Masked()
		return s.Overlaps(have) && (s.Bits() <= have.Bits() || isAddress && s.Contains(have.Addr()))
	})
}

// portForDNS is the port for the DNS of a network that is to become what def
// says: the present one, as long as it is served at the same address.
func (e *Engine) portForDNS(n *network, def *netdef.Network) (uint16, error) {
	if n.live != nil && plan.ServesDNS(def) && servesDNSAt(n.live, def.IPs[0].Address) {
		return n.dnsPort, nil
	}
	return e.chooseDNSPort(def)
}

// chooseDNSPort finds the port for the network's DNS.
func (e *Engine) chooseDNSPort(def *netdef.Network) (uint16, error) {
	if !plan.ServesDNS(def) {
		return 0, nil
	}
	port, err := e.DNSPort(def.IPs[0].Address)
	return port, errAs(netdef.ErrInternal, err)
}
