package dhcpclient

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"viaduct/internal/uplink"
)

// options are those that a server is asked for. Classless routes come first
// (RFC 3442).
var options = []dhcpv4.OptionCode{
	dhcpv4.OptionClasslessStaticRoute, dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter, dhcpv4.OptionDomainNameServer, dhcpv4.OptionDomainName,
	dhcpv4.OptionDNSDomainSearchList, dhcpv4.OptionInterfaceMTU, dhcpv4.OptionIPAddressLeaseTime, dhcpv4.OptionRenewTimeValue, dhcpv4.OptionRebindingTimeValue,
}

// maxRoutes and maxServers bound what is taken of one answer.
const (
	maxRoutes  = 64
	maxServers = 8
	// leastMTU is the smallest that is honoured: with less the kernel has no IPv6 on
	// the link, and it would be an easy way to make a host slow.
	leastMTU = 1280
)

// leaseOf reads a lease of an answer to a request that was sent at the time
// given. What a server leaves out is as it was before: some say it only once.
func leaseOf(ack *dhcpv4.DHCPv4, before uplink.Lease, sent time.Time) (uplink.Lease, error) {
	address, ok := unicast(ack.YourIPAddr)
	if !ok {
		return uplink.Lease{}, fmt.Errorf("read DHCP answer: %s is no address of a host", ack.YourIPAddr)
	}
	lease := uplink.Lease{Routes: before.Routes, DNS: before.DNS, Search: before.Search, MTU: before.MTU}
	mask := ack.SubnetMask()
	bits, _ := mask.Size()
	if mask == nil {
		if bits, _ = ack.YourIPAddr.DefaultMask().Size(); before.Address.IsValid() && before.Address.Addr() == address {
			bits = before.Address.Bits()
		}
	}
	if bits < 1 {
		return uplink.Lease{}, fmt.Errorf("read DHCP answer: no subnet has the mask %s", ack.SubnetMask())
	}
	lease.Address = netip.PrefixFrom(address, bits)
	if lease.Server, ok = unicast(ack.ServerIdentifier()); !ok {
		if lease.Server = before.Server; !lease.Server.IsValid() {
			return uplink.Lease{}, fmt.Errorf("read DHCP answer: no server says that it is its")
		}
	}
	lasts := ack.IPAddressLeaseTime(0)
	if lasts < time.Second {
		return uplink.Lease{}, fmt.Errorf("read DHCP answer: a lease of %s", lasts)
	}
	t1, t2 := ack.IPAddressRenewalTime(lasts/2), ack.IPAddressRebindingTime(lasts/8*7)
	if t2 <= 0 || t2 >= lasts {
		t2 = lasts / 8 * 7
	}
	if t1 <= 0 || t1 >= t2 {
		t1 = min(lasts/2, t2)
	}
	lease.Renew, lease.Rebind, lease.Expires = sent.Add(t1), sent.Add(t2), sent.Add(lasts)
	if routes, told := routesOf(ack); told {
		lease.Routes = routes
	}
	if mtu, err := dhcpv4.GetUint16(dhcpv4.OptionInterfaceMTU, ack.Options); err == nil && mtu >= leastMTU {
		lease.MTU = int(mtu)
	}
	if servers := ack.DNS(); len(servers) > 0 {
		lease.DNS = nil
		for _, ip := range servers[:min(len(servers), maxServers)] {
			if a, ok := unicast(ip); ok && !slices.Contains(lease.DNS, a) {
				lease.DNS = append(lease.DNS, a)
			}
		}
	}
	if labels := ack.DomainSearch(); labels != nil && len(labels.Labels) > 0 {
		lease.Search = domains(labels.Labels)
	} else if name := ack.DomainName(); name != "" {
		lease.Search = domains([]string{name})
	}
	return lease, nil
}

// routesOf are the routes that a server tells: classless ones, or else the
// default route by its first router. It reports false where it tells none.
func routesOf(ack *dhcpv4.DHCPv4) (routes []uplink.LeaseRoute, told bool) {
	for _, r := range ack.ClasslessStaticRoute() {
		dst, ok := netip.AddrFromSlice(r.Dest.IP)
		bits, size := r.Dest.Mask.Size()
		if !ok || size == 0 || len(routes) == maxRoutes {
			continue
		}
		dst = dst.Unmap()
		p, err := dst.Prefix(bits)
		if err != nil || !dst.Is4() {
			continue
		}
		via, ok := unicast(r.Router)
		if !ok && (r.Router == nil || !r.Router.IsUnspecified()) {
			continue
		}
		routes = append(routes, uplink.LeaseRoute{Dst: p, Via: via})
	}
	if len(routes) > 0 {
		return routes, true
	}
	for _, ip := range ack.Router() {
		if via, ok := unicast(ip); ok {
			return []uplink.LeaseRoute{{Dst: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Via: via}}, true
		}
	}
	return nil, false
}

// unicast is an IPv4 address that a host can have.
func unicast(ip net.IP) (netip.Addr, bool) {
	a, ok := netip.AddrFromSlice(ip)
	a = a.Unmap()
	if !ok || !a.Is4() || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() || a.As4()[0] >= 240 {
		return netip.Addr{}, false
	}
	return a, true
}

// domains are those of the names that can stand in a file.
func domains(names []string) []string {
	var good []string
	for _, name := range names[:min(len(names), maxServers)] {
		ok := name != "" && len(name) < 254
		for i := range len(name) {
			b := name[i]
			ok = ok && (b >= '0' && b <= '9' || b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b == '-' || b == '.' || b == '_')
		}
		if ok {
			good = append(good, name)
		}
	}
	return good
}
