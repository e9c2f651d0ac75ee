package netdef

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// Prefix is the address with the length that is in force: the one given as a
// length or a netmask, or else that of the address's class, which is 64 for
// IPv6. It is invalid for an address that has no class.
func (ip IP) Prefix() netip.Prefix {
	return prefixOf(ip.Address, ip.Netmask, ip.PrefixLen)
}

// Subnet is the network that the address is in.
func (ip IP) Subnet() netip.Prefix { return ip.Prefix().Masked() }

// Prefix is the destination. Without a length and a netmask it is the default
// route, the only one that libvirt takes then.
func (t Route) Prefix() netip.Prefix {
	if t.PrefixLen < 0 && !t.Netmask.IsValid() {
		return netip.PrefixFrom(t.Address, 0)
	}
	return prefixOf(t.Address, t.Netmask, t.PrefixLen)
}

func prefixOf(address, netmask netip.Addr, length int) netip.Prefix {
	switch {
	case !address.IsValid():
		return netip.Prefix{}
	case length >= 0:
		return netip.PrefixFrom(address, length)
	case netmask.IsValid():
		return netip.PrefixFrom(address, maskLen(netmask))
	case address.Is6():
		return netip.PrefixFrom(address, 64)
	}
	return netip.PrefixFrom(address, classLen(address))
}

// classLen is the length of the network part that an IPv4 address had before
// CIDR (RFC 791 section 3.2), -1 for those that had none.
func classLen(address netip.Addr) int {
	switch first := address.As4()[0]; {
	case first < 128:
		return 8
	case first < 192:
		return 16
	case first < 224:
		return 24
	}
	return -1
}

// maskLen is the number of leading ones of an IPv4 netmask, -1 if others follow.
func maskLen(netmask netip.Addr) int {
	if !netmask.Is4() {
		return -1
	}
	octets := netmask.As4()
	mask := binary.BigEndian.Uint32(octets[:])
	length := bits.LeadingZeros32(^mask)
	if mask != ^uint32(0)<<(32-length) {
		return -1
	}
	return length
}

// lastAddr is the highest address of an IPv4 subnet.
func lastAddr(subnet netip.Prefix) netip.Addr {
	octets := subnet.Addr().As4()
	address := binary.BigEndian.Uint32(octets[:]) | uint32(1<<(32-subnet.Bits())-1)
	binary.BigEndian.PutUint32(octets[:], address)
	return netip.AddrFrom4(octets)
}
