package plan

import (
	"slices"

	"viaduct/internal/hoststate"
	"viaduct/internal/netdef"
)

// customs lists, in the order of preference, the zones that links of networks
// are put into which name none. firewalld rejects what comes from links in its
// default zone, where nobody asks for DNS and nobody is forwarded. Most of them
// come with libvirt's packages; the last one we make.
var customs = []struct {
	zone   string
	policy string // has to be there too, if not ""
	only   netdef.Mode
	made   bool
}{
	{"libvirt-routed", "libvirt-routed-in", netdef.ModeRoute, false},
	{"libvirt", "", "", false},
	{"viaduct", "", "", true},
}

// customary is the zone for a network that names none, "" if there is none for
// it, and whether it is one that we make.
func customary(n *netdef.Network, known hoststate.Firewalld) (zone string, made bool) {
	if n.Forward.Mode == netdef.ModeOpen {
		return "", false // its admin sees to the firewall
	}
	for _, c := range customs {
		there := slices.Contains(known.Zones, c.zone) && (c.policy == "" || slices.Contains(known.Policies, c.policy))
		if c.made {
			there = len(known.Policies) > 0 && !known.Closed // before firewalld 0.9 there are none
		}
		if there && (c.only == "" || c.only == n.Forward.Mode) {
			return c.zone, c.made
		}
	}
	return "", false
}

// IsCustomary reports whether networks that name no zone are put into this one.
func IsCustomary(zone string) bool {
	for _, c := range customs {
		if c.zone == zone {
			return true
		}
	}
	return false
}

// putIntoZone plans the zone of a link, as long as firewalld runs. One that
// firewalld does not have any more is left out: what else heals does not fail
// for it. Where the definition names none, an administrator's choice stands.
func putIntoZone(f *Fragment, n *netdef.Network, link string, facts Facts) {
	zone, made := n.Bridge.Zone, false
	if zone == "" && !slices.Contains(facts.Placed, link) {
		zone, made = customary(n, facts.Firewalld)
	}
	if made {
		f.Shared.Add(hoststate.Zone{Name: zone})
	}
	if made || slices.Contains(facts.Firewalld.Zones, zone) {
		f.Own.Add(hoststate.Zoned{Link: link, Zone: zone})
	}
}
