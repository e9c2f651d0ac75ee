package xenscript

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
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
		if domain < 8 && !strings.Contains(x.in(x.host.Node, "tc filter show dev "+n.link()+" ingress"), "ifbi-"+n.link()) {
			t.Errorf("%s is not limited as the port group says", n.link())
		}
		n.gone()
		if ports := x.said("net-port-list", "lan"); domain < 8 && strings.Count(ports, "10000000-") != 3 {
			t.Errorf("the declared ports are not as before:\n%s", ports)
		}
	}
}

// A guest that runs gets what changes in the port that was declared for it.
func TestDeclaredPortChanges(t *testing.T) {
	x := newXenHost(t)
	x.must(x.daemon.Start())
	x.viaduct("net-define", x.file(natXML("lan", 50)))
	x.viaduct("net-start", "lan")
	n := x.nic("vif-bridge", 5, 0, nil)
	port := func(settings string) string {
		return x.file(`<networkport><uuid>10000000-0000-0000-0000-000000000001</uuid><owner><name>guest5</name>
			<uuid>20000000-0000-0000-0000-000000000001</uuid></owner><mac address='` + n.mac().String() + `'/>` + settings + `</networkport>`)
	}
	x.viaduct("net-port-create", "lan", port("<bandwidth><outbound average='1000'/></bandwidth>"))
	g := n.attach()
	n.connected()
	x.lease(g)
	x.reaches(g.Node, x.echo())
	has := func(class, isolated string) {
		t.Helper()
		if class != "" {
			if classes := x.in(x.host.Node, "tc class show dev ifbo-"+n.link()); !strings.Contains(classes, class) {
				t.Errorf("no class is of %q:\n%s", class, classes)
			}
		}
		if is, err := x.host.ReadFile("/sys/class/net/" + n.link() + "/brport/isolated"); err != nil || is != isolated+"\n" {
			t.Errorf("isolated is %q, want %q, %v", is, isolated, err)
		}
	}
	has("", "0")
	const id = "10000000-0000-0000-0000-000000000001"
	x.viaduct("port-update", "lan", id, port("<bandwidth><inbound average='2000'/></bandwidth><port isolated='yes'/>"))
	has("rate 16384Kbit", "1")
	x.reaches(g.Node, x.echo())
	x.daemon.Kill9()
	x.must(x.daemon.Start())
	x.viaduct("port-bandwidth", "lan", id, "--inbound", "4000")
	has("rate 32768Kbit", "1")
	x.viaduct("port-update", "lan", id, port(""), "--guard", "ip,192.168.50.250")
	has("", "0")
	x.cannotReach(g.Node, x.echo())
	x.viaduct("port-update", "lan", id, port(""), "--guard", "no")
	x.reaches(g.Node, x.echo())
	r, _ := x.daemon.Viaduct(x.context(), "port-update", "lan", n.link(), port(""))
	if !strings.Contains(r.Stderr, "delete it and create another") {
		t.Errorf("the description of another port: exit %d: %s", r.Code, r.Stderr)
	}
	n.gone()
}

