package main

import (
	"fmt"
	"os"
)

const (
	// routedAddr and staticAddr are the addresses of guests that are routed, in
	// the subnet of the uplink.
	routedAddr = "198.51.100.60"
	staticAddr = "198.51.100.61"

	vlanID   = 42
	portUUID = "7d1f3a0c-0000-4000-8000-000000000023"
)

// vlanXML is a network on a bridge of the host's.
const vlanXML = `<network><name>trunk</name><forward mode='bridge'/><bridge name='br0'/></network>`

// vlanPort is what the guest with a MAC address is to have there.
const vlanPort = `<networkport><uuid>%s</uuid><owner><name>%s</name><uuid>7d1f3a0c-0000-4000-9000-000000000023</uuid></owner>
	<mac address='%s'/><vlan><tag id='%d'/></vlan></networkport>`

// otherKinds: a guest in NAT, guests that are routed, set up by DHCP and by
// hand, and one in a VLAN have what they are to have, are heard as themselves
// only, and leave nothing.
func otherKinds(w *world) {
	w.run("ip", "link", "add", "br0", "type", "bridge", "vlan_filtering", "1")
	w.Cleanup(func() { w.run("ip", "link", "del", "br0") })
	// Or it gets an address of its own when its first port comes.
	w.must(os.WriteFile("/proc/sys/net/ipv6/conf/br0/disable_ipv6", []byte("1"), 0))
	w.run("ip", "link", "set", "br0", "up")
	w.must(os.WriteFile("/tmp/trunk.xml", []byte(vlanXML), 0o644))
	w.run("viaduct", "net-create", "/tmp/trunk.xml")
	w.Cleanup(func() { w.run("viaduct", "net-destroy", "trunk") })
	before := w.trace()

	const tagged = "00:16:3e:00:00:23"
	w.must(os.WriteFile("/tmp/port.xml", fmt.Appendf(nil, vlanPort, portUUID, "vera", tagged, vlanID), 0o644))
	w.run("viaduct", "net-port-create", "trunk", "/tmp/port.xml")
	nat := w.guest("nora", "mac=00:16:3e:00:00:20,script=vif-nat")
	routed := w.guest("rose", "mac=00:16:3e:00:00:21,script=vif-route,ip="+routedAddr)
	byHand := w.guest("rita", "mac=00:16:3e:00:00:22,script=vif-route,ip="+staticAddr)
	vlan := w.guest("vera", "mac="+tagged+",script=vif-viaduct,bridge=nowhere")
	all := []*guest{nat, routed, byHand, vlan}
	for _, g := range all {
		w.Cleanup(g.destroy)
	}
	w.create(all...)

	nat.addr, routed.addr = nat.lease("eth0"), routed.lease("eth0")
	var domain int
	fmt.Sscan(nat.domid, &domain)
	if want := fmt.Sprintf("10.0.%d.1", domain); nat.addr != want {
		w.Errorf("the guest in NAT has %s, not %s", nat.addr, want)
	}
	if routed.addr != routedAddr {
		w.Errorf("the guest that is routed has %s", routed.addr)
	}
	byHand.addr = staticAddr
	byHand.run("ip addr add " + staticAddr + "/32 dev eth0 && ip link set eth0 up && ip route add " + hostAddr + " dev eth0 && ip route add default via " + hostAddr)
	for g, as := range map[*guest]string{nat: hostAddr, routed: routedAddr, byHand: staticAddr} {
		g.reaches(hostAddr)
		if seen := g.seenAs(); seen != as {
			w.Errorf("the outside sees %s as %s, not %s", g.name, seen, as)
		}
	}
	routed.reaches(byHand.addr)
	nat.reaches(routed.addr)
	w.runOutside("ping -c 3 " + routedAddr + " && ping -c 3 " + staticAddr)

	nat.liesOutside(fmt.Sprintf("10.0.%d.128", domain))
	routed.liesOutside(hostAddr)

	// The guest has no tags, what the host has of it carries them.
	w.run("ip", "link", "add", "link", "br0", "name", "br0.42", "type", "vlan", "id", fmt.Sprint(vlanID))
	w.run("bridge", "vlan", "add", "dev", "br0", "vid", fmt.Sprint(vlanID), "self")
	w.run("ip", "addr", "add", "10.42.0.1/24", "dev", "br0.42")
	w.run("ip", "link", "set", "br0.42", "up")
	w.run("ip", "addr", "add", "10.1.0.1/24", "dev", "br0")
	vlan.run("ip link set eth0 up && ip addr add 10.42.0.9/24 dev eth0 && ip addr add 10.1.0.9/24 dev eth0")
	vlan.reaches("10.42.0.1")
	if out, err := vlan.start("ping -c 3 -W 2 10.1.0.1").wait(); err == nil {
		w.Errorf("the guest in VLAN %d reaches the host outside of it: %s", vlanID, out)
	}
	w.run("ip", "link", "del", "br0.42")
	w.run("ip", "addr", "del", "10.1.0.1/24", "dev", "br0")
	w.run("bridge", "vlan", "del", "dev", "br0", "vid", fmt.Sprint(vlanID), "self")

	for _, g := range all {
		g.destroy()
	}
	w.run("viaduct", "net-port-delete", "trunk", portUUID)
	w.leavesNothing(before)
}
