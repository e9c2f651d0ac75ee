package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// onLan is a guest's interface on the network lan, with a MAC address of its own.
// The script is xl's default.
func onLan(number int, more ...string) string {
	return strings.Join(append([]string{fmt.Sprintf("mac=00:16:3e:00:00:%02x,bridge=lan", number)}, more...), ",")
}

// bridgedGuest: a guest on a network of ours gets an address and reaches host
// and outside; when it is destroyed, nothing of it is left.
func bridgedGuest(w *world) {
	before := w.trace()
	g := w.guest("eve", onLan(5))
	w.Cleanup(g.destroy)
	w.create(g)
	if status, state := w.read(g.vif(0)+"/hotplug-status"), w.read(g.vif(0)+"/state"); status != "connected" || state != "4" {
		w.Errorf("hotplug-status %q, state %q", status, state)
	}
	if addr := g.lease("eth0"); !strings.HasPrefix(addr, "192.168.50.") {
		w.Errorf("the guest has the address %s", addr)
	}
	g.reaches("192.168.50.1")
	g.reaches(outsideAddr)
	g.seenAs(outsideAddr, hostAddr)
	g.madeItself("eth0", lanAddr6)
	g.seenAs(outsideAddr6, hostAddr6)
	if ports := w.run("viaduct", "port-list", "lan"); !strings.Contains(ports, g.link(0)) {
		w.Errorf("no port is the guest's:\n%s", ports)
	}
	g.destroy()
	w.leavesNothing(before)
}

// limited is what xl is told of carol, and what it makes of it in octets per second.
const (
	limited       = "rate=4Mb/s@20ms"
	limitedOctets = 5e5
)

// davesAddr is one that xl is told of.
const davesAddr = "192.168.50.200"

// fourGuests: guests with two interfaces each that xl creates at once get their
// networks and their own addresses, one of them by hand, and reach each other.
func fourGuests(w *world) {
	w.before = w.trace()
	const nat = "script=vif-nat"
	w.alice, w.bob = w.guest("alice", onLan(1), nat), w.guest("bob", onLan(2), nat)
	w.carol, w.dave = w.guest("carol", onLan(3, limited), nat), w.guest("dave", onLan(4, "ip="+davesAddr), nat)
	all := []*guest{w.alice, w.bob, w.carol, w.dave}
	w.create(all...)
	by := map[string]*guest{}
	for _, g := range all {
		g.addr = g.lease("eth0")
		if other := by[g.addr]; other != nil {
			w.Errorf("%s and %s have the address %s", g.name, other.name, g.addr)
		}
		by[g.addr] = g
	}
	if w.dave.addr != davesAddr {
		w.Errorf("dave has the address %s", w.dave.addr)
	}
	w.dave.byHand("eth0", davesAddr+"/24", "192.168.50.1")
	for i, g := range all {
		g.reaches("192.168.50.1")
		g.reaches(all[(i+1)%len(all)].addr)
		g.reaches(outsideAddr)
	}
	w.lists(map[string]string{
		w.alice.link(0): "alice " + w.alice.domid + " 00:16:3e:00:00:01 lan virbr1 " + w.alice.addr + " - connected",
		w.carol.link(0): "carol " + w.carol.domid + " 00:16:3e:00:00:03 lan virbr1 " + w.carol.addr + " 4 Mb/s connected",
		w.dave.link(0):  "dave " + w.dave.domid + " 00:16:3e:00:00:04 lan virbr1 " + davesAddr + " - connected",
	})
}

// reboot: a guest that reboots is another domain of Xen's, and has its MAC
// address and its address.
func reboot(w *world) {
	g := w.alice
	domain, mac := g.domid, g.run("cat /sys/class/net/eth0/address")
	g.reboot()
	w.Logf("domain %s is domain %s now", domain, g.domid)
	if g.domid == domain {
		w.Errorf("the guest is domain %s still", domain)
	}
	if now := g.run("cat /sys/class/net/eth0/address"); now != mac {
		w.Errorf("the guest had the MAC address %s and has %s", mac, now)
	}
	if now := g.lease("eth0"); now != g.addr {
		w.Errorf("the guest had the address %s and has %s", g.addr, now)
	}
	g.reaches(w.bob.addr)
	g.reaches(outsideAddr)
}

// mostInterfaces is what a guest of Xen's could have in earlier days.
const mostInterfaces = 8

