package libvirt

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"viaduct/internal/lab"
	"viaduct/test/kernel"
)

// guestInit is the first program of a guest. It takes an address, tells so on
// the console, and then says again and again whether the outside answers. With
// forge=ADDRESS it asks that address by each card in turn: as itself, with a
// forged sender in IP and in ARP, and with a forged MAC.
const guestInit = `#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
` + kernel.LoadCard + `forge=$(sed -n 's/.*forge=\([^ ]*\).*/\1/p' /proc/cmdline)
tried() { what=$1; shift; "$@" >/dev/null 2>&1 && echo "$card $what REACHED" || echo "$card $what LOST"; }
while [ "$forge" ]; do
	for card in eth0 eth1; do
		ip link set $card up
		eval own=\$own_$card
		if [ "$own" ]; then
			ip addr add $own dev $card
			ip route add default via $router
		else
			udhcpc -i $card -q -n -t 60 -T 1 -S -s /udhcpc >/dev/null 2>&1
			eval own_$card=$(ip -4 -o addr show $card | sed 's/.*inet \([^ ]*\).*/\1/')
			router=$(ip route | sed -n 's/default via \([^ ]*\).*/\1/p')
		fi
		forged=${router%.*}.77
		mac=$(cat /sys/class/net/$card/address)
		tried honest ping -c 1 -W 3 $forge
		ip addr add $forged/24 dev $card
		tried ip ping -c 1 -W 1 -I $forged $forge
		tried arp arping -c 1 -w 1 -I $card -s $forged $router
		ip addr del $forged/24 dev $card
		ip link set $card down
		ip link set $card address 52:54:00:66:66:66
		ip link set $card up
		ip route add default via $router
		tried mac ping -c 1 -W 1 $forge
		ip link set $card down
		ip link set $card address $mac
		ip addr flush dev $card
	done
done
ip link set eth0 up
udhcpc -i eth0 -q -n -t 60 -T 1 -S -s /udhcpc >/dev/null 2>&1
echo LEASE $(ip -4 -o addr show eth0 | sed 's/.*inet \([^ ]*\).*/\1/')
while :; do
	for to in $(cat /proc/cmdline); do
		case $to in ping=*) ping -c 1 -W 1 ${to#ping=} >/dev/null 2>&1 && echo REACHED ${to#ping=} || echo LOST ${to#ping=};; esac
	done
	usleep 100000
done
`

// guestDHCP is what udhcpc runs when it has an address.
const guestDHCP = `#!/bin/busybox sh
[ "$1" = bound ] || exit 0
ip addr add $ip/$mask dev $interface
ip route add default via $router
`

// guestFolder has the kernel and the first files of all guests.
var guestFolder = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(filepath.Dir(binary), "guest")
	return dir, kernel.Guest{Init: guestInit, Files: map[string]string{"udhcpc": guestDHCP}}.Build(dir)
})

// qemuConfig keeps libvirt's QEMU driver from what a namespace does not have.
const qemuConfig = `user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = []
namespaces = []
remember_owner = 0
stdio_handler = "file"
`

// guest is a QEMU guest that libvirt's own driver runs.
type guest struct {
	s    *server
	name string
	run  *lab.Process
}

// newGuest starts a guest with one card. It pings the addresses.
func (s *server) newGuest(name, card string, pings ...string) *guest {
	s.t.Helper()
	lab.Need(s.t, "virt-qemu-run")
	g := s.describe(name, card, pings...)
	root := "/tmp/qemu-" + name
	s.must(s.host.Do(func() error {
		return errors.Join(os.MkdirAll(root+"/etc", 0o755), os.MkdirAll("/etc/libvirt", 0o755),
			os.WriteFile("/etc/libvirt/libvirt.conf", []byte("remote_mode = \"direct\"\n"), 0o644),
			os.WriteFile(root+"/etc/qemu.conf", []byte(qemuConfig), 0o644))
	}))
	run, err := s.host.StartCommand(lab.Command{Argv: []string{"virt-qemu-run", "-r", root, "/tmp/" + name + ".xml"}, Env: []string{s.lenientTC()}})
	s.must(err)
	g.run = run
	return g
}

