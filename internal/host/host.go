// Package host is the kernel's edge. It observes what a host has, compares it
// with what is wanted and carries out the difference. Nothing else in Viaduct
// talks netlink or changes the host.
package host

import (
	"context"
	"net/netip"
	"os"

	"viaduct/internal/hoststate"
	"viaduct/internal/netdef"
)

// Host is a host whose network can be observed and changed. The kernel's own
// is made by Open; Fake is one in memory.
type Host interface {
	Cards
	// Observe returns those of the named objects that exist, as they are now.
	// It answers from a mirror that notifications keep current, and reads
	// only sysctls afresh.
	Observe(keys []hoststate.Key) hoststate.State
	// Owned returns all that is recognisable as made by Viaduct: bridges by
	// their alias, routes by their protocol, the contents of our nftables
	// tables, running services.
	Owned() hoststate.State
	// Apply carries out the operations in the order given. If one fails it
	// undoes those before it and returns an *OpError.
	Apply(ctx context.Context, ops []hoststate.Op) error
	// Inventory lists what the host has, ours or not, to avoid collisions.
	Inventory() Inventory
	// Overlapping returns those addresses and routes of the inventory that have
	// addresses in common with one of the prefixes, at a fraction of its cost,
	// and the gateways of routes that are in one.
	Overlapping(prefixes ...netip.Prefix) []LinkPrefix
	// Link returns the link of that name, ours or not.
	Link(name string) (Link, bool)
	// Ports returns the links that are ports of the bridge, sorted by name, at
	// a cost that does not depend on how many other links there are.
	Ports(bridge string) []Link
	// Counters reads from the kernel what went over the link.
	Counters(link string) (Counters, error)
	// Dropped reads from the kernel what the rules of the chains have dropped
	// and counted since they were written, by their reasons. A chain that does
	// not exist has dropped nothing.
	Dropped(chains ...hoststate.Chain) (Drops, error)
	// FiltersVLANs reports whether bridges of this kernel can keep VLANs apart.
	FiltersVLANs() bool
	// OpenTap makes a tap that lasts as long as somebody has the file open, and
	// returns its name. Its MTU is in bytes; with vnetHeader its frames have
	// virtio's headers.
	OpenTap(mtu int, vnetHeader bool) (f *os.File, name string, err error)
	// VirtualFunctions lists the virtual functions of a network device with
	// SR-IOV, in the device's order; none of any other device.
	VirtualFunctions(device string) ([]VF, error)
	// IsVF reports whether a PCI device is a virtual function.
	IsVF(address netdef.PCIAddress) bool
	// Rename gives a link another name. The link is down afterwards.
	Rename(link, name string) error
	// Uplinks returns the links that may lead out, sorted by name: those that
	// are neither ports of a bridge, nor loopback, nor ours.
	Uplinks() []Uplink
	// Outward returns the host's own address of each family, as far as there is
	// one, by which routers outside reach it: on the named link, or on that of
	// its default route if dev is "". That link is "" if there is none.
	Outward(dev string) (link string, own []netip.Addr)
	// Passes lists the foreign chains in which marked packets have to be let
	// through, whether they are already or not.
	Passes() []hoststate.Pass
	// Blockers names foreign chains that may drop what our tables accept and
	// that no pass helps against, such as "inet firewalld filter_INPUT".
	Blockers() []string
	// Collected returns what packets have put into a dynamic set, which no
	// mirror holds: it asks the kernel.
	Collected(set hoststate.Set) ([]hoststate.Element, error)
	// Events delivers the keys of objects that changed or vanished, by
	// whosever hand. Deliveries are merged, never dropped. An empty slice says
	// that everything may have changed.
	Events() <-chan []hoststate.Key
	// Close stops observing. The host keeps what it has.
	Close() error
}

// Applier knows how to observe and change some kinds of objects. Kernel
// objects have appliers in this package; in-process services bring their own.
type Applier interface {
	// Kinds lists the kinds it is responsible for.
	Kinds() []hoststate.Kind
	// Observe returns those of the named objects that exist.
	Observe(keys []hoststate.Key) hoststate.State
	// Owned returns the objects of its kinds that are ours.
	Owned() hoststate.State
	// Apply carries out one run of operations, all of its kinds. It either
	// does all or undoes what it did and returns an *OpError.
	Apply(ctx context.Context, ops []hoststate.Op) error
}

// OpError is an operation that the host refused.
type OpError = hoststate.OpError

// Inventory is what a host has, ours or not.
type Inventory struct {
	Links     []Link
	Addresses []LinkPrefix // every address with its prefix, not masked
	Routes    []LinkPrefix // every route of all tables but local and default routes, masked
}

// Link is a network device.
type Link struct {
	Index  int
	Name   string
	Kind   string // "bridge", "veth", "tun"; "" for a physical one
	Alias  string
	MAC    hoststate.MAC
	MTU    int
	Master string // the bridge it is a port of; "" for none
	Device string // the device that a macvtap is on; "" for others
	Up     bool
	// FiltersVLANs says that a bridge keeps VLANs apart.
	FiltersVLANs bool
}

// Uplink is a link that may lead out.
type Uplink struct {
	Name string
	// RA says that it has routes from router advertisements, which the kernel
	// drops when it starts to forward unless told to keep them.
	RA bool
}

// LinkPrefix is a prefix that belongs to a link.
type LinkPrefix struct {
	Link   string
	Prefix netip.Prefix
}
