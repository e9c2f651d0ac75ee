// Package guestconf writes down, in the language of the guest's own network
// tool, what a guest has to set to use a network: DHCP, or addresses, gateways
// and name servers. The guest's interface is recognised by its MAC address,
// since its name depends on the guest (eth0, enX0, ens3).
package guestconf

import (
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"text/template"

	"viaduct/internal/netdef"
)

// Config is what one interface of a guest is to have.
type Config struct {
	// Name is what the tool calls the interface, where it needs a name.
	Name string     `json:"name"`
	MAC  netdef.MAC `json:"mac"`
	// DHCP4 and Auto6 say that the network hands out addresses of the family:
	// DHCP, and router advertisements with DHCPv6 where these say so.
	DHCP4 bool `json:"dhcp4"`
	Auto6 bool `json:"auto6"`
	// Addresses are static, with the length of the network's prefix.
	Addresses []netip.Prefix `json:"addresses,omitempty"`
	// Gateways are the default routers, at most one of each family.
	Gateways []Gateway    `json:"gateways,omitempty"`
	DNS      []netip.Addr `json:"dns,omitempty"`
	Domain   string       `json:"domain,omitempty"`
	MTU      int          `json:"mtu,omitempty"` // octets; 0: not given
}

// Gateway is a default router.
type Gateway struct {
	Addr netip.Addr `json:"address"`
	// OnLink says that none of the guest's prefixes contains the router, so that
	// the guest needs a route to it first. It is so on links of two.
	OnLink bool `json:"onLink,omitempty"`
}

// File is one file of a guest.
type File struct {
	Path    string `json:"path"` // absolute, in the guest
	Content string `json:"content"`
}

// SetGateways makes the addresses the default routers and finds out which of them
// are on no prefix of the guest.
func (c *Config) SetGateways(addrs ...netip.Addr) {
	for _, a := range addrs {
		inside := slices.ContainsFunc(c.Addresses, func(p netip.Prefix) bool { return p.Masked().Contains(a) && !p.IsSingleIP() })
		c.Gateways = append(c.Gateways, Gateway{Addr: a, OnLink: !inside && !a.IsLinkLocalUnicast()})
	}
}

// source is one file of a format: templates of its path and of its content.
type source struct{ path, content string }

// Formats lists the formats that Files knows.
func Formats() []string { return slices.Sorted(maps.Keys(formats)) }

// Files writes the configuration in a format. A file that has nothing to say is
// left out.
func (c Config) Files(format string) ([]File, error) {
	sources, ok := formats[format]
	if !ok {
		return nil, fmt.Errorf("unknown format '%s': it is one of %s", format, strings.Join(Formats(), ", "))
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	var files []File
	for _, s := range sources {
		path, err := c.fill(s.path)
		if err != nil {
			return nil, err
		}
		content, err := c.fill(s.content)
		if err != nil {
			return nil, err
		}
		if content = tidy(content); content != "" {
			files = append(files, File{path, content})
		}
	}
	return files, nil
}

// check refuses what could end a line of the files early, or leave their folder.
func (c Config) check() error {
	plain := func(s string) bool {
		return s != "" && s[0] != '.' && s[0] != '-' && !strings.ContainsFunc(s, func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-._", r))
		})
	}
	switch {
	case !plain(c.Name) || len(c.Name) > 15:
		return fmt.Errorf("'%s' is no name for an interface", c.Name)
	case c.Domain != "" && !plain(c.Domain):
		return fmt.Errorf("'%s' is no domain", c.Domain)
	}
	return nil
}

func (c Config) fill(text string) (string, error) {
	t, err := template.New("").Funcs(functions).Parse(text)
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	err = t.Execute(&b, c)
	return b.String(), err
}

var functions = template.FuncMap{
	"join": func(list []netip.Addr, by string) string {
		var s []string
		for _, a := range list {
			s = append(s, a.String())
		}
		return strings.Join(s, by)
	},
	"netmask": func(p netip.Prefix) string {
		var m [4]byte
		for i := range p.Bits() {
			m[i/8] |= 1 << (7 - i%8)
		}
		return netip.AddrFrom4(m).String()
	},
	"upper": strings.ToUpper,
	"add":   func(a, b int) int { return a + b },
}

// V4 are the static IPv4 addresses.
func (c Config) V4() []netip.Prefix { return c.family(netip.Addr.Is4) }

// V6 are the static IPv6 addresses.
func (c Config) V6() []netip.Prefix { return c.family(netip.Addr.Is6) }

func (c Config) family(is func(netip.Addr) bool) []netip.Prefix {
	var list []netip.Prefix
	for _, p := range c.Addresses {
		if is(p.Addr()) {
			list = append(list, p)
		}
	}
	return list
}

// Gateway4 is the IPv4 router, nil without one.
func (c Config) Gateway4() *Gateway { return c.gateway(netip.Addr.Is4) }

// Gateway6 is the IPv6 router, nil without one.
func (c Config) Gateway6() *Gateway { return c.gateway(netip.Addr.Is6) }

func (c Config) gateway(is func(netip.Addr) bool) *Gateway {
	for _, g := range c.Gateways {
		if is(g.Addr) {
			return &g
		}
	}
	return nil
}

// tidy removes the lines that templates leave blank, but for single ones
// between paragraphs.
func tidy(s string) string {
	var lines []string
	for line := range strings.Lines(s) {
		line = strings.TrimRight(line, " \n")
		if line != "" || len(lines) > 0 && lines[len(lines)-1] != "" {
			lines = append(lines, line)
		}
	}
	text := strings.TrimRight(strings.Join(lines, "\n"), "\n")
	if text == "" {
		return ""
	}
	return text + "\n"
}