// lenientTC is an environment in which libvirt's limits of guests' taps do not
// fail where the kernel has only half of what they take.
func (s *server) lenientTC() string {
	s.t.Helper()
	if r := s.run("tc", "qdisc", "add", "dev", "lo", "root", "sfq"); r.Code == 0 {
		s.run("tc", "qdisc", "del", "dev", "lo", "root")
		return "PATH=" + os.Getenv("PATH")
	}
	s.host.WriteFile("/tmp/lenient/tc", "#!/bin/sh\nPATH=${PATH#/tmp/lenient:}\ntc \"$@\" || true\n")
	s.must(s.host.Do(func() error { return os.Chmod("/tmp/lenient/tc", 0o755) }))
	return "PATH=/tmp/lenient:" + os.Getenv("PATH")
}

// newDomain starts a guest like newGuest's, but of a libvirtd that runs on the host.
func (s *server) newDomain(name, card string, pings ...string) *guest {
	s.t.Helper()
	g := s.describe(name, card, pings...)
	if r := s.run("virsh", "-c", "qemu:///system", "create", "/tmp/"+name+".xml"); r.Code != 0 {
		s.t.Fatalf("create domain: %s", r.Stderr)
	}
	return g
}

// describe writes the definition of a guest to /tmp/NAME.xml.
func (s *server) describe(name, card string, pings ...string) *guest {
	s.t.Helper()
	lab.Need(s.t, "qemu-system-x86_64", "busybox", "cpio")
	dir, err := guestFolder()
	s.must(err)
	s.host.Share(dir)
	for i := range pings {
		if !strings.Contains(pings[i], "=") {
			pings[i] = "ping=" + pings[i]
		}
	}
	g := &guest{s: s, name: name}
	s.host.WriteFile("/tmp/"+name+".xml", fmt.Sprintf(`<domain type='qemu'><name>%s</name><memory unit='MiB'>128</memory><vcpu>1</vcpu>
		<os><type arch='x86_64' machine='pc'>hvm</type><kernel>%s/vmlinuz</kernel><initrd>%s/initrd</initrd>
		<cmdline>console=ttyS0 quiet panic=1 no_timer_check rdinit=/init %s</cmdline></os><features><acpi/><apic/></features><cpu mode='custom'><model>qemu64</model></cpu>
		<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>%s
		<serial type='file'><source path='/tmp/console-%s'/></serial><memballoon model='none'/></devices></domain>`,
		name, dir, dir, strings.Join(pings, " "), card, name))
	s.t.Cleanup(func() {
		if s.t.Failed() {
			s.t.Logf("guest %s: %s\n%s", name, g.output(), g.console())
		}
	})
	return g
}

// output is what the guest's own process of libvirt has said, if it has one.
func (g *guest) output() string {
	if g.run == nil {
		return ""
	}
	return g.run.Output()
}

// console is what the guest has said.
func (g *guest) console() string {
	said, err := g.s.host.ReadFile("/tmp/console-" + g.name)
	if err != nil {
		return ""
	}
	return strings.ReplaceAll(said, "\r", "")
}

// says waits until the guest says something that it has not said before from on.
func (g *guest) says(from int, what string) {
	g.s.t.Helper()
	lab.Eventually(g.s.t, 90*time.Second, func() error {
		if g.run != nil {
			select {
			case <-g.run.Done():
				g.s.t.Fatalf("the guest has ended: %s\n%s\n%s", g.output(), g.console(), g.s.log())
			default:
			}
		}
		if said := g.console(); from > len(said) || !strings.Contains(said[from:], what) {
			return fmt.Errorf("guest %s has not said %q:\n%s", g.name, what, said)
		}
		return nil
	})
}

// saysFromNow waits until it says something once more.
func (g *guest) saysFromNow(what string) {
	g.s.t.Helper()
	g.says(len(g.console()), what)
}

