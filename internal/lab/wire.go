package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// WireOptions shape a cable between two nodes. Zero values leave the choice to
// the kernel.
type WireOptions struct {
	MACA, MACB net.HardwareAddr
	MTU        int
}

// Connect lays a cable: a veth pair with one end in each node, both up.
func (l *Lab) Connect(a *Node, ifA string, b *Node, ifB string, o WireOptions) {
	l.t.Helper()
	l.check(a.wire(ifA, b, ifB, o))
	a.LinkUp(ifA)
	b.LinkUp(ifB)
}

func (n *Node) wire(ifA string, b *Node, ifB string, o WireOptions) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr, attrs.MTU = ifA, o.MACA, o.MTU
	err := n.nl.LinkAdd(&netlink.Veth{
		LinkAttrs:        attrs,
		PeerName:         ifB,
		PeerHardwareAddr: o.MACB,
		PeerMTU:          uint32(o.MTU),
		PeerNamespace:    netlink.NsFd(b.netnsFd()),
	})
	if err != nil {
		return fmt.Errorf("connect %s of %s to %s of %s: %w", ifA, n.Name, ifB, b.Name, err)
	}
	return nil
}

// withLink does something to a link of the node and names both in errors.
func (n *Node) withLink(verb, name string, do func(netlink.Link) error) {
	n.lab.t.Helper()
	link, err := n.nl.LinkByName(name)
	if err == nil {
		err = do(link)
	}
	if err != nil {
		n.lab.t.Fatalf("lab: %s %s of node %s: %v", verb, name, n.Name, err)
	}
}

// LinkUp switches a link on.
func (n *Node) LinkUp(name string) {
	n.lab.t.Helper()
	n.withLink("switch on", name, n.nl.LinkSetUp)
}

// LinkDown switches a link off.
func (n *Node) LinkDown(name string) {
	n.lab.t.Helper()
	n.withLink("switch off", name, n.nl.LinkSetDown)
}

// DeleteLink removes a link; of a cable both ends.
func (n *Node) DeleteLink(name string) {
	n.lab.t.Helper()
	n.withLink("delete", name, n.nl.LinkDel)
}

// HasLink tells whether the node has a link of that name.
func (n *Node) HasLink(name string) bool {
	n.lab.t.Helper()
	_, err := n.nl.LinkByName(name)
	var notFound netlink.LinkNotFoundError
	if !errors.As(err, &notFound) {
		n.lab.check(err)
	}
	return err == nil
}

// MAC is the hardware address of a link.
func (n *Node) MAC(name string) net.HardwareAddr {
	n.lab.t.Helper()
	var mac net.HardwareAddr
	n.withLink("look at", name, func(l netlink.Link) error {
		mac = l.Attrs().HardwareAddr
		return nil
	})
	return mac
}

// SetMTU sets a link's MTU in bytes.
func (n *Node) SetMTU(name string, mtu int) {
	n.lab.t.Helper()
	n.withLink("set MTU of", name, func(l netlink.Link) error { return n.nl.LinkSetMTU(l, mtu) })
}

// SetMaster makes a link a port of a bridge; an empty name frees it.
func (n *Node) SetMaster(name, bridge string) {
	n.lab.t.Helper()
	n.withLink("plug", name, func(l netlink.Link) error {
		if bridge == "" {
			return n.nl.LinkSetNoMaster(l)
		}
		master, err := n.nl.LinkByName(bridge)
		if err != nil {
			return fmt.Errorf("bridge %s: %w", bridge, err)
		}
		return n.nl.LinkSetMaster(l, master)
	})
}

// Master is the bridge that a link is a port of, "" for none.
func (n *Node) Master(name string) string {
	n.lab.t.Helper()
	var master string
	n.withLink("look at", name, func(l netlink.Link) error {
		if l.Attrs().MasterIndex == 0 {
			return nil
		}
		bridge, err := n.nl.LinkByIndex(l.Attrs().MasterIndex)
		if err == nil {
			master = bridge.Attrs().Name
		}
		return err
	})
	return master
}

