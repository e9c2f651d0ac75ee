package outcome

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"viaduct/internal/lab"
)

// editable is a network with everything in it that is changed below; each
// change replaces one text by another.
const editable = `<network><name>a</name><uuid>6b5b1b0c-2f3e-4c57-9d43-1f0e60c35a0e</uuid><title>one</title>
<forward mode='nat'/><bridge name='virbr50' stp='on' delay='0'/><mac address='52:54:00:50:50:50'/>
<dns><txt name='a' value='b'/></dns>
<ip address='192.168.50.1' netmask='255.255.255.0'><dhcp><range start='192.168.50.2' end='192.168.50.254'/></dhcp></ip>
</network>`

// A change to the network of editable, or to the guest's port in it.
type liveEdit struct {
	name string
	// update is what follows the network's name in a net-update.
	update []string
	// old is what is replaced in the file that net-apply takes, by each of texts
	// in turn, and put back.
	old   string
	texts []string
	// limits are the port's, one after the other.
	limits []string
	// mayLose is how many packets the change may cost, see docs/editing.md.
	mayLose int
}

const mayLose = 3

func updateOf(section string, changes ...[2]string) []liveEdit {
	var all []liveEdit
	for _, c := range changes {
		all = append(all, liveEdit{name: c[0] + " " + section, update: []string{c[0], section, c[1], "--live", "--config"}})
	}
	return all
}

