package vifspec

import (
	"fmt"
	"net/netip"
)

// NAT is how a guest's link is addressed in NAT mode: a link of two, where the
// host's end carries the guest's gateway as a /32 address.
type NAT struct {
	Guest, Router netip.Addr
	// HostName is what DHCP calls the guest.
	HostName string
}

// NATAddresses derives the addresses as Xen's vif-nat does: the guest's own if
// it is given one, else one made of its domain and interface numbers; the
// router's last octet is 127 more. Where that leaves the octet, where Xen's
// script fails, it is 127 less.
func NATAddresses(domain, handle int, ip string) (NAT, error) {
	n := NAT{HostName: fmt.Sprintf("dom%d", domain)}
	if handle > 0 {
		n.HostName += fmt.Sprintf("-%d", handle+1)
	}
	if ip == "" {
		if domain < 0 || domain > 0xffff || handle < 0 || handle > 125 {
			return NAT{}, fmt.Errorf("no address can be made for interface %d of domain %d: give it one by ip=", handle, domain)
		}
		n.Guest = netip.AddrFrom4([4]byte{10, byte(domain >> 8), byte(domain), byte(handle + 1)})
	} else {
		prefix, err := ParseIP(ip)
		if err != nil {
			return NAT{}, err
		}
		n.Guest = prefix.Addr()
	}
	if !n.Guest.Is4() {
		return NAT{}, fmt.Errorf("address '%s' is no IPv4 address, and NAT needs one", ip)
	}
	router := n.Guest.As4()
	if router[3] < 128 {
		router[3] += 127
	} else {
		router[3] -= 127
	}
	n.Router = netip.AddrFrom4(router)
	return n, nil
}

// ParseIP reads one of the addresses or networks of ip=. One without a length
// stands for itself alone; the address is kept as it is given.
func ParseIP(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return p, fmt.Errorf("'%s' is no IP address or network", text)
	}
	return p, nil
}
