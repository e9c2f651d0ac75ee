package outcome

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"viaduct/internal/engine"
	"viaduct/internal/lab"
)

// lan is a machine in the LAN of a host's second NIC, eth1, where it has
// 198.51.100.1.
func (s *site) lan() (lan *lab.Node, addr netip.AddrPort) {
	lan = s.Node("lan")
	s.Connect(s.host.Node, "eth1", lan, "eth0", lab.WireOptions{})
	lan.AddAddr("eth0", netip.MustParsePrefix("198.51.100.1/24"))
	lan.ServeEcho(lab.PortEcho)
	return lan, netip.MustParseAddrPort(fmt.Sprintf("198.51.100.1:%d", lab.PortEcho))
}

// steadily waits until a connection succeeds.
func (s *site) steadily(from *lab.Node, to netip.AddrPort) {
	s.t.Helper()
	lab.Eventually(s.t, 10*time.Second, func() error { return from.Reach(short(s.t), to) })
}

// declare tells of a port whose link another program makes for the guest.
func (s *site) declare(network string, g *lab.Guest, extra string) {
	s.t.Helper()
	s.viaduct("net-port-create", network, s.file(fmt.Sprintf(`<networkport><uuid>7d1f3a0c-0000-4000-8000-%012x</uuid>
		<owner><name>%s</name><uuid>7d1f3a0c-0000-4000-9000-%012x</uuid></owner>%s<mac address='%s'/></networkport>`,
		g.MAC[5], g.Name, g.MAC[5], extra, g.MAC)))
}

// active names the links of the ports that are connected.
func (s *site) active(network string) string {
	s.t.Helper()
	var links []string
	for _, p := range s.ports(network) {
		if p.Active {
			links = append(links, p.Link)
		}
	}
	return strings.Join(links, " ")
}

