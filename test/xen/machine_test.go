package xen

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"viaduct/internal/lab"
	"viaduct/test/kernel"
)

// xenPackages are Debian 12's hypervisor, its tools, and the libraries of
// theirs that other programs do not use.
var xenPackages = []string{
	"xen-hypervisor-4.17-amd64", "xen-utils-4.17", "xen-utils-common", "xenstore-utils",
	"libxenmisc4.17", "libxencall1", "libxenevtchn1", "libxenforeignmemory1", "libxengnttab1", "libxenstore4",
	"libxentoollog1", "libxentoolcore1", "libxendevicemodel1", "libxenhypfs1", "libyajl2",
}

// lease is what the guests' DHCP client runs.
const lease = `#!/bin/sh
case $1 in bound|renew) ;; *) exit 0 ;; esac
ip addr flush dev $interface
ip addr add $ip/$mask dev $interface
for r in $router; do
	ip route add $r dev $interface 2>/dev/null
	ip route replace default via $r dev $interface
	break
done
echo LEASE $ip
`

// parts are the files that the machine starts from.
type parts struct{ xen, kernel, initrd string }

// build makes the machine's parts in a folder.
func build(t *testing.T, dir string) parts {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	tree, err := kernel.Tree()
	must(err)
	xen, err := kernel.Packages(xenPackages...)
	must(err)
	p := parts{filepath.Join(dir, "xen"), filepath.Join(tree, "boot/vmlinuz"), filepath.Join(dir, "initrd")}
	// QEMU starts ELF files only.
	must(gunzip(p.xen, filepath.Join(xen, "boot/xen-4.17-amd64.gz")))

	program := func(pkg string) string {
		path, err := lab.Build(dir, pkg, filepath.Base(pkg))
		must(err)
		return path
	}
	agent := program("viaduct/test/xen/agent")
	busybox, err := exec.LookPath("busybox")
	must(err)

	guest := kernel.Root(filepath.Join(dir, "guest"))
	guestInitrd := filepath.Join(dir, "guest.gz")
	must(errors.Join(
		guest.Folders("proc", "sys", "dev", "tmp", "bin", "sbin", "etc"),
		guest.Copy("init", agent), guest.Copy("bin/busybox", busybox), guest.Link("bin/agent", "/init"), guest.Link("sbin/modprobe", "/bin/busybox"),
		guest.Write("udhcpc", []byte(lease)),
	))
	modules(t, guest, tree, "drivers/net/xen-netfront.ko", "net/8021q", "net/802")
	must(kernel.Archive(string(guest), guestInitrd))

	dom0 := kernel.Root(filepath.Join(dir, "dom0"))
	must(errors.Join(
		dom0.Folders("proc", "sys", "dev", "run", "tmp", "bin", "sbin", "var", "etc/xen"),
		dom0.Copy("init", program("viaduct/test/xen/inside")), dom0.Copy("bin/agent", agent), dom0.Copy("bin/busybox", busybox), dom0.Link("sbin/modprobe", "/bin/busybox"),
		dom0.Copy("usr/bin/viaduct", program("viaduct/cmd/viaduct")), dom0.Copy("usr/bin/viaduct-vif", program("viaduct/cmd/viaduct-vif")),
		dom0.Tree("etc/xen", filepath.Join(xen, "etc/xen")),
		dom0.Tree("lib/modules", filepath.Join(tree, "lib/modules")),
		dom0.Copy("guest/initrd", guestInitrd), unpack(filepath.Join(string(dom0), "guest/vmlinux"), p.kernel),
	))
	libraries := filepath.Join(xen, "usr/lib/x86_64-linux-gnu")
	for _, name := range []string{"xl", "oxenstored", "xen-init-dom0", "xenconsoled"} {
		path := "usr/lib/xen-4.17/bin/" + name
		must(dom0.Program(path, filepath.Join(xen, path), libraries))
	}
	must(dom0.Program("usr/bin/xenstore-ls", filepath.Join(xen, "usr/bin/xenstore-ls"), libraries))
	// xl's threads end by it, which ldd does not know.
	must(dom0.Copy("usr/lib/libgcc_s.so.1", "/lib/x86_64-linux-gnu/libgcc_s.so.1"))
	for _, name := range []string{"nft", "ip", "bridge", "tc", "nsenter"} {
		must(dom0.Program("usr/bin/"+name, name))
	}
	must(kernel.Archive(string(dom0), p.initrd))
	return p
}

// unpack writes the kernel that is in a file of Linux' boot protocol (payload of
// version 2.08): xl would do so for each guest, which takes an emulated machine
// long.
func unpack(to, from string) error {
	image, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	const sectors, offset, length = 0x1f1, 0x248, 0x24c
	start := (int(image[sectors])+1)*512 + int(binary.LittleEndian.Uint32(image[offset:]))
	// The last word is the size of what comes out.
	end := start + int(binary.LittleEndian.Uint32(image[length:])) - 4
	cmd := exec.Command("xz", "-dc")
	cmd.Stdin = bytes.NewReader(image[start:end])
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("unpack the kernel: %w", err)
	}
	return errors.Join(os.MkdirAll(filepath.Dir(to), 0o755), os.WriteFile(to, out, 0o644))
}

// modules copies some of the kernel's modules.
func modules(t *testing.T, to kernel.Root, tree string, names ...string) {
	t.Helper()
	releases, _ := filepath.Glob(filepath.Join(tree, "lib/modules/*"))
	if len(releases) != 1 {
		t.Fatalf("the kernel has modules for %d releases", len(releases))
	}
	release := filepath.Base(releases[0])
	for _, name := range names {
		path := filepath.Join("lib/modules", release, "kernel", name)
		from := filepath.Join(tree, path)
		info, err := os.Stat(from)
		if err == nil && info.IsDir() {
			err = to.Tree(path, from)
		} else if err == nil {
			err = to.Copy(path, from)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := kernel.Output(string(to), "depmod", "-b", string(to), release); err != nil {
		t.Fatal(err)
	}
}

func gunzip(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	z, err := gzip.NewReader(in)
	if err != nil {
		return err
	}
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, z)
	return errors.Join(err, out.Close())
}

// The memory of the machine and of dom0, in MiB; the rest is Xen's and the guests'.
const (
	memory     = "1536"
	dom0Memory = "832M"
)

// command is the emulated machine. The environment goes to the program inside.
func (p parts) command(env ...string) *exec.Cmd {
	// With -cpu max dom0's kernel does not come up.
	return exec.Command("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "Nehalem", "-smp", "2", "-m", memory,
		"-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot",
		"-kernel", p.xen, "-append", "dom0_mem="+dom0Memory+",max:"+dom0Memory+" console=com1 com1=115200 noreboot loglvl=warning guest_loglvl=none spec-ctrl=no xpti=no",
		"-initrd", p.kernel+" console=hvc0 quiet loglevel=3 panic=1 mitigations=off "+strings.Join(env, " ")+","+p.initrd)
}
