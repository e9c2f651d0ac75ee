package main

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"viaduct/internal/lab"
)

// uplink starts and stops an IPv6 network on a host that knows its own way out
// from router advertisements.
func uplink(w *world) {
	w.start("", "--no-default")
	router := w.Node("router")
	w.Connect(w.host.Node, "eth1", router, "eth0", lab.WireOptions{})
	// hears waits until the host has an address of the prefix, from an
	// advertisement that it has listened to.
	hears := func(prefix string, lifetime time.Duration) {
		p := netip.MustParsePrefix(prefix)
		router.Advertise("eth0", p, lifetime)
		lab.Eventually(w, 20*time.Second, func() error {
			for _, a := range w.host.Addrs("eth1") {
				if p.Contains(a.Addr()) {
					return nil
				}
			}
			return fmt.Errorf("no address of %s", p)
		})
	}
	tell := func(word string) { fmt.Println(word, w.learned(), w.settings()) }
	hears("2001:db8:77::/64", 30*time.Second)
	tell("BEFORE")
	w.host.WriteFile("/tmp/a.xml", `<network><name>a</name><forward mode='route'/><bridge name='virbr50'/>
		<ip family='ipv6' address='fd00:50::1' prefix='64'/></network>`)
	w.viaduct("net-create", "/tmp/a.xml")
	tell("STARTED")
	for i := range 3 {
		hears(fmt.Sprintf("2001:db8:%d::/64", 80+i), 30*time.Second)
	}
	tell("HEARD")
	w.viaduct("net-destroy", "a")
	tell("STOPPED")
	hears("2001:db8:90::/64", 0)
	tell("LEFT")
}

// learned says whether the host has a default route from an advertisement.
func (w *world) learned() string {
	const byRA = "protocol 9 " // RTPROT_RA
	for line := range strings.Lines(w.host.Dump()) {
		if strings.Contains(line, "::/0 dev eth1 ") && strings.Contains(line, byRA) {
			return "route"
		}
	}
	return "none"
}

// settings are those that decide whether a host listens to advertisements.
func (w *world) settings() string {
	var list []string
	for _, name := range []string{"all/forwarding", "eth0/forwarding", "eth1/forwarding", "eth0/accept_ra", "eth1/accept_ra"} {
		list = append(list, name+"="+w.host.Sysctl("net/ipv6/conf/"+name))
	}
	return strings.Join(list, ",")
}