// end pulls the plug, as far as libvirt lets it.
func (g *guest) end() {
	g.s.t.Helper()
	_, err := g.run.Stop(g.s.context())
	if err != nil && g.run.PID() == 0 {
		g.s.t.Error(err)
	}
}

// card is a guest's card in a network.
func card(network, mac, inner string) string {
	return fmt.Sprintf("<interface type='network'><mac address='%s'/><source %s/><model type='virtio'/>%s</interface>", mac, network, inner)
}

// ports are the UUIDs of the ports of a network.
func (s *server) ports(network string) []string {
	s.t.Helper()
	return strings.Fields(s.succeed("net-port-list", network, "--uuid"))
}

// A guest of libvirt's QEMU driver boots, gets its lease from Viaduct, and
// reaches the world, also while the daemon is away and after its network was
// stopped and started. Nothing of it is left when it ends.
func TestQEMUGuest(t *testing.T) {
	lab.Need(t, "virsh")
	s := newOurs(t)
	s.host.WriteFile("/tmp/lan.xml", natXML("lan", 50, ""))
	s.succeed("net-define", "/tmp/lan.xml")
	s.succeed("net-start", "lan")
	outside := s.host.Outside.Addr.String()
	g := s.newGuest("vm", card("network='lan'", "52:54:00:50:00:01", ""), outside)
	g.says(0, "LEASE 192.168.50.")
	g.says(0, "REACHED "+outside)

	if said := s.succeed("net-dhcp-leases", "lan"); !strings.Contains(said, "52:54:00:50:00:01") {
		t.Errorf("leases:\n%s", said)
	}
	ports := s.ports("lan")
	if len(ports) != 1 {
		t.Fatalf("ports %v, want one", ports)
	}
	xml := s.succeed("net-port-dumpxml", "lan", ports[0])
	for _, want := range []string{"<name>vm</name>", "<mac address='52:54:00:50:00:01'/>", "<plug type='network' bridge='virbr50'/>"} {
		if !strings.Contains(xml, want) {
			t.Errorf("the port has no %s:\n%s", want, xml)
		}
	}
	if live := s.succeed("net-dumpxml", "lan"); !strings.Contains(live, "<network connections='1'>") {
		t.Errorf("the network does not count the guest:\n%s", live)
	}

	s.daemon.Kill9()
	g.saysFromNow("REACHED " + outside)
	s.must(s.daemon.Start())
	g.saysFromNow("REACHED " + outside)
	if again := s.ports("lan"); len(again) != 1 || again[0] != ports[0] {
		t.Errorf("ports %v after a restart, want %v", again, ports)
	}

	s.succeed("net-destroy", "lan")
	g.saysFromNow("LOST " + outside)
	s.succeed("net-start", "lan")
	g.saysFromNow("REACHED " + outside)

	g.end()
	lab.Eventually(t, 20*time.Second, func() error {
		if left := s.ports("lan"); len(left) > 0 {
			return fmt.Errorf("ports %v are left", left)
		}
		return nil
	})
}

// Guests on isolated ports reach the world and not each other.
func TestQEMUGuestsApart(t *testing.T) {
	lab.Need(t, "virsh")
	s := newOurs(t)
	s.host.WriteFile("/tmp/lan.xml", `<network><name>lan</name><forward mode='nat'/><bridge name='virbr50'/>
		<ip address='192.168.50.1' netmask='255.255.255.0'><dhcp><range start='192.168.50.100' end='192.168.50.200'/>
		<host mac='52:54:00:50:00:01' ip='192.168.50.11'/><host mac='52:54:00:50:00:02' ip='192.168.50.12'/></dhcp></ip>
		<portgroup name='staff' trustGuestRxFilters='yes'/></network>`)
	s.succeed("net-define", "/tmp/lan.xml")
	s.succeed("net-start", "lan")
	outside := s.host.Outside.Addr.String()
	one := s.newGuest("one", card("network='lan' portgroup='staff'", "52:54:00:50:00:01", "<port isolated='yes'/>"), outside, "192.168.50.12")
	two := s.newGuest("two", card("network='lan'", "52:54:00:50:00:02", "<port isolated='yes'/>"), outside, "192.168.50.11")
	one.says(0, "LEASE 192.168.50.11")
	two.says(0, "LEASE 192.168.50.12")
	for _, g := range []*guest{one, two} {
		g.saysFromNow("REACHED " + outside)
	}
	one.saysFromNow("LOST 192.168.50.12")
	two.saysFromNow("LOST 192.168.50.11")
	if said := one.console() + two.console(); strings.Contains(said, "REACHED 192.168.50.") {
		t.Errorf("the guests reach each other:\n%s", said)
	}
	group := 0
	for _, p := range s.ports("lan") {
		xml := s.succeed("net-port-dumpxml", "lan", p)
		if !strings.Contains(xml, "<port isolated='yes'/>") {
			t.Errorf("the port is not isolated:\n%s", xml)
		}
		if strings.Contains(xml, "<group>staff</group>") && strings.Contains(xml, "<rxfilters trustGuest='yes'/>") {
			group++
		}
	}
	if group != 1 {
		t.Errorf("%d ports have what their group has, want 1", group)
	}
}

