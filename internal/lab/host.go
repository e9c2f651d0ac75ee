package lab

import (
	"fmt"
	"net"
	"net/netip"
)

// Host is a VM host with an uplink, and the LAN it leads to.
type Host struct {
	*Node
	// Outside is the machine at the other end of the uplink.
	Outside *Outside
	// Addr and Addr6 are the host's own addresses on its uplink, eth0.
	Addr, Addr6 netip.Addr
}

// Outside stands for the LAN and the world. It serves echo and who (see
// ServeEcho and ServeWho) on its addresses.
type Outside struct {
	*Node
	Addr, Addr6 netip.Addr
}

// HostOptions says what a host's uplink looks like. The zero value is a host
// at 203.0.113.2/24 and 2001:db8:113::2/64 with the outside at .1 and ::1.
type HostOptions struct {
	Name    string         // default "host"
	Uplink  []netip.Prefix // the host's addresses on eth0
	Outside []netip.Prefix // the outside's; the first of each family is the host's default gateway
}

func (o HostOptions) withDefaults() HostOptions {
	if o.Name == "" {
		o.Name = "host"
	}
	if o.Uplink == nil {
		o.Uplink = []netip.Prefix{netip.MustParsePrefix("203.0.113.2/24"), netip.MustParsePrefix("2001:db8:113::2/64")}
	}
	if o.Outside == nil {
		o.Outside = []netip.Prefix{netip.MustParsePrefix("203.0.113.1/24"), netip.MustParsePrefix("2001:db8:113::1/64")}
	}
	return o
}

// NewHost adds a host and its outside, connected and addressed. Forwarding is
// as on a fresh machine: off.
func (l *Lab) NewHost(o HostOptions) *Host {
	l.t.Helper()
	o = o.withDefaults()
	h := &Host{Node: l.Node(o.Name), Outside: &Outside{Node: l.Node(o.Name + "-outside")}}
	l.Connect(h.Node, "eth0", h.Outside.Node, "eth0", WireOptions{})
	h.AddAddr("eth0", o.Uplink...)
	h.Outside.AddAddr("eth0", o.Outside...)
	h.Addr, h.Addr6 = firstOfFamilies(o.Uplink)
	h.Outside.Addr, h.Outside.Addr6 = firstOfFamilies(o.Outside)
	if h.Outside.Addr.IsValid() {
		h.AddRoute(netip.PrefixFrom(netip.IPv4Unspecified(), 0), h.Outside.Addr)
	}
	if h.Outside.Addr6.IsValid() {
		h.AddRoute(netip.PrefixFrom(netip.IPv6Unspecified(), 0), h.Outside.Addr6)
	}
	h.Outside.ServeEcho(PortEcho)
	h.Outside.ServeWho(PortWho)
	return h
}

func firstOfFamilies(prefixes []netip.Prefix) (v4, v6 netip.Addr) {
	for _, p := range prefixes {
		switch addr := p.Addr(); {
		case addr.Is4() && !v4.IsValid():
			v4 = addr
		case addr.Is6() && !v6.IsValid():
			v6 = addr
		}
	}
	return v4, v6
}

// Guest is a node that plays a virtual machine: it has eth0, whose other end
// is a port of a host's bridge.
type Guest struct {
	*Node
	// MAC is eth0's address, also after the guest is unplugged.
	MAC net.HardwareAddr

	mtu    int
	host   *Node  // where it is plugged in; nil if nowhere
	port   string // the host's end
	client dhcpSession
}

// GuestOptions describe a guest that is not plugged in yet.
type GuestOptions struct {
	Name string           // its host name; default "guestN"
	MAC  net.HardwareAddr // default 52:54:00:00:00:N, counted per lab
	MTU  int              // of its eth0 in bytes; default the kernel's
}

// NewGuest adds a guest without a network.
func (l *Lab) NewGuest(o GuestOptions) *Guest {
	l.t.Helper()
	l.mu.Lock()
	l.guests++
	number := l.guests
	l.mu.Unlock()
	if o.Name == "" {
		o.Name = fmt.Sprintf("guest%d", number)
	}
	if o.MAC == nil {
		o.MAC = net.HardwareAddr{0x52, 0x54, 0, byte(number >> 16), byte(number >> 8), byte(number)}
	}
	return &Guest{Node: l.node(o.Name, sysReadOnly), MAC: o.MAC, mtu: o.MTU}
}

// PlugGuest adds a guest, called name, and plugs it into a bridge of the host.
// The host's end of the cable gets the same name, such as "vnet0".
func (l *Lab) PlugGuest(host *Node, bridge, name string) *Guest {
	l.t.Helper()
	g := l.NewGuest(GuestOptions{Name: name})
	g.Plug(host, bridge, name)
	return g
}

// Plug connects the guest's eth0 to a bridge of the host by a port of the given
// name, as a hypervisor does: the port's MAC is the guest's with fe in front, so
// high that a bridge prefers any other for its own.
func (g *Guest) Plug(host *Node, bridge, port string) {
	g.lab.t.Helper()
	portMAC := append(net.HardwareAddr{0xfe}, g.MAC[1:]...)
	g.lab.check(host.wire(port, g.Node, "eth0", WireOptions{MACA: portMAC, MACB: g.MAC, MTU: g.mtu}))
	g.host, g.port = host, port
	if bridge != "" {
		host.SetMaster(port, bridge)
	}
	host.LinkUp(port)
	g.LinkUp("eth0")
}

// Unplug removes the cable, and with it eth0 of the guest.
func (g *Guest) Unplug() {
	g.lab.t.Helper()
	if g.host == nil {
		return
	}
	g.host.DeleteLink(g.port)
	g.host = nil
}
