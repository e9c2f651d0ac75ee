package systemd

import (
	"fmt"
	"strings"
	"testing"

	"viaduct/internal/lab"
)

// lanXML is a network that needs of the host what networks can need.
const lanXML = `<network><name>lan</name><forward mode='nat'><nat ipv6='yes'/></forward><bridge name='virbr9' macTableManager='libvirt'/>
	<metadata><viaduct:settings xmlns:viaduct='urn:viaduct:settings:1'><viaduct:guard/></viaduct:settings></metadata>
	<domain name='lan.example' localOnly='yes' register='yes'/><bandwidth><inbound average='100000'/><outbound average='100000'/></bandwidth>
	<ip address='192.168.90.1' prefix='24'><dhcp><range start='192.168.90.10' end='192.168.90.99'/></dhcp></ip>
	<ip family='ipv6' address='fd00:90::1' prefix='64'><dhcp><range start='fd00:90::100' end='fd00:90::1ff'/></dhcp></ip></network>`

// masqXML is a network that dnsmasq serves.
const masqXML = `<network><name>masq</name><bridge name='virbr8'/>
	<metadata><viaduct:settings xmlns:viaduct='urn:viaduct:settings:1'><viaduct:services backend='dnsmasq'/></viaduct:settings></metadata>
	<ip address='192.168.80.1' prefix='24'><dhcp><range start='192.168.80.10' end='192.168.80.99'/></dhcp></ip></network>`

// hook does what an administrator's hooks do.
const hook = `#!/bin/sh -e
[ "$1 $2" = "lan started" ] || exit 0
ip route add 10.99.0.0/16 via 192.168.90.99
nft add table inet hooked
echo "$@" >>/etc/hooked
echo "$@" >>/var/lib/hooked
logger "$@"
`

// askHelper asks for a tap as QEMU does, while no daemon is there to answer.
const askHelper = `
import socket, subprocess
ours, theirs = socket.socketpair()
subprocess.run(["/usr/local/bin/viaduct-bridge-helper", "--use-vnet", "--fd=%d" % theirs.fileno(), "--br=virbr9"], pass_fds=[theirs.fileno()], check=True)
_, taps, _, _ = socket.recv_fds(ours, 1, 1)
assert len(taps) == 1
`

// TestSandbox: nothing that the daemon and those that it runs have to do is
// kept from them by what the unit forbids.
func TestSandbox(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "sandbox")
	lab.Need(t, "virsh", "dnsmasq", "setpriv", "nft", "logger", "/usr/bin/python3")
	m.boot()
	m.write("/etc/viaduct/hooks/network", hook, "755")
	m.write("/etc/viaduct/bridge.conf", "allow virbr9\n", "644")
	m.run("systemctl", "enable", "--now", "systemd-resolved")
	m.install()

	// As docs/libvirt.md says.
	m.run("systemctl", "stop", "viaduct")
	m.run("systemctl", "enable", "--now", "virtnetworkd.socket", "virtnetworkd-ro.socket")
	m.run("systemctl", "enable", "--now", "virtnwfilterd.socket", "virtnwfilterd-ro.socket")
	m.write("/root/lan.xml", lanXML, "644")
	m.write("/root/masq.xml", masqXML, "644")
	virsh := func(args ...string) string {
		t.Helper()
		return m.run(append([]string{"virsh", "-c", "network:///system"}, args...)...)
	}
	virsh("net-list") // it starts the daemon
	m.run("systemctl", "is-active", "viaduct.service")
	for _, name := range []string{"lan", "masq"} {
		virsh("net-define", "/root/"+name+".xml")
		virsh("net-start", name)
	}
	if got := m.run("virsh", "-r", "-c", "network:///system", "net-list"); strings.Count(got, "active") != 3 {
		t.Errorf("networks:\n%s", got)
	}
	for path, want := range map[string]string{"/etc/hooked": "lan started begin -\n", "/var/lib/hooked": "lan started begin -\n"} {
		if got := m.run("cat", path); got != want {
			t.Errorf("the hook wrote %q into %s", got, path)
		}
	}
	m.run("nft", "list", "table", "inet", "hooked")

	one := m.PlugGuest(m.host.Node, "virbr9", "one")
	addr := m.lease(one).Addr.Addr()
	masked := m.PlugGuest(m.host.Node, "virbr8", "two")
	m.lease(masked)
	lab.Eventually(t, limit, func() error {
		got, err := m.try("resolvectl", "query", "--legend=no", "one.lan.example")
		if err == nil && !strings.Contains(got.Stdout, addr.String()) {
			err = fmt.Errorf("the host resolves one.lan.example to %q, not to %s", got.Stdout, addr)
		}
		return err
	})
	if err := one.Ping(t.Context(), m.host.Outside.Addr); err != nil {
		t.Error(err)
	}

	m.viaduct("port-create", "lan", "--tap", "tap0", "--user", "nobody")
	if got := m.run("ip", "tuntap"); !strings.Contains(got, "tap0: tap vnet_hdr persist user 65534") {
		t.Errorf("taps:\n%s", got)
	}
	m.run("systemctl", "stop", "viaduct")
	m.run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs", "python3", "-c", askHelper)

	pid := m.mainPID()
	for setting, want := range map[string]string{"Seccomp": "2", "CapBnd": "00000080000834ef"} {
		if got := strings.Fields(m.run("grep", "^"+setting+":", "/proc/"+pid+"/status"))[1]; got != want {
			t.Errorf("%s is %s", setting, got)
		}
	}

	// dnsmasq goes on without the daemon, and starts again when it goes.
	file := "/run/viaduct/dnsmasq/" + strings.TrimSpace(m.viaduct("net-uuid", "masq")) + "/pid"
	masq := m.run("cat", file)
	m.run("systemctl", "restart", "viaduct")
	if got := m.run("cat", file); got != masq {
		t.Errorf("dnsmasq was process %s, is %s", masq, got)
	}
	m.run("systemctl", "kill", "--signal=KILL", "viaduct")
	third := m.PlugGuest(m.host.Node, "virbr8", "three")
	m.lease(third)
	virsh("net-list")
	m.undenied()
}

// mainPID is the daemon's process.
func (m *machine) mainPID() string {
	m.t.Helper()
	return strings.TrimSpace(m.run("systemctl", "show", "-P", "MainPID", "viaduct"))
}
