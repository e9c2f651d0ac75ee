package main

import (
	"fmt"
	"net/netip"
	"time"
)

// startLimit is how long a peer may take to be there.
const startLimit = 30 * time.Second

// lifecycle starts and then stops networks one by one, in batches that alternate
// between us, libvirt and, for stops, the bare kernel, and looks at the memory
// when all of them run.
func (b *bench) lifecycle() {
	total := b.scale.batch * b.scale.batches
	us, them, bare := b.startOurs("ours", total, 0), b.newLibvirtd("libvirt", total), b.lab.Node("bare")
	for n := range total {
		bare.AddBridge(bridgeName(n))
		bare.AddAddr(bridgeName(n), netip.MustParsePrefix(subnet(n)+".1/24"))
	}

	var ourStarts, theirStarts, ourStops, theirStops, bareStops []time.Duration
	for i := range b.scale.batches {
		batch := numbers(i*b.scale.batch, b.scale.batch)
		ourStarts = append(ourStarts, us.start(batch)...)
		theirStarts = append(theirStarts, them.start(batch)...)
		b.progress("%d networks: last batch of starts %s ours, %s libvirt's", len(ourStarts),
			millis(mean(ourStarts[i*b.scale.batch:])), millis(mean(theirStarts[i*b.scale.batch:])))
	}
	ourMemory, theirMemory := us.memory(), them.memory()
	for i := range b.scale.batches {
		batch := numbers(i*b.scale.batch, b.scale.batch)
		ourStops = append(ourStops, us.stop(batch)...)
		for _, n := range batch {
			began := time.Now()
			bare.DeleteLink(bridgeName(n))
			bareStops = append(bareStops, time.Since(began))
		}
		theirStops = append(theirStops, them.stop(batch)...)
		b.progress("%d networks: last batch of stops %s ours, %s bare, %s libvirt's", len(ourStops),
			millis(mean(ourStops[i*b.scale.batch:])), millis(mean(bareStops[i*b.scale.batch:])), millis(mean(theirStops[i*b.scale.batch:])))
	}

	started, theirs := mean(ourStarts), mean(theirStarts)
	stopped, theirStop, floor := mean(ourStops), mean(theirStops), mean(bareStops)
	b.report.add(
		atLeast(fmt.Sprintf("start one of %d NAT networks, one by one, mean", total), millis(started), "libvirtd "+millis(theirs), quotient(theirs, started), 20),
		atLeast(fmt.Sprintf("stop one of %d, mean", total), millis(stopped), "libvirtd "+millis(theirStop), quotient(theirStop, stopped), 7),
		atMost("the same stop", millis(stopped), "bare netlink delete "+millis(floor), quotient(stopped, floor), 1.2),
		atLeast(fmt.Sprintf("memory (PSS) with %d networks", total), mebibytes(ourMemory), "libvirtd and dnsmasqs "+mebibytes(theirMemory), theirMemory/ourMemory, 4),
	)
}
