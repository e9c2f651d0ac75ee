package systemd

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"viaduct/internal/lab"
)

// TestUnits: an administrator installs, enables, restarts and reboots, and
// guests notice nothing of it.
func TestUnits(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "units")
	m.boot()
	m.install()
	if got := m.run("systemctl", "is-active", "viaduct.socket", "viaduct.service"); got != "active\nactive\n" {
		t.Errorf("units are %q", got)
	}
	if got := m.viaduct("net-list"); !strings.Contains(got, "default   active   yes         yes") {
		t.Errorf("networks:\n%s", got)
	}
	guest := m.PlugGuest(m.host.Node, "virbr0", "one")
	m.lease(guest)
	m.settled("one")

	gateway := netip.MustParseAddr("192.168.122.1")
	ping := guest.StartPing(gateway, 10*time.Millisecond)
	monitor := m.host.Monitor()
	m.run("systemctl", "restart", "viaduct")
	m.run("systemctl", "kill", "-s", "KILL", "viaduct")
	lab.Eventually(t, limit, func() error {
		if got := m.run("systemctl", "show", "-P", "NRestarts", "-P", "ActiveState", "viaduct"); got != "1\nactive\n" {
			return fmt.Errorf("after SIGKILL: %q", got)
		}
		return nil
	})
	m.viaduct("net-list")
	if loss := ping.Stop(); len(loss.Lost) > 0 {
		t.Errorf("while the daemon was started anew: %v", loss)
	}
	for _, line := range monitor.Stop() {
		t.Errorf("the next daemon did: %s", line)
	}
	m.undenied()

	// A guest's driver that starts with the host finds the networks.
	m.write("/etc/systemd/system/virtqemud.service", driver, "644")
	m.run("systemctl", "enable", "virtqemud.service", "virtnetworkd.socket", "virtnetworkd-ro.socket")
	guest.Unplug()
	m.off()
	m.boot()
	if got := m.journal("virtqemud.service"); !strings.Contains(got, "default   active   yes         yes") || !strings.Contains(got, "inet 192.168.122.1/24") {
		t.Errorf("the driver of guests sees:\n%s", got)
	}
	guest.Plug(m.host.Node, "virbr0", "one")
	m.lease(guest)
	if err := guest.Ping(t.Context(), m.host.Outside.Addr); err != nil {
		t.Error(err)
	}
	m.undenied()

	security := m.run("systemd-analyze", "security", "--no-pager", "viaduct.service")
	if level := security[strings.LastIndex(strings.TrimSpace(security), "\n")+1:]; !strings.Contains(level, "OK") {
		t.Errorf("systemd says %s", level)
	}
}

// driver stands for libvirt's driver of guests.
const driver = `[Unit]
Wants=virtnetworkd.socket
[Service]
Type=oneshot
ExecStart=ip addr show dev virbr0
ExecStart=virsh -c network:///system net-list
[Install]
WantedBy=multi-user.target
`

// settled waits until the kernel has given a link that is up its own address.
func (m *machine) settled(link string) {
	m.t.Helper()
	lab.Eventually(m.t, limit, func() error {
		got := m.run("ip", "-6", "-o", "addr", "show", "dev", link, "scope", "link")
		if got == "" || strings.Contains(got, "tentative") {
			return fmt.Errorf("addresses of %s: %q", link, got)
		}
		return nil
	})
}
