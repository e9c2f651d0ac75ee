package dhcp6

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestConfigIsChecked(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"no address", func(c *Config) { c.Address = netip.Prefix{} }, "not a global IPv6 address"},
		{"range off the subnet", func(c *Config) { c.Ranges[0].Last = addr("2001:db8:8::1") }, "not in 2001:db8:7::/64"},
		{"range reversed", func(c *Config) { c.Ranges[0].First = addr("2001:db8:7::ffff") }, "ends before it begins"},
		{"range too long", func(c *Config) { c.Ranges[0].Last = addr("2001:db8:7::1:0") }, "more than 65536 addresses"},
		{"ranges too long together", func(c *Config) {
			c.Ranges = append(c.Ranges, Range{First: addr("2001:db8:7::1:0"), Last: addr("2001:db8:7::1:ffff")})
		}, "more than 65536 addresses"},
		{"many ranges", func(c *Config) { c.Ranges = make([]Range, 257) }, "more than 256"},
		{"range lease", func(c *Config) { c.Ranges[0].Lease = -1 }, "negative"},
		{"lease", func(c *Config) { c.Lease = -1 }, "negative"},
		{"host lease", func(c *Config) { c.Hosts[0].Lease = -1 }, "negative"},
		{"host without identity", func(c *Config) { c.Hosts[0].DUID, c.Hosts[0].Name = nil, "" }, "neither duid nor name"},
		{"host off the subnet", func(c *Config) { c.Hosts[0].Addr = addr("2001:db8:8::1") }, "not in 2001:db8:7::/64"},
		{"host with our address", func(c *Config) { c.Hosts[0].Addr = addr("2001:db8:7::1") }, "belongs to the network itself"},
		{"host with an anycast address", func(c *Config) { c.Hosts[0].Addr = addr("2001:db8:7::fdff:ffff:ffff:ff80") }, "belongs to the network itself"},
		{"address reserved twice", func(c *Config) { c.Hosts[0].Addr = c.Hosts[1].Addr }, "reserved twice"},
		{"short duid", func(c *Config) { c.Hosts[0].DUID = []byte{1} }, "duid of 1 bytes"},
		{"long name", func(c *Config) { c.Hosts[0].Name = strings.Repeat("a", 256) }, "longer than 255"},
		{"dns of another family", func(c *Config) { c.DNS[0] = addr("192.0.2.1") }, "not an IPv6 address"},
		{"many dns servers", func(c *Config) { c.DNS = append(c.DNS, make([]netip.Addr, maxDNS)...) }, "more than 16"},
		{"domain", func(c *Config) { c.Domain = "a..b" }, "not a domain name"},
		{"search", func(c *Config) { c.Search = []string{strings.Repeat("a", 64)} }, "not a domain name"},
		{"long search", func(c *Config) { c.Search = strings.Fields(strings.Repeat("example.test ", 40)) }, "more than 512 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := testConfig()
			c.change(&config)
			_, err := newSettings(config, ourDUID)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "network 'default'") {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	if _, err := newSettings(testConfig(), []byte{1}); err == nil || !strings.Contains(err.Error(), "server duid") {
		t.Errorf("a server duid of one byte: %v", err)
	}
}

func TestConfigText(t *testing.T) {
	c := testConfig()
	c.Ranges = append(c.Ranges, Range{First: addr("2001:db8:7::a0"), Last: addr("2001:db8:7::af"), Infinite: true})
	c.Hosts[1].Lease = time.Minute
	want := "on virbr0 from 2001:db8:7::1/64 range 2001:db8:7::-2001:db8:7::20, 2001:db8:7::a0-2001:db8:7::af for ever " +
		"host duid 00020000000932=2001:db8:7::50 host named=2001:db8:7::52 for 1m0s host duid 0002000000090a=2001:db8:7::10 " +
		"lease 1h0m0s dns 2001:db8:7::1 domain example.test search example.test"
	if got := c.String(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	c = Config{Bridge: "virbr0", Address: c.Address}
	if got, want := c.String(), "on virbr0 from 2001:db8:7::1/64 without addresses"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestConfigIsNotChangedByUse(t *testing.T) {
	c := testConfig()
	r := newRig(t, c)
	r.obtain(1)
	if !reflect.DeepEqual(c, testConfig()) {
		t.Error("the server changed its configuration")
	}
}

func TestLeaseTimes(t *testing.T) {
	c := testConfig()
	c.Lease = 2 * time.Hour
	c.Ranges = append(c.Ranges,
		Range{First: addr("2001:db8:7::a0"), Last: addr("2001:db8:7::af"), Lease: 3 * time.Hour},
		Range{First: addr("2001:db8:7::b0"), Last: addr("2001:db8:7::bf"), Infinite: true})
	c.Hosts = append(c.Hosts,
		Host{Name: "a", Addr: addr("2001:db8:7::a1"), Lease: 4 * time.Hour}, Host{Name: "b", Addr: addr("2001:db8:7::a2")},
		Host{Name: "c", Addr: addr("2001:db8:7::a3"), Infinite: true})
	s := testSettings(t, c)
	for a, want := range map[string]time.Duration{
		"2001:db8:7::5": 2 * time.Hour, "2001:db8:7::a0": 3 * time.Hour, "2001:db8:7::b0": forever,
		"2001:db8:7::a1": 4 * time.Hour, "2001:db8:7::a2": 3 * time.Hour, "2001:db8:7::a3": forever, "2001:db8:7::50": 2 * time.Hour,
	} {
		if got := s.leaseTime(addr(a)); got != want {
			t.Errorf("%s for %v, want %v", a, got, want)
		}
	}
	if got := testSettings(t, testConfig()).leaseTime(addr("2001:db8:7::5")); got != DefaultLease {
		t.Errorf("by default for %v", got)
	}
}