// AddBridge makes a plain kernel bridge and switches it on.
func (n *Node) AddBridge(name string) {
	n.lab.t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	n.lab.check(n.nl.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
	n.LinkUp(name)
}

// AddAddr gives a link addresses, usable at once (IPv6 without a search for
// duplicates).
func (n *Node) AddAddr(name string, prefixes ...netip.Prefix) {
	n.lab.t.Helper()
	n.withLink("address", name, func(l netlink.Link) error {
		for _, p := range prefixes {
			addr := &netlink.Addr{IPNet: ipNet(p)}
			if p.Addr().Is6() {
				addr.Flags = unix.IFA_F_NODAD
			}
			if err := n.nl.AddrAdd(l, addr); err != nil {
				return fmt.Errorf("add %s: %w", p, err)
			}
		}
		return nil
	})
}

// DeleteAddr takes an address from a link.
func (n *Node) DeleteAddr(name string, p netip.Prefix) {
	n.lab.t.Helper()
	n.withLink("take address from", name, func(l netlink.Link) error {
		return n.nl.AddrDel(l, &netlink.Addr{IPNet: ipNet(p)})
	})
}

// Addrs are the addresses of a link.
func (n *Node) Addrs(name string) []netip.Prefix {
	n.lab.t.Helper()
	var prefixes []netip.Prefix
	n.withLink("list addresses of", name, func(l netlink.Link) error {
		addrs, err := retryDump(func() ([]netlink.Addr, error) { return n.nl.AddrList(l, netlink.FAMILY_ALL) })
		for _, a := range addrs {
			prefixes = append(prefixes, toPrefix(a.IPNet))
		}
		return err
	})
	return prefixes
}

// AddRoute sends a prefix by way of a gateway; use 0.0.0.0/0 and ::/0 for the
// default routes.
func (n *Node) AddRoute(to netip.Prefix, via netip.Addr) {
	n.lab.t.Helper()
	err := n.nl.RouteReplace(&netlink.Route{Dst: ipNet(to), Gw: via.AsSlice()})
	if err != nil {
		n.lab.t.Fatalf("lab: route %s by %s in node %s: %v", to, via, n.Name, err)
	}
}

// SetSysctl writes a kernel setting of the node's network, such as
// "net.ipv4.ip_forward". In names with a dot of their own (eth0.5) write a
// slash for the other dots.
func (n *Node) SetSysctl(key, value string) {
	n.lab.t.Helper()
	n.lab.check(n.Do(func() error { return os.WriteFile(sysctlPath(key), []byte(value), 0) }))
}

// Sysctl reads a kernel setting of the node's network.
func (n *Node) Sysctl(key string) string {
	n.lab.t.Helper()
	value, err := n.ReadFile(sysctlPath(key))
	n.lab.check(err)
	return strings.TrimSpace(value)
}

func sysctlPath(key string) string {
	if !strings.Contains(key, "/") {
		key = strings.ReplaceAll(key, ".", "/")
	}
	return filepath.Join("/proc/sys", key)
}

// OpenTap makes a tap device, which lives until the file is closed or the
// node ends. Each Read and Write is one Ethernet frame without any header.
func (n *Node) OpenTap(name string) *os.File {
	n.lab.t.Helper()
	var tap *os.File
	n.lab.check(n.Do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return fmt.Errorf("open tap: %w", err)
		}
		req, err := unix.NewIfreq(name)
		if err == nil {
			req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
		}
		if err != nil {
			unix.Close(fd)
			return fmt.Errorf("make tap %s: %w", name, err)
		}
		tap = os.NewFile(uintptr(fd), name)
		return nil
	}))
	n.atEnd(func() { tap.Close() })
	return tap
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func toPrefix(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	addr, _ := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), bits)
}

// retryDump repeats a listing that a change interrupted: its result may lack
// objects.
func retryDump[T any](list func() (T, error)) (T, error) {
	const attempts = 10
	for i := 1; ; i++ {
		got, err := list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) && !errors.Is(err, unix.EINTR) || i == attempts {
			return got, err
		}
	}
}
