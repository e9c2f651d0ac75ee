package main

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"viaduct/internal/lab"
)

// cards puts bridges in front of a bond of two cards and of a VLAN device, and
// takes them away.
func cards(w *world) {
	w.start("", "--no-default")
	ctx, cancel := context.WithTimeout(context.Background(), 120*time.Second)
	defer cancel()
	run := func(n *lab.Node, line string) string {
		r, err := n.Run(ctx, append([]string{"busybox"}, strings.Fields(line)...)...)
		w.must(err)
		return r.Stdout
	}
	router := w.Node("router")
	router.AddBridge("lan")
	router.LinkUp("lan")
	host := w.host.Node
	run(host, "ip link add bond0 type bond")
	w.host.WriteFile("/tmp/mode", "active-backup")
	run(host, "cp /tmp/mode /sys/class/net/bond0/bonding/mode")
	w.host.WriteFile("/tmp/often", "100")
	run(host, "cp /tmp/often /sys/class/net/bond0/bonding/miimon")
	for i := range 2 {
		card, port := fmt.Sprintf("card%d", i), fmt.Sprintf("port%d", i)
		w.Connect(host, card, router, port, lab.WireOptions{})
		router.SetMaster(port, "lan")
		run(host, "ip link set "+card+" down")
		run(host, "ip link set "+card+" master bond0")
	}
	w.Connect(host, "card2", router, "trunk", lab.WireOptions{})
	run(host, "ip link add link card2 name card2.10 type vlan id 10")
	run(router, "ip link add link trunk name trunk.10 type vlan id 10")
	for _, c := range []struct {
		node    *lab.Node
		link    string
		address string
	}{{host, "bond0", "10.7.0.2/24"}, {router, "lan", "10.7.0.1/24"}, {host, "card2.10", "10.8.0.2/24"}, {router, "trunk.10", "10.8.0.1/24"}} {
		c.node.LinkUp(c.link)
		c.node.AddAddr(c.link, netip.MustParsePrefix(c.address))
	}
	run(host, "ip route add 10.9.0.0/16 via 10.7.0.1")
	reaches := func(from *lab.Node, to string) {
		lab.Eventually(w, 20*time.Second, func() error {
			try, cancel := context.WithTimeout(ctx, 2*time.Second)
			defer cancel()
			return from.Ping(try, netip.MustParseAddr(to))
		})
	}
	both := func() {
		reaches(router, "10.7.0.2")
		reaches(router, "10.8.0.2")
	}
	both()
	before := w.addresses()
	w.viaduct("uplink-create", "xenbr0", "--nic", "bond0")
	w.viaduct("uplink-create", "xenbr10", "--nic", "card2.10", "--mtu", "1496", "--tx-checksum", "off")
	both()
	fmt.Println("TAKEN", w.addresses())
	var guests []*lab.Guest
	for i, address := range []string{"10.7.0.9/24", "10.8.0.9/24"} {
		g := w.NewGuest(lab.GuestOptions{Name: fmt.Sprintf("guest%d", i)})
		bridge := []string{"xenbr0", "xenbr10"}[i]
		g.Plug(host, bridge, fmt.Sprintf("vif%d.0", i))
		g.AddAddr("eth0", netip.MustParsePrefix(address))
		reaches(g.Node, []string{"10.7.0.1", "10.8.0.1"}[i])
		guests = append(guests, g)
	}
	// The bond does what it is for.
	router.LinkDown("port0")
	both()
	router.LinkUp("port0")
	w.daemon.Kill9()
	w.must(w.daemon.Start())
	both()
	for i, bridge := range []string{"xenbr0", "xenbr10"} {
		guests[i].Unplug()
		w.viaduct("uplink-delete", bridge)
	}
	both()
	if now := w.addresses(); now != before {
		w.Fatalf("before: %s, and after all: %s", before, now)
	}
}

// addresses are the host's of IPv4, with their links and those links' MTUs.
func (w *world) addresses() string {
	mtu, list := map[string]string{}, []string{}
	dump := w.host.Dump()
	for line := range strings.Lines(dump) {
		f := strings.Fields(line)
		for i, word := range f {
			if word == "mtu" {
				mtu[f[0]] = f[i+1]
			}
		}
		if len(f) > 1 && strings.HasPrefix(f[1], "10.") && strings.Contains(f[1], "/") {
			list = append(list, f[0]+"="+f[1]+"/mtu="+mtu[f[0]])
		}
	}
	return strings.Join(list, " ")
}
