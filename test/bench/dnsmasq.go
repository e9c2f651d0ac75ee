package main

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"viaduct/internal/lab"
)

// served is a host whose bridge "virbr0" has guests that are served, by us or by
// dnsmasq, out of the same subnets and with the same names.
type served struct {
	style string
	host  *lab.Host
	// fresh starts the service with no lease in memory or on disk.
	fresh func()
}

// The subnets that are served, and how many names there are in the DNS. The
// range of IPv6 is as large as a /16 of IPv4.
const (
	servedBridge = "virbr0"
	servedAddr   = "10.200.0.1"
	firstLease   = "10.200.1.0"
	lastLease    = "10.200.255.254"
	guestAddr    = "10.200.0.2"
	servedAddr6  = "fd00:200::1"
	firstLease6  = "fd00:200::1:0"
	lastLease6   = "fd00:200::1:ffff"
	servedDomain = "lab.test"
	servedNames  = 1000
)

// hostEntry is the address and name of the n-th host in the DNS.
func hostEntry(n int) (addr, name string) {
	return fmt.Sprintf("10.200.0.%d", 10+n%240), fmt.Sprintf("host%d.%s", n, servedDomain)
}

// servedByUs is a host with our daemon. Its leases are on the machine's disk.
func (b *bench) servedByUs(name string) *served {
	us := b.newOurs(name, 0, 0)
	us.daemon.StateDir = filepath.Join(b.disk, name)
	var hosts strings.Builder
	for n := range servedNames {
		addr, name := hostEntry(n)
		fmt.Fprintf(&hosts, "<host ip='%s'><hostname>%s</hostname></host>\n", addr, name)
	}
	us.define("served", fmt.Sprintf(`<network>
  <name>served</name>
  <uuid>6d1f8a52-0c3e-4a57-9b10-000000200000</uuid>
  <forward mode='nat'/>
  <bridge name='%s' stp='off' delay='0'/>
  <domain name='%s' localOnly='yes'/>
  <dns>%s</dns>
  <ip address='%s' prefix='16'><dhcp><range start='%s' end='%s'/></dhcp></ip>
  <ip family='ipv6' address='%s' prefix='64'><dhcp><range start='%s' end='%s'/></dhcp></ip>
</network>`, servedBridge, servedDomain, hosts.String(), servedAddr, firstLease, lastLease, servedAddr6, firstLease6, lastLease6), true)
	return &served{"ours", us.host, func() {
		if us.daemon.Process() != nil {
			b.must(us.daemon.Stop())
		}
		b.must(os.RemoveAll(us.daemon.StateDir))
		b.must(us.daemon.Start())
	}}
}

// servedByDnsmasq is a host with dnsmasq, called as libvirt calls it, but with
// its leases on the machine's disk, without a script that is run for each, and
// without the ping of three seconds before an offer.
func (b *bench) servedByDnsmasq(name string) *served {
	lab.Need(b, "dnsmasq")
	h := b.lab.NewHost(lab.HostOptions{Name: name})
	h.AddBridge(servedBridge)
	h.AddAddr(servedBridge, netip.MustParsePrefix(servedAddr+"/16"), netip.MustParsePrefix(servedAddr6+"/64"))
	var hosts strings.Builder
	for n := range servedNames {
		addr, name := hostEntry(n)
		fmt.Fprintln(&hosts, addr, name)
	}
	h.WriteFile("/run/addnhosts", hosts.String())
	leases := filepath.Join(b.disk, name+".leases")
	var running *lab.Process
	return &served{"dnsmasq", h, func() {
		if running != nil {
			running.Kill()
		}
		b.must(ignoreMissing(os.Remove(leases)))
		running = h.Start("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--no-resolv", "--no-hosts",
			"--bind-dynamic", "--interface="+servedBridge, "--except-interface=lo", "--strict-order",
			"--domain="+servedDomain, "--local=/"+servedDomain+"/", "--expand-hosts", "--addn-hosts=/run/addnhosts",
			"--dhcp-range="+firstLease+","+lastLease+",255.255.0.0", "--dhcp-range="+firstLease6+","+lastLease6+",64",
			"--dhcp-lease-max="+strconv.Itoa(1<<17), "--dhcp-no-override", "--dhcp-authoritative", "--dhcp-leasefile="+leases, "--no-ping", "--log-facility=-")
		_, err := running.WaitLine(b.ctx, "DHCPv6, IP range")
		b.must(err)
	}}
}

func ignoreMissing(err error) error {
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

// loadGuest plugs a guest in from which load comes, with an address of its own.
func (b *bench) loadGuest(s *served) *lab.Guest {
	g := b.lab.PlugGuest(s.host.Node, servedBridge, "vnet0")
	g.AddAddr("eth0", netip.MustParsePrefix(guestAddr+"/16"))
	return g
}
