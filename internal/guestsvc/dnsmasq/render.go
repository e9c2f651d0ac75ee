// Package dnsmasq lets dnsmasq, a foreign program, serve the guests of a
// network in place of the servers in the process: for networks that bring
// options of dnsmasq's own, and where the host's admin wants it.
//
// Render says what a definition means in dnsmasq's terms. It writes what
// libvirt writes (networkDnsmasqConfContents in its src/network/bridge_driver.c),
// to the byte, so that whoever knows libvirt's files knows these.
package dnsmasq

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"unicode"

	"viaduct/internal/netdef"
)

// Paths are the files that a configuration names.
type Paths struct {
	// PID is where dnsmasq writes its process id; "" leaves it to dnsmasq.
	PID string
	// DHCPHosts and DNSHosts are where the other two files of a Rendering are.
	DHCPHosts, DNSHosts string
	// Also are lines that come before the definition's own.
	Also []string
}

// LibvirtPaths are the ones that libvirt uses, but for the process id.
func LibvirtPaths(network string) Paths {
	file := "/var/lib/libvirt/dnsmasq/" + netdef.Escape(network)
	return Paths{DHCPHosts: file + ".hostsfile", DNSHosts: file + ".addnhosts"}
}

// Rendering is a network in dnsmasq's terms: the contents of three files.
// dnsmasq reads the latter two again when it gets SIGHUP.
type Rendering struct {
	Conf      string
	DHCPHosts string // reservations (dhcp-hostsfile)
	DNSHosts  string // names of addresses (addn-hosts)
}

// Render writes what the network means. A value with a control character is
// refused, since it could pass for a line of its own. Errors are *netdef.Error.
func Render(n *netdef.Network, paths Paths) (Rendering, error) {
	if !n.Forward.Mode.OwnsBridge() {
		return Rendering{}, netdef.Errorf(netdef.ErrConfigUnsupported,
			"network '%s' with forward mode='%s' serves no guests, so there is no dnsmasq configuration for it", n.Name, n.Forward.Mode)
	}
	if n.Bridge.Name == "" {
		return Rendering{}, netdef.Errorf(netdef.ErrConfigUnsupported, "network '%s' has no bridge name yet, which dnsmasq needs", n.Name)
	}
	w := &writer{network: n, paths: paths, dns: n.DNS.Enable != netdef.No}
	w.head()
	w.forwarders()
	w.domain()
	w.link()
	w.records()
	w.tftp()
	w.dhcp()
	w.files()
	w.advertisements()
	for _, line := range paths.Also {
		w.line("%s", text{"a line of our own", line})
	}
	for _, option := range n.DnsmasqOptions {
		w.line("%s", text{"<dnsmasq:option value=>", option})
	}
	r := Rendering{Conf: w.out.String()}
	w.out.Reset()
	for _, ip := range n.IPs {
		w.reservations(ip)
	}
	r.DHCPHosts = w.out.String()
	w.out.Reset()
	w.names()
	r.DNSHosts = w.out.String()
	if w.err != nil {
		return Rendering{}, w.err
	}
	return r, nil
}

// writer keeps the first error and goes on, as netdef's reader does.
type writer struct {
	network *netdef.Network
	paths   Paths
	dns     bool // whether names are resolved
	out     strings.Builder
	err     error
}

// text is a value from a definition, with the place where it stands there.
// Everything that is not made of numbers alone comes through here.
type text struct{ place, value string }

// line writes a line.
func (w *writer) line(format string, values ...any) {
	for i, v := range values {
		if t, ok := v.(text); ok {
			w.check(t)
			values[i] = t.value
		}
	}
	fmt.Fprintf(&w.out, format, values...)
	w.out.WriteByte('\n')
}

// check refuses a text that could end its line, or hide what the line says.
func (w *writer) check(t text) {
	if strings.ContainsFunc(t.value, unicode.IsControl) {
		w.fail(netdef.ErrXML, "control character in %s of network %q, which cannot be written to dnsmasq's configuration", t.place, w.network.Name)
	}
}

func (w *writer) fail(code netdef.Code, format string, args ...any) {
	if w.err == nil {
		w.err = netdef.Errorf(code, format, args...)
	}
}

func (w *writer) head() {
	name := text{"<name>", w.network.Name}
	w.line("##WARNING:  THIS IS AN AUTO-GENERATED FILE. CHANGES TO IT ARE LIKELY TO BE")
	w.line("##OVERWRITTEN AND LOST.  Changes to this configuration should be made using:")
	w.line("##    virsh net-edit %s", name)
	w.line("## or other application using the libvirt API.")
	w.line("##")
	w.line("## dnsmasq conf file created by libvirt")
	w.line("strict-order")
	if !w.dns {
		w.line("port=0")
	}
}