// What is guaranteed to a guest by the port that was declared for it is taken
// from its network once, though the vif and the emulated NIC have a port each.
func TestDeclaredFloor(t *testing.T) {
	x := newXenHost(t)
	x.must(x.daemon.Start())
	x.viaduct("net-define", x.file(strings.Replace(natXML("lan", 50), "<ip ", "<bandwidth><inbound average='1000'/></bandwidth><ip ", 1)))
	x.viaduct("net-start", "lan")
	x.viaduct("port-create", "lan", "--tap", "tap9")
	n := x.nic("vif-bridge", 5, 0, nil)
	n.hvm = true
	const id = "10000000-0000-0000-0000-000000000001"
	x.viaduct("net-port-create", "lan", x.file(`<networkport><uuid>`+id+`</uuid><owner><name>guest5</name>
		<uuid>20000000-0000-0000-0000-000000000001</uuid></owner><mac address='`+n.mac().String()+`'/>
		<bandwidth><inbound floor='700'/></bandwidth></networkport>`))
	full := func(when string) {
		t.Helper()
		r, _ := x.daemon.Viaduct(x.context(), "port-bandwidth", "lan", "tap9", "--inbound", "0,0,0,301")
		if !strings.Contains(r.Stderr, "new combined inbound floor=1001 would overcommit average=1000") {
			t.Errorf("%s: a floor of 301 beside one of 700: exit %d: %s", when, r.Code, r.Stderr)
		}
		x.viaduct("port-bandwidth", "lan", "tap9", "--inbound", "0,0,0,300")
	}
	full("before the guest")
	g := n.attach()
	x.Connect(x.host.Node, n.link()+"-emu", g.Node, "eth1", lab.WireOptions{MACB: n.mac()})
	n.connected()
	if r := n.run("add"); r.Code != 0 {
		t.Fatalf("add: exit %d, %s\n%s", r.Code, n.problem(), r.Stderr)
	}
	full("with the guest")
	// 700 KiB/s are 5734 kbit/s; the rest of 1000 is what the others have.
	if classes := x.in(x.host.Node, "tc class show dev ifbo-virbr50"); !strings.Contains(classes, "rate 5734") && !strings.Contains(classes, "rate 5734400bit") {
		t.Errorf("no class has what the guest is guaranteed:\n%s", classes)
	}
	x.daemon.Kill9()
	x.must(x.daemon.Start())
	full("with another daemon")
	x.viaduct("port-bandwidth", "lan", id, "--inbound", "0,0,0,650")
	x.viaduct("port-bandwidth", "lan", id, "--inbound", "0,0,0,700")
	full("changed and back")
	if r := n.run("remove"); r.Code != 0 {
		t.Errorf("remove: exit %d\n%s", r.Code, r.Stderr)
	}
	n.gone()
	full("after the guest")
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
	if classes := x.in(x.host.Node, "tc class show dev ifbo-"+n.link()); !strings.Contains(classes, "rate 16384Kbit") {
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
	if classes := x.in(x.host.Node, "tc class show dev ifbo-"+routed.link()); !strings.Contains(classes, "rate 16384Kbit") {
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

// speed is how fast more bytes of a flow arrive, in KiB/s, once buffers and
// bursts are full.
func (s *site) speed(f *lab.Flow) float64 {
	s.t.Helper()
	const filling, counted = 128 << 10, 512 << 10
	s.must(f.Await(s.context(), filling))
	began := time.Now()
	s.must(f.Await(s.context(), counted))
	return counted / 1024 / time.Since(began).Seconds()
}

// Where the host's settings ask for it rate= is enforced in both directions in
// the networks that the script makes, and changes while traffic flows.
func TestEnforcedRateOnRequest(t *testing.T) {
	x := newXenHost(t)
	x.must(x.daemon.Start())
	x.host.AddBridge("br7")
	x.host.AddAddr("br7", prefix("10.7.0.1/24"))
	x.host.LinkUp("br7")
	x.PlugGuest(x.host.Node, "br7", "old")
	before := x.settledDump()
	settings := x.daemon.ConfigDir + "/xen.xml"
	n := x.nic("vif-nat", 4, 0, nil)
	n.attach()
	x.host.WriteFile(settings, "<settings/>")
	n.refused("the element <settings> is not <settings xmlns='urn:viaduct:settings:1'>")
	x.host.WriteFile(settings, "<settings xmlns='urn:viaduct:settings:1'><rate enforce='yes'/></settings>")
	x.host.DeleteLink(n.link())
	for i, tt := range []struct {
		face, network, own, gateway string
		more                        keys
	}{
		{"vif-nat", "xen-nat", "10.0.5.1/32", "10.0.5.128", nil},
		{"vif-route", "xen-route", "203.0.113.60/32", "203.0.113.2", keys{"ip": "203.0.113.60"}},
		{"vif-bridge", "xen-bridge-br7", "10.7.0.5/24", "10.7.0.1", keys{"bridge": "br7"}},
	} {
		n := x.nic(tt.face, 5+i, 0, tt.more)
		if tt.face == "vif-nat" {
			n.set("ip", "10.0.5.1")
		}
		n.set("rate", "102400,50000") // 2000 KiB/s
		g := n.attach()
		n.connected()
		x.static(g, "eth0", tt.gateway, "", tt.own)
		both := map[string]*lab.Flow{
			"sent":     x.StartFlow(g.Node, x.host.Node, netip.AddrPortFrom(addr(tt.gateway), 5001)),
			"received": x.StartFlow(x.host.Node, g.Node, netip.AddrPortFrom(prefix(tt.own).Addr(), 5002)),
		}
		within := func(limit float64, class string) {
			t.Helper()
			for _, device := range []string{"ifbi-", "ifbo-"} {
				if classes := x.in(x.host.Node, "tc class show dev "+device+n.link()); !strings.Contains(classes, class) {
					t.Errorf("%s: no class of %s has a %s:\n%s", tt.face, device, class, classes)
				}
			}
			for what, f := range both {
				// A busy machine may not reach a limit, and counts late what came in time.
				if got := x.speed(f); got > 1.3*limit {
					t.Errorf("%s: %s: %.0f KiB/s, limited to %.0f", tt.face, what, got, limit)
				}
			}
		}
		within(2000, "rate 16384Kbit")
		x.viaduct("port-bandwidth", tt.network, n.link(), "--inbound", "1000", "--outbound", "1000")
		within(1000, "rate 8192Kbit")
		for _, f := range both {
			f.Stop()
		}
		g.Unplug()
		n.gone()
		x.asBefore(before)
	}
}

// What an admin has put beside Xen's scripts for the end of each runs here too,
// with the same variables.
func TestHooks(t *testing.T) {
	x := newXenHost(t)
	x.must(x.daemon.Start())
	hook := func(name, text string, mode os.FileMode) {
		t.Helper()
		x.must(x.host.Do(func() error {
			dir := scripts + "vif-post.d/"
			return errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(dir+name, []byte(text), mode))
		}))
	}
	hook("10-note.hook", `echo "$command $type_if $dev $bridge $ip $main_ip" >>/tmp/hooks`, 0o755)
	hook("20-off.hook", "exit 1", 0o644)
	hook("note.sh", "exit 1", 0o755)
	bridged := x.nic("vif-bridge", 5, 0, keys{"bridge": "default", "vifname": "alice", "ip": "192.168.122.77"})
	routed := x.nic("vif-route", 6, 0, keys{"ip": "203.0.113.60 2001:db8:60::/64"})
	for _, n := range []*nic{bridged, routed} {
		n.attach()
		n.connected()
		n.gone()
	}
	said, err := x.host.ReadFile("/tmp/hooks")
	x.must(err)
	want := `online vif alice virbr0 192.168.122.77 
offline vif alice virbr0 192.168.122.77 
online vif vif6.0  203.0.113.60 2001:db8:60::/64 203.0.113.2
offline vif vif6.0  203.0.113.60 2001:db8:60::/64 203.0.113.2
`
	if said != want {
		t.Errorf("hooks said\n%s, want\n%s", said, want)
	}
	hook("30-bad.hook", "echo this host is full\nfalse\ntrue", 0o755)
	r := routed.run("online")
	if want := "run hook /etc/xen/scripts/vif-post.d/30-bad.hook: exit status 1: this host is full"; r.Code != 1 || routed.problem() != want {
		t.Errorf("a hook that fails: exit %d, hotplug-error %q, want %q", r.Code, routed.problem(), want)
	}
}
