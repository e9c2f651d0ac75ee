package hoststate

import (
	"fmt"
	"net/netip"
	"strings"
)

// MAC is an Ethernet address. The zero value means "not given".
type MAC [6]byte

func (m MAC) String() string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// MarshalText implements encoding.TextMarshaler.
func (m MAC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (m *MAC) UnmarshalText(text []byte) error {
	var read MAC
	if _, err := fmt.Sscanf(string(text), "%02x:%02x:%02x:%02x:%02x:%02x", &read[0], &read[1], &read[2], &read[3], &read[4], &read[5]); err != nil {
		return fmt.Errorf("read MAC address %q: %w", text, err)
	}
	*m = read
	return nil
}

// Number is the address as a number, for Is.
func (m MAC) Number() uint64 {
	var n uint64
	for _, b := range m {
		n = n<<8 | uint64(b)
	}
	return n
}

// macOf is the inverse of MAC.Number.
func macOf(n uint64) (m MAC) {
	for i := range m {
		m[i] = byte(n >> (8 * (len(m) - 1 - i)))
	}
	return m
}

// Bridge is a bridge link that Viaduct makes and owns.
type Bridge struct {
	Name string
	// Alias marks the link as ours (IFLA_IFALIAS); an observed bridge without it is not.
	Alias string
	MAC   MAC
	// MTU in bytes; 0 leaves the kernel's default, which follows the ports.
	MTU int
	// PortMTU is the smallest MTU of the ports, 0 without any. It is observed only.
	PortMTU int
	// STP is whether the kernel runs the spanning tree protocol on the bridge.
	STP bool
	// ForwardDelay in hundredths of a second; only meaningful with STP.
	ForwardDelay int
	// HelloTime and MaxAge are the protocol's other times, in hundredths of a
	// second; 0 for those that the kernel has by itself.
	HelloTime, MaxAge int
	// VLANs says that the bridge keeps the VLANs of its ports apart.
	VLANs bool
	// Rename says that a bridge of another name with the same alias becomes this
	// one, with all that it has. It is wanted only, never observed.
	Rename bool
}

// BridgeKey names the bridge link called name.
func BridgeKey(name string) Key { return Key{KindBridge, name} }

// Key implements Object.
func (b Bridge) Key() Key { return BridgeKey(b.Name) }

// Text implements Object.
func (b Bridge) Text() string {
	var s strings.Builder
	fmt.Fprintf(&s, "bridge %s mac %s", b.Name, b.MAC)
	if b.MTU != 0 {
		fmt.Fprintf(&s, " mtu %d", b.MTU)
	}
	if b.STP {
		fmt.Fprintf(&s, " stp on delay %d.%02ds", b.ForwardDelay/100, b.ForwardDelay%100)
	} else {
		s.WriteString(" stp off")
	}
	if b.HelloTime != 0 {
		fmt.Fprintf(&s, " hello %d.%02ds", b.HelloTime/100, b.HelloTime%100)
	}
	if b.MaxAge != 0 {
		fmt.Fprintf(&s, " max age %d.%02ds", b.MaxAge/100, b.MaxAge%100)
	}
	if b.VLANs {
		s.WriteString(" vlans on")
	}
	return s.String()
}

// Claim is a bridge that somebody else made and that is ours from now on. Its
// removal leaves the bridge to whoever wants it.
type Claim struct {
	Bridge string
	// Alias marks the link as ours from then on, see Bridge.
	Alias string
}

// Key implements Object.
func (c Claim) Key() Key { return Key{KindClaim, c.Bridge} }

// Text implements Object.
func (c Claim) Text() string { return "take over bridge " + c.Bridge }

// Address is an address with its prefix length on a link.
type Address struct {
	Link   string
	Prefix netip.Prefix // not masked: 192.168.122.1/24
}

// Key implements Object.
func (a Address) Key() Key { return Key{KindAddress, a.Link + " " + a.Prefix.String()} }

// Text implements Object.
func (a Address) Text() string { return fmt.Sprintf("address %s on %s", a.Prefix, a.Link) }

// Container implements Contained.
func (a Address) Container() Key { return BridgeKey(a.Link) }

// LinkUp is a link being administratively up. Its removal takes the link down,
// which cuts the guests off at once.
type LinkUp struct{ Link string }

// Key implements Object.
func (u LinkUp) Key() Key { return Key{KindLinkUp, u.Link} }

// Text implements Object.
func (u LinkUp) Text() string { return "up " + u.Link }

// Container implements Contained.
func (u LinkUp) Container() Key { return BridgeKey(u.Link) }

// LinkMTU is the MTU of a link that somebody else made, in bytes. It is not
// undone when it is no longer wanted: nobody knows what it was for.
type LinkMTU struct {
	Link string
	MTU  int
}

// MTUKey names the MTU of a link.
func MTUKey(link string) Key { return Key{KindMTU, link} }

// Key implements Object.
func (m LinkMTU) Key() Key { return MTUKey(m.Link) }

// Text implements Object.
func (m LinkMTU) Text() string { return fmt.Sprintf("mtu %d of %s", m.MTU, m.Link) }

// Container implements Contained.
func (m LinkMTU) Container() Key { return BridgeKey(m.Link) }

// Route is a route through a link, in the main table.
type Route struct {
	Dst    netip.Prefix // masked
	Via    netip.Addr   // next hop; invalid for a directly connected one
	Link   string
	Metric int // 0: the kernel's default
}

// Key implements Object.
func (r Route) Key() Key {
	return Key{KindRoute, fmt.Sprintf("%s metric %d on %s", r.Dst, r.Metric, r.Link)}
}

// Text implements Object.
func (r Route) Text() string {
	s := "route " + r.Dst.String()
	if r.Via.IsValid() {
		s += " via " + r.Via.String()
	}
	s += " dev " + r.Link
	if r.Metric != 0 {
		s += fmt.Sprintf(" metric %d", r.Metric)
	}
	return s
}

// Container implements Contained.
func (r Route) Container() Key { return BridgeKey(r.Link) }

// Sysctl is a kernel setting. Name is the path below /proc/sys with slashes,
// so that link names containing dots stay unambiguous.
type Sysctl struct {
	Name  string // "net/ipv4/ip_forward"
	Value string
	// Link is the link the setting belongs to and vanishes with; "" for a setting of the host.
	Link string
}

// SysctlKey names the setting at path name below /proc/sys.
func SysctlKey(name string) Key { return Key{KindSysctl, name} }

// Key implements Object.
func (s Sysctl) Key() Key { return SysctlKey(s.Name) }

// Text implements Object.
func (s Sysctl) Text() string { return fmt.Sprintf("sysctl %s = %s", s.Name, s.Value) }

// Container implements Contained; the zero Key for a setting of the host.
func (s Sysctl) Container() Key {
	if s.Link == "" {
		return Key{}
	}
	return BridgeKey(s.Link)
}

// Member is a link being a port of a bridge.
type Member struct {
	Link   string
	Bridge string
	// MAC is the port's own address, which no frame of its guest's carries.
	// Wanted as zero it is left as it is.
	MAC MAC
}

// MemberKey names the membership of a link in a bridge. A link that is in
// another bridge is another object: we never take a link out of a bridge that
// is not ours.
func MemberKey(link, bridge string) Key { return Key{KindMember, link + " " + bridge} }

// Key implements Object.
func (m Member) Key() Key { return MemberKey(m.Link, m.Bridge) }

// Text implements Object.
func (m Member) Text() string {
	s := fmt.Sprintf("port %s of bridge %s", m.Link, m.Bridge)
	if m.MAC != (MAC{}) {
		s += " mac " + m.MAC.String()
	}
	return s
}

// Container implements Contained.
func (m Member) Container() Key { return BridgeKey(m.Bridge) }

// Proxy is a link answering neighbours who look for an address that is
// elsewhere (ARP, and neighbour discovery where the link's proxy_ndp is set).
type Proxy struct {
	Link string
	Addr netip.Addr
}

// Key implements Object.
func (p Proxy) Key() Key { return Key{KindProxy, p.Link + " " + p.Addr.String()} }

// Text implements Object.
func (p Proxy) Text() string { return fmt.Sprintf("answer for %s on %s", p.Addr, p.Link) }

// Container implements Contained.
func (p Proxy) Container() Key { return BridgeKey(p.Link) }

// Service is something that Viaduct itself runs for a network while the
// network is active: a DHCP server, a DNS server.
type Service struct {
	// Type is the sort of service: "dhcp4", "dns".
	Type string
	// Network is the UUID of the network it serves, in text form.
	Network string
	// Link is the one link it serves; "" if it serves all of the network.
	Link string
	// Config is the service's own configuration type, a plain value. Two
	// services are equal when their configurations are (reflect.DeepEqual).
	Config fmt.Stringer
}

// ServiceKey names the service of the given type of a network.
func ServiceKey(typ, network string) Key { return Key{KindService, typ + " " + network} }

// Key implements Object.
func (s Service) Key() Key {
	k := ServiceKey(s.Type, s.Network)
	if s.Link != "" {
		k.Name += " " + s.Link
	}
	return k
}

// Text implements Object.
func (s Service) Text() string { return "service " + s.Type + " " + s.Config.String() }
