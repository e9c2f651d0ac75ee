package host

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"viaduct/internal/hoststate"
)

// Numbers of linux/if_link.h that x/sys lacks.
const (
	ifinfoLen = 16 // sizeof(struct ifinfomsg)
	ifaddrLen = 8  // sizeof(struct ifaddrmsg)
	rtmsgLen  = 12 // sizeof(struct rtmsg)

	brForwardDelay = 1 // IFLA_BR_FORWARD_DELAY
	brHelloTime    = 2 // IFLA_BR_HELLO_TIME
	brMaxAge       = 3 // IFLA_BR_MAX_AGE
	brSTPState     = 5 // IFLA_BR_STP_STATE

	tunOwner = 1 // IFLA_TUN_OWNER

	extSkipStats = 1 << 3 // RTEXT_FILTER_SKIP_STATS
)

var errShort = errors.New("netlink message is too short")

// link is what the mirror keeps of a network device.
type link struct {
	index  int
	name   string
	kind   string
	alias  string
	group  uint32
	mac    hoststate.MAC
	mtu    int
	master int // index of the bridge it is a port of; 0 for none
	up     bool
	// Of a bridge only:
	stp          bool
	forwardDelay int // hundredths of a second, as the next two
	helloTime    int
	maxAge       int
	filters      bool // by VLAN
	// knowsVLANs says that the kernel could filter by VLAN, and pvid is the VLAN
	// that ports are in when they join.
	knowsVLANs bool
	pvid       uint16
	// Of a port of a bridge only: how that treats it, and which VLANs it is in,
	// a list of struct bridge_vlan_info as the kernel tells it.
	flags portFlags
	vlans string
	// Of a tap only: the user who may attach to it.
	owner uint32
	// Of a macvtap only: the index of the device that it is on, and how it
	// shares that (MACVLAN_MODE_*).
	device, mode uint32
}

// decodeLink reads an RTM_NEWLINK or RTM_DELLINK. It reports false for one
// that does not describe the link itself: bridges announce the state of their
// ports under AF_BRIDGE, wireless drivers send events, and both carry a few
// attributes only.
func decodeLink(b []byte) (link, bool, error) {
	if len(b) < ifinfoLen {
		return link{}, false, errShort
	}
	if b[0] != unix.AF_UNSPEC {
		return link{}, false, nil
	}
	l := link{
		index: int(int32(binary.NativeEndian.Uint32(b[4:]))),
		up:    binary.NativeEndian.Uint32(b[8:])&unix.IFF_UP != 0,
	}
	d, err := netlink.NewAttributeDecoder(b[ifinfoLen:])
	if err != nil {
		return link{}, false, err
	}
	whole := true
	for d.Next() {
		switch d.Type() {
		case unix.IFLA_IFNAME:
			l.name = d.String()
		case unix.IFLA_IFALIAS:
			l.alias = d.String()
		case unix.IFLA_GROUP:
			l.group = d.Uint32()
		case unix.IFLA_ADDRESS:
			if len(d.Bytes()) == len(l.mac) {
				copy(l.mac[:], d.Bytes())
			}
		case unix.IFLA_MTU:
			l.mtu = int(d.Uint32())
		case unix.IFLA_MASTER:
			l.master = int(d.Uint32())
		case unix.IFLA_LINK:
			l.device = d.Uint32()
		case unix.IFLA_WIRELESS:
			whole = false
		case unix.IFLA_LINKINFO:
			d.Nested(l.decodeInfo)
		}
	}
	if l.kind != kindMacvtap {
		l.device = 0
	}
	return l, whole && l.name != "", d.Err()
}

// decodeInfo reads IFLA_LINKINFO. Kinds come before the data.
func (l *link) decodeInfo(d *netlink.AttributeDecoder) error {
	master := ""
	for d.Next() {
		switch d.Type() {
		case unix.IFLA_INFO_KIND:
			l.kind = d.String()
		case unix.IFLA_INFO_DATA:
			switch l.kind {
			case kindBridge:
				d.Nested(l.decodeBridge)
			case kindTap:
				d.Nested(l.decodeTap)
			case kindMacvtap:
				d.Nested(l.decodeMacvtap)
			}
		case infoSlaveKind:
			master = d.String()
		case infoSlaveData:
			if master == kindBridge {
				d.Nested(l.flags.decode)
			}
		}
	}
	return nil
}

