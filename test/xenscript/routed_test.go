package xenscript

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"viaduct/internal/lab"
)

// in runs a program in a node; it must succeed.
func (x *xenHost) in(n *lab.Node, command string) string {
	x.t.Helper()
	r, err := n.Run(x.context(), strings.Fields(command)...)
	if err != nil {
		x.t.Fatalf("%s: %s: %v\n%s%s", n.Name, command, err, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// static gives a guest addresses at the end of a link of two, as a guest that
// is set up by hand has them.
func (x *xenHost) static(g *lab.Guest, link string, gateway4, gateway6 string, addresses ...string) {
	x.t.Helper()
	for _, a := range addresses {
		option := ""
		if strings.Contains(a, ":") {
			option = " nodad"
		}
		x.in(g.Node, "ip addr add "+a+" dev "+link+option)
	}
	if gateway4 != "" {
		x.in(g.Node, "ip route add "+gateway4+" dev "+link)
		x.in(g.Node, "ip route add default via "+gateway4+" dev "+link)
	}
	if gateway6 != "" {
		x.in(g.Node, "ip -6 route replace default via "+gateway6+" dev "+link)
	}
}

// seenAs fails the test unless the other comes to see the guest under the
// address; who has just come up takes a while for IPv6.
func (x *xenHost) seenAs(g *lab.Guest, to netip.Addr, want string) {
	x.t.Helper()
	lab.Eventually(x.t, 10*time.Second, func() error {
		as, err := g.Who(x.context(), "tcp", to)
		if err == nil && as.Addr() != addr(want) {
			err = fmt.Errorf("%s seen from %s is %s, want %s", g.Name, to, as.Addr(), want)
		}
		return err
	})
}

// A routed guest has addresses of the LAN's and is found there, in both
// families and by each of its addresses, whether it is set up by hand or asks
// for them; it survives the daemon's death, and leaves the host as it was.
func TestRoutedGuest(t *testing.T) {
	x := newXenHost(t)
	x.must(x.daemon.Start())
	before := x.settledDump()
	for _, netdev := range []string{"", "eth0"} {
		n := x.nic("vif-route", 5, 0, keys{"ip": "203.0.113.50 2001:db8:113::50 203.0.113.51"})
		n.netdev = netdev
		g := n.attach()
		n.connected()
		n.connected()
		x.static(g, "eth0", "203.0.113.2", "fe80::1", "203.0.113.50/32", "203.0.113.51/32", "2001:db8:113::50/128")
		g.ServeEcho(lab.PortEcho)
		x.seenAs(g, x.host.Outside.Addr, "203.0.113.50")
		x.seenAs(g, x.host.Outside.Addr6, "2001:db8:113::50")
		for _, a := range []string{"203.0.113.50", "203.0.113.51", "2001:db8:113::50"} {
			x.reaches(x.host.Outside.Node, netip.AddrPortFrom(addr(a), lab.PortEcho))
			x.reaches(x.host.Node, netip.AddrPortFrom(addr(a), lab.PortEcho))
		}
		x.in(x.host.Node, "ip route del 203.0.113.51")
		lab.Eventually(t, 10*time.Second, func() error {
			if routes := x.in(x.host.Node, "ip route"); !strings.Contains(routes, "203.0.113.51 dev vif5.0") {
				return fmt.Errorf("the route to the guest does not come back:\n%s", routes)
			}
			return nil
		})
		ping := x.host.Outside.StartPing(addr("203.0.113.50"), 5*time.Millisecond)
		x.must(ping.Await(x.context(), 20))
		x.daemon.Kill9()
		x.must(x.daemon.Start())
		if loss := ping.Stop(); len(loss.Lost) > 0 {
			t.Errorf("while the daemon was killed: %s", loss)
		}
		n.gone()
		g.Unplug()
		x.asBefore(before)
	}
	n := x.nic("vif-route", 6, 0, keys{"ip": "203.0.113.60"})
	g := n.attach()
	n.connected()
	if seen := x.lease(g); seen.Addr.Addr() != addr("203.0.113.60") || seen.Router != addr("203.0.113.2") {
		t.Errorf("the guest got %+v", seen)
	}
	x.seenAs(g, x.host.Outside.Addr, "203.0.113.60")
	// As at libxl's end: the link goes before the script is told.
	g.Unplug()
	n.gone()
	x.asBefore(before)

	n = x.nic("vif-route", 7, 0, nil)
	n.attach()
	n.set("vlan", "10")
	n.set("ip", "203.0.113.70")
	n.refused("network 'xen-route' routes to its guests: <vlan> and <port isolated='yes'> need a bridge")
	n.unset("vlan")
	n.unset("ip")
	n.refused("the guest is routed, so its addresses have to be known: name them by ip=")
}

// Guests that name the uplink and guests that name none share the host's
// address as their gateway.
func TestRoutedGuestsBesideEachOther(t *testing.T) {
	x := newXenHost(t)
	x.must(x.daemon.Start())
	var nics []*nic
	for i, netdev := range []string{"", "eth0"} {
		address := fmt.Sprintf("203.0.113.%d", 80+i)
		n := x.nic("vif-route", 8+i, 0, keys{"ip": address})
		n.netdev = netdev
		g := n.attach()
		n.connected()
		x.static(g, "eth0", "203.0.113.2", "", address+"/32")
		x.seenAs(g, x.host.Outside.Addr, address)
		nics = append(nics, n)
	}
	for _, n := range nics {
		n.gone()
	}
}

// A routed guest that is set up for IPv6 as most are finds its router, makes
// itself an address in a network of its own, and gets a single one by DHCPv6.
func TestRoutedGuestAsksForIPv6(t *testing.T) {
	lab.Need(t, "dhclient")
	x := newXenHost(t)
	x.must(x.daemon.Start())
	for i, tt := range []struct{ ip, address string }{
		{"2001:db8:113:5::/64", "2001:db8:113:5:"}, {"203.0.113.60 2001:db8:113::60", "2001:db8:113::60"},
	} {
		n := x.nic("vif-route", 5+i, 0, keys{"ip": tt.ip})
		g := n.attach()
		n.connected()
		lab.Eventually(t, 20*time.Second, func() error {
			if routes := x.in(g.Node, "ip -6 route"); !strings.Contains(routes, "default via fe80::1") {
				return fmt.Errorf("no default route:\n%s", routes)
			}
			return nil
		})
		if i == 1 {
			lab.Eventually(t, 20*time.Second, func() error { // the client needs an address to ask from
				if has := x.in(g.Node, "ip -6 -o addr show dev eth0 -tentative"); !strings.Contains(has, "fe80::") {
					return fmt.Errorf("the guest has\n%s", has)
				}
				return nil
			})
			x.in(g.Node, "dhclient -6 -1 -sf /bin/true -lf /tmp/leases6 -pf /tmp/pid6 eth0")
			lease, err := g.ReadFile("/tmp/leases6")
			x.must(err)
			if !strings.Contains(lease, tt.address) {
				t.Errorf("the guest got\n%s", lease)
			}
			x.in(g.Node, "ip addr add "+tt.address+"/128 dev eth0 nodad")
		}
		lab.Eventually(t, 20*time.Second, func() error {
			if has := x.in(g.Node, "ip -6 -o addr show dev eth0 -tentative"); !strings.Contains(has, tt.address) {
				return fmt.Errorf("ip=%s: the guest has\n%s", tt.ip, has)
			}
			return nil
		})
		if i == 1 {
			x.seenAs(g, x.host.Outside.Addr6, tt.address)
		} else {
			x.in(g.Node, "ping -n -c 1 -W 5 2001:db8:113::2")
		}
		n.gone()
		g.Unplug()
	}
}

// Guests in NAT have the addresses that Xen's own script gives them, by DHCP or
// by hand, reach the outside as the host and each other as themselves.
func TestNATGuest(t *testing.T) {
	x := newXenHost(t)
	x.must(x.daemon.Start())
	before := x.settledDump()
	var guests []*lab.Guest
	var nics []*nic
	for i, tt := range []struct {
		ip, want, router string
	}{
		{"", "10.0.1.1", "10.0.1.128"},
		{"10.0.0.200", "10.0.0.200", "10.0.0.73"},
		{"192.168.2.1/24 fd00:2::9", "192.168.2.1", "192.168.2.128"},
	} {
		n := x.nic("vif-nat", i+1, 0, keys{"ip": tt.ip})
		g := n.attach()
		n.connected()
		n.connected()
		seen := x.lease(g)
		if seen.Addr.Addr() != addr(tt.want) || seen.Router != addr(tt.router) {
			t.Errorf("ip=%s: the guest got %+v", tt.ip, seen)
		}
		x.seenAs(g, x.host.Outside.Addr, "203.0.113.2")
		guests, nics = append(guests, g), append(nics, n)
	}
	x.static(guests[2], "eth0", "", "fe80::1", "fd00:2::9/128")
	x.seenAs(guests[2], x.host.Outside.Addr6, "2001:db8:113::2")
	guests[0].ServeWho(lab.PortWho)
	x.seenAs(guests[1], addr("10.0.1.1"), "10.0.0.200")
	for i, n := range nics {
		guests[i].Unplug()
		n.gone()
	}
	x.asBefore(before)
}

// An HVM guest has an emulated NIC until it has a driver for its vif: both are
// on one network, and the guest's address is behind the one in use.
func TestEmulatedNIC(t *testing.T) {
	x := newXenHost(t)
	x.must(x.daemon.Start())
	before := x.settledDump()
	for _, tt := range []struct {
		face     string
		more     keys
		vif, tap string
	}{
		{"vif-bridge", keys{"bridge": "default", "vifname": "alice"}, "alice", "alice-emu"},
		{"vif-route", keys{"ip": "203.0.113.50"}, "vif7.0", "vif7.0-emu"},
		{"vif-nat", nil, "vif7.0", "vif7.0-emu"},
	} {
		n := x.nic(tt.face, 7, 0, tt.more)
		n.hvm = true
		g := n.attach()
		x.Connect(x.host.Node, n.link()+"-emu", g.Node, "eth1", lab.WireOptions{MACB: n.mac()})
		n.connected()
		if r := n.run("add"); r.Code != 0 || n.status() != "connected" {
			t.Fatalf("%s add: exit %d, %s\n%s", tt.face, r.Code, n.problem(), r.Stderr)
		}
		for _, link := range []string{tt.vif, tt.tap} {
			if !x.host.HasLink(link) {
				t.Errorf("%s: there is no %s", tt.face, link)
			}
		}
		// The emulated one is used until it is unplugged.
		used := "eth1"
		for _, use := range []func(){func() { g.LinkDown("eth0") }, func() {
			if r := n.run("remove"); r.Code != 0 {
				t.Errorf("%s remove: exit %d\n%s", tt.face, r.Code, r.Stderr)
			}
			x.host.DeleteLink(tt.tap)
			g.LinkUp("eth0")
			used = "eth0"
		}} {
			use()
			gateway, own := "203.0.113.2", "203.0.113.50/32"
			switch tt.face {
			case "vif-bridge":
				gateway, own = "192.168.122.1", "192.168.122.77/24"
			case "vif-nat":
				gateway, own = "10.0.7.128", "10.0.7.1/32"
			}
			x.in(g.Node, "ip addr add "+own+" dev "+used)
			if strings.HasSuffix(own, "/32") {
				x.in(g.Node, "ip route add "+gateway+" dev "+used)
			}
			x.in(g.Node, "ip route add default via "+gateway+" dev "+used)
			if err := g.Reach(x.context(), x.echo()); err != nil {
				t.Errorf("%s by %s: %v\n%s", tt.face, used, err, x.in(x.host.Node, "ip route"))
			}
		}
		n.gone()
		g.Close()
		x.host.DeleteLink(tt.vif)
		x.asBefore(before)
	}
}

// A guest may have more interfaces than the eight that Xen's own tools once
// allowed, of several networks and kinds.
func TestManyNICs(t *testing.T) {
	x := newXenHost(t)
	x.must(x.daemon.Start())
	x.viaduct("net-define", x.file(natXML("lan", 50)))
	x.viaduct("net-start", "lan")
	before := x.settledDump()
	g := x.NewGuest(lab.GuestOptions{Name: "guest5"})
	var nics []*nic
	for i := range 10 {
		kind := []keys{{"bridge": "lan"}, {}, {"bridge": "default"}, {"ip": fmt.Sprintf("203.0.113.%d", 60+i)}}[i%4]
		n := x.nic([]string{"vif-bridge", "vif-nat", "vif-bridge", "vif-route"}[i%4], 5, i, kind)
		x.Connect(x.host.Node, n.link(), g.Node, fmt.Sprintf("eth%d", i), lab.WireOptions{MACB: n.mac()})
		nics = append(nics, n)
	}
	var running []*lab.Process
	for _, n := range nics {
		running = append(running, n.start("online"))
	}
	for i, p := range running {
		if r, err := p.Wait(x.context()); err != nil || r.Code != 0 || nics[i].status() != "connected" {
			t.Fatalf("%s online: %v, exit %d, %s\n%s", nics[i].link(), err, r.Code, nics[i].problem(), r.Stderr)
		}
	}
	for i := range nics {
		link, own, gateway := fmt.Sprintf("eth%d", i), fmt.Sprintf("192.168.50.%d/24", 100+i), "192.168.50.1"
		switch i % 4 {
		case 1:
			own, gateway = fmt.Sprintf("10.0.5.%d/32", i+1), fmt.Sprintf("10.0.5.%d", i+128)
		case 2:
			own, gateway = fmt.Sprintf("192.168.122.%d/24", 100+i), "192.168.122.1"
		case 3:
			own, gateway = fmt.Sprintf("203.0.113.%d/32", 60+i), "203.0.113.2"
		}
		x.in(g.Node, "ip addr add "+own+" dev "+link)
		x.in(g.Node, "ip route replace "+gateway+" dev "+link)
		x.in(g.Node, "ping -n -c 1 -W 5 -I "+link+" "+gateway)
		x.in(g.Node, "ip addr flush dev "+link)
	}
	for _, n := range nics {
		x.host.DeleteLink(n.link())
		running = append(running, n.start("offline"))
	}
	for _, p := range running[len(nics):] {
		if r, err := p.Wait(x.context()); err != nil || r.Code != 0 {
			t.Errorf("offline: %v, exit %d\n%s", err, r.Code, r.Stderr)
		}
	}
	x.asBefore(before)
}
