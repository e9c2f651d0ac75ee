package host

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// RemoteRoot is a part of the host's own files that comes over the network.
type RemoteRoot struct {
	Mount string // "/"
	Kind  string // "nfs4", "iscsi", "nbd", ...
	// Server is where it comes from, as far as the host tells.
	Server netip.Addr
}

// rootMounts are the folders without which a host does not go on.
var rootMounts = []string{"/", "/usr", "/etc", "/var"}

// networkFilesystems are those whose files come over the network.
var networkFilesystems = []string{"nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "afs", "glusterfs", "fuse.glusterfs", "fuse.sshfs"}

// RemoteRoots implements Host.
func (h *kernelHost) RemoteRoots() []RemoteRoot {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	roots := remoteRoots(string(mounts), func(device string) (kind string, server netip.Addr) {
		return h.sysfs.blockOrigin(device)
	})
	// What virtio and the like pass on is a network to nobody here.
	return slices.DeleteFunc(roots, func(r RemoteRoot) bool { return r.Kind == "9p" && !r.Server.IsValid() })
}

// remoteRoots reads /proc/self/mountinfo (proc_pid_mountinfo(5)). The origin of
// block devices, which are named MAJOR:MINOR, is told by origin; "" is the host.
func remoteRoots(mountinfo string, origin func(device string) (string, netip.Addr)) []RemoteRoot {
	var roots []RemoteRoot
	for line := range strings.Lines(mountinfo) {
		mount, filesystem, ok := strings.Cut(line, " - ")
		m, f := strings.Fields(mount), strings.Fields(filesystem)
		if !ok || len(m) < 6 || len(f) < 3 || !slices.Contains(rootMounts, m[4]) {
			continue
		}
		r := RemoteRoot{Mount: m[4], Kind: f[0]}
		if slices.Contains(networkFilesystems, f[0]) {
			for _, option := range strings.Split(f[2], ",") {
				if value, ok := strings.CutPrefix(option, "addr="); ok {
					r.Server, _ = netip.ParseAddr(value)
				}
			}
			roots = append(roots, r)
			continue
		}
		if r.Kind, r.Server = origin(m[2]); r.Kind != "" {
			roots = append(roots, r)
		}
	}
	return roots
}

// blockOrigin tells whether a block device is another host's.
func (s sysfs) blockOrigin(device string) (kind string, server netip.Addr) {
	path, err := filepath.EvalSymlinks(filepath.Join(string(s), "dev/block", device))
	if err != nil {
		return "", server
	}
	// Logical volumes, RAID and encryption stand on other devices.
	for _, dir := range append([]string{path, filepath.Dir(path)}, s.below(path)...) {
		for _, part := range strings.Split(dir, "/") {
			switch {
			case strings.HasPrefix(part, "nbd"):
				return "nbd", server
			case strings.HasPrefix(part, "session"):
				return "iscsi", s.iscsiServer(part)
			}
		}
	}
	return "", server
}

// below lists the devices that a block device stands on, in full.
func (s sysfs) below(path string) []string {
	var all []string
	found, _ := filepath.Glob(filepath.Join(path, "slaves/*")) // the pattern is good
	for _, f := range found {
		if target, err := filepath.EvalSymlinks(f); err == nil && len(all) < 1000 {
			all = append(append(all, target), s.below(target)...)
		}
	}
	return all
}

// iscsiServer is the address that an iSCSI session leads to.
func (s sysfs) iscsiServer(session string) (server netip.Addr) {
	number := strings.TrimPrefix(session, "session")
	found, _ := filepath.Glob(filepath.Join(string(s), "class/iscsi_connection/connection"+number+":*/persistent_address")) // the pattern is good
	for _, f := range found {
		if text, err := os.ReadFile(f); err == nil {
			if a, err := netip.ParseAddr(strings.TrimSpace(string(text))); err == nil {
				return a
			}
		}
	}
	return server
}