// attachDetach: a guest that runs gets interfaces, all at once, and loses them.
func attachDetach(w *world) {
	before := w.trace()
	g := w.alice
	each := func(do func(index int) []string) {
		failed := make(chan error)
		for i := 2; i < mostInterfaces; i++ {
			go func() {
				_, err := try(do(i)...)
				failed <- err
			}()
		}
		for i := 2; i < mostInterfaces; i++ {
			if err := <-failed; err != nil {
				w.Errorf("%v", err)
			}
		}
	}
	each(func(i int) []string {
		return []string{"xl", "network-attach", g.name, fmt.Sprintf("mac=00:16:3e:00:00:3%d", i), fmt.Sprintf("devid=%d", i), "bridge=lan"}
	})
	if list := w.run("xl", "network-list", g.name); strings.Count(list, "00:16:3e:") != mostInterfaces {
		w.Errorf("the guest's interfaces:\n%s", list)
	}
	last := fmt.Sprintf("eth%d", mostInterfaces-1)
	g.await("[ $(ls -d /sys/class/net/eth* | wc -l) = " + fmt.Sprint(mostInterfaces) + " ]")
	if addr := g.lease(last); addr == g.addr || !strings.HasPrefix(addr, "192.168.50.") {
		w.Errorf("%s has the address %s", last, addr)
	}
	g.run("ping -c 3 -I " + last + " 192.168.50.1")
	each(func(i int) []string { return []string{"xl", "network-detach", g.name, fmt.Sprint(i)} })
	g.await("[ ! -e /sys/class/net/" + last + " ]")
	w.leavesNothing(before)
	g.lease("eth0") // the default route went with the other interface
	g.reaches(outsideAddr)
}

// rate: rate= holds, and changes while the guest runs; so do the limits of the port.
func rate(w *world) {
	store := func(value string) {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		w.must(w.store.Write(ctx, w.carol.vif(0)+"/rate", value))
	}
	w.carol.measure(limited, "upload", limitedOctets)
	store("20000,20000")
	w.carol.measure("rate= changed", "upload", 1e6)
	store("100000000,20000")
	// The machine that emulates this one may be away for longer than the
	// bursts last that limits have by themselves.
	const kib, burst = 500, 256
	w.run("viaduct", "port-bandwidth", "lan", w.carol.link(0),
		"--inbound", fmt.Sprintf("%d,%d,%d", kib, kib, burst), "--outbound", fmt.Sprintf("%d,%d,%d", 2*kib, 2*kib, burst))
	w.carol.measure("port's inbound", "download", kib<<10)
	w.carol.measure("port's outbound", "upload", 2*kib<<10)
	w.run("viaduct", "port-bandwidth", "lan", w.carol.link(0))
}

// attempts are how often a rate is measured: a machine that has other things to
// do emulates this one too slowly at times.
const attempts = 6

// measure compares how fast the guest's traffic is, in octets a second, with how
// fast it is meant to be. It does so again if it was slowed down by others.
func (g *guest) measure(what, direction string, want float64) {
	w := g.w
	for attempt := 1; ; attempt++ {
		octets, err := strconv.ParseFloat(g.start("agent "+direction+" "+outsideAddr+" 5s").until("RATE"), 64)
		w.must(err)
		w.Logf("%s: %.0f octets a second, meant to be %.0f", what, octets, want)
		if octets > 0.85*want && octets < 1.15*want {
			return
		}
		if attempt == attempts {
			w.Errorf("that is not within 15 %%")
			return
		}
	}
}

// daemonKilled: a daemon that is killed and started again costs guests nothing.
func daemonKilled(w *world) {
	w.alice.start("agent serve").until("SERVING")
	flows := []*call{
		w.bob.start("agent flow " + outsideAddr + " 400"), w.carol.start("agent flow " + w.alice.addr + " 400"),
	}
	for _, f := range flows {
		f.until("FLOWING")
	}
	w.killDaemon()
	time.Sleep(time.Second) // nobody is there for a while
	w.startDaemon()
	for _, f := range flows {
		var sent, came int
		said := f.until("FLOWED")
		_, err := fmt.Sscan(said, &sent, &came)
		w.must(err)
		if came != sent {
			w.Errorf("%s: of %d datagrams %d were answered", f.guest.name, sent, came)
		}
	}
	if plan := w.run("viaduct", "plan", "lan", "-o", "json"); !strings.Contains(plan, `"operations": []`) {
		w.Errorf("the daemon that came after has something to do: %s", plan)
	}
	w.bob.reaches(w.alice.addr)
}

// scriptFails: xl says why a guest cannot be connected, and nothing is left of it.
func scriptFails(w *world) {
	before := w.trace()
	g := w.guest("frank", "mac=00:16:3e:00:00:06,script=vif-viaduct,bridge=nosuch")
	out, err := try("xl", "create", g.config)
	if err == nil || !strings.Contains(out, "bridge=nosuch: no network is called so") {
		w.Errorf("xl create: %v: %s", err, out)
	}
	w.leavesNothing(before)
}

// leave: nothing is left of guests that are destroyed, of the last even if there is
// no daemon then, once there is one again.
func leave(w *world) {
	for _, g := range []*guest{w.alice, w.bob, w.carol} {
		g.destroy()
	}
	w.killDaemon()
	w.dave.destroy()
	w.startDaemon()
	w.leavesNothing(w.before)
}