// liveEdits undo each other: after all of them the network is as before.
var liveEdits = slices.Concat(
	updateOf("ip-dhcp-host",
		[2]string{"add-last", "<host mac='52:54:00:aa:00:01' name='h' ip='192.168.50.77'/>"},
		[2]string{"add-first", "<host mac='52:54:00:aa:00:02' ip='192.168.50.78'><lease expiry='2' unit='hours'/></host>"},
		[2]string{"modify", "<host mac='52:54:00:aa:00:01' name='i' ip='192.168.50.79'/>"},
		[2]string{"delete", "<host mac='52:54:00:aa:00:01'/>"},
		[2]string{"delete", "<host ip='192.168.50.78'/>"}),
	updateOf("ip-dhcp-range",
		[2]string{"add", "<range start='192.168.50.2' end='192.168.50.199'/>"},
		[2]string{"delete", "<range start='192.168.50.2' end='192.168.50.254'/>"},
		[2]string{"add-first", "<range start='192.168.50.2' end='192.168.50.254'/>"},
		[2]string{"delete", "<range start='192.168.50.2' end='192.168.50.199'/>"}),
	updateOf("forward-interface",
		[2]string{"add", "<interface dev='eth0'/>"},
		[2]string{"delete", "<interface dev='eth0'/>"}),
	updateOf("portgroup",
		[2]string{"add", "<portgroup name='p' default='yes'/>"},
		[2]string{"modify", "<portgroup name='p'/>"},
		[2]string{"delete", "<portgroup name='p'/>"}),
	updateOf("dns-host",
		[2]string{"add", "<host ip='192.168.50.7'><hostname>seven</hostname></host>"},
		[2]string{"modify", "<host ip='192.168.50.7'><hostname>sept</hostname></host>"},
		[2]string{"delete", "<host ip='192.168.50.7'/>"}),
	updateOf("dns-txt",
		[2]string{"add", "<txt name='t' value='one'/>"},
		[2]string{"modify", "<txt name='t' value='two'/>"},
		[2]string{"delete", "<txt name='t'/>"}),
	updateOf("dns-srv",
		[2]string{"add", "<srv service='s' protocol='tcp' domain='d' target='t' port='9'/>"},
		[2]string{"delete", "<srv service='s' protocol='tcp'/>"}),
	[]liveEdit{
		{name: "title", old: "<title>one", texts: []string{"<title>two"}},
		{name: "second address", old: "</ip>", texts: []string{"</ip><ip address='192.168.61.1' prefix='24'/>"}},
		{name: "IPv6", old: "</ip>", texts: []string{"</ip><ip family='ipv6' address='fd00:50::1' prefix='64'><dhcp><range start='fd00:50::100' end='fd00:50::1ff'/></dhcp></ip>"}},
		{name: "route", old: "</network>", texts: []string{"<route address='192.168.70.0' prefix='24' gateway='192.168.50.8'/></network>"}},
		{name: "MTU", old: "<mac", texts: []string{"<mtu size='1400'/><mac"}},
		{name: "domain", old: "<dns>", texts: []string{"<domain name='lab.example' localOnly='yes'/><dns>"}},
		{name: "limit", old: "<dns>", texts: []string{
			"<bandwidth><inbound average='500000' peak='900000' burst='2000'/></bandwidth><dns>",
			"<bandwidth><inbound average='400000'/><outbound average='500000' peak='900000' burst='2000'/></bandwidth><dns>",
			"<bandwidth><inbound average='600000'/><outbound average='400000'/></bandwidth><dns>",
			"<bandwidth><outbound average='450000'/></bandwidth><dns>",
		}},
		{name: "port's limit", limits: []string{
			"--inbound 500000 --outbound 500000", "--inbound 400000,900000,2000 --outbound 300000", "--inbound 500000", "--outbound 500000", "",
		}},
		{name: "forwarder", old: "<dns>", texts: []string{"<dns><forwarder addr='203.0.113.1'/>"}},
		{name: "no DNS", old: "<dns><txt name='a' value='b'/></dns>", texts: []string{"<dns enable='no'/>"}},
		{name: "no DHCP", old: "<dhcp><range start='192.168.50.2' end='192.168.50.254'/></dhcp>", texts: []string{""}},
		{name: "lease time", old: "<range start='192.168.50.2' end='192.168.50.254'/>", texts: []string{"<range start='192.168.50.2' end='192.168.50.254'><lease expiry='5'/></range>"}},
		{name: "boot file", old: "</dhcp>", texts: []string{"<bootp file='x' server='192.168.50.9'/></dhcp>"}},
		{name: "NAT ports", old: "<forward mode='nat'/>", texts: []string{"<forward mode='nat'><nat><port start='40000' end='50000'/></nat></forward>"}},
		{name: "NAT of IPv6", old: "<forward mode='nat'/>", texts: []string{"<forward mode='nat'><nat ipv6='yes'/></forward>"}},
		{name: "uplink", old: "<forward mode='nat'/>", texts: []string{"<forward mode='nat' dev='eth0'/>"}},
		{name: "routed", old: "<forward mode='nat'/>", texts: []string{"<forward mode='route'/>"}},
		{name: "open", old: "<forward mode='nat'/>", texts: []string{"<forward mode='open'/>"}},
		{name: "no spanning tree", old: "stp='on'", texts: []string{"stp='off'"}},
		{name: "IPv6 among guests", old: "<network>", texts: []string{"<network ipv6='yes'>"}},
		{name: "description and metadata", old: "<forward", texts: []string{"<description>x</description><metadata><m:x xmlns:m='urn:m'/></metadata><forward"}},
		{name: "bridge's MAC address", old: "52:54:00:50:50:50", texts: []string{"52:54:00:50:50:51"}, mayLose: mayLose},
		{name: "who fills the bridge's table", old: "stp='on'", texts: []string{"stp='on' macTableManager='libvirt'", "stp='on' macTableManager='kernel'"}, mayLose: mayLose},
		{name: "bridge's name", old: "virbr50", texts: []string{"virbr51"}},
		{name: "limited bridge's name", old: "<bridge name='virbr50'", texts: []string{
			"<bandwidth><inbound average='500000'/><outbound average='500000'/></bandwidth><bridge name='virbr50'",
			"<bandwidth><inbound average='500000'/><outbound average='500000'/></bandwidth><bridge name='virbr51'",
			"<bandwidth><inbound average='400000'/></bandwidth><bridge name='virbr52'",
		}},
	})

