package main

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

	"viaduct/internal/lab"
)

// The crowd that boots at once: as many guests on each of the networks, and
// those that a host with dnsmasq has.
const (
	crowdNetworks = 50
	crowdEach     = 10
	crowdTheirs   = 1
)

// crowd has many guests boot at once, and compares how long it takes until the
// last has its lease with what a tenth of them have to wait for dnsmasq.
func (b *bench) crowd() {
	lab.Need(b, "dnsmasq")
	boot := func(h *lab.Host, name string, each int) time.Duration {
		var bridges []string
		for n := range crowdNetworks {
			bridges = append(bridges, bridgeName(n))
		}
		leases, err := b.lab.PlugCrowd(name, h.Node, bridges, each).Boot(b.ctx)
		b.must(err)
		var last time.Duration
		for _, l := range leases {
			last = max(last, l.Took)
		}
		b.progress("%s: %d guests on %d networks have their leases after %s", h.Name, len(leases), crowdNetworks, seconds(last))
		return last
	}
	us := b.newOurs("crowd-ours", crowdNetworks, crowdNetworks)
	us.daemon.StateDir = filepath.Join(b.disk, "crowd")
	b.must(us.daemon.Start())
	ours := boot(us.host, "crowd", crowdEach)
	theirs := boot(b.dnsmasqNetworks("crowd-dnsmasq"), "theirs", crowdTheirs)
	hasty := boot(b.dnsmasqNetworks("crowd-hasty", "--no-ping"), "hasty", crowdTheirs)
	guests := fmt.Sprintf("%d guests", crowdNetworks*crowdTheirs)
	b.report.add(
		atLeast(fmt.Sprintf("%d guests on %d networks boot at once: until the last has its lease", crowdNetworks*crowdEach, crowdNetworks), seconds(ours),
			"dnsmasq, as libvirt calls it, "+guests+" "+seconds(theirs), quotient(theirs, ours), 1),
		row{"the same", seconds(ours), "dnsmasq without its ping, " + guests + " " + seconds(hasty), times(quotient(hasty, ours)), "", true},
	)
}

// dnsmasqNetworks is a host with as many networks, each with a dnsmasq of its
// own with the options that libvirt gives it and others.
func (b *bench) dnsmasqNetworks(name string, options ...string) *lab.Host {
	h := b.lab.NewHost(lab.HostOptions{Name: name})
	for n := range crowdNetworks {
		h.AddBridge(bridgeName(n))
		h.AddAddr(bridgeName(n), netip.MustParsePrefix(subnet(n)+".1/24"))
		p := h.Start(append([]string{"dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--no-hosts", "--strict-order",
			"--bind-dynamic", "--interface=" + bridgeName(n), "--except-interface=lo", "--log-facility=-",
			"--dhcp-range=" + subnet(n) + ".2," + subnet(n) + ".254,255.255.255.0", "--dhcp-lease-max=253", "--dhcp-no-override",
			"--dhcp-authoritative", "--dhcp-leasefile=" + filepath.Join(b.disk, fmt.Sprintf("%s%d", name, n))}, options...)...)
		_, err := p.WaitLine(b.ctx, "DHCP, IP range")
		b.must(err)
	}
	return h
}
