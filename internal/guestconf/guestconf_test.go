package guestconf

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"viaduct/internal/netdef"
)

var update = flag.Bool("update", false, "write the golden files anew")

func prefixes(list ...string) (p []netip.Prefix) {
	for _, s := range list {
		p = append(p, netip.MustParsePrefix(s))
	}
	return p
}

// cases are a guest of a network with DHCP, one with fixed addresses, and one
// at the end of a link of two.
func cases() map[string]Config {
	mac := netdef.MAC{0x00, 0x16, 0x3e, 0x4f, 0x94, 0xa9}
	auto := Config{Name: "net0", MAC: mac, DHCP4: true, Auto6: true, MTU: 9000}
	static := Config{
		Name: "net0", MAC: mac, Addresses: prefixes("192.168.2.10/24", "192.168.2.11/24", "fd00:2::10/64", "fd00:2::11/64"),
		DNS: []netip.Addr{netip.MustParseAddr("192.168.2.1"), netip.MustParseAddr("fd00:2::1")}, Domain: "example.test", MTU: 1400,
	}
	static.SetGateways(netip.MustParseAddr("192.168.2.1"), netip.MustParseAddr("fd00:2::1"))
	routed := Config{Name: "net0", MAC: mac, Addresses: prefixes("10.0.0.1/32", "2001:db8::1/128"), DNS: []netip.Addr{netip.MustParseAddr("10.0.0.128")}}
	routed.SetGateways(netip.MustParseAddr("10.0.0.128"), netip.MustParseAddr("2001:db8::ff"))
	return map[string]Config{"auto": auto, "static": static, "routed": routed}
}

func TestGolden(t *testing.T) {
	for name, c := range cases() {
		for _, format := range Formats() {
			t.Run(name+"/"+format, func(t *testing.T) {
				files, err := c.Files(format)
				if err != nil {
					t.Fatal(err)
				}
				var got strings.Builder
				for _, f := range files {
					fmt.Fprintf(&got, "-- %s --\n%s", f.Path, f.Content)
				}
				path := filepath.Join("testdata", name+"."+format)
				if *update {
					if err := os.WriteFile(path, []byte(got.String()), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if got.String() != string(want) {
					t.Errorf("got\n%s\nwant\n%s", got.String(), want)
				}
			})
		}
	}
}

func TestRefuses(t *testing.T) {
	for what, change := range map[string]func(*Config){
		"a name that leaves the folder": func(c *Config) { c.Name = "../x" },
		"a name of two lines":           func(c *Config) { c.Name = "a\nb" },
		"no name":                       func(c *Config) { c.Name = "" },
		"a domain of two lines":         func(c *Config) { c.Domain = "a\nup reboot" },
	} {
		c := cases()["auto"]
		change(&c)
		if files, err := c.Files("ifupdown"); err == nil {
			t.Errorf("%s: %v", what, files)
		}
	}
	if _, err := cases()["auto"].Files("interfaces"); err == nil {
		t.Error("an unknown format is accepted")
	}
}

func TestGatewayOnLink(t *testing.T) {
	c := Config{Addresses: prefixes("192.168.2.10/24", "2001:db8::1/128")}
	c.SetGateways(netip.MustParseAddr("192.168.2.1"), netip.MustParseAddr("2001:db8::ff"))
	if c.Gateway4().OnLink || !c.Gateway6().OnLink {
		t.Errorf("gateways: %v", c.Gateways)
	}
}