// Whatever is changed in a network, guests keep what is not forbidden: a ping
// each millisecond and a transfer go through two hundred changes in a row.
func TestChangesCostGuestsNothing(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	s.viaduct("net-apply", s.file(editable))
	// Guests are found where the network only routes, too.
	s.host.Outside.AddRoute(netip.MustParsePrefix("192.168.50.0/24"), s.host.Addr)
	one := s.plugged("a", "vif1.0")
	ping := one.StartPing(s.host.Outside.Addr, time.Millisecond)
	flow := s.StartFlow(one.Node, s.host.Outside.Node, netip.AddrPortFrom(s.host.Outside.Addr, 7001))
	s.must(ping.Await(s.context(), 100))
	s.must(flow.Await(s.context(), 1<<20))

	type step struct {
		liveEdit
		from int // the first packet sent after the change before
	}
	var steps []step
	note := func(e liveEdit) {
		if err := flow.Await(s.context(), 1); err != nil {
			t.Fatalf("the transfer has ended with %s: %v, %v", steps[len(steps)-1].name, err, flow.Stop().Err)
		}
		steps = append(steps, step{e, ping.Sent()})
	}
	for len(steps) < 200 {
		for _, e := range liveEdits {
			note(e)
			if e.update != nil {
				s.viaduct(append([]string{"net-update", "a"}, e.update...)...)
			}
			for _, limit := range e.limits {
				s.viaduct(append([]string{"port-bandwidth", "a", "vif1.0"}, strings.Fields(limit)...)...)
				s.must(ping.Await(s.context(), 5))
				note(e)
			}
			if e.old == "" {
				continue
			}
			if strings.Count(editable, e.old) != 1 {
				t.Fatalf("%s is not once in the network", e.old)
			}
			for _, text := range append(e.texts, e.old) {
				s.viaduct("net-apply", s.file(strings.Replace(editable, e.old, text, 1)))
				s.must(ping.Await(s.context(), 5))
				note(e)
			}
		}
	}
	s.must(ping.Await(s.context(), 100))
	loss := ping.Stop()
	lost := make([]int, len(steps))
	for _, number := range loss.Lost {
		i, _ := slices.BinarySearchFunc(steps, int(number)+1, func(s step, n int) int { return s.from - n })
		lost[max(i-1, 0)]++
	}
	for i, n := range lost {
		if n > steps[i].mayLose {
			t.Errorf("%s: %d packets lost", steps[i].name, n)
		}
	}
	t.Logf("%d changes, ping: %s", len(steps), loss)
	if report := flow.Stop(); report.Err != nil {
		t.Errorf("transfer over the changes: %+v", report)
	}
	s.soonNothingToChange("a")
}

// A guest that is plugged in again has what it had as soon as the command has
// ended: of what is sent from then on next to nothing is lost.
func TestPluggedInAgainAtOnce(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	s.viaduct("net-define", s.file(editable))
	s.viaduct("net-start", "a")
	one := s.plugged("a", "vif1.0")
	ping := one.StartPing(s.host.Outside.Addr, time.Millisecond)
	s.must(ping.Await(s.context(), 100))
	var back [][2]int // packets from and up to
	for _, c := range []struct{ cut, plug string }{
		{"net-destroy a", "net-start a"},
		{"port-delete a vif1.0", "port-create a --link vif1.0 --mac " + one.MAC.String()},
	} {
		for range 3 {
			s.viaduct(strings.Fields(c.cut)...)
			s.viaduct(strings.Fields(c.plug)...)
			from := ping.Sent()
			s.must(ping.Await(s.context(), 100))
			back = append(back, [2]int{from, ping.Sent()})
		}
	}
	loss := ping.Stop()
	for i, b := range back {
		lost := 0
		for _, n := range loss.Lost {
			if b[0] <= int(n) && int(n) < b[1] {
				lost++
			}
		}
		if lost > mayLose {
			t.Errorf("plugged in again for the %dth time: %d of %d packets lost", i+1, lost, b[1]-b[0])
		}
		t.Logf("plugged in again: %d of %d packets lost", lost, b[1]-b[0])
	}
}

