package systemd

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"viaduct/internal/lab"
)

// TestImportFromLibvirtd: a Debian host whose networks are those of a libvirtd
// that systemd runs becomes ours while a guest talks, and becomes libvirt's again.
func TestImportFromLibvirtd(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "libvirtd")
	lab.Need(t, "libvirtd", "virsh", "dnsmasq", "iptables", "/lib/systemd/system/libvirtd.service", "/usr/share/libvirt/networks/default.xml")
	m.boot()
	// As Debian's packages do when they are installed.
	m.run("sh", "-ec", "mkdir -p $(dpkg -L libvirt-daemon libvirt-daemon-system libvirt-daemon-driver-qemu | grep ^/var) /etc/libvirt/qemu/networks/autostart")
	m.run("systemctl", "enable", "--now", "systemd-resolved", "libvirtd.socket", "libvirtd-ro.socket", "libvirtd.service")
	virsh := func(args ...string) string {
		t.Helper()
		return m.run(append([]string{"virsh", "-c", "qemu:///system"}, args...)...)
	}
	virsh("net-define", "/usr/share/libvirt/networks/default.xml")
	virsh("net-autostart", "default")
	virsh("net-start", "default")
	guest := m.PlugGuest(m.host.Node, "virbr0", "one")
	before := m.lease(guest)

	m.install()
	// The network of the first start has the name of libvirt's.
	const way = "viaduct net-destroy default && viaduct net-undefine default"
	if refused, err := m.try("viaduct", "import-libvirt", "--dry-run"); err == nil || !strings.Contains(refused.Stdout, way) {
		t.Fatalf("a network was to be in the way: %v\n%s", err, refused.Stdout)
	}
	m.run("sh", "-c", way)
	m.settled("one")
	ping := guest.StartPing(netip.MustParseAddr("192.168.122.1"), 10*time.Millisecond)
	if got := m.viaduct("import-libvirt", "--dry-run"); !strings.Contains(got, "libvirtd.service would be stopped for that") {
		t.Errorf("a dry run says:\n%s", got)
	}
	m.viaduct("import-libvirt")
	if got := m.run("systemctl", "is-active", "libvirtd.service", "libvirtd.socket", "libvirtd-ro.socket"); got != "active\nactive\nactive\n" {
		t.Errorf("libvirt's units are %q", got)
	}
	if got := virsh("net-list", "--all"); strings.Contains(got, "default") {
		t.Errorf("libvirtd has\n%s", got)
	}
	m.viaduct("libvirt-attach")
	if got := virsh("net-list"); !strings.Contains(got, "default   active   yes         yes") {
		t.Errorf("libvirtd has\n%s", got)
	}
	if loss := ping.Stop(); len(loss.Lost) > 0 {
		t.Errorf("meanwhile: %v", loss)
	}
	if after := m.lease(guest); after.Addr != before.Addr {
		t.Errorf("the guest had %v, has %v", before.Addr, after.Addr)
	}
	m.viaduct("libvirt-attach", "--remove")
	m.viaduct("import-libvirt", "--undo")
	if got := virsh("net-list"); !strings.Contains(got, "default   active   yes         yes") {
		t.Errorf("libvirtd has\n%s", got)
	}
	if after := m.lease(guest); after.Addr != before.Addr {
		t.Errorf("the guest had %v, has %v", before.Addr, after.Addr)
	}
	m.undenied()
}
