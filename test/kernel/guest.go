package kernel

import (
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// Guest is the system of a small guest: the kernel of Tree with the drivers of a
// virtio network card in /modules, busybox in /bin, and a first program.
type Guest struct {
	Init     string            // the text of /init
	Programs []string          // of this machine, with the libraries they need, at their own paths
	Files    map[string]string // further texts, by path in the guest; all are executable
}

// LoadCard is the line of an Init that makes the network card appear as eth0.
const LoadCard = `for m in virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci failover net_failover virtio_net; do
	[ ! -e /modules/$m.ko ] || /bin/busybox insmod /modules/$m.ko
done
`

// cardModules are the modules that a card needs, if the kernel has not got them
// built in.
var cardModules = []string{
	"drivers/virtio/virtio.ko", "drivers/virtio/virtio_ring.ko", "drivers/virtio/virtio_pci_modern_dev.ko", "drivers/virtio/virtio_pci_legacy_dev.ko",
	"drivers/virtio/virtio_pci.ko", "net/core/failover.ko", "drivers/net/net_failover.ko", "drivers/net/virtio_net.ko",
}

// library is a file in what ldd says of a program.
var library = regexp.MustCompile(`(/\S+) \(0x`)

// Build writes the files vmlinuz and initrd into a folder, which it makes.
func (g Guest) Build(dir string) error {
	tree, err := Tree()
	if err != nil {
		return err
	}
	root := filepath.Join(dir, "root")
	for _, d := range []string{"bin", "proc", "sys", "dev", "run", "tmp", "modules"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	copies := map[string]string{filepath.Join(root, "bin/busybox"): busybox, filepath.Join(dir, "vmlinuz"): filepath.Join(tree, "boot/vmlinuz")}
	for _, m := range cardModules {
		found, _ := filepath.Glob(filepath.Join(tree, "lib/modules/*/kernel", m))
		if len(found) == 1 {
			copies[filepath.Join(root, "modules", filepath.Base(m))] = found[0]
		}
	}
	for _, program := range g.Programs {
		needed, err := Needs(program)
		if err != nil {
			return err
		}
		for _, path := range needed {
			copies[filepath.Join(root, path)] = path
		}
	}
	for to, from := range copies {
		content, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		if err := place(to, content); err != nil {
			return err
		}
	}
	if err := place(filepath.Join(root, "init"), []byte(g.Init)); err != nil {
		return err
	}
	for path, text := range g.Files {
		if err := place(filepath.Join(root, path), []byte(text)); err != nil {
			return err
		}
	}
	return Archive(root, filepath.Join(dir, "initrd"))
}

// Needs returns the paths of a program and of its libraries, which are looked
// for in some folders before those of this machine.
func Needs(program string, folders ...string) ([]string, error) {
	path, err := exec.LookPath(program)
	if err != nil {
		return nil, err
	}
	list := []string{path}
	said, err := Output("/", "env", "LD_LIBRARY_PATH="+strings.Join(folders, ":"), "ldd", path)
	if err != nil {
		return nil, fmt.Errorf("look for libraries of %s: %w", program, err)
	}
	if strings.Contains(said, "not found") {
		return nil, fmt.Errorf("%s needs libraries that are not installed: %s", program, said)
	}
	for lines := bufio.NewScanner(strings.NewReader(said)); lines.Scan(); {
		if m := library.FindStringSubmatch(lines.Text()); m != nil {
			list = append(list, m[1])
		}
	}
	return list, nil
}

func place(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o755)
}

// Archive packs a folder as the first file system of a kernel.
func Archive(root, initrd string) error {
	f, err := os.Create(initrd)
	if err != nil {
		return err
	}
	z, _ := gzip.NewWriterLevel(f, gzip.BestSpeed) // the level is a good one
	var said strings.Builder
	pack := exec.Command("sh", "-c", "find . | cpio -o -H newc -R 0:0 --quiet")
	pack.Dir, pack.Stdout, pack.Stderr = root, z, &said
	err = errors.Join(pack.Run(), z.Close(), f.Close())
	if err != nil {
		return fmt.Errorf("pack %s: %w: %s", root, err, said.String())
	}
	return nil
}
