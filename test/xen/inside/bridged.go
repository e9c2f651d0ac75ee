package main

import "strings"

// bridgedGuest: a guest on a network of ours gets an address and reaches host
// and outside; when it is destroyed, nothing of it is left.
func bridgedGuest(w *world) {
	before := w.trace()
	g := w.guest("alice", "mac=00:16:3e:00:00:01,script=vif-viaduct,bridge=lan")
	g.create()
	if status, state := w.read(g.vif(0)+"/hotplug-status"), w.read(g.vif(0)+"/state"); status != "connected" || state != "4" {
		w.Errorf("hotplug-status %q, state %q", status, state)
	}
	if addr := g.lease("eth0"); !strings.HasPrefix(addr, "192.168.50.") {
		w.Errorf("the guest has the address %s", addr)
	}
	g.reaches("192.168.50.1")
	g.reaches(outsideAddr)
	if seen := g.seenAs(); seen != hostAddr {
		w.Errorf("the outside sees the guest as %s", seen)
	}
	if ports := w.run("viaduct", "port-list", "lan"); !strings.Contains(ports, "vif"+g.domid+".0") {
		w.Errorf("no port is the guest's:\n%s", ports)
	}
	g.destroy()
	w.leavesNothing(before)
}
