package xenscript

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"viaduct/internal/lab"
)

// B15: many guests start at once, each with its own guard, and end at once.
func TestB15ManyGuestsAtOnce(t *testing.T) {
	x := newXenHost(t)
	x.must(x.daemon.Start())
	before := x.settledDump()
	var nics []*nic
	all := func(command string) {
		t.Helper()
		var running []*lab.Process
		for _, n := range nics {
			running = append(running, n.start(command))
		}
		for i, p := range running {
			if r, err := p.Wait(x.context()); err != nil || r.Code != 0 {
				t.Errorf("%s %s: %v, exit %d, %s\n%s", nics[i].link(), command, err, r.Code, nics[i].problem(), r.Stderr)
			}
		}
	}
	guests := x.Node("guests")
	for d := 1; d <= 30; d++ {
		face := []string{"vif-bridge", "vif-route", "vif-nat"}[d%3]
		n := x.nic(face, d, 0, keys{"ip": map[string]string{
			"vif-bridge": fmt.Sprintf("192.168.122.%d", 100+d), "vif-route": fmt.Sprintf("203.0.113.%d", 100+d), "vif-nat": fmt.Sprintf("10.1.0.%d", d),
		}[face]})
		x.Connect(x.host.Node, n.link(), guests, fmt.Sprintf("eth%d", d), lab.WireOptions{MACB: n.mac()})
		x.host.LinkDown(n.link())
		nics = append(nics, n)
	}
	all("online")
	for _, n := range nics {
		if n.status() != "connected" {
			t.Errorf("%s: %s", n.link(), n.status())
		}
	}
	rules := x.in(x.host.Node, "nft list ruleset")
	for d := 1; d <= 30; d++ {
		if !strings.Contains(rules, fmt.Sprintf(`"vif%d.0"`, d)) {
			t.Errorf("no rule knows vif%d.0", d)
		}
	}
	for _, n := range nics {
		x.host.DeleteLink(n.link())
	}
	all("offline")
	x.asBefore(before)
}

// B16: a script that is killed at any moment leaves what the next run completes,
// and the guest's end removes.
func TestB16KilledScript(t *testing.T) {
	x := newXenHost(t)
	x.must(x.daemon.Start())
	before := x.settledDump()
	for _, face := range []string{"vif-bridge", "vif-route"} {
		for i := range 6 {
			n := x.nic(face, 5, 0, keys{"ip": map[string]string{"vif-bridge": "192.168.122.50", "vif-route": "203.0.113.50"}[face]})
			g := n.attach()
			p := n.start("online")
			time.Sleep(time.Duration(i) * 3 * time.Millisecond) // at one moment or another
			p.Kill()
			if i%2 == 0 {
				n.connected()
				x.in(x.host.Node, "nft list chain "+map[string]string{"vif-bridge": "bridge viaduct port_vif5.0", "vif-route": "inet viaduct guest_vif5.0"}[face])
			}
			n.gone()
			g.Unplug()
			n.gone()
			x.asBefore(before)
		}
	}
}

// A port that somebody has declared for a guest decides where it is plugged in
// and what it has, whatever bridge= says: by its MAC address, its UUID or name.
func TestDeclaredPort(t *testing.T) {
	x := newXenHost(t)
	x.must(x.daemon.Start())
	x.viaduct("net-define", x.file(strings.Replace(natXML("lan", 50), "</network>", "<portgroup name='slow'><bandwidth><outbound average='1000'/></bandwidth></portgroup></network>", 1)))
	x.viaduct("net-start", "lan")
	declare := func(id int, name, uuid, mac string) {
		x.viaduct("net-port-create", "lan", x.file(fmt.Sprintf(`<networkport><uuid>10000000-0000-0000-0000-00000000000%d</uuid>
			<owner><name>%s</name><uuid>%s</uuid></owner><group>slow</group><mac address='%s'/></networkport>`, id, name, uuid, mac)))
	}
	elsewhere := "20000000-0000-0000-0000-000000000001"
	declare(1, "somebody", elsewhere, "00:16:3e:00:05:00")
	declare(2, "another", "00000000-0000-0000-0000-000000000006", "00:16:3e:99:99:98")
	declare(3, "guest7", elsewhere, "00:16:3e:99:99:99")
	for domain := 5; domain <= 8; domain++ {
		n := x.nic("vif-bridge", domain, 0, nil)
		g := n.attach()
		n.connected()
		n.connected()
		want := "virbr50"
		if domain == 8 {
			want = "virbr0"
		}
		if master := x.host.Master(n.link()); master != want {
			t.Errorf("%s is in %q, want %s", n.link(), master, want)
		}
		x.lease(g)
		if domain < 8 && !strings.Contains(x.in(x.host.Node, "tc qdisc show dev "+n.link()), "ingress") {
			t.Errorf("%s is not limited as the port group says", n.link())
		}
		n.gone()
		if ports := x.said("net-port-list", "lan"); domain < 8 && strings.Count(ports, "10000000-") != 3 {
			t.Errorf("the declared ports are not as before:\n%s", ports)
		}
	}
}