// What a guest with <filterref filter='clean-traffic'/> forges is dropped, also
// while the daemon is away; by its other card, which has none, all of it gets
// through. That card has the limits of its port group.
func TestQEMUGuestFiltered(t *testing.T) {
	lab.Need(t, "virsh", "tc")
	s := newOurs(t)
	s.host.WriteFile("/tmp/lan.xml", natXML("lan", 50, "<portgroup name='staff'><bandwidth><inbound average='8000' peak='9000' burst='64'/></bandwidth></portgroup>"))
	s.succeed("net-define", "/tmp/lan.xml")
	s.succeed("net-start", "lan")
	g := s.newGuest("vm", card("network='lan'", "52:54:00:50:00:01", "<filterref filter='clean-traffic'/>")+
		card("network='lan' portgroup='staff'", "52:54:00:50:00:02", ""), "forge="+s.host.Outside.Addr.String())
	verdicts := func(from int) {
		t.Helper()
		for _, says := range []string{
			"eth0 honest REACHED", "eth0 ip LOST", "eth0 arp LOST", "eth0 mac LOST",
			"eth1 honest REACHED", "eth1 ip REACHED", "eth1 arp REACHED", "eth1 mac REACHED",
		} {
			g.says(from, says)
		}
	}
	verdicts(0)
	bindings := func() string { return s.run("virsh", "-c", "nwfilter:///system", "nwfilter-binding-list").Stdout }
	if list := bindings(); !strings.Contains(list, "clean-traffic") {
		t.Errorf("bindings:\n%s", list)
	}
	limited := 0
	for _, p := range s.ports("lan") {
		if xml := s.succeed("net-port-dumpxml", "lan", p); strings.Contains(xml, "<inbound average='8000' peak='9000' burst='64'/>") {
			limited++
		}
	}
	if limited != 1 {
		t.Errorf("%d ports have the limits of their group, want 1", limited)
	}
	if classes := s.run("tc", "class", "show", "dev", "vnet1").Stdout; !strings.Contains(classes, "rate 64Mbit ceil 72Mbit") {
		t.Errorf("the guest's tap is not limited:\n%s", classes)
	}

	s.daemon.Kill9()
	away := len(g.console())
	for _, says := range []string{"eth0 honest REACHED", "eth0 ip LOST", "eth0 mac LOST"} {
		g.says(away, says)
	}
	s.must(s.daemon.Start())
	back := len(g.console())
	g.says(back, "eth1 honest REACHED")
	g.says(back, "eth0 honest REACHED")
	for _, forged := range []string{"eth0 ip REACHED", "eth0 arp REACHED", "eth0 mac REACHED"} {
		if said := g.console(); strings.Contains(said, forged) {
			t.Errorf("%s:\n%s", forged, said)
		}
	}

	g.end()
	lab.Eventually(t, 20*time.Second, func() error {
		if list := bindings(); strings.Contains(list, "clean-traffic") {
			return fmt.Errorf("bindings are left:\n%s", list)
		}
		return nil
	})
}
