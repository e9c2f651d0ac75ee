package engine

import (
	"fmt"
	"net/netip"
	"slices"

	"viaduct/internal/host"
	"viaduct/internal/netdef"
)

// Notes tells what somebody has to do elsewhere for an active network to be of
// full use. Nobody finds guests of a routed network before the LAN's router
// knows the way to them.
func (e *Engine) Notes(id netdef.UUID) ([]string, error) {
	e.mu.Lock()
	n := e.networks[id]
	known := n != nil && n.known()
	var live *netdef.Network
	if known {
		live = n.live
	}
	e.mu.Unlock()
	switch {
	case !known:
		return nil, noNetwork(id)
	case live == nil || live.Forward.Mode != netdef.ModeRoute:
		return nil, nil
	}
	settings, err := live.Settings()
	if err != nil {
		return nil, err
	}
	_, outward := e.Host.Outward(live.Forward.Dev())
	var notes []string
	for _, ip := range live.IPs {
		if slices.ContainsFunc(e.Host.Overlapping(ip.Subnet()), func(p host.LinkPrefix) bool { return p.Link == settings.Answer }) {
			continue // who has a route to there finds the guests as neighbours
		}
		note := fmt.Sprintf("the LAN's router needs a route: %s via ", ip.Subnet())
		at := slices.IndexFunc(outward, func(a netip.Addr) bool { return a.BitLen() == ip.Address.BitLen() })
		if at < 0 {
			note += "this host, which has no address there yet"
		} else {
			note += outward[at].String()
		}
		notes = append(notes, note)
	}
	return notes, nil
}
