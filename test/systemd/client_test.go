package systemd

import (
	"fmt"
	"strings"
	"testing"

	"viaduct/internal/lab"
)

// TestUplinkClient: on a host whose card nobody configures the service is the
// DHCP client of the bridge, and writes the name servers, also after a reboot.
func TestUplinkClient(t *testing.T) {
	t.Parallel()
	lab.Need(t, "dnsmasq")
	m := newMachine(t, "client")
	// The lab has given it addresses of its own.
	if _, err := m.host.Run(t.Context(), "sh", "-ec", "ip route flush default; ip -6 route flush default; ip addr flush dev eth0 scope global"); err != nil {
		t.Fatal(err)
	}
	m.host.Outside.Start("dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0", "--interface=eth0", "--bind-interfaces", "--user=root",
		"--dhcp-leasefile=/tmp/leases", "--dhcp-authoritative", "--dhcp-range=203.0.113.50,203.0.113.50", "--dhcp-option=option:dns-server,203.0.113.53", "--dhcp-option=option:router,203.0.113.1")
	m.boot()
	m.run("sh", "-c", "rm /etc/resolv.conf && : >/etc/resolv.conf")
	m.install()
	check := func() {
		t.Helper()
		lab.Eventually(t, limit, func() error {
			got := m.run("ip", "-o", "addr", "show", "dev", "xenbr0") + m.run("ip", "route", "show", "default") + m.run("cat", "/etc/resolv.conf")
			for _, want := range []string{"inet 203.0.113.50/24", "default via 203.0.113.1 dev xenbr0", "nameserver 203.0.113.53"} {
				if !strings.Contains(got, want) {
					return fmt.Errorf("no %q in\n%s", want, got)
				}
			}
			return nil
		})
		m.undenied()
	}
	m.viaduct("uplink-create", "xenbr0", "--nic", "eth0", "--dhcp")
	check()
	m.off()
	m.boot()
	check()
	m.viaduct("uplink-delete", "xenbr0")
	if got := m.run("cat", "/etc/resolv.conf"); strings.Contains(got, "203.0.113.53") {
		t.Errorf("resolv.conf has still\n%s", got)
	}
	m.undenied()
}
