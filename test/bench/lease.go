package main

import (
	"fmt"
	"time"

	"viaduct/internal/lab"
)

// udhcpcScript gives the guest its address, as little as it takes.
const udhcpcScript = `#!/bin/busybox sh
[ "$1" = bound ] && busybox ip addr add "$ip/$mask" dev "$interface"
exit 0
`

// lease measures the time from plugging a guest in until udhcpc, with its default
// pace, has an address, for both settings of the spanning tree protocol.
func (b *bench) lease() {
	lab.Need(b, "busybox")
	us, them := b.startOurs("lease", 2, 0), b.newLibvirtd("lease-libvirt", 2)
	kinds := []struct {
		network int
		stp     string
	}{{0, "on"}, {1, "off"}}
	for _, k := range kinds {
		us.replace(k.network, definition(k.network, k.stp))
		them.replace(k.network, definition(k.network, k.stp))
		us.start([]int{k.network})
		them.start([]int{k.network})
		var ours, theirs []time.Duration
		for i := range b.scale.leases {
			ours = append(ours, b.leaseOnce(us.host.Node, k.network, fmt.Sprintf("g%d%s", i, k.stp)))
			theirs = append(theirs, b.leaseOnce(them.host.Node, k.network, fmt.Sprintf("t%d%s", i, k.stp)))
			b.progress("lease with stp %s: %s ours, %s libvirt's", k.stp, seconds(ours[i]), seconds(theirs[i]))
		}
		got, their := median(ours), median(theirs)
		b.report.add(row{
			fmt.Sprintf("plug in until udhcpc has a lease, stp='%s', median of %d", k.stp, len(ours)), seconds(got),
			"libvirtd " + seconds(their), times(quotient(their, got)), "ours under 0.3 s", got < 300*time.Millisecond,
		})
	}
}

// leaseOnce plugs a new guest in.
func (b *bench) leaseOnce(host *lab.Node, network int, name string) time.Duration {
	g := b.lab.NewGuest(lab.GuestOptions{Name: name})
	defer g.Close()
	g.WriteScript("/tmp/udhcpc.script", udhcpcScript)
	began := time.Now()
	g.Plug(host, bridgeName(network), name)
	_, err := g.Run(b.ctx, "busybox", "udhcpc", "-f", "-q", "-n", "-t", "10", "-i", "eth0", "-s", "/tmp/udhcpc.script")
	b.must(err)
	return time.Since(began)
}
