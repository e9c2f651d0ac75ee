package faults

import (
	"fmt"
	"strings"
	"testing"

	"viaduct/internal/hoststate"
	"viaduct/internal/store"
)

// point is a place in the program where it can be killed.
type point struct {
	// name is as the program calls the point, "before bridge create".
	name string
	// aged gives the daemon a journal that was in use before: long enough to be
	// compacted at the next lease, and with an unfinished record at its end.
	aged bool
	// nth is the time that the program comes by at which it is killed.
	nth int
}

func (p point) String() string {
	text := p.name
	if p.nth > 1 {
		text += fmt.Sprintf(", time %d", p.nth)
	}
	if p.aged {
		text += ", aged journal"
	}
	return text
}

// times are when a point is tried. The first time must come in the script, the
// others mostly do, at another network or in another call.
var times = []int{1, 2, 4}

// allPoints are all points at all times.
func allPoints() []point {
	var all []point
	for _, nth := range times {
		for _, p := range append(hostPoints(), storePoints()...) {
			p.nth = nth
			all = append(all, p)
		}
	}
	return all
}

// never are the operations that do not come to pass, with the reason.
var never = map[string]string{
	"table change":   "a table has nothing but its name",
	"set change":     "a set keeps its type unless another program replaces it",
	"element change": "an element leads to the chain of its network, which is named like the link that is its key",
	"pass change":    "a pass has nothing but its place",
	"address change": "an address with another prefix length is another object",
	"up change":      "a link that is not up is not there",
	"member change":  "a link in another bridge is another object",
	"proxy change":   "an address that is answered for has nothing but its link",
}

// absent are the kinds of objects that no network or step of the script has. They are applied by the same code as all others, one by one.
var absent = map[string]string{
	"claim":         "it takes a bridge of another program's; the tests of importing have it",
	"macvtap":       "it takes a device of the host's that leads out",
	"mtu":           "it is left as it is, so that no host is as before",
	"uplink":        "it moves what the host is reached by, and has points of its own in the tests of uplinks",
	"firewall zone": "there is no firewalld here; its tests have it",
	"zone":          "there is no firewalld here; its tests have it",
	// Here the host answers for a subnet of IPv4 as a whole, by a setting of its link.
	"proxy":      "it is of single addresses, such as those of IPv6",
	"port flags": "they are of ports that are kept apart, or in a bridge that is told where its guests are",
	"station":    "it is of a bridge that is told where its guests are",
	"port vlans": "they need a kernel whose bridges filter by VLAN",
}

// hostPoints are the points around each sort of operation on the host, but
// those that never come to pass. A new kind of object is in it by itself.
func hostPoints() []point {
	var points []point
	for k := hoststate.Kind(1); !strings.HasPrefix(k.String(), "kind("); k++ {
		if absent[k.String()] != "" {
			continue
		}
		for _, verb := range []string{"create", "change", "delete"} {
			op := k.String() + " " + verb
			if never[op] == "" {
				points = append(points, point{name: "before " + op}, point{name: "after " + op})
			}
		}
	}
	return points
}

// storePoints are the points around each write of a file. A journal is
// written anew when there is none yet and when it is compacted, which are
// different moments; its end is only cut when it is unfinished.
func storePoints() []point {
	var points []point
	for _, name := range store.FaultPoints() {
		journal := strings.Contains(name, "lease journal")
		if !strings.HasSuffix(name, "lease journal cut") {
			points = append(points, point{name: name})
		}
		if journal {
			points = append(points, point{name: name, aged: true})
		}
	}
	return points
}

// Every reason in never is for an operation that there is.
func TestNeverNamesOperations(t *testing.T) {
	kinds := map[string]bool{}
	for k := hoststate.Kind(1); !strings.HasPrefix(k.String(), "kind("); k++ {
		kinds[k.String()] = true
	}
	for op := range never {
		if kind, _, _ := strings.Cut(op, " "); !kinds[kind] {
			t.Errorf("%q is not about a kind of object", op)
		}
	}
}
