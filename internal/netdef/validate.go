package netdef

import (
	"slices"
	"strings"
)

// Validate refuses what can be read but cannot be a network, in the words of
// libvirt's driver. What depends on the host or on other networks is the
// engine's to check.
func (n *Network) Validate() error {
	for _, check := range []func(*Network) *Error{
		(*Network).checkName,
		(*Network).checkBridgeless,
		(*Network).checkDevices,
		(*Network).checkAddresses,
		(*Network).checkDHCP,
		(*Network).checkDomain,
		(*Network).checkPortGroups,
		(*Network).checkVLAN,
		(*Network).checkSettings,
	} {
		if err := check(n); err != nil {
			return err
		}
	}
	return nil
}

// checkName keeps to names that can be file names, since each network has a file.
func (n *Network) checkName() *Error {
	const longest = 255 - len(".xml")
	switch {
	case n.Name == "":
		return Errorf(ErrNoName, "missing name information")
	case strings.ContainsAny(n.Name, "/\n"):
		bad := n.Name[strings.IndexAny(n.Name, "/\n")]
		return Errorf(ErrXMLDetail, "invalid char in name: %c", bad)
	case n.Name == "." || n.Name == "..":
		return Errorf(ErrXML, "name '%s' cannot be used for a network", n.Name)
	case len(n.Name) > longest:
		return Errorf(ErrXML, "name '%s' is too long, limit is %d bytes", n.Name, longest)
	}
	return nil
}

// checkBridgeless refuses settings of an own bridge where there is none.
func (n *Network) checkBridgeless() *Error {
	mode := n.Forward.Mode
	if mode.OwnsBridge() {
		return nil
	}
	for _, e := range []struct {
		name  string
		given bool
	}{
		{"<mac>", !n.MAC.IsZero()},
		{"<ip>", len(n.IPs) > 0},
		{"<dns>", len(n.DNS.TXTs)+len(n.DNS.Hosts)+len(n.DNS.SRVs) > 0},
		{"<domain>", n.Domain.Name != ""},
		{"network-wide <bandwidth>", n.Bandwidth != nil && !n.hasHostBridge()},
	} {
		if e.given {
			return Errorf(ErrConfigUnsupported, "Unsupported %s element in network %s with forward mode='%s'", e.name, n.Name, mode)
		}
	}
	return nil
}

// hasHostBridge tells whether the network is a bridge that the host set up.
func (n *Network) hasHostBridge() bool {
	return n.Forward.Mode == ModeBridge && n.Bridge.Name != ""
}

func (n *Network) checkDevices() *Error {
	f := n.Forward
	kinds := 0
	for _, listed := range []int{len(f.Interfaces), len(f.PFs), len(f.Addresses)} {
		if listed > 0 {
			kinds++
		}
	}
	switch {
	case f.Mode == ModeHostdev && len(f.Interfaces) > 0:
		return Errorf(ErrConfigUnsupported, "hostdev network '%s' lists '%s' in the device pool, but hostdev networks require all devices to be "+
			"listed by PCI address, not network device name", n.Name, f.Dev())
	case f.Mode != ModeHostdev && len(f.Addresses) > 0:
		return Errorf(ErrConfigUnsupported, "network '%s' has forward mode '%s'  but lists a device by PCI address in the device pool. "+
			"This is only supported for networks with forward mode 'hostdev'", n.Name, f.Mode)
	case kinds > 1:
		return Errorf(ErrConfigUnsupported, "<address>, <interface>, and <pf> elements of <forward> in network %s are mutually exclusive", n.Name)
	}
	if name := strings.Replace(n.Bridge.Name, "%d", "0", 1); name != "" && !validLinkName(name) {
		return Errorf(ErrXML, "Invalid bridge name '%s' in network '%s'", n.Bridge.Name, n.Name)
	}
	for _, dev := range slices.Concat(f.Interfaces, f.PFs) {
		if !validLinkName(dev) {
			return Errorf(ErrXML, "Invalid device name '%s' in network '%s'", dev, n.Name)
		}
	}
	return nil
}

