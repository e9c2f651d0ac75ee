package plan

import (
	"slices"

	"viaduct/internal/hoststate"
	"viaduct/internal/netdef"
)

// customs lists, in the order of preference, the zones that links of networks
// are put into which name none. firewalld rejects what comes from links in its
// default zone, where nobody asks for DNS and nobody is forwarded. Ours has what
// is right for all networks, see [OwnZone]; libvirt's packages bring the others.
var customs = []struct {
	zone   string
	policy string // has to be there too, if not ""
	only   netdef.Mode
}{
	{OwnZone, "", ""},
	{"libvirt-routed", "libvirt-routed-in", netdef.ModeRoute},
	{"libvirt", "", ""},
}

// OwnZone is the zone for our networks, where firewalld has one of that name.
const OwnZone = "viaduct"

// customary is the zone for a network that names none; "" if there is none for it.
func customary(n *netdef.Network, known hoststate.Firewalld) string {
	if n.Forward.Mode == netdef.ModeOpen {
		return "" // its admin sees to the firewall
	}
	for _, c := range customs {
		if slices.Contains(known.Zones, c.zone) && (c.policy == "" || slices.Contains(known.Policies, c.policy)) &&
			(c.only == "" || c.only == n.Forward.Mode) {
			return c.zone
		}
	}
	return ""
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
	zone := n.Bridge.Zone
	if zone == "" && !slices.Contains(facts.Placed, link) {
		zone = customary(n, facts.Firewalld)
	}
	if slices.Contains(facts.Firewalld.Zones, zone) {
		f.Own.Add(hoststate.Zoned{Link: link, Zone: zone})
	}
}
