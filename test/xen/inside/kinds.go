package main

import (
	"fmt"
	"os"
)

const (
	// routedAddr and staticAddr are the addresses of guests that are routed, in
	// the subnet of the uplink; routedNet6 is a network that is a guest's alone.
	routedAddr  = "198.51.100.60"
	staticAddr  = "198.51.100.61"
	staticAddr6 = "2001:db8:7::61"
	routedNet6  = "2001:db8:60::/64"
	routerAddr6 = "fe80::1"

	// natAddr and natAddr6 are those of a guest in NAT that is told them, and
	// natRouter what is its router by that.
	natAddr   = "10.7.0.5"
	natRouter = "10.7.0.132"
	natAddr6  = "fd00:7::5"

	vlanID   = 42
	vlanMAC  = "00:16:3e:00:00:23"
	portUUID = "7d1f3a0c-0000-4000-8000-000000000023"
)

// vlanXML is a network on a bridge of the host's.
const vlanXML = `<network><name>trunk</name><forward mode='bridge'/><bridge name='br0'/></network>`

// vlanPort is what the guest with a MAC address is to have there, with settings.
const vlanPort = `<networkport><uuid>%s</uuid><owner><name>%s</name><uuid>7d1f3a0c-0000-4000-9000-000000000023</uuid></owner>
	<mac address='%s'/>%s</networkport>`

// otherKinds: a guest in NAT, guests that are routed, set up by themselves and
// by hand, and one in a VLAN have what they are to have, in both families, are
// heard as themselves only, and leave nothing.
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

	w.must(os.WriteFile("/tmp/port.xml", fmt.Appendf(nil, vlanPort, portUUID, "vera", vlanMAC, ""), 0o644))
	w.run("viaduct", "net-port-create", "trunk", "/tmp/port.xml")
	nat := w.guest("nora", "mac=00:16:3e:00:00:20,script=vif-nat", "mac=00:16:3e:00:00:24,script=vif-nat,ip="+natAddr+" "+natAddr6)
	routed := w.guest("rose", "mac=00:16:3e:00:00:21,script=vif-route,ip="+routedAddr+" "+routedNet6)
	byHand := w.guest("rita", "mac=00:16:3e:00:00:22,script=vif-route,"+limited+",ip="+staticAddr+" "+staticAddr6)
	vlan := w.guest("vera", "mac="+vlanMAC+",bridge=nowhere")
	all := []*guest{nat, routed, byHand, vlan}
	for _, g := range all {
		w.Cleanup(g.destroy)
	}
	w.create(all...)

	nat.addr, routed.addr, byHand.addr = nat.lease("eth0"), routed.lease("eth0"), staticAddr
	var domain int
	fmt.Sscan(nat.domid, &domain)
	if want := fmt.Sprintf("10.0.%d.1", domain); nat.addr != want {
		w.Errorf("the guest in NAT has %s, not %s", nat.addr, want)
	}
	if routed.addr != routedAddr {
		w.Errorf("the guest that is routed has %s", routed.addr)
	}
	byHand.byHand("eth0", staticAddr+"/32", hostAddr)
	byHand.byHand("eth0", staticAddr6+"/128", routerAddr6)
	for g, as := range map[*guest]string{nat: hostAddr, routed: routedAddr, byHand: staticAddr} {
		g.reaches(hostAddr)
		g.seenAs(outsideAddr, as)
	}
	routed.reaches(byHand.addr)
	nat.reaches(routed.addr)
	w.runOutside("ping -c 3 " + routedAddr + " && ping -c 3 " + staticAddr)

	// The host's settings have rate= hold in the direction too that netback does not know.
	byHand.measure("rate= of a routed guest", "download", limitedOctets)

	byHand.seenAs(outsideAddr6, staticAddr6)
	own := routed.madeItself("eth0", "2001:db8:60:0:")
	routed.seenAs(outsideAddr6, own)
	routed.reaches(staticAddr6)
	w.runOutside("ping -c 3 " + staticAddr6 + " && ping -c 3 " + own)

	nat.liesOutside(fmt.Sprintf("10.0.%d.128", domain))
	routed.liesOutside(hostAddr)

	// Another interface of the guest's, by hand.
	nat.run("ip addr flush dev eth0; ip link set eth0 down")
	nat.byHand("eth1", natAddr+"/32", natRouter)
	nat.byHand("eth1", natAddr6+"/128", routerAddr6)
	nat.seenAs(outsideAddr, hostAddr)
	nat.reaches(hostAddr)
	nat.reaches(routed.addr)
	nat.seenAs(outsideAddr6, hostAddr6)
	nat.reaches(staticAddr6)
	w.run("ping", "-c", "3", natAddr)
	w.run("ping", "-c", "3", natAddr6)

	w.lists(map[string]string{
		nat.link(1):    "nora " + nat.domid + " 00:16:3e:00:00:24 xen-nat - " + natAddr + " " + natAddr6 + " - connected",
		routed.link(0): "rose " + routed.domid + " 00:16:3e:00:00:21 xen-route - " + routedAddr + " " + routedNet6 + " - connected",
		vlan.link(0):   "vera " + vlan.domid + " " + vlanMAC + " trunk br0 - - connected",
	})

	// The port that was declared for the guest gets a VLAN, and so does the guest.
	w.must(os.WriteFile("/tmp/port.xml", fmt.Appendf(nil, vlanPort, portUUID, "vera", vlanMAC, fmt.Sprintf("<vlan><tag id='%d'/></vlan>", vlanID)), 0o644))
	w.run("viaduct", "port-update", "trunk", portUUID, "/tmp/port.xml")
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
