package faults

import (
	"maps"
	"net/netip"

	"github.com/google/go-cmp/cmp"
)

// world is what must be so on the host, going by what clients were told.
type world struct {
	Networks map[string]network
	// Leases are the addresses that guests were given, by network.
	Leases map[string][]netip.Addr
}

// network is one network of a world. Definitions are told apart by the domain
// that they name.
type network struct {
	Config    string // the persistent definition; "" for a transient network
	Live      string // the definition in effect; "" while inactive
	Autostart bool
	Tap       string // the one port with a tap of ours that it may have
}

func (w world) clone() world {
	c := world{maps.Clone(w.Networks), map[string][]netip.Addr{}}
	for name, addrs := range w.Leases {
		c.Leases[name] = append([]netip.Addr(nil), addrs...)
	}
	return c
}

// effect is how the world changes.
type effect func(world)

// change changes one network, which is gone if nothing is left of it.
func change(name string, how func(*network)) effect {
	return func(w world) {
		n := w.Networks[name]
		how(&n)
		if n.Config == "" && n.Live == "" {
			delete(w.Networks, name)
			delete(w.Leases, name)
			return
		}
		w.Networks[name] = n
	}
}

func defined(name, domain string) effect {
	return change(name, func(n *network) { n.Config = domain })
}

func started(name string) effect { return change(name, func(n *network) { n.Live = n.Config }) }

func created(name, domain string) effect {
	return change(name, func(n *network) { n.Live = domain })
}

func applied(name, domain string) effect {
	return change(name, func(n *network) { n.Config, n.Live = domain, domain })
}

func stopped(name string) effect { return change(name, func(n *network) { n.Live = "" }) }

func undefined(name string) effect {
	return change(name, func(n *network) { n.Config, n.Autostart = "", false })
}

func autostarted(name string, on bool) effect {
	return change(name, func(n *network) { n.Autostart = on })
}

func tapped(name, tap string) effect { return change(name, func(n *network) { n.Tap = tap }) }

func leased(name string, addr netip.Addr) effect {
	return func(w world) { w.Leases[name] = append(w.Leases[name], addr) }
}

// difference lists how what was found differs from each of the worlds that may
// be; it is empty if it is one of them.
func difference(found map[string]network, worlds []world) string {
	text := ""
	for _, w := range worlds {
		diff := cmp.Diff(w.Networks, found)
		if diff == "" {
			return ""
		}
		text += diff
	}
	return text
}