// validLinkName is the kernel's rule (dev_valid_name) with its quirks left
// out: no link is called so that a shell or a firewall rule could stumble.
func validLinkName(name string) bool {
	const longest = 15 // bytes, IFNAMSIZ without the final zero
	return len(name) <= longest && name != "." && name != ".." &&
		!strings.ContainsFunc(name, func(c rune) bool { return c <= ' ' || c > '~' || strings.ContainsRune("/:%*\"'\\", c) })
}

func (n *Network) checkAddresses() *Error {
	for _, ip := range n.IPs {
		if !ip.Prefix().IsValid() || ip.Address.IsUnspecified() || ip.Address.IsMulticast() {
			return Errorf(ErrXML, "Invalid address '%s' in network '%s'", ip.Address, n.Name)
		}
	}
	return nil
}

func (n *Network) checkDHCP() *Error {
	served := map[bool]bool{} // by whether it is IPv6
	for _, ip := range n.IPs {
		if !ip.HasDHCP() {
			continue
		}
		family := "IPv4"
		if ip.Address.Is6() {
			family = "IPv6"
		}
		if served[ip.Address.Is6()] {
			return Errorf(ErrConfigUnsupported, "Multiple %s dhcp sections found -- dhcp is supported only for a single %s address on each network", family, family)
		}
		served[ip.Address.Is6()] = true
		if err := n.checkReservations(ip); err != nil {
			return err
		}
	}
	return nil
}

// How many octets a DUID has (RFC 8415 section 11.1).
const (
	minDUID = 3
	maxDUID = 130
)

// checkReservations refuses addresses that no guest of the subnet could have.
func (n *Network) checkReservations(ip IP) *Error {
	for _, h := range ip.Hosts {
		if h.IP.BitLen() != ip.Address.BitLen() {
			return Errorf(ErrXML, "the address family of a host entry IP must match the address family of the dhcp element's parent: '%s' in network '%s'", h.IP, n.Name)
		}
		if size := len(h.ClientID()); ip.Address.Is6() && h.ID != "" && (size < minDUID || size > maxDUID) {
			return Errorf(ErrXML, "id '%s' in network '%s' is no DUID: it has %d octets, not %d to %d", h.ID, n.Name, size, minDUID, maxDUID)
		}
	}
	return nil
}

func (n *Network) checkDomain() *Error {
	if n.Domain.Register == Yes && n.Domain.LocalOnly != Yes {
		return Errorf(ErrConfigUnsupported, "domain register='yes' requires localOnly='yes' in network '%s'", n.Name)
	}
	return nil
}

func (n *Network) checkPortGroups() *Error {
	fallback, times := "", map[string]int{}
	for _, g := range n.PortGroups {
		times[g.Name]++
	}
	for _, g := range n.PortGroups {
		if g.Default && fallback != "" {
			return Errorf(ErrConfigUnsupported, "network '%s' has multiple default <portgroup> elements (%s and %s), but only one default is allowed",
				n.Name, fallback, g.Name)
		}
		if g.Default {
			fallback = g.Name
		}
		if times[g.Name] > 1 {
			return Errorf(ErrConfigUnsupported, "multiple <portgroup> elements with the same name (%s) in network '%s'", g.Name, n.Name)
		}
		if g.Bandwidth != nil && !n.Forward.Mode.OwnsBridge() && !n.hasHostBridge() {
			return Errorf(ErrConfigUnsupported, "Unsupported <bandwidth> element in network '%s' in portgroup '%s' with forward mode='%s'",
				n.Name, g.Name, n.Forward.Mode)
		}
	}
	return nil
}

// checkVLAN follows libvirt 11.0, which takes tags on the host's own bridges too.
func (n *Network) checkVLAN() *Error {
	switch n.Forward.Mode {
	case ModeHostdev, ModePassthrough, ModeBridge:
		return nil
	}
	tagged := n.VLAN != nil || slices.ContainsFunc(n.PortGroups, func(g PortGroup) bool { return g.VLAN != nil })
	if tagged {
		return Errorf(ErrConfigUnsupported, "<vlan> element specified for network %s, whose type doesn't support vlan configuration", n.Name)
	}
	return nil
}