func (w *writer) forwarders() {
	if !w.dns {
		return
	}
	alone := false // whether the forwarders replace the host's resolvers
	for _, f := range w.network.DNS.Forwarders {
		to := "#" // the host's own resolvers
		if f.Addr.IsValid() {
			to = f.Addr.String()
			if f.Port != 0 {
				to += "#" + strconv.Itoa(int(f.Port))
			}
		}
		if f.Domain == "" {
			w.line("server=%s", to)
			alone = alone || f.Addr.IsValid()
		} else {
			w.line("server=/%s/%s", text{"<forwarder domain=>", f.Domain}, to)
		}
	}
	if alone {
		w.line("no-resolv")
	}
}

func (w *writer) domain() {
	if d := w.network.Domain; d.Name != "" {
		name := text{"<domain name=>", d.Name}
		if d.LocalOnly == netdef.Yes {
			w.line("local=/%s/", name)
		}
		w.line("domain=%s", name)
		w.line("expand-hosts")
	}
	if !w.dns {
		return
	}
	for _, ip := range w.network.IPs {
		if ip.LocalPtr == netdef.Yes {
			w.line("local=/%s/", w.reverseZone(ip))
		}
	}
	if w.network.DNS.ForwardPlainNames == netdef.No {
		w.line("domain-needed")
		w.line("local=//")
	}
}

// reverseZone is the zone of the subnet's addresses, which exists only where
// the prefix ends between two labels.
func (w *writer) reverseZone(ip netdef.IP) string {
	family, root, label := "IPv4", "in-addr.arpa", 8
	if ip.Address.Is6() {
		family, root, label = "IPv6", "ip6.arpa", 4
	}
	length := ip.Prefix().Bits()
	if length <= 0 || length >= ip.Address.BitLen() || length%label != 0 {
		w.fail(netdef.ErrConfigUnsupported, "PTR domain for %s network with prefix %d cannot be automatically created", family, length)
		return ""
	}
	zone := root
	for i, octet := range ip.Address.AsSlice()[:(length+7)/8] {
		if label == 8 {
			zone = fmt.Sprintf("%d.%s", octet, zone)
			continue
		}
		zone = fmt.Sprintf("%x.%s", octet>>4, zone)
		if i*8+label < length {
			zone = fmt.Sprintf("%x.%s", octet&0xf, zone)
		}
	}
	return zone
}

func (w *writer) link() {
	if w.paths.PID != "" {
		w.line("pid-file=%s", text{"pid file", w.paths.PID})
	}
	w.line("except-interface=lo")
	w.line("bind-dynamic")
	w.line("interface=%s", text{"<bridge name=>", w.network.Bridge.Name})
	if w.network.Forward.Mode == netdef.ModeNone {
		// No router, no resolvers of the host, and no default route by
		// advertisement: nothing leads out.
		w.line("dhcp-option=3")
		w.line("no-resolv")
		w.line("ra-param=*,0,0")
	}
}

func (w *writer) records() {
	if !w.dns {
		return
	}
	for _, t := range w.network.DNS.TXTs {
		w.line("txt-record=%s,%s", text{"<txt name=>", t.Name}, text{"<txt value=>", t.Value})
	}
	for _, s := range w.network.DNS.SRVs {
		domain, rest := "", ""
		if s.Domain != "" {
			domain = "." + s.Domain
		}
		// A target of "." means that there is no such service.
		if s.Target != "" && s.Target != "." {
			rest = "," + s.Target + srvNumbers(s)
		}
		w.line("srv-host=_%s._%s%s%s", text{"<srv service=>", s.Service}, text{"<srv protocol=>", s.Protocol},
			text{"<srv domain=>", domain}, text{"<srv target=>", rest})
	}
}

// srvNumbers are known by their places, so what comes before one that is given is written too.
func srvNumbers(s netdef.DNSSRV) string {
	numbers := ""
	if s.Port != 0 || s.Priority != 0 || s.Weight != 0 {
		numbers += "," + strconv.Itoa(max(s.Port, 1))
	}
	if s.Priority != 0 || s.Weight != 0 {
		numbers += "," + strconv.Itoa(s.Priority)
	}
	if s.Weight != 0 {
		numbers += "," + strconv.Itoa(s.Weight)
	}
	return numbers
}

func (w *writer) tftp() {
	enabled := false
	for _, ip := range w.network.IPs {
		if !ip.Address.Is4() || ip.TFTPRoot == "" {
			continue
		}
		if !enabled {
			w.line("enable-tftp")
			enabled = true
		}
		w.line("tftp-root=%s", text{"<tftp root=>", ip.TFTPRoot})
	}
}

