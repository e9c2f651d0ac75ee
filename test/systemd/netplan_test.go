package systemd

import (
	"net/netip"
	"strings"
	"testing"

	"viaduct/internal/lab"
)

// netplanYAML is the host's network as netplan is told of it.
const netplanYAML = `network:
  version: 2
  renderer: networkd
  ethernets:
    eth0:
      # the LAN
      addresses: [203.0.113.2/24, "2001:db8:113::2/64"]
      routes:
        - to: default
          via: 203.0.113.1
      nameservers:
        addresses: [203.0.113.1]
`

// TestNetplan: a card that netplan configures gets a bridge and loses it again;
// after each reboot the host has what it had.
func TestNetplan(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "netplan")
	m.boot()
	m.write("/etc/netplan/50-lan.yaml", netplanYAML, "600")
	m.run("systemctl", "enable", "--now", "systemd-networkd", "systemd-resolved")
	m.run("netplan", "apply")
	m.install()
	m.reachable("eth0")

	m.viaduct("uplink-create", "xenbr0", "--nic", "eth0", "--peer", "203.0.113.1")
	m.reachable("xenbr0")
	m.off()
	m.boot()
	m.reachable("xenbr0")
	m.viaduct("uplink-delete", "xenbr0")
	m.reachable("eth0")
	m.undenied()
	m.off()
	m.boot()
	m.reachable("eth0")
	if got := m.run("cat", "/etc/netplan/50-lan.yaml"); got != netplanYAML {
		t.Errorf("netplan's file is now\n%s", got)
	}
	m.undenied()
}

// reachable waits until the LAN reaches the host, and the host has its address
// on the link and knows how to leave.
func (m *machine) reachable(link string) {
	m.t.Helper()
	lab.Eventually(m.t, limit, func() error {
		for _, to := range []netip.Addr{m.host.Addr, m.host.Addr6} {
			if err := m.host.Outside.Ping(m.t.Context(), to); err != nil {
				return err
			}
		}
		return nil
	})
	for _, prefix := range []string{m.host.Addr.String() + "/24", m.host.Addr6.String() + "/64"} {
		if got := m.run("ip", "-o", "addr", "show", "dev", link, "to", prefix); strings.Count(got, "\n") != 1 {
			m.t.Errorf("%s has %q, want %s", link, got, prefix)
		}
	}
	if got := m.run("ip", "route", "show", "default"); !strings.HasPrefix(got, "default via 203.0.113.1 dev "+link+" ") {
		m.t.Errorf("default route: %s", got)
	}
	if got := m.run("resolvectl", "dns", link); !strings.Contains(got, "203.0.113.1") {
		m.t.Errorf("name servers: %s", got)
	}
}
