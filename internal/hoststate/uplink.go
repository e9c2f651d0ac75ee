package hoststate

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// Uplink is a bridge that stands between the host and the outside: the
// network card is its port, and what the host had on the card is on it. It is
// one object, since half of it is a host that nobody reaches.
type Uplink struct {
	// Bridge is the link that the host is then reached by.
	Bridge string `json:"bridge"`
	// NIC is its port, which keeps its name; "" makes a bridge without one.
	NIC string `json:"nic,omitempty"`
	// MAC is the bridge's, the same as the card's, so that nobody outside sees a
	// difference.
	MAC MAC `json:"mac"`
	// MTU of the bridge and of the card in bytes; 0 leaves the card's.
	MTU int `json:"mtu,omitempty"`
	// CardMTU is what the card had before.
	CardMTU int `json:"cardMtu,omitempty"`
	// Unoffloaded has the host compute the checksums of what it sends by the
	// card, where the card or a VLAN on it cannot.
	Unoffloaded bool `json:"unoffloaded,omitempty"`
	// Ports are the bridge's ports. They are observed only.
	Ports []string `json:"-"`
	// Held is what the host has on the bridge, and would have on the card
	// without it. There may be more.
	Held Held `json:"held"`
	// Client says that Viaduct itself is the DHCP client on the bridge: what there
	// is of IPv4 with an end is what Leased says, and nothing else.
	Client bool `json:"-"`
	Leased Held `json:"-"`
}

// UplinkKey names the uplink of a bridge.
func UplinkKey(bridge string) Key { return Key{KindUplink, bridge} }

// Key implements Object.
func (u Uplink) Key() Key { return UplinkKey(u.Bridge) }

// Text implements Object.
func (u Uplink) Text() string {
	var s strings.Builder
	fmt.Fprintf(&s, "uplink %s", u.Bridge)
	if u.NIC != "" {
		fmt.Fprintf(&s, " with %s mac %s", u.NIC, u.MAC)
	}
	if u.MTU != 0 {
		fmt.Fprintf(&s, " mtu %d", u.MTU)
	}
	if u.Unoffloaded {
		s.WriteString(" tx-checksum off")
	}
	for _, h := range []Held{u.Held, u.Leased} {
		for _, a := range h.Addresses {
			fmt.Fprintf(&s, ", address %s", a.Prefix)
		}
		for _, r := range h.Routes {
			fmt.Fprintf(&s, ", route %s", r)
		}
	}
	return s.String()
}

// Held is what a host has on a link: its addresses, the routes that lead over
// it, and how the kernel treats it.
type Held struct {
	Addresses []HeldAddress `json:"addresses,omitempty"`
	Routes    []HeldRoute   `json:"routes,omitempty"`
	// Rules are the routing rules that name the link, Neighbours those that
	// somebody has told the kernel for good.
	Rules      []HeldRule      `json:"rules,omitempty"`
	Neighbours []HeldNeighbour `json:"neighbours,omitempty"`
	// Settings are those below /proc/sys/net of the link, by names such as
	// "ipv6 accept_ra", and of the card itself "card tx-checksum".
	Settings map[string]string `json:"settings,omitempty"`
}

// HeldRule is a routing rule for what comes in by a link or goes out by it, in the
// kernel's own words without the link's name.
type HeldRule struct {
	Header     []byte `json:"header"`     // struct fib_rule_hdr
	Attributes []byte `json:"attributes"` // FRA_*, but for those below
	In         bool   `json:"in,omitempty"`
	Out        bool   `json:"out,omitempty"`
}

// HeldNeighbour is a neighbour whose Ethernet address is known for good.
type HeldNeighbour struct {
	Addr netip.Addr `json:"addr"`
	MAC  MAC        `json:"mac"`
}

// HeldAddress is an address with all that the kernel knows of it.
type HeldAddress struct {
	Prefix    netip.Prefix `json:"prefix"` // not masked
	Peer      netip.Addr   `json:"peer,omitzero"`
	Broadcast netip.Addr   `json:"broadcast,omitzero"`
	// Label is what follows the link's name in the address's label, such as
	// ":1"; or else all of the label.
	Label string `json:"label,omitempty"`
	Scope uint8  `json:"scope,omitempty"`
	// Metric is that of the route to the address's subnet.
	Metric uint32 `json:"metric,omitempty"`
	Flags  uint32 `json:"flags,omitempty"` // IFA_F_*
	Proto  uint8  `json:"proto,omitempty"` // IFA_PROTO
	// Preferred and Valid are until when the address is; zero means for ever.
	Preferred time.Time `json:"preferred,omitzero"`
	Valid     time.Time `json:"valid,omitzero"`
}

// Lasting reports whether the address has no end.
func (a HeldAddress) Lasting() bool { return a.Valid.IsZero() }

// HeldRoute is a route with all that the kernel knows of it.
type HeldRoute struct {
	Dst      netip.Prefix `json:"dst"`
	From     netip.Prefix `json:"from,omitzero"`
	Table    uint32       `json:"table"`
	Protocol uint8        `json:"protocol"`
	Scope    uint8        `json:"scope,omitempty"`
	Type     uint8        `json:"type"`
	TOS      uint8        `json:"tos,omitempty"`
	Metric   uint32       `json:"metric,omitempty"`
	Source   netip.Addr   `json:"source,omitzero"`
	Pref     uint8        `json:"pref,omitempty"`
	// Metrics are RTAX_* by number, such as an MTU.
	Metrics map[uint16]uint32 `json:"metrics,omitempty"`
	// Hops has one for most routes, several for one that spreads its packets.
	Hops []Hop `json:"hops"`
	// Until is when the route ends; zero means never.
	Until time.Time `json:"until,omitzero"`
}

// Hop is one way that a route takes.
type Hop struct {
	// Link is "" for the link that the route was found on.
	Link  string     `json:"link,omitempty"`
	Via   netip.Addr `json:"via,omitzero"` // invalid where the destination is on the link
	Flags uint8      `json:"flags,omitempty"`
	// Weight is one less than the hop's share.
	Weight uint8 `json:"weight,omitempty"`
}

func (r HeldRoute) String() string {
	s := r.Dst.String()
	for _, h := range r.Hops {
		if h.Via.IsValid() {
			s += " via " + h.Via.String()
		}
	}
	if r.Metric != 0 {
		s += fmt.Sprintf(" metric %d", r.Metric)
	}
	if r.Table != mainTable {
		s += fmt.Sprintf(" table %d", r.Table)
	}
	return s
}

// mainTable is the routing table that is meant where none is named (RT_TABLE_MAIN).
const mainTable = 254

// Gateways are the next hops of the default routes.
func (h Held) Gateways() []netip.Addr {
	var list []netip.Addr
	seen := map[netip.Addr]bool{}
	for _, r := range h.Routes {
		for _, hop := range r.Hops {
			if r.Dst.Bits() == 0 && hop.Via.IsValid() && hop.Link == "" && !seen[hop.Via] {
				seen[hop.Via] = true
				list = append(list, hop.Via)
			}
		}
	}
	return list
}
