package engine

import (
	"slices"
	"strings"

	"viaduct/internal/hoststate"
	"viaduct/internal/netdef"
	"viaduct/internal/plan"
)

// Firewalld is what is known of the host's firewalld.
type Firewalld interface {
	// Facts are as of what was heard last.
	Facts() hoststate.Firewalld
	// Look asks again.
	Look() hoststate.Firewalld
}

// checkZone refuses a zone that the network cannot be put into, in libvirt's
// words. It is found out when the network gets it, as by libvirt.
func (e *Engine) checkZone(n *network, def *netdef.Network) error {
	zone := def.Bridge.Zone
	if zone == "" || n.live != nil && n.live.Bridge.Zone == zone {
		return nil
	}
	known := e.firewalld()
	if !slices.Contains(known.Zones, zone) && e.Firewalld != nil {
		known = e.Firewalld.Look()
	}
	switch {
	case !known.Running:
		return netdef.Errorf(netdef.ErrInternal, "zone %s requested for network %s but firewalld is not active", zone, def.Name)
	case len(known.Zones) == 0:
		return netdef.Errorf(netdef.ErrInternal, "put network '%s' into zone %s: firewalld does not answer", def.Name, zone)
	case !slices.Contains(known.Zones, zone):
		return netdef.Errorf(netdef.ErrDBusService, "GDBus.Error:org.fedoraproject.FirewallD1.Exception: INVALID_ZONE: %s", zone)
	}
	return nil
}

func (e *Engine) firewalld() hoststate.Firewalld {
	if e.Firewalld == nil {
		return hoststate.Firewalld{}
	}
	return e.Firewalld.Facts()
}

// placed lists those of a network's links that an administrator has put into a
// zone of his choice. Zones that we have chosen for the network itself, or may
// have in an earlier life, are none.
func (e *Engine) placed(n *network, def *netdef.Network, facts plan.Facts) []string {
	if !facts.Firewalld.Running || def.Bridge.Zone != "" {
		return nil
	}
	keys := []hoststate.Key{hoststate.ZonedKey(def.Bridge.Name)}
	for _, p := range facts.Ports {
		if p.Routed != nil {
			keys = append(keys, hoststate.ZonedKey(p.Link))
		}
	}
	e.mu.Lock()
	keys = slices.DeleteFunc(keys, func(k hoststate.Key) bool { return e.claims[k] == n })
	e.mu.Unlock()
	var list []string
	for _, o := range e.Host.Observe(keys) {
		if z, ok := o.(hoststate.Zoned); ok && !plan.IsCustomary(z.Zone) {
			list = append(list, z.Link)
		}
	}
	return list
}

// blockers are the chains of others that may drop what the network's guests
// send or get. What firewalld does with links in zones is as its admin has it.
func (e *Engine) blockers(def *netdef.Network) []string {
	if !def.Forward.Mode.OwnsBridge() || def.Forward.Mode == netdef.ModeOpen {
		return nil
	}
	list := e.Host.Blockers()
	key := hoststate.ZonedKey(def.Bridge.Name)
	if _, zoned := e.Host.Observe([]hoststate.Key{key})[key]; zoned {
		list = slices.DeleteFunc(list, func(chain string) bool { return strings.HasPrefix(chain, "inet firewalld ") })
	}
	return list
}