func (l *link) decodeBridge(d *netlink.AttributeDecoder) error {
	for d.Next() {
		switch d.Type() {
		case brForwardDelay:
			l.forwardDelay = int(d.Uint32())
		case brHelloTime:
			l.helloTime = int(d.Uint32())
		case brMaxAge:
			l.maxAge = int(d.Uint32())
		case brSTPState:
			l.stp = d.Uint32() != 0
		case brVLANFiltering:
			l.filters = d.Uint8() != 0
		case brDefaultPVID:
			l.knowsVLANs, l.pvid = true, d.Uint16()
		}
	}
	return nil
}

func (l *link) decodeTap(d *netlink.AttributeDecoder) error {
	for d.Next() {
		if d.Type() == tunOwner {
			l.owner = d.Uint32()
		}
	}
	return nil
}

// address is an address of a link. Peer is the other end's on a point-to-point
// link, where the prefix length is the peer's.
type address struct {
	index  int
	prefix netip.Prefix
	peer   netip.Addr
}

// decodeAddress reads an RTM_NEWADDR or RTM_DELADDR.
func decodeAddress(b []byte) (address, error) {
	if len(b) < ifaddrLen {
		return address{}, errShort
	}
	a := address{index: int(binary.NativeEndian.Uint32(b[4:]))}
	d, err := netlink.NewAttributeDecoder(b[ifaddrLen:])
	if err != nil {
		return address{}, err
	}
	var local, addr netip.Addr
	for d.Next() {
		switch d.Type() {
		case unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(d.Bytes())
		case unix.IFA_ADDRESS:
			addr, _ = netip.AddrFromSlice(d.Bytes())
		}
	}
	switch {
	case !local.IsValid(): // IPv6 without a peer
		local = addr
	case addr.IsValid() && addr != local:
		a.peer = addr
	}
	a.prefix = netip.PrefixFrom(local, int(b[1]))
	if !a.prefix.IsValid() {
		return address{}, errors.New("netlink message has no valid address")
	}
	return a, d.Err()
}

// routeID is what tells a route from all others. A route over several links
// appears once for each.
type routeID struct {
	table  uint32
	dst    netip.Prefix
	tos    uint8
	metric uint32
	index  int // of the outgoing link
}

// routeInfo is the rest of a route.
type routeInfo struct {
	via      netip.Addr
	source   netip.Addr // the preferred source; the route goes when that address does
	protocol uint8
}

// decodeRoute reads an RTM_NEWROUTE or RTM_DELROUTE. There is no route in it
// if it is a cache entry or leads to no link.
func decodeRoute(b []byte) (ids []routeID, info routeInfo, err error) {
	if len(b) < rtmsgLen {
		return nil, info, errShort
	}
	if binary.NativeEndian.Uint32(b[8:])&unix.RTM_F_CLONED != 0 || b[7] != unix.RTN_UNICAST {
		return nil, info, nil
	}
	info.protocol = b[5]
	id := routeID{table: uint32(b[4]), tos: b[3]}
	dst := netip.IPv4Unspecified()
	if b[0] == unix.AF_INET6 {
		dst = netip.IPv6Unspecified()
	}
	d, err := netlink.NewAttributeDecoder(b[rtmsgLen:])
	if err != nil {
		return nil, info, err
	}
	var links []int
	for d.Next() {
		switch d.Type() {
		case unix.RTA_DST:
			dst, _ = netip.AddrFromSlice(d.Bytes())
		case unix.RTA_TABLE:
			id.table = d.Uint32()
		case unix.RTA_PRIORITY:
			id.metric = d.Uint32()
		case unix.RTA_GATEWAY:
			info.via, _ = netip.AddrFromSlice(d.Bytes())
		case unix.RTA_PREFSRC:
			info.source, _ = netip.AddrFromSlice(d.Bytes())
		case unix.RTA_OIF:
			links = append(links, int(d.Uint32()))
		case unix.RTA_MULTIPATH:
			links = append(links, decodeNexthops(d.Bytes())...)
		}
	}
	if id.dst = netip.PrefixFrom(dst, int(b[1])); !id.dst.IsValid() {
		return nil, info, errors.New("netlink message has no valid destination")
	}
	for _, index := range links {
		id.index = index
		ids = append(ids, id)
	}
	return ids, info, d.Err()
}

// decodeNexthops returns the links of the nexthops in RTA_MULTIPATH, a list of
// struct rtnexthop with attributes.
func decodeNexthops(b []byte) []int {
	var links []int
	for len(b) >= unix.SizeofRtNexthop {
		n := int(binary.NativeEndian.Uint16(b))
		if n < unix.SizeofRtNexthop || n > len(b) {
			return links
		}
		links = append(links, int(int32(binary.NativeEndian.Uint32(b[4:]))))
		b = b[min((n+3)&^3, len(b)):]
	}
	return links
}
