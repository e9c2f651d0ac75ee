// Package kernel gives tests the kernel of a distribution to boot in virtual
// machines: another one than that of the machine they run on.
package kernel

import (
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
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
	"./lib/modules/*/kernel/drivers/net/veth.ko", "./lib/modules/*/kernel/drivers/net/virtio_net.ko",
	"./lib/modules/*/kernel/drivers/net/net_failover.ko", "./lib/modules/*/kernel/net/core/failover.ko",
	"./lib/modules/*/kernel/fs/ext4", "./lib/modules/*/kernel/fs/jbd2", "./lib/modules/*/kernel/fs/mbcache.ko",
	"./lib/modules/*/kernel/fs/overlayfs",
	"./lib/modules/*/kernel/lib/crc16.ko", "./lib/modules/*/kernel/lib/libcrc32c.ko", "./lib/modules/*/kernel/crypto/crc32c_generic.ko",
	"./lib/modules/*/kernel/net/802", "./lib/modules/*/kernel/net/llc", "./lib/modules/*/kernel/net/bridge",
	"./lib/modules/*/kernel/net/xfrm", "./lib/modules/*/kernel/net/netfilter/nf*", "./lib/modules/*/kernel/net/ipv[46]/netfilter/nf*",
}

// Tree returns a folder with boot/vmlinuz and lib/modules. It is fetched
// once and then kept in the user's cache.
func Tree() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = filepath.Join(os.TempDir(), "cache")
	}
	// What was kept when the list was another one does not count.
	cache = filepath.Join(cache, "viaduct-test", fmt.Sprintf("%08x", crc32.ChecksumIEEE([]byte(strings.Join(kernelParts, " ")))))
	if kept, _ := filepath.Glob(filepath.Join(cache, "linux-image-*")); len(kept) > 0 {
		return kept[len(kept)-1], nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(cache, ".fetch")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	name, err := fetchKernel(tmp)
	if err != nil {
		// The lists of packages may be none, or too old.
		if _, update := Output(tmp, "apt-get", "-qq", "update"); update == nil {
			name, err = fetchKernel(tmp)
		}
	}
	if err != nil {
		return "", fmt.Errorf("fetch Debian 12's kernel: %w", err)
	}
	tree := filepath.Join(cache, name)
	if err := os.Rename(filepath.Join(tmp, "tree"), tree); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	return tree, nil
}

// fetchKernel unpacks the kernel's package into the folder tree in dir, and
// returns the package's name.
func fetchKernel(dir string) (string, error) {
	depends, err := Output(dir, "apt-cache", "depends", "linux-image-amd64")
	if err != nil {
		return "", err
	}
	name := kernelPackage.FindString(depends)
	if name == "" {
		return "", fmt.Errorf("linux-image-amd64 does not depend on it here:\n%s", depends)
	}
	if _, err := Output(dir, "apt-get", "download", name); err != nil {
		return "", err
	}
	tree := filepath.Join(dir, "tree")
	if err := os.MkdirAll(tree, 0o755); err != nil {
		return "", err
	}
	_, err = Output(dir, "sh", "-c", "dpkg-deb --fsys-tarfile linux-image-*.deb | tar -x -C tree --wildcards '"+strings.Join(kernelParts, "' '")+"'")
	if err != nil {
		return "", err
	}
	if _, err := Output(dir, "sh", "-c", "mv tree/boot/vmlinuz-* tree/boot/vmlinuz"); err != nil {
		return "", err
	}
	_, err = Output(dir, "depmod", "-b", tree, strings.TrimPrefix(name, "linux-image-"))
	return name, err
}

// Output runs a program in a folder and returns what it printed.
func Output(dir, program string, args ...string) (string, error) {
	cmd := exec.Command(program, args...)
	cmd.Dir = dir
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, errs.String())
	}
	return string(out), nil
}
