package main

import (
	"fmt"
	"slices"
	"time"

	"viaduct/internal/libvirtrpc/rpctest"
	"viaduct/internal/libvirtrpc/xdr"
)

// rpc measures libvirt's clients: what they wait for on a host with few and with
// many definitions, and how many calls get through one connection. We and libvirtd
// take turns.
func (b *bench) rpc() {
	for _, count := range slices.Compact([]int{1, 100, b.scale.many}) {
		us, them := b.startOurs(fmt.Sprintf("rpc%d", count), count, 0), b.newLibvirtd(fmt.Sprintf("rpc%d-libvirt", count), count)
		var ours, theirs []time.Duration
		for range b.scale.rpcRounds {
			ours = append(ours, us.virsh("net-list --all")...)
			theirs = append(theirs, them.virsh("net-list --all")...)
		}
		a, c := median(ours), median(theirs)
		b.report.add(atLeast(fmt.Sprintf("virsh net-list --all, %d networks, median", count), millis(a), "libvirtd "+millis(c), quotient(c, a), 1))
		if count == 1 || count == b.scale.many {
			b.lives(us, them, count)
		}
		if count == 1 {
			b.calls(us, them)
		}
	}
}

// lives defines, starts, stops and removes one network more, again and again. It
// is defined and removed some times for each start, since that takes so little.
func (b *bench) lives(us *ours, them *libvirtd, count int) {
	name, path := networkName(count), "/tmp/life.xml"
	us.host.WriteFile(path, definition(count, "on"))
	them.host.WriteFile(path, definition(count, "on"))
	const more = 4
	life := append(slices.Repeat([]string{"net-define", "net-undefine"}, more), "net-define", "net-start", "net-destroy", "net-undefine")
	var commands []string
	for _, verb := range life {
		argument := name
		if verb == "net-define" {
			argument = path
		}
		commands = append(commands, verb+" "+argument)
	}
	ours, theirs := map[string][]time.Duration{}, map[string][]time.Duration{}
	live := func(m manager, all map[string][]time.Duration) {
		for i, took := range m.virsh(commands...) {
			all[life[i]] = append(all[life[i]], took)
		}
	}
	for i := range b.scale.rpcRounds {
		// Whoever comes second has the other's bridge still to go.
		if i%2 == 0 {
			live(us.manager, ours)
			live(them.manager, theirs)
		} else {
			live(them.manager, theirs)
			live(us.manager, ours)
		}
	}
	for _, v := range []struct {
		verb   string
		wanted float64
	}{{"net-define", 1}, {"net-start", 10}, {"net-destroy", 1}, {"net-undefine", 1}} {
		a, c := median(ours[v.verb]), median(theirs[v.verb])
		b.report.add(atLeast(fmt.Sprintf("virsh %s beside %d networks, median", v.verb, count), millis(a), "libvirtd "+millis(c), quotient(c, a), v.wanted))
	}
}

// calls looks a network up as often as one connection lets it, one call after
// the other, in rounds that alternate.
func (b *bench) calls(us *ours, them *libvirtd) {
	perSecond := func(m manager) float64 {
		var c *rpctest.Client
		b.must(m.node.Do(func() (err error) {
			c, err = rpctest.Dial(m.socket)
			return err
		}))
		defer c.Close()
		b.must(c.Open("network:///system", 0))
		name := networkName(0)
		began, n := time.Now(), 0
		for ; time.Since(began) < time.Duration(b.scale.seconds)*time.Second; n++ {
			d, err := c.Call(46, func(e *xdr.Encoder) { e.String(name) })
			b.must(err)
			if got := d.String(); got != name {
				b.Fatalf("look-up of %s finds %s", name, got)
			}
		}
		return float64(n) / time.Since(began).Seconds()
	}
	var ours, theirs []float64
	for range b.scale.rpcRounds {
		ours, theirs = append(ours, perSecond(us.manager)), append(theirs, perSecond(them.manager))
	}
	b.report.add(atLeast("calls through one connection, median", fmt.Sprintf("%.1f k/s", median(ours)/1000),
		fmt.Sprintf("libvirtd %.1f k/s", median(theirs)/1000), quotients(ours, theirs), 1))
}