// A MAC address that another guest of the network has is refused, and so is a
// name that no link can have.
func TestRefusedGuests(t *testing.T) {
	x := newXenHost(t)
	x.must(x.daemon.Start())
	first := x.nic("vif-bridge", 5, 0, nil)
	first.attach()
	first.connected()
	second := x.nic("vif-bridge", 6, 0, keys{"mac": first.mac().String()})
	second.attach()
	second.refused("guest 'guest5' at vif5.0 has the MAC address 00:16:3e:00:05:00 already")
	second.set("mac", second.mac().String())
	second.set("vifname", "abcdefghijklmnop")
	second.refused("vifname=abcdefghijklmnop is too long: names of links have at most 15 characters")
	second.hvm = true
	second.set("vifname", "abcdefghijkl")
	second.refused("of which the emulated NIC needs 4 for '-emu'")
	second.unset("vifname")
	second.set("vlan", "10p/20u")
	second.refused("a guest can have a single VLAN without tags")
	second.unset("vlan")
	second.connected()
}

// said is what a command that must succeed prints.
func (s *site) said(args ...string) string {
	s.t.Helper()
	r, err := s.daemon.Viaduct(s.context(), args...)
	if err != nil || r.Code != 0 {
		s.t.Fatalf("viaduct %s: %v\n%s", strings.Join(args, " "), err, r.Stderr)
	}
	return r.Stdout
}

// rate= is enforced by the host in both directions where the network asks for it.
func TestEnforcedRate(t *testing.T) {
	x := newXenHost(t)
	x.must(x.daemon.Start())
	x.viaduct("net-define", x.file(strings.Replace(natXML("lan", 50), "</name>",
		"</name><metadata><v:settings xmlns:v='urn:viaduct:settings:1'><v:rate enforce='yes'/></v:settings></metadata>", 1)))
	x.viaduct("net-start", "lan")
	n := x.nic("vif-bridge", 5, 0, keys{"bridge": "lan", "rate": "102400,50000"}) // 2000 KiB/s
	g := n.attach()
	n.connected()
	x.lease(g)
	x.reaches(g.Node, x.echo())
	if classes := x.in(x.host.Node, "tc class show dev "+n.link()); !strings.Contains(classes, "rate 16384Kbit") {
		t.Errorf("what the guest receives is not limited:\n%s", classes)
	}
	port := x.said("net-port-dumpxml", "lan", strings.Fields(strings.Split(x.said("net-port-list", "lan"), "\n")[2])[0])
	if !strings.Contains(port, "<outbound average='2000'/>") || !strings.Contains(port, "<name>guest5</name>") {
		t.Errorf("the port is %s", port)
	}
	// A network that routes to its guests limits them at their links.
	x.viaduct("net-define", x.file(`<network><name>far</name><forward mode='route'/><metadata><v:settings xmlns:v='urn:viaduct:settings:1'>
		<v:ports layout='routed'/><v:rate enforce='yes'/></v:settings></metadata></network>`))
	x.viaduct("net-start", "far")
	routed := x.nic("vif-route", 6, 0, keys{"bridge": "far", "rate": "102400,50000", "ip": "203.0.113.60"})
	far := routed.attach()
	routed.connected()
	x.lease(far)
	x.reaches(far.Node, x.echo())
	if classes := x.in(x.host.Node, "tc class show dev "+routed.link()); !strings.Contains(classes, "rate 16384Kbit") {
		t.Errorf("what the routed guest receives is not limited:\n%s", classes)
	}

	n.set("rate", "0,500")
	r := n.run("online")
	for _, warning := range []string{"the guest cannot send anything", "the guest is not limited"} {
		if !strings.Contains(r.Stderr, warning) {
			t.Errorf("rate=0,500: no warning says that %s:\n%s", warning, r.Stderr)
		}
	}
}
