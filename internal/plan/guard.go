package plan

import (
	"viaduct/internal/hoststate"
	"viaduct/internal/netdef"
)

const (
	mapPorts = "ports" // frames by incoming port

	// loopedSeconds is how long a port stays blocked after the last frame that
	// came back through it.
	loopedSeconds = 30
)

// Looped is the set of ports that returned the bridge's own frames.
var Looped = hoststate.Set{Table: Guard, Name: "looped", Fields: byIn, Dynamic: true, TimeoutSeconds: loopedSeconds}

// bpdu is the group address of spanning tree frames (IEEE 802.1D, 7.12.3).
var bpdu = hoststate.MAC{0x01, 0x80, 0xc2, 0x00, 0x00, 0x00}

// baseGuard is what all guarded bridges share. It is ahead of the bridge's
// learning, so that a frame that came round does not move its sender.
func baseGuard() []hoststate.Object {
	hook := hoststate.Hook{Type: "filter", Hook: "prerouting", Priority: -300}
	return []hoststate.Object{
		hoststate.Table{Ref: Guard},
		hoststate.Set{Table: Guard, Name: mapPorts, Fields: byIn, Verdicts: true},
		Looped,
		hoststate.Chain{Table: Guard, Name: "prerouting", Hook: &hook, Rules: []hoststate.Rule{
			rule(hoststate.VMap{Fields: byIn, Map: mapPorts}),
		}},
	}
}

// addLoopGuard stands in for spanning tree on a bridge that has only guests on
// it. Guests cannot speak spanning tree to the host, and a port through which
// the bridge's own frames come back is blocked until they stop: what comes back
// while it is blocked is looked at first, and keeps it so. It returns the rules
// that the chain of every port begins with: a chain for each, so that what they
// drop is counted by port.
func addLoopGuard(f *Fragment, n *netdef.Network) []hoststate.Rule {
	f.Shared.Add(baseGuard()...)
	return []hoststate.Rule{
		dropped(dropSTP, hoststate.EtherDest{MAC: bpdu}),
		dropped(dropLoop, hoststate.EtherSource{MAC: hoststate.MAC(n.MAC)}, hoststate.Update{Fields: byIn, Set: Looped.Name}),
		dropped(dropLoop, hoststate.InSet{Fields: byIn, Set: Looped.Name}),
	}
}
