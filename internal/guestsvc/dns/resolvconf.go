package dns

import (
	"bytes"
	"io/fs"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"
)

// maxNameservers is how many servers of a resolv.conf are used; libc takes three.
const maxNameservers = 8

// resolvConf is the host's list of resolvers, read again when the file has
// changed. It looks at most once a second, and only when asked.
type resolvConf struct {
	path string
	port uint16 // 53, save in tests

	mu      sync.Mutex
	looked  time.Time
	seen    fs.FileInfo
	servers *upstreams
}

// current returns the servers in the file's order.
func (c *resolvConf) current(now time.Time) *upstreams {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.servers != nil && now.Sub(c.looked) < time.Second && !now.Before(c.looked) {
		return c.servers
	}
	c.looked = now
	info, err := os.Stat(c.path)
	if err != nil {
		info = nil
	}
	if c.servers != nil && sameFile(c.seen, info) {
		return c.servers
	}
	data, _ := os.ReadFile(c.path) // an unreadable file counts as empty, as for libc
	c.seen = info
	c.servers = newUpstreams(parseResolvConf(data, c.port))
	return c.servers
}

// sameFile reports whether a file is what it was: replaced ones differ, and
// so do those that were written to.
func sameFile(a, b fs.FileInfo) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// parseResolvConf returns the servers that a resolv.conf(5) lists. Without
// any it is the one on the host itself.
func parseResolvConf(data []byte, port uint16) []netip.AddrPort {
	var servers []netip.AddrPort
	for line := range bytes.Lines(data) {
		word := strings.Fields(string(line))
		if len(word) < 2 || word[0] != "nameserver" || len(servers) == maxNameservers {
			continue
		}
		if addr, err := netip.ParseAddr(word[1]); err == nil {
			servers = append(servers, netip.AddrPortFrom(addr.Unmap(), port))
		}
	}
	if servers == nil {
		servers = []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)}
	}
	return servers
}
