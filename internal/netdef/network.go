// Package netdef is the language in which networks are described: networks,
// ports and leases as plain values, libvirt's XML form of them, the rules
// they must keep, and the errors that name what breaks a rule.
package netdef

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Network is a virtual network as its definition says, in the terms of
// libvirt's network XML (docs/formatnetwork.rst there). It is a value: who
// changes one, changes a Clone.
type Network struct {
	Name  string
	UUID  UUID
	Title string
	// Description is free text, possibly of several lines.
	Description string
	// Metadata holds the children of <metadata>, verbatim; nil if there is no such element.
	Metadata []Node

	// IPv6 allows guests to talk IPv6 with each other where the network has no IPv6 address.
	IPv6                bool
	TrustGuestRxFilters Switch

	Forward     Forward
	Bridge      Bridge
	MTU         int // bytes; 0: not given
	MAC         MAC // of the bridge; zero: not given
	Domain      Domain
	DNS         DNS
	VLAN        *VLAN
	Bandwidth   *Bandwidth
	Isolated    Switch // <port isolated=>
	IPs         []IP
	Routes      []Route
	VirtualPort *VirtualPort
	PortGroups  []PortGroup
	// DnsmasqOptions are raw dnsmasq configuration lines (namespace dnsmasq).
	DnsmasqOptions []string
}

// Switch is a yes/no attribute that may be absent.
type Switch uint8

// The values of a Switch.
const (
	Unset Switch = iota
	Yes
	No
)

// Mode is a forward mode.
type Mode string

// The forward modes. A network without <forward> is isolated: ModeNone.
const (
	ModeNone        Mode = "none"
	ModeNAT         Mode = "nat"
	ModeRoute       Mode = "route"
	ModeOpen        Mode = "open"
	ModeBridge      Mode = "bridge"
	ModePrivate     Mode = "private"
	ModeVEPA        Mode = "vepa"
	ModePassthrough Mode = "passthrough"
	ModeHostdev     Mode = "hostdev"
)

// OwnsBridge reports whether networks of this mode have a bridge of their own.
func (m Mode) OwnsBridge() bool {
	switch m {
	case ModeNone, ModeNAT, ModeRoute, ModeOpen:
		return true
	}
	return false
}

// Forward says how guests reach what is outside their network.
type Forward struct {
	Mode        Mode
	Managed     Switch
	DriverName  string // vfio, kvm, xen
	DriverModel string
	// Interfaces are the host's devices: at most one uplink for nat and route, a pool otherwise.
	Interfaces []string
	PFs        []string
	Addresses  []PCIAddress
	// NAT is nil where no <nat> element was given.
	NAT *NAT
}

// Dev is the uplink that traffic is restricted to; "" for any.
func (f Forward) Dev() string {
	if len(f.Interfaces) > 0 {
		return f.Interfaces[0]
	}
	return ""
}

// PCIAddress is a PCI device of a hostdev pool.
type PCIAddress struct {
	Domain, Bus, Slot, Function uint
}

// String is the address as lspci prints it.
func (a PCIAddress) String() string {
	return fmt.Sprintf("%04x:%02x:%02x.%x", a.Domain, a.Bus, a.Slot, a.Function)
}

// NAT is the <nat> element.
type NAT struct {
	IPv6 Switch
	// AddressStart and AddressEnd are invalid where no <address> was given.
	AddressStart, AddressEnd netip.Addr
	// PortStart and PortEnd are 0 where no <port> was given.
	PortStart, PortEnd uint16
}

// Bridge is the <bridge> element.
type Bridge struct {
	Name string // "" until one is chosen; may hold one %d
	Zone string
	// STP is on unless given as off.
	STPOff bool
	Delay  int // seconds
	// MacTableManager is "", "kernel" or "libvirt".
	MacTableManager string
}

// Domain is the <domain> element.
type Domain struct {
	Name      string
	LocalOnly Switch
	Register  Switch
}

// DNS is the <dns> element. Present tells an empty one from none.
type DNS struct {
	Present           bool
	Enable            Switch
	ForwardPlainNames Switch
	Forwarders        []DNSForwarder
	TXTs              []DNSTXT
	SRVs              []DNSSRV
	Hosts             []DNSHost
}

// DNSForwarder is an upstream server, for one domain or for all.
type DNSForwarder struct {
	Domain string
	Addr   netip.Addr // invalid: the host's own resolvers
	Port   uint16     // 0: 53
}

