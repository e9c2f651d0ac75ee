// Package tftp hands files to guests that boot over the network: TFTP (RFC
// 1350) for reading, with the options of RFC 2347 to 2349 and RFC 7440.
//
// A server answers from the port that it was asked at, and not from a new one
// for each file: so the firewall has one port to know about, and guests of
// other networks do not reach a transfer either.
package tftp

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"

	"viaduct/internal/netdef"
)

// Config says what a network's server hands out. Equal configurations are
// reflect.DeepEqual.
type Config struct {
	// Network is the UUID of the network, Name its name.
	Network netdef.UUID
	Name    string
	Bridge  string
	// Exports are the folders, each at an address of the bridge.
	Exports []Export
	// Clients are the subnets whose guests may read.
	Clients []netip.Prefix
	// MTU is that of the guests' link in bytes, 0 for Ethernet's. No block is
	// larger than what it carries in one piece.
	MTU int
}

// Export is a folder of which guests may read what everybody on the host may.
type Export struct {
	Listen netip.AddrPort
	Root   string
}

// String is the configuration on one line, as a plan shows it.
func (c Config) String() string {
	var s strings.Builder
	s.WriteString("on " + c.Bridge)
	for _, e := range c.Exports {
		fmt.Fprintf(&s, " listen %s root %s", e.Listen, e.Root)
	}
	for _, p := range c.Clients {
		s.WriteString(" clients " + p.String())
	}
	if c.MTU != 0 {
		fmt.Fprintf(&s, " mtu %d", c.MTU)
	}
	return s.String()
}

func (c Config) check() error {
	seen := map[netip.AddrPort]bool{}
	for _, e := range c.Exports {
		switch {
		case !filepath.IsAbs(e.Root):
			return fmt.Errorf("root %q: not an absolute path", e.Root)
		case seen[e.Listen]:
			return fmt.Errorf("listen %s: twice", e.Listen)
		}
		seen[e.Listen] = true
	}
	return nil
}

// mayRead reports whether the address is a guest's.
func (c Config) mayRead(from netip.Addr) bool {
	for _, p := range c.Clients {
		if p.Contains(from) {
			return true
		}
	}
	return false
}