// Guests of a network on the host's own bridge are in the LAN, whether Viaduct
// makes their links or another program does. Stops cut only those of Viaduct's
// off, starts bring them back, and the bridge itself is never touched.
func TestNetworkOnTheHostsBridge(t *testing.T) {
	s := startSite(t)
	_, outside := s.lan()
	addBridge := func() {
		s.mustRun("ip", "link", "add", "br0", "address", "02:00:00:00:00:b0", "type", "bridge")
		s.host.SetMaster("eth1", "br0")
		s.host.LinkUp("br0")
	}
	addBridge()
	s.viaduct("net-define", s.file(`<network><name>lan</name><forward mode='bridge'/><bridge name='br0'/>
		<portgroup name='eng' trustGuestRxFilters='yes'/></network>`))
	s.settled()
	before := s.host.Dump()
	s.viaduct("net-start", "lan")
	s.settled()
	if after := s.host.Dump(); after != before {
		t.Errorf("a start did something:\n%s\n%s", before, after)
	}
	ours := s.NewGuest(lab.GuestOptions{Name: "ours"})
	s.viaduct("port-create", "lan", "--tap", "vm1", "--mac", ours.MAC.String())
	detach := s.monitorFor(ours, "vm1")
	ours.AddAddr("eth0", netip.MustParsePrefix("198.51.100.11/24"))
	theirs := s.NewGuest(lab.GuestOptions{Name: "theirs"})
	s.declare("lan", theirs, "<group>eng</group>")
	if active := s.active("lan"); active != "vm1" {
		t.Errorf("active are %q before the guest has a link", active)
	}
	theirs.Plug(s.host.Node, "br0", "vnet0")
	theirs.AddAddr("eth0", netip.MustParsePrefix("198.51.100.12/24"))
	vif := s.NewGuest(lab.GuestOptions{Name: "vif"})
	vif.Plug(s.host.Node, "", "vif1.0")
	vif.AddAddr("eth0", netip.MustParsePrefix("198.51.100.13/24"))
	s.viaduct("port-create", "lan", "--link", "vif1.0")

	check := func(when string) {
		t.Helper()
		for _, g := range []*lab.Guest{ours, theirs, vif} {
			s.steadily(g.Node, outside)
		}
		if active := s.active("lan"); active != "vif1.0 vm1 vnet0" {
			t.Errorf("%s: active are %q", when, active)
		}
	}
	check("plugged")
	for _, want := range []string{"<network connections='3'>", "<bridge name='br0'/>"} {
		if xml := s.viaduct("net-dumpxml", "lan"); !strings.Contains(xml, want) {
			t.Errorf("net-dumpxml lacks %s:\n%s", want, xml)
		}
	}
	if xml := s.viaduct("port-dumpxml", "lan", "vnet0"); !strings.Contains(xml, "<plug type='bridge' bridge='br0'/>") ||
		!strings.Contains(xml, "<rxfilters trustGuest='yes'/>") {
		t.Errorf("the port is\n%s", xml)
	}
	if shown := s.viaduct("port-list", "-v", "lan"); !strings.Contains(shown, " eng ") {
		t.Errorf("port-list does not show the group:\n%s", shown)
	}
	for _, killed := range []bool{false, true} {
		s.viaduct("net-destroy", "lan")
		s.cannotReach(ours.Node, outside)
		s.cannotReach(vif.Node, outside)
		s.reaches(theirs.Node, outside)
		if killed {
			s.daemon.Kill9()
			s.must(s.daemon.Start())
		}
		s.viaduct("net-start", "lan")
		check(fmt.Sprintf("started again, daemon killed: %t", killed))
	}
	s.daemon.Kill9()
	s.must(s.daemon.Start())
	check("after a crash")
	s.host.DeleteLink("br0")
	addBridge()
	s.steadily(ours.Node, outside)
	s.steadily(vif.Node, outside)

	detach()
	theirs.Unplug()
	vif.Unplug()
	s.viaduct("net-destroy", "lan")
	s.viaduct("net-undefine", "lan")
	s.settled()
	if after := s.host.Dump(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// openMacvtap opens the file of a macvtap of the host, for frames as they are.
func (s *site) openMacvtap(name string) *os.File {
	s.t.Helper()
	index := strings.TrimSpace(s.mustRun("cat", "/sys/class/net/"+name+"/ifindex"))
	number := strings.TrimSpace(s.mustRun("cat", "/sys/class/net/"+name+"/macvtap/tap"+index+"/dev"))
	var file unix.Stat_t
	s.must(unix.Stat("/dev/tap"+index, &file))
	if have := fmt.Sprintf("%d:%d", unix.Major(file.Rdev), unix.Minor(file.Rdev)); have != number {
		s.t.Skipf("/dev/tap%s is that of another network namespace (%s, not %s)", index, have, number)
	}
	if _, err := strconv.Atoi(index); err != nil {
		s.t.Fatal(err)
	}
	fd, err := unix.Open("/dev/tap"+index, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	s.must(err)
	req, err := unix.NewIfreq(name)
	s.must(err)
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	s.must(unix.IoctlIfreq(fd, unix.TUNSETIFF, req))
	return os.NewFile(uintptr(fd), name)
}

// A guest on a macvtap is in the LAN of the device that it was given, and finds
// its way back after stops of the network and of the daemon.
func TestNetworkOnMacvtaps(t *testing.T) {
	s := startSite(t)
	if r, err := s.host.Run(s.context(), "ip", "link", "add", "link", "eth0", "name", "probe", "type", "macvtap"); err != nil || r.Code != 0 {
		if lab.Strict() {
			t.Fatal("this kernel has no macvtaps: ", r.Stderr)
		}
		t.Skip("this kernel has no macvtaps")
	}
	s.host.DeleteLink("probe")
	lan, outside := s.lan()
	s.viaduct("net-define", s.file(`<network><name>lan</name><forward mode='bridge'><interface dev='eth1'/></forward></network>`))
	s.viaduct("net-start", "lan")
	s.settled()
	before := s.host.Dump()
	g := s.NewGuest(lab.GuestOptions{Name: "one"})
	created, err := s.daemon.Viaduct(s.context(), "port-create", "lan", "--tap", "vm1", "--mac", g.MAC.String(), "--user", "0")
	if err != nil || created.Code != 0 {
		if !lab.Strict() && strings.Contains(created.Stderr, "/dev/tap") {
			t.Skip("no devices of the kernel here: ", created.Stderr)
		}
		t.Fatalf("%v\n%s", err, created.Stderr)
	}
	detach := s.attach(g, s.openMacvtap("vm1"))
	g.AddAddr("eth0", netip.MustParsePrefix("198.51.100.11/24"))
	s.steadily(g.Node, outside)
	ports := s.ports("lan")
	if len(ports) != 1 || !ports[0].Active || ports[0].Origin != engine.OriginTap || ports[0].FromGuest.Packets == 0 {
		t.Errorf("ports are %+v", ports)
	}
	if xml := s.viaduct("port-dumpxml", "lan", "vm1"); !strings.Contains(xml, "<plug type='direct' dev='eth1' mode='bridge'/>") {
		t.Errorf("the port is\n%s", xml)
	}
	if xml := s.viaduct("net-dumpxml", "lan"); !strings.Contains(xml, "<interface dev='eth1' connections='1'/>") {
		t.Errorf("the network is\n%s", xml)
	}
	s.viaduct("net-destroy", "lan")
	s.cannotReach(g.Node, outside)
	s.daemon.Kill9()
	s.must(s.daemon.Start())
	s.viaduct("net-start", "lan")
	s.steadily(g.Node, outside)
	s.daemon.Kill9()
	s.must(s.daemon.Start())
	s.steadily(g.Node, outside)
	if len(lab.Missing("iperf3")) == 0 {
		s.viaduct("port-bandwidth", "lan", "vm1", "--inbound", "4096", "--outbound", "2048")
		lan.Start("iperf3", "-s")
		s.within("received", s.iperf(g, outside.Addr(), "-R"), 4096)
		s.within("sent", s.iperf(g, outside.Addr()), 2048)
	}
	detach()
	s.viaduct("port-delete", "lan", "vm1")
	s.settled()
	if after := s.host.Dump(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// Whatever a guest is plugged in by, it is plugged in again when its network
// starts again, also by another daemon.
func TestGuestsOfAllKindsArePluggedInAgain(t *testing.T) {
	s := startSite(t)
	s.viaduct("net-define", s.file(natXML("a", 50, "")))
	s.viaduct("net-start", "a")
	outside := netip.AddrPortFrom(s.host.Outside.Addr, lab.PortEcho)
	tap := s.NewGuest(lab.GuestOptions{Name: "tap"})
	s.viaduct("port-create", "a", "--tap", "vm1", "--mac", tap.MAC.String())
	s.monitorFor(tap, "vm1")
	vif := s.NewGuest(lab.GuestOptions{Name: "vif"})
	vif.Plug(s.host.Node, "", "vif1.0")
	s.viaduct("port-create", "a", "--link", "vif1.0")
	declared := s.NewGuest(lab.GuestOptions{Name: "declared"})
	s.declare("a", declared, "")
	declared.Plug(s.host.Node, "virbr50", "vnet0")
	stranger := s.PlugGuest(s.host.Node, "virbr50", "stranger")
	guests := []*lab.Guest{tap, vif, declared, stranger}
	for _, g := range guests {
		s.lease(g)
		s.reaches(g.Node, outside)
	}
	before := s.ports("a")
	const all = "stranger vif1.0 vm1 vnet0"
	if active := s.active("a"); active != all {
		t.Fatalf("active are %q", active)
	}
	crash := func() { s.daemon.Kill9(); s.must(s.daemon.Start()) }
	for _, step := range []struct {
		name string
		do   []func()
	}{
		{"stop and start", nil},
		{"another daemon in between", []func(){crash}},
		{"and once more", []func(){crash, crash}},
		{"an orderly restart in between", []func(){func() { s.must(s.daemon.Restart()) }}},
	} {
		s.viaduct("net-destroy", "a")
		s.cannotReach(stranger.Node, outside)
		for _, do := range step.do {
			do()
		}
		if active := s.active("a"); active != "" {
			t.Errorf("%s: active are %q while the network is stopped", step.name, active)
		}
		s.viaduct("net-start", "a")
		for _, g := range guests {
			s.steadily(g.Node, outside)
		}
		after := s.ports("a")
		for i := range before {
			if len(after) != len(before) || after[i].UUID != before[i].UUID || after[i].Origin != before[i].Origin {
				t.Fatalf("%s: ports were %+v and are %+v", step.name, before, after)
			}
		}
	}

	// A link that went elsewhere meanwhile is another's now.
	s.viaduct("net-destroy", "a")
	s.host.AddBridge("br9")
	s.host.SetMaster("stranger", "br9")
	s.host.SetMaster("vif1.0", "br9")
	s.viaduct("net-start", "a")
	s.steadily(tap.Node, outside)
	s.steadily(declared.Node, outside)
	for _, link := range []string{"stranger", "vif1.0"} {
		if master := s.host.Master(link); master != "br9" {
			t.Error(errors.New(link + " was taken from br9 to " + master))
		}
	}
}
