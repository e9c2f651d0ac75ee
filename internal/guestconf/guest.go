package guestconf

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"viaduct/internal/netdef"
)

// Guest is a guest of a network, as far as it is known.
type Guest struct {
	Name      string
	MAC       netdef.MAC
	Addresses []netip.Addr // that are reserved for it
}

// Reserved lists the guests for which a network's definition reserves something
// by MAC address.
func Reserved(n *netdef.Network) []Guest {
	var guests []Guest
	for _, ip := range n.IPs {
		for _, h := range ip.Hosts {
			mac, err := netdef.ParseMAC(h.MAC)
			named := func(g Guest) bool { return h.Name != "" && g.Name == h.Name }
			if err == nil {
				named = func(g Guest) bool { return g.MAC == mac }
			}
			i := slices.IndexFunc(guests, named)
			switch {
			case i < 0 && err != nil: // known by its DUID alone, which is no property of an interface
				continue
			case i < 0:
				guests, i = append(guests, Guest{Name: h.Name, MAC: mac}), len(guests)
			case guests[i].Name == "":
				guests[i].Name = h.Name
			}
			if h.IP.IsValid() {
				guests[i].Addresses = append(guests[i].Addresses, h.IP)
			}
		}
	}
	return guests
}

// Find is the guest of that name or MAC address. A MAC address that is not
// among them stands for a guest of which nothing else is known.
func Find(guests []Guest, ref string) (Guest, error) {
	mac, err := netdef.ParseMAC(ref)
	for _, g := range guests {
		if strings.EqualFold(g.Name, ref) || err == nil && g.MAC == mac {
			return g, nil
		}
	}
	if err != nil {
		return Guest{}, fmt.Errorf("no guest is called '%s', and it is no MAC address", ref)
	}
	return Guest{MAC: mac}, nil
}

// Of is what the guest has to set to use the network: DHCP and router
// advertisements where the network has them, and fixed addresses, which are
// those given or else those reserved, where it has not or where static asks for
// them. In a network of which the host knows no addresses, which is a bridge to
// a LAN, DHCP is the LAN's.
func Of(n *netdef.Network, g Guest, static bool, addresses ...netip.Prefix) (Config, error) {
	c := Config{Name: "net0", MAC: g.MAC, MTU: n.MTU}
	if len(addresses) == 0 && !static && len(n.IPs) == 0 {
		c.DHCP4, c.Auto6 = true, true
		return c, nil
	}
	c.Addresses = addresses
	if len(addresses) == 0 {
		for _, ip := range n.IPs {
			switch {
			case !static && ip.Address.Is4() && ip.HasDHCP():
				c.DHCP4 = true
			case !static && ip.Address.Is6():
				c.Auto6 = true
			default:
				c.Addresses = append(c.Addresses, within(ip.Prefix(), g.Addresses)...)
			}
		}
	}
	if len(c.Addresses) == 0 && !c.DHCP4 && !c.Auto6 {
		return c, fmt.Errorf("network '%s' hands out no addresses and reserves none for the guest: name the guest's address", n.Name)
	}
	if len(c.Addresses) > 0 {
		c.settle(n)
	}
	return c, nil
}

// within gives those of the addresses that are in the prefix its length.
func within(p netip.Prefix, addrs []netip.Addr) []netip.Prefix {
	var list []netip.Prefix
	for _, a := range addrs {
		if p.Masked().Contains(a) {
			list = append(list, netip.PrefixFrom(a, p.Bits()))
		}
	}
	return list
}

// settle adds what DHCP would have told the guest.
func (c *Config) settle(n *netdef.Network) {
	c.Domain = n.Domain.Name
	has := map[bool]bool{} // the families in which the guest has static addresses, by Is4
	for _, p := range c.Addresses {
		has[p.Addr().Is4()] = true
	}
	routers := map[bool]bool{}
	for _, ip := range n.IPs {
		is4 := ip.Address.Is4()
		if !has[is4] {
			continue
		}
		if n.DNS.Enable != netdef.No {
			c.DNS = append(c.DNS, ip.Address)
		}
		if n.Forward.Mode != netdef.ModeNone && !routers[is4] {
			routers[is4] = true
			c.SetGateways(ip.Address)
		}
	}
}