// What --confirm has promised holds over a crash of the daemon: a change that
// cuts an admin's branch off comes to an end by itself.
func TestUnconfirmedChangeEnds(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	s.viaduct("net-apply", s.file(editable))
	one, _ := s.guest("virbr50", "one")
	isolated := strings.Replace(editable, "<forward mode='nat'/>", "", 1)
	outside := netip.AddrPortFrom(s.host.Outside.Addr, lab.PortEcho)
	s.reaches(one.Node, outside)
	out := s.viaduct("net-apply", "--confirm", "4s", s.file(isolated))
	if !strings.Contains(out, "viaduct net-confirm a") {
		t.Errorf("net-apply says:\n%s", out)
	}
	s.cannotReach(one.Node, outside)
	s.daemon.Kill9()
	s.must(s.daemon.Start())
	lab.Eventually(t, time.Minute, func() error { return one.Reach(short(t), outside) })
	if xml := s.viaduct("net-dumpxml", "a", "--inactive"); !strings.Contains(xml, "mode='nat'") {
		t.Errorf("the definition was not taken back:\n%s", xml)
	}
	s.viaduct("net-apply", "--confirm", "1h", s.file(isolated))
	s.viaduct("net-confirm", "a")
	s.daemon.Kill9()
	s.must(s.daemon.Start())
	s.cannotReach(one.Node, outside)
}

// A folder describes all networks of a host.
func TestFolderOfNetworks(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	put := func(files map[string]string) {
		t.Helper()
		s.mustRun("rm", "-rf", "/tmp/networks")
		s.mustRun("mkdir", "/tmp/networks")
		for name, xml := range files {
			s.host.WriteFile("/tmp/networks/"+name+".xml", xml)
		}
	}
	put(map[string]string{"a": natXML("a", 50, ""), "b": natXML("b", 51, "")})
	s.viaduct("apply", "/tmp/networks")
	one, _ := s.guest("virbr50", "one")
	ping := one.StartPing(s.host.Outside.Addr, time.Millisecond)
	s.must(ping.Await(s.context(), 100))

	// b goes, c takes its bridge and subnet, a changes; d cannot be, so nothing is.
	next := map[string]string{
		"a": strings.Replace(natXML("a", 50, ""), "<ip", "<domain name='a.example'/><ip", 1),
		"c": natXML("c", 51, ""),
	}
	broken := map[string]string{"d": natXML("d", 52, "<forward mode='nat' dev='nope0'/>")}
	broken["d"] = strings.ReplaceAll(broken["d"], "192.168.52.", "203.0.113.")
	for name, xml := range next {
		broken[name] = xml
	}
	put(broken)
	before := s.host.Dump()
	if why := s.refused("apply", "/tmp/networks", "--prune"); !strings.Contains(why, "all are as before") || !strings.Contains(why, "203.0.113.1") && !strings.Contains(why, "eth0") {
		t.Errorf("apply says:\n%s", why)
	}
	s.settled()
	if now := s.host.Dump(); now != before {
		t.Errorf("the host before:\n%s\nafter:\n%s", before, now)
	}
	s.lists("a active no yes", "b active no yes")

	put(next)
	if plan := s.viaduct("apply", "/tmp/networks", "--prune", "--plan"); !strings.Contains(plan, "Network b removed") || !strings.Contains(plan, "  ~ service dns") {
		t.Errorf("plan:\n%s", plan)
	}
	out := s.viaduct("apply", "/tmp/networks", "--prune")
	if want := "Network a changed\nNetwork b removed\nNetwork c added\n"; out != want {
		t.Errorf("apply says:\n%s", out)
	}
	s.lists("a active no yes", "c active no yes")
	s.guest("virbr51", "two")
	if loss := ping.Stop(); len(loss.Lost) > 0 {
		t.Errorf("ping over the changes: %s", loss)
	}
	if out := s.viaduct("apply", "/tmp/networks", "--prune"); out != "Network a unchanged\nNetwork c unchanged\n" {
		t.Errorf("apply again says:\n%s", out)
	}
	fmt.Fprintln(t.Output(), out)
}
