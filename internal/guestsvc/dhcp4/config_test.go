package dhcp4

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"viaduct/internal/netdef"
)

func TestConfigIsChecked(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"no address", func(c *Config) { c.Address = netip.Prefix{} }, "not an IPv4 address"},
		{"IPv6", func(c *Config) { c.Address = netip.MustParsePrefix("fd00::1/64") }, "fd00::1/64: not an IPv4 address"},
		{"range outside", func(c *Config) { c.Ranges[0].Last = addr("192.168.123.1") }, "192.168.123.1: not in 192.168.122.0/24"},
		{"range turned round", func(c *Config) { c.Ranges[0] = Range{First: addr("192.168.122.9"), Last: addr("192.168.122.8")} }, "ends before"},
		{"range without an end", func(c *Config) { c.Ranges[0].Last = netip.Addr{} }, "not in"},
		{"too many addresses", func(c *Config) {
			c.Address = netip.MustParsePrefix("10.0.0.1/7")
			c.Ranges, c.Hosts = []Range{{First: addr("10.0.0.0"), Last: addr("11.255.255.255")}}, nil
		}, "more than 16777216 addresses"},
		{"host outside", func(c *Config) { c.Hosts[0].Addr = addr("10.0.0.1") }, "10.0.0.1: not in"},
		{"host without an address", func(c *Config) { c.Hosts[0].Addr = netip.Addr{} }, "not in"},
		{"host at our address", func(c *Config) { c.Hosts[0].Addr = addr("192.168.122.1") }, "belongs to the network"},
		{"host at the broadcast address", func(c *Config) { c.Hosts[0].Addr = addr("192.168.122.255") }, "belongs to the network"},
		{"two hosts at one address", func(c *Config) { c.Hosts[1].Addr = c.Hosts[0].Addr }, "192.168.122.50: reserved twice"},
		{"host unknown", func(c *Config) { c.Hosts[0] = Host{Addr: addr("192.168.122.50")} }, "neither mac, client id nor name"},
		{"negative lease", func(c *Config) { c.Lease = -time.Second }, "negative"},
		{"mtu", func(c *Config) { c.MTU = 70000 }, "mtu 70000"},
		{"search", func(c *Config) { c.Search = []string{"a..b"} }, `"a..b": not a domain name`},
		{"router", func(c *Config) { c.Router = []netip.Addr{addr("fd00::1")} }, "fd00::1: not an IPv4 address"},
		{"route", func(c *Config) { c.Routes = []Route{{netip.MustParsePrefix("fd00::/8"), addr("192.168.122.9")}} }, "not IPv4"},
		{"boot file", func(c *Config) { c.BootFile = strings.Repeat("x", 128) }, "longer than 127"},
		{"boot server", func(c *Config) { c.BootServer = addr("fd00::1") }, "boot server fd00::1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := testConfig()
			c.change(&config)
			_, err := newSettings(config)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "network 'default'") {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestConfigText(t *testing.T) {
	c := testConfig()
	c.Ranges = append(c.Ranges, Range{First: addr("192.168.122.30"), Last: addr("192.168.122.40"), Infinite: true})
	c.Hosts = []Host{
		{MAC: netdef.MAC{2, 0, 0, 0, 0, 1}, Addr: addr("192.168.122.50"), Lease: time.Minute},
		{ClientID: []byte{0, 1}, Addr: addr("192.168.122.51")},
		{Name: "web", Addr: addr("192.168.122.52")},
	}
	c.MTU, c.BootFile = 1400, "pxelinux.0"
	c.Routes = []Route{{netip.MustParsePrefix("10.0.0.0/8"), addr("192.168.122.254")}}
	const want = "on virbr0 from 192.168.122.1/24 range 192.168.122.0-192.168.122.20, 192.168.122.30-192.168.122.40 for ever" +
		" host 02:00:00:00:00:01=192.168.122.50 for 1m0s host id 0001=192.168.122.51 host web=192.168.122.52 lease 1h0m0s" +
		" router 192.168.122.1 dns 192.168.122.1 route 10.0.0.0/8 via 192.168.122.254 domain example.test search example.test" +
		" mtu 1400 boot pxelinux.0"
	if got := c.String(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestConfigIsNotChangedByUse(t *testing.T) {
	c := testConfig()
	r := newRig(t, c, nil)
	r.obtain(guest(1))
	if !reflect.DeepEqual(c, testConfig()) {
		t.Error("the server changed its configuration")
	}
}