// DNSTXT is a TXT record.
type DNSTXT struct{ Name, Value string }

// DNSSRV is an SRV record.
type DNSSRV struct {
	Domain, Service, Protocol, Target string
	Port, Priority, Weight            int // 0: not given
}

// DNSHost gives names to an address.
type DNSHost struct {
	IP        netip.Addr
	Hostnames []string
}

// IP is an <ip> element: an address of the bridge, with what is served to its subnet.
type IP struct {
	// Family is "" where the attribute was absent, else "ipv4" or "ipv6".
	Family  string
	Address netip.Addr
	// Netmask is the netmask as given, invalid if the length or nothing was given.
	Netmask netip.Addr
	// PrefixLen is the length as given; -1 if a netmask or nothing was given.
	PrefixLen int
	LocalPtr  Switch
	TFTPRoot  string
	Ranges    []DHCPRange
	Hosts     []DHCPHost
	// BootFile and BootServer are <bootp>.
	BootFile, BootServer string
}

// HasDHCP reports whether the subnet is served by DHCP.
func (ip IP) HasDHCP() bool { return len(ip.Ranges) > 0 || len(ip.Hosts) > 0 }

// LeaseTime is a <lease> element.
type LeaseTime struct {
	// Expiry is in units of Unit; 0 means for ever.
	Expiry uint64
	Unit   string // "seconds", "minutes", "hours"
}

// Duration is the time as a duration; 0 means for ever.
func (l LeaseTime) Duration() time.Duration {
	unit := time.Minute
	switch l.Unit {
	case "seconds":
		unit = time.Second
	case "hours":
		unit = time.Hour
	}
	return time.Duration(l.Expiry) * unit
}

// String is the time as dnsmasq and people write it, such as "90m".
func (l LeaseTime) String() string {
	if l.Expiry == 0 {
		return "infinite"
	}
	unit := "m"
	if l.Unit != "" {
		unit = l.Unit[:1]
	}
	return strconv.FormatUint(l.Expiry, 10) + unit
}

// DHCPRange is a range of addresses for guests, both ends included.
type DHCPRange struct {
	Start, End netip.Addr
	Lease      *LeaseTime
}

// DHCPHost reserves an address for a guest known by MAC, client id (DUID in
// IPv6) or name.
type DHCPHost struct {
	MAC string // as given; "" if absent
	ID  string
	// Name is the guest's host name, or what it is recognised by if nothing else is given.
	Name  string
	IP    netip.Addr
	Lease *LeaseTime
}

// ClientID is the ID as the guest sends it: each part between colons is as many
// octets as it has pairs of digits, of which the first may lack its zero. It is
// nil where no ID was given.
func (h DHCPHost) ClientID() []byte {
	var id []byte
	for _, part := range strings.Split(h.ID, ":") {
		octets, _ := hex.DecodeString(strings.Repeat("0", len(part)%2) + part) // only digits are read
		id = append(id, octets...)
	}
	return id
}

// Route is a static <route>.
type Route struct {
	Family    string
	Address   netip.Addr
	Netmask   netip.Addr
	PrefixLen int // -1: not given
	Gateway   netip.Addr
	Metric    int // 0: not given
}

// Bandwidth limits traffic; directions as the guests see them.
type Bandwidth struct {
	Inbound, Outbound *Rate
	ClassID           uint
}

// Rate is in KiB/s, Burst in KiB; 0: not given.
type Rate struct{ Average, Peak, Burst, Floor uint64 }

// VLAN is a <vlan> element.
type VLAN struct {
	Trunk Switch
	Tags  []VLANTag
}

// VLANTag is one tag; NativeMode is "", "tagged" or "untagged".
type VLANTag struct {
	ID         uint16
	NativeMode string
}

// VirtualPort is a <virtualport> element, carried to the ports.
type VirtualPort struct {
	Type string
	// Parameters in the order libvirt prints them; absent ones are "".
	ManagerID, TypeID, TypeIDVersion, InstanceID, ProfileID, InterfaceID string
}

// PortGroup is a class of ports.
type PortGroup struct {
	Name                string
	Default             bool
	TrustGuestRxFilters Switch
	VirtualPort         *VirtualPort
	Bandwidth           *Bandwidth
	VLAN                *VLAN
}
