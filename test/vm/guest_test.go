package vm

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"viaduct/internal/lab"
	"viaduct/test/kernel"
)

// dualXML is a network that gives its guests addresses of both families.
const dualXML = `<network><name>dual</name><forward mode='nat'><nat ipv6='yes'/></forward><bridge name='virbr0'/><domain name='dual.test'/>
	<dns><host ip='192.168.78.77'><hostname>files</hostname></host></dns>
	<ip address='192.168.78.1' prefix='24'><dhcp><range start='192.168.78.10' end='192.168.78.99'/></dhcp></ip>
	<ip family='ipv6' address='fd00:78::1' prefix='64'><dhcp><range start='fd00:78::100' end='fd00:78::1ff'/></dhcp></ip></network>`

// dualInit does what Debian's ifupdown does with an interface that is "inet dhcp"
// and "inet6 dhcp", and tells what came of it.
const dualInit = `#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
` + kernel.LoadCard + `
mkdir -p /var/lib/dhcp /etc
: >/etc/fstab
: >/etc/resolv.conf
ip link set lo up
ip link set eth0 up
until ip -6 addr show dev eth0 scope link | grep fe80 | grep -qv tentative; do usleep 500000; done
dhclient -4 -1 -lf /var/lib/dhcp/4 eth0 || echo FAILED dhclient -4
echo V4 $(ip -4 -o addr show dev eth0 | grep -o '192[0-9.]*/24')
echo RESOLVER $(cat /etc/resolv.conf)
dhclient -6 -1 -lf /var/lib/dhcp/6 eth0 || echo FAILED dhclient -6
echo V6 $(ip -6 -o addr show dev eth0 scope global | grep -o 'fd00:78::1[0-9a-f]*')
echo NAMED $(nslookup files.dual.test 192.168.78.1 | grep -o '192.168.78.77')
for to in $(cat /proc/cmdline); do
	case $to in
	ping4=*) ping -c 3 -W 5 ${to#*=} >/dev/null && echo REACHED4 ;;
	ping6=*) ping -6 -c 3 -W 5 ${to#*=} >/dev/null && echo REACHED6 ;;
	esac
done
poweroff -f
`

// TestDebianGuest: a guest with Debian's own kernel, on a tap that port-create
// made, gets addresses of both families from Debian's own client, and reaches
// the outside with both.
func TestDebianGuest(t *testing.T) {
	need(t)
	lab.Need(t, "qemu-system-x86_64", "busybox", "cpio", "dhclient", "ip")
	t.Parallel()
	viaduct, err := goBuild("viaduct/cmd/viaduct", "viaduct-guest")
	if err != nil {
		t.Fatal(err)
	}
	script, err := os.ReadFile("/sbin/dhclient-script")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "guest")
	err = kernel.Guest{Init: dualInit, Programs: []string{"dhclient", "ip"}, Files: map[string]string{"sbin/dhclient-script": string(script)}}.Build(dir)
	if err != nil {
		t.Fatal(err)
	}

	l := lab.New(t)
	host := l.NewHost(lab.HostOptions{})
	host.Share(dir)
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	d := host.NewDaemon(viaduct, lab.DaemonOptions{Args: []string{"--no-default", "--libvirt-dir", "/nowhere", "--log-level", "debug"}})
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	host.WriteFile("/tmp/dual.xml", dualXML)
	for _, command := range [][]string{
		{"net-create", "/tmp/dual.xml"},
		{"port-create", "dual", "--tap", "guest0", "--mac", "52:54:00:78:00:01"},
	} {
		if r, err := d.Viaduct(ctx, command...); err != nil {
			t.Fatalf("%v: %v\n%s", command, err, r.Stderr)
		}
	}
	guest := host.Start("qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "192",
		"-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot",
		"-kernel", filepath.Join(dir, "vmlinuz"), "-initrd", filepath.Join(dir, "initrd"),
		"-append", "console=ttyS0 quiet panic=1 no_timer_check rdinit=/init ping4="+host.Outside.Addr.String()+" ping6="+host.Outside.Addr6.String(),
		"-netdev", "tap,id=net0,ifname=guest0,script=no,downscript=no",
		"-device", "virtio-net-pci,netdev=net0,mac=52:54:00:78:00:01")
	for _, want := range []string{
		`V4 192\.168\.78\.\d+/24`, `RESOLVER .*search dual\.test.*nameserver 192\.168\.78\.1`, `V6 fd00:78::1[0-9a-f]{2}`,
		`NAMED 192\.168\.78\.77`, `REACHED4`, `REACHED6`,
	} {
		if _, err := guest.WaitLine(ctx, want); err != nil {
			t.Fatalf("%s: %v; the guest said:\n%s\nthe daemon said:\n%s", want, err, guest.Output(), d.Output())
		}
	}
}
