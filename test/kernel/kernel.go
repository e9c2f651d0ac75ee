// Package kernel gives tests the kernel of a distribution to boot in virtual
// machines: another one than that of the machine they run on.
package kernel

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// kernelPackage is Debian 12's kernel: old enough to lack what newer ones have
// for us, and still in use.
var kernelPackage = regexp.MustCompile(`linux-image-6\.1\.0-\d+-amd64`)

// kernelParts are what is kept of the package: the kernel, and the modules
// that the machine, its network and its disk need.
var kernelParts = []string{
	"./boot/vmlinuz-*", "./lib/modules/*/modules.*",
	"./lib/modules/*/kernel/drivers/virtio", "./lib/modules/*/kernel/drivers/block/virtio_blk.ko",
	"./lib/modules/*/kernel/drivers/net/veth.ko", "./lib/modules/*/kernel/drivers/net/bonding", "./lib/modules/*/kernel/net/tls", "./lib/modules/*/kernel/drivers/net/virtio_net.ko",
	"./lib/modules/*/kernel/drivers/net/net_failover.ko", "./lib/modules/*/kernel/net/core/failover.ko",
	"./lib/modules/*/kernel/fs/ext4", "./lib/modules/*/kernel/fs/jbd2", "./lib/modules/*/kernel/fs/mbcache.ko",
	"./lib/modules/*/kernel/fs/overlayfs",
	"./lib/modules/*/kernel/lib/crc16.ko", "./lib/modules/*/kernel/lib/libcrc32c.ko", "./lib/modules/*/kernel/crypto/crc32c_generic.ko",
	"./lib/modules/*/kernel/net/802", "./lib/modules/*/kernel/net/8021q", "./lib/modules/*/kernel/net/llc", "./lib/modules/*/kernel/net/bridge",
	"./lib/modules/*/kernel/net/sched", "./lib/modules/*/kernel/drivers/net/ifb.ko",
	"./lib/modules/*/kernel/drivers/xen", "./lib/modules/*/kernel/drivers/net/xen-net*",
	"./lib/modules/*/kernel/net/xfrm", "./lib/modules/*/kernel/net/netfilter/nf*", "./lib/modules/*/kernel/net/ipv[46]/netfilter/nf*",
}

// Tree returns a folder with boot/vmlinuz and lib/modules. It is fetched
// once and then kept in the user's cache.
func Tree() (string, error) {
	tree, err := kept("linux-image", strings.Join(kernelParts, " "), fetchKernel)
	if err != nil {
		return "", fmt.Errorf("fetch Debian 12's kernel: %w", err)
	}
	return tree, nil
}

// fetchKernel unpacks the kernel's package into the folder tree in dir.
func fetchKernel(dir string) error {
	depends, err := Output(dir, "apt-cache", "depends", "linux-image-amd64")
	if err != nil {
		return err
	}
	name := kernelPackage.FindString(depends)
	if name == "" {
		return fmt.Errorf("linux-image-amd64 does not depend on it here:\n%s", depends)
	}
	if _, err := Output(dir, "apt-get", "download", name); err != nil {
		return err
	}
	tree := filepath.Join(dir, "tree")
	if err := os.MkdirAll(tree, 0o755); err != nil {
		return err
	}
	_, err = Output(dir, "sh", "-c", "dpkg-deb --fsys-tarfile linux-image-*.deb | tar -x -C tree --wildcards '"+strings.Join(kernelParts, "' '")+"'")
	if err != nil {
		return err
	}
	if _, err := Output(dir, "sh", "-c", "mv tree/boot/vmlinuz-* tree/boot/vmlinuz"); err != nil {
		return err
	}
	_, err = Output(dir, "depmod", "-b", tree, strings.TrimPrefix(name, "linux-image-"))
	return err
}