// served is the <ip> of the family whose subnet is served by DHCP, nil if none is.
func (w *writer) served(family func(netip.Addr) bool) *netdef.IP {
	for i := range w.network.IPs {
		if ip := &w.network.IPs[i]; family(ip.Address) && ip.HasDHCP() {
			return ip
		}
	}
	return nil
}

func (w *writer) dhcp() {
	leases := uint64(0)
	if ip := w.served(netip.Addr.Is4); ip != nil {
		leases += w.ranges(*ip)
		w.line("dhcp-no-override")
		w.line("dhcp-authoritative")
		if ip.BootFile != "" {
			server := ""
			if ip.BootServer != "" {
				server = ",," + ip.BootServer
			}
			w.line("dhcp-boot=%s%s", text{"<bootp file=>", ip.BootFile}, text{"<bootp server=>", server})
		}
	}
	if ip := w.served(netip.Addr.Is6); ip != nil {
		leases += w.ranges(*ip)
	}
	if leases > 0 {
		w.line("dhcp-lease-max=%d", leases)
	}
}

// ranges writes the ranges of a subnet and tells how many addresses they have.
func (w *writer) ranges(ip netdef.IP) (addresses uint64) {
	size := strconv.Itoa(ip.Prefix().Bits())
	static := "," + size
	if ip.Address.Is4() {
		size, static = netmask(ip.Prefix().Bits()), ""
	}
	for _, r := range ip.Ranges {
		w.line("dhcp-range=%s,%s,%s%s", r.Start, r.End, size, leaseTime(r.Lease))
		addresses += rangeSize(r)
	}
	if len(ip.Ranges) == 0 {
		w.line("dhcp-range=%s,static%s", ip.Address, static)
	}
	return addresses
}

func netmask(length int) string {
	ones := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	return netip.PrefixFrom(ones, length).Masked().Addr().String()
}

// rangeSize relies on netdef, which limits ranges to 65536 addresses.
func rangeSize(r netdef.DHCPRange) uint64 {
	low := func(a netip.Addr) (n uint64) {
		for _, octet := range a.AsSlice()[max(0, a.BitLen()/8-8):] {
			n = n<<8 | uint64(octet)
		}
		return n
	}
	return low(r.End) - low(r.Start) + 1
}

// leaseTime is the end of a line.
func leaseTime(l *netdef.LeaseTime) string {
	if l == nil {
		return ""
	}
	return "," + l.String()
}

func (w *writer) files() {
	if w.served(netip.Addr.Is4) != nil || w.served(netip.Addr.Is6) != nil {
		w.line("dhcp-hostsfile=%s", text{"file of reservations", w.paths.DHCPHosts})
	}
	if w.dns {
		w.line("addn-hosts=%s", text{"file of names", w.paths.DNSHosts})
	}
	if w.network.MTU > 0 {
		w.line("dhcp-option=option:mtu,%d", w.network.MTU)
	}
}

func (w *writer) advertisements() {
	if w.served(netip.Addr.Is6) != nil {
		w.line("enable-ra")
		return
	}
	for _, ip := range w.network.IPs {
		if ip.Address.Is6() {
			w.line("dhcp-range=%s,ra-only", ip.Address)
		}
	}
}

func (w *writer) reservations(ip netdef.IP) {
	for _, h := range ip.Hosts {
		if !h.IP.IsValid() {
			continue
		}
		name, id, mac := text{"<host name=>", h.Name}, text{"<host id=>", h.ID}, text{"<host mac=>", h.MAC}
		end := leaseTime(h.Lease)
		switch {
		case ip.Address.Is6() && h.ID != "" && h.Name != "":
			w.line("id:%s,%s,[%s]%s", id, name, h.IP, end)
		case ip.Address.Is6() && h.ID != "":
			w.line("id:%s,[%s]%s", id, h.IP, end)
		case ip.Address.Is6():
			w.line("%s,[%s]%s", name, h.IP, end)
		case h.MAC != "" && h.Name != "":
			w.line("%s,%s,%s%s", mac, h.IP, name, end)
		case h.MAC != "":
			w.line("%s,%s%s", mac, h.IP, end)
		default:
			w.line("%s,%s%s", name, h.IP, end)
		}
	}
}

// names lists each address once, with all its names.
func (w *writer) names() {
	var order []netip.Addr
	names := map[netip.Addr]string{}
	for _, h := range w.network.DNS.Hosts {
		if !h.IP.IsValid() {
			continue
		}
		if _, known := names[h.IP]; !known {
			order = append(order, h.IP)
		}
		for _, name := range h.Hostnames {
			names[h.IP] += name + "\t"
			w.check(text{"<hostname>", name})
		}
	}
	for _, ip := range order {
		w.line("%s\t%s", ip, names[ip])
	}
}
