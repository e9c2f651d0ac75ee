package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"viaduct/internal/lab"
)

// libvirtd is a host with Debian's libvirtd, which keeps its networks by
// dnsmasq and iptables.
type libvirtd struct {
	manager
	host *lab.Host
}

// newLibvirtd starts it with the networks 0 to count-1 defined.
func (b *bench) newLibvirtd(name string, count int) *libvirtd {
	lab.Need(b, "libvirtd", "virsh", "dnsmasq", "iptables")
	h := b.lab.NewHost(lab.HostOptions{Name: name})
	v := &libvirtd{manager: manager{b, h.Node, "/run/libvirt/libvirt-sock"}, host: h}
	b.must(h.Do(func() error {
		// What the machine itself has defined is none of ours.
		networks := "/etc/libvirt/qemu/networks"
		for _, dir := range []string{
			"/run/libvirt/network", "/run/libvirt/qemu", "/run/lock", "/var/lib/libvirt/dnsmasq", "/var/lib/libvirt/network",
			"/var/lib/libvirt/qemu", networks + "/autostart", "/var/cache/libvirt",
		} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
		}
		for _, pattern := range []string{networks + "/*.xml", networks + "/autostart/*.xml"} {
			files, err := filepath.Glob(pattern)
			if err != nil {
				return err
			}
			for _, f := range files {
				if err := os.Remove(f); err != nil {
					return err
				}
			}
		}
		for n := range count {
			if err := os.WriteFile(filepath.Join(networks, networkName(n)+".xml"), []byte(definition(n, "on")), 0o600); err != nil {
				return err
			}
		}
		return nil
	}))
	h.Start("libvirtd")
	lab.Eventually(b, startLimit, func() error {
		return h.Do(func() error {
			_, err := os.Stat(v.socket)
			return err
		})
	})
	v.virsh("net-list") // the driver is up
	return v
}

// replace gives a network, which is inactive, another definition.
func (v *libvirtd) replace(n int, xml string) {
	path := fmt.Sprintf("/tmp/%s.xml", networkName(n))
	v.host.WriteFile(path, xml)
	v.virsh("net-define " + path)
}

// memory is what libvirtd and its dnsmasqs share in memory, in KiB.
func (v *libvirtd) memory() float64 {
	pss, err := v.b.processMemory(v.host.Node, "libvirtd", "dnsmasq")
	v.b.must(err)
	return pss
}

// processMemory sums the proportional set sizes of a node's processes of the
// given names, in KiB.
func (b *bench) processMemory(node *lab.Node, names ...string) (sum float64, err error) {
	err = node.Do(func() error {
		processes, err := filepath.Glob("/proc/[0-9]*")
		if err != nil {
			return err
		}
		for _, dir := range processes {
			name, err := os.ReadFile(dir + "/comm")
			if err != nil || !slices.Contains(names, strings.TrimSpace(string(name))) {
				continue // ended meanwhile, or another
			}
			pss, err := readPSS(dir + "/smaps_rollup")
			if err != nil {
				return err
			}
			sum += pss
		}
		return nil
	})
	if err == nil && sum == 0 {
		err = fmt.Errorf("measure memory in node %s: none of %q runs", node.Name, names)
	}
	return sum, err
}

// readPSS reads the line "Pss:  1234 kB".
func readPSS(path string) (kib float64, err error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	lines := bufio.NewScanner(bytes.NewReader(content))
	for lines.Scan() {
		if _, err := fmt.Sscanf(lines.Text(), "Pss: %f kB", &kib); err == nil {
			return kib, nil
		}
	}
	return 0, fmt.Errorf("read %s: no line Pss", path)
}
