package main

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"viaduct/internal/lab"
)

// lanXML is a network on a bridge of the host's whose guests are in VLANs.
const lanXML = `<network><name>lan</name><forward mode='bridge'/><bridge name='br0'/>
	<portgroup name='red'><vlan><tag id='42'/></vlan></portgroup>
	<portgroup name='blue'><vlan><tag id='50'/></vlan></portgroup>
	<portgroup name='both'><vlan trunk='yes'><tag id='42' nativeMode='untagged'/><tag id='50'/></vlan></portgroup></network>`

// vlans plugs guests into VLANs of a bridge of the host's and of one of
// Viaduct's own, and tries who reaches whom.
func vlans(w *world) {
	w.start("", "--no-default")
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	run := func(n *lab.Node, argv ...string) string {
		r, err := n.Run(ctx, argv...)
		w.must(err)
		return r.Stdout
	}
	run(w.host.Node, "busybox", "ip", "link", "add", "br0", "type", "bridge")
	run(w.host.Node, "busybox", "ip", "link", "set", "br0", "up")
	w.host.WriteFile("/tmp/lan.xml", lanXML)
	w.viaduct("net-create", "/tmp/lan.xml")

	addrs := map[string]netip.Addr{}
	guests := map[string]*lab.Guest{}
	guest := func(name, addr string) *lab.Guest {
		g := w.NewGuest(lab.GuestOptions{Name: name})
		guests[name], addrs[name] = g, netip.MustParseAddr(addr)
		return g
	}
	address := func(name string) {
		g := guests[name]
		g.AddAddr("eth0", netip.PrefixFrom(addrs[name], 24))
		g.ServeEcho(lab.PortEcho)
	}
	// declared plugs in a guest whose link another program makes.
	declared := func(network, bridge, name, group, vlan, addr string) {
		g := guest(name, addr)
		w.host.WriteFile("/tmp/port.xml", fmt.Sprintf(`<networkport><uuid>7d1f3a0c-0000-4000-8000-%012x</uuid>
			<owner><name>%s</name><uuid>7d1f3a0c-0000-4000-9000-%012x</uuid></owner>%s<mac address='%s'/>%s</networkport>`,
			g.MAC[5], name, g.MAC[5], group, g.MAC, vlan))
		w.viaduct("net-port-create", network, "/tmp/port.xml")
		g.Plug(w.host.Node, bridge, name)
		address(name)
	}
	plugged := func(name, addr string, group ...string) {
		g := guest(name, addr)
		g.Plug(w.host.Node, "", name)
		w.viaduct(append([]string{"port-create", "lan", "--link", name}, group...)...)
		address(name)
	}
	reaches := func(from, to string) {
		lab.Eventually(w, 20*time.Second, func() error {
			try, cancel := context.WithTimeout(ctx, 2*time.Second)
			defer cancel()
			err := guests[from].Reach(try, netip.AddrPortFrom(addrs[to], lab.PortEcho))
			if err != nil {
				return fmt.Errorf("%s does not reach %s: %w\n%s", from, to, err, run(w.host.Node, "bridge", "vlan"))
			}
			return nil
		})
	}
	apart := func(from, to string) {
		try, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		if guests[from].Reach(try, netip.AddrPortFrom(addrs[to], lab.PortEcho)) == nil {
			w.Fatalf("%s reaches %s\n%s", from, to, run(w.host.Node, "bridge", "vlan"))
		}
	}

	// A bridge that does not filter would let everybody reach everybody.
	g := guest("early", "10.0.0.9")
	g.Plug(w.host.Node, "", "early")
	if r, err := w.daemon.Viaduct(ctx, "port-create", "lan", "--link", "early", "--group", "red"); err == nil {
		w.Fatalf("a bridge that does not filter took a port with a VLAN")
	} else {
		fmt.Println("REFUSED", strings.ReplaceAll(r.Stderr, "\n", " "))
	}
	run(w.host.Node, "busybox", "sh", "-c", "echo 1 >/sys/class/net/br0/bridge/vlan_filtering")
	plugged("red1", "10.0.0.1", "--group", "red")
	declared("lan", "br0", "red2", "<group>red</group>", "", "10.0.0.2")
	plugged("blue1", "10.0.0.3", "--group", "blue")
	plugged("both1", "10.0.0.4", "--group", "both")
	plugged("none1", "10.0.0.5")
	guests["tagged"], addrs["tagged"] = guests["both1"], netip.MustParseAddr("10.0.1.4")
	run(guests["both1"].Node, "busybox", "ip", "link", "add", "link", "eth0", "name", "eth0.50", "type", "vlan", "id", "50")
	guests["both1"].AddAddr("eth0.50", netip.MustParsePrefix("10.0.1.4/24"))
	guests["both1"].LinkUp("eth0.50")
	guests["blue1"].AddAddr("eth0", netip.MustParsePrefix("10.0.1.3/24"))
	check := func() {
		reaches("red1", "red2")
		reaches("red1", "both1")
		reaches("blue1", "tagged")
		for _, pair := range [][2]string{{"red1", "blue1"}, {"red1", "none1"}, {"blue1", "none1"}, {"blue1", "both1"}} {
			apart(pair[0], pair[1])
		}
	}
	check()
	fmt.Println("VLANS", strings.Join(strings.Fields(run(w.host.Node, "bridge", "vlan")), " "))

	// What others change is put back, also while no daemon runs.
	heals := func(change ...string) {
		before := run(w.host.Node, "bridge", "vlan")
		run(w.host.Node, change...)
		lab.Eventually(w, 20*time.Second, func() error {
			if now := run(w.host.Node, "bridge", "vlan"); now != before {
				return fmt.Errorf("after %v:\n%s", change, now)
			}
			return nil
		})
	}
	heals("bridge", "vlan", "add", "dev", "red2", "vid", "50")
	heals("bridge", "vlan", "del", "dev", "both1", "vid", "42-50")
	heals("bridge", "vlan", "add", "dev", "red1", "vid", "1", "pvid", "untagged")
	w.daemon.Kill9()
	run(w.host.Node, "bridge", "vlan", "add", "dev", "blue1", "vid", "42", "pvid", "untagged")
	w.must(w.daemon.Start())
	check()
	before := run(w.host.Node, "bridge", "vlan")
	w.viaduct("net-destroy", "lan")
	if left := run(w.host.Node, "bridge", "vlan"); strings.Contains(left, "red1") || !strings.Contains(left, "br0") {
		w.Fatalf("before the stop\n%s\nafter it\n%s", before, left)
	}

	// In a bridge of our own guests with a VLAN are apart from the others, who
	// keep the host.
	w.host.WriteFile("/tmp/a.xml", `<network><name>a</name><forward mode='nat'/><bridge name='virbr50'/>
		<ip address='192.168.50.1' prefix='24'/></network>`)
	w.viaduct("net-create", "/tmp/a.xml")
	addrs["host"] = netip.MustParseAddr("192.168.50.1")
	w.host.ServeEcho(lab.PortEcho)
	declared("a", "virbr50", "plain", "", "", "192.168.50.2")
	reaches("plain", "host")
	// meanwhile counts what a guest without a VLAN loses.
	meanwhile := func(change func()) int {
		ping := guests["plain"].StartPing(addrs["host"], time.Millisecond)
		w.must(ping.Await(ctx, 100))
		change()
		w.must(ping.Await(ctx, 100))
		loss := ping.Stop()
		return loss.Sent - loss.Received
	}
	begins := meanwhile(func() {
		declared("a", "virbr50", "seven1", "", "<vlan><tag id='7'/></vlan>", "192.168.50.3")
		declared("a", "virbr50", "seven2", "", "<vlan><tag id='7'/></vlan>", "192.168.50.4")
		reaches("seven1", "seven2")
	})
	reaches("plain", "host")
	apart("plain", "seven1")
	apart("seven1", "host")
	filters := func() string {
		return strings.TrimSpace(run(w.host.Node, "busybox", "cat", "/sys/class/net/virbr50/bridge/vlan_filtering"))
	}
	was := filters()
	ends := meanwhile(func() {
		for _, name := range []string{"seven1", "seven2"} {
			w.viaduct("port-delete", "a", name)
		}
	})
	fmt.Println("LOST", max(begins, ends), "packets:", begins, "and", ends)
	if is := filters(); was != "1" || is != "0" {
		w.Fatalf("vlan_filtering is %s with guests in VLANs and %s without", was, is)
	}
	reaches("plain", "host")

	// What guests send cannot be limited together, and is not cut off by the attempt.
	w.host.WriteFile("/tmp/a.xml", `<network><name>a</name><forward mode='nat'/><bridge name='virbr50'/>
		<bandwidth><outbound average='4096'/></bandwidth><ip address='192.168.50.1' prefix='24'/></network>`)
	r, err := w.daemon.Viaduct(ctx, "net-apply", "/tmp/a.xml")
	if err == nil {
		w.Fatalf("a limit that this kernel cannot keep was taken")
	}
	fmt.Println("UNLIMITED", strings.ReplaceAll(r.Stderr, "\n", " "))
	guests["plain"].AddRoute(netip.MustParsePrefix("0.0.0.0/0"), addrs["host"])
	addrs["outside"] = w.host.Outside.Addr
	reaches("plain", "outside")
	if strings.Contains(w.host.Dump(), "ifbi-virbr50") {
		w.Fatalf("left over:\n%s", w.host.Dump())
	}
}
