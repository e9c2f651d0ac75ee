package vm

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"viaduct/internal/lab"
	"viaduct/test/kernel"
)

// netbootXML is a network whose guests boot what a folder of the host has.
const netbootXML = `<network><name>boot</name><forward mode='nat'/><bridge name='virbr0'/><mtu size='1400'/>
	<ip address='192.168.77.1' prefix='24'><tftp root='/tmp/boot'/><dhcp>
	<range start='192.168.77.10' end='192.168.77.99'/><bootp file='boot.ipxe'/></dhcp></ip></network>`

// netbootScript is what the card's own program loads first. It fetches the rest
// from where it came itself.
const netbootScript = "#!ipxe\n" +
	"kernel vmlinuz console=ttyS0 quiet panic=1 no_timer_check rdinit=/init booted=${net0/ip}\n" +
	"initrd initrd\n" +
	"boot\n"

// netbootInit is the first and only program of the guest's system.
const netbootInit = "#!/bin/busybox sh\n" +
	"/bin/busybox mount -t proc proc /proc\n" +
	"echo BOOTED $(/bin/busybox grep -o 'booted=[0-9.]*' /proc/cmdline)\n" +
	"/bin/busybox poweroff -f\n"

// TestNetboot: a guest with an empty disk boots a kernel over the network. The
// ROM of its card asks for an address and what to boot, and fetches all of it
// from the daemon.
func TestNetboot(t *testing.T) {
	need(t)
	lab.Need(t, "qemu-system-x86_64", "busybox", "cpio")
	const rom = "/usr/lib/ipxe/qemu/pxe-virtio.rom"
	if _, err := os.Stat(rom); err != nil {
		if lab.Strict() {
			t.Fatalf("needs the package ipxe-qemu: %v", err)
		}
		t.Skipf("needs the package ipxe-qemu: %v", err)
	}
	t.Parallel()
	tree, err := kernel.Tree()
	if err != nil {
		t.Fatal(err)
	}
	viaduct, err := goBuild("viaduct/cmd/viaduct", "viaduct-netboot")
	if err != nil {
		t.Fatal(err)
	}
	boot := filepath.Join(t.TempDir(), "boot")
	netbootFiles(t, boot, tree)

	l := lab.New(t)
	host := l.NewHost(lab.HostOptions{})
	host.Share(boot)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	run := func(argv ...string) {
		t.Helper()
		if _, err := host.Run(ctx, argv...); err != nil {
			t.Fatal(err)
		}
	}
	run("ln", "-s", boot, "/tmp/boot")
	d := host.NewDaemon(viaduct, lab.DaemonOptions{Args: []string{"--no-default", "--libvirt-dir", "/nowhere", "--log-level", "debug"}})
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	host.WriteFile("/tmp/boot.xml", netbootXML)
	for _, command := range [][]string{
		{"net-create", "/tmp/boot.xml"},
		{"port-create", "boot", "--tap", "guest0", "--mac", "52:54:00:77:00:01"},
	} {
		if r, err := d.Viaduct(ctx, command...); err != nil {
			t.Fatalf("%v: %v\n%s", command, err, r.Stderr)
		}
	}
	began := time.Now()
	guest := host.Start("qemu-system-x86_64", "-machine", "pc,graphics=off", "-accel", "tcg", "-cpu", "max", "-m", memory,
		"-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot",
		"-netdev", "tap,id=net0,ifname=guest0,script=no,downscript=no",
		"-device", "virtio-net-pci,netdev=net0,mac=52:54:00:77:00:01,bootindex=1")
	line, err := guest.WaitLine(ctx, `BOOTED booted=192\.168\.77\.\d+`)
	if err != nil {
		t.Fatalf("%v; the guest said:\n%s\nthe daemon said:\n%s", err, guest.Output(), d.Output())
	}
	t.Logf("%s after %s", line, time.Since(began).Round(time.Second))
	if _, err := d.Process().WaitLine(ctx, `handed out a file by tftp.*file=initrd.*complete=true`); err != nil {
		t.Error(err)
	}
}

// netbootFiles fills the folder that the guest boots from.
func netbootFiles(t *testing.T, boot, tree string) {
	t.Helper()
	root := filepath.Join(t.TempDir(), "root")
	for _, dir := range []string{boot, filepath.Join(root, "proc"), filepath.Join(root, "dev")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	for to, from := range map[string]string{
		filepath.Join(root, "bin/busybox"): busybox, filepath.Join(boot, "vmlinuz"): filepath.Join(tree, "boot/vmlinuz"),
	} {
		if err := copyFile(to, from); err != nil {
			t.Fatal(err)
		}
	}
	for path, text := range map[string]string{filepath.Join(root, "init"): netbootInit, filepath.Join(boot, "boot.ipxe"): netbootScript} {
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := kernel.Archive(root, filepath.Join(boot, "initrd")); err != nil {
		t.Fatal(err)
	}
}
