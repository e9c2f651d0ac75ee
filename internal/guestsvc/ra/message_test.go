package ra

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/ndp"
)

// The parts that all messages of the table begin with: type, code and checksum,
// and the option with the router's MAC.
const (
	header = "86000000"
	source = "0101525400112233"
)

func TestAdvertisementBytes(t *testing.T) {
	for _, c := range []struct {
		name string
		f    func(*Config)
		want string // after the header; spaces do not count
	}{
		{"least", func(*Config) {}, "40 00 0000 00000000 00000000" + source},
		{"router", func(c *Config) { c.RouterLifetime = 1800 * time.Second; c.HopLimit = 255 },
			"ff 00 0708 00000000 00000000" + source},
		{"managed", func(c *Config) { c.Managed = true }, "40 80 0000 00000000 00000000" + source},
		{"other", func(c *Config) { c.Other = true }, "40 40 0000 00000000 00000000" + source},
		{"mtu", func(c *Config) { c.MTU = 1400 }, "40 00 0000 00000000 00000000" + source + "05 01 0000 00000578"},
		{"prefix with defaults", func(c *Config) { c.Prefixes = []Prefix{slaac("fd00:1::/64")} },
			"40 00 0000 00000000 00000000" + source +
				"03 04 40 c0 00015180 0000a8c0 00000000 fd000001000000000000000000000000"},
		{"prefix for ever, only on link", func(c *Config) {
			c.Prefixes = []Prefix{{Prefix: prefix("fd00:1::/56"), OnLink: true, Valid: 2 * Infinite, Preferred: time.Minute}}
		}, "40 00 0000 00000000 00000000" + source +
			"03 04 38 80 ffffffff 0000003c 00000000 fd000001000000000000000000000000"},
		{"prefix valid for less than the default preference", func(c *Config) {
			c.Prefixes = []Prefix{{Prefix: prefix("fd00:1::/64"), Autonomous: true, Valid: time.Hour}}
		}, "40 00 0000 00000000 00000000" + source +
			"03 04 40 40 00000e10 00000e10 00000000 fd000001000000000000000000000000"},
		{"routes", func(c *Config) {
			c.Routes = []RouteInfo{
				{Prefix: prefix("::/0"), Preference: Low},
				{Prefix: prefix("fd00:9::/48"), Lifetime: time.Hour, Preference: High},
				{Prefix: prefix("fd00:9::1/128")},
			}
		}, "40 00 0000 00000000 00000000" + source +
			"18 01 00 18 00000708" +
			"18 02 30 08 00000e10 fd00000900000000" +
			"18 03 80 00 00000708 fd000009000000000000000000000001"},
		{"servers", func(c *Config) { c.RDNSS = []netip.Addr{addr("fd00:1::1"), addr("fd00:1::2")} },
			"40 00 0000 00000000 00000000" + source +
				"19 05 0000 00000708 fd000001000000000000000000000001 fd000001000000000000000000000002"},
		{"domains", func(c *Config) { c.DNSSL = []string{"a.test", "b."}; c.Interval = 4 * time.Second },
			"40 00 0000 00000000 00000000" + source +
				"1f 03 0000 0000000c 0161 0474657374 00 0162 00 0000000000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := Config{Source: routerLL}
			c.f(&config)
			a, err := newAdvert(config, bridgeMAC, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := hex.EncodeToString(a.message), header+strings.ReplaceAll(c.want, " ", ""); got != want {
				t.Errorf("message\n%s, want\n%s", got, want)
			}
		})
	}
}

func TestWithdrawalBytes(t *testing.T) {
	flags := func(onLink, autonomous bool) Config {
		return Config{Source: routerLL, Prefixes: []Prefix{{Prefix: prefix("fd00:1::/64"), OnLink: onLink, Autonomous: autonomous}}}
	}
	const p = "00000000 00000000 00000000 fd000001000000000000000000000000"
	for _, c := range []struct {
		name          string
		before, after Config
		want          string // the withdrawals
	}{
		{"nothing", flags(true, true), flags(true, true), ""},
		{"prefix", flags(true, true), Config{Source: routerLL}, "03 04 40 c0" + p},
		{"making addresses", flags(true, true), flags(true, false), "03 04 40 40" + p},
		{"being on link", flags(true, true), flags(false, true), "03 04 40 80" + p},
		{"route", Config{Source: routerLL, Routes: []RouteInfo{{Prefix: prefix("fd00:9::/48")}}}, Config{Source: routerLL},
			"18 02 30 00 00000000 fd00000900000000"},
		{"server", Config{Source: routerLL, RDNSS: []netip.Addr{addr("::2"), addr("::1")}},
			Config{Source: routerLL, RDNSS: []netip.Addr{addr("::1")}},
			"19 03 0000 00000000 00000000000000000000000000000002"},
		{"domain", Config{Source: routerLL, DNSSL: []string{"a"}}, Config{Source: routerLL}, "1f 02 0000 00000000 01 61 00 0000000000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			before, err := newAdvert(c.before, bridgeMAC, nil)
			if err != nil {
				t.Fatal(err)
			}
			a, err := newAdvert(c.after, bridgeMAC, before)
			if err != nil {
				t.Fatal(err)
			}
			got, _ := strings.CutPrefix(hex.EncodeToString(a.message), hex.EncodeToString(a.plain))
			if want := strings.ReplaceAll(c.want, " ", ""); got != want {
				t.Errorf("withdraws %s, want %s", got, want)
			}
			back, err := newAdvert(c.before, bridgeMAC, a)
			if err != nil {
				t.Fatal(err)
			}
			if len(withdrawn(back.gone, c.after.promises())) > 0 {
				t.Errorf("withdraws %v, which was promised again", back.gone)
			}
		})
	}
}

// TestWithdrawalsAreBounded changes everything again and again.
func TestWithdrawalsAreBounded(t *testing.T) {
	var a *advert
	for i := range 100 {
		c := Config{Source: routerLL}
		for j := range 8 {
			c.Prefixes = append(c.Prefixes, slaac(fmt.Sprintf("fd00:%x:%x::/64", i+1, j)))
		}
		next, err := newAdvert(c, bridgeMAC, a)
		if err != nil {
			t.Fatal(err)
		}
		a = next
		if len(a.message) > maxMessage || len(a.gone) > maxGone {
			t.Fatalf("%d bytes, %d withdrawals", len(a.message), len(a.gone))
		}
		m, err := ndp.ParseMessage(a.message)
		if err != nil {
			t.Fatal(err)
		}
		// The latest withdrawals are those that are told.
		if p := find[*ndp.PrefixInformation](m.(*ndp.RouterAdvertisement)); i > 0 && p[8].Prefix != addr(fmt.Sprintf("fd00:%x::", i)) {
			t.Fatalf("withdraws %s first", p[8].Prefix)
		}
	}
}

func TestConfigErrors(t *testing.T) {
	many := func(n int, f func(i int)) {
		for i := range n {
			f(i)
		}
	}
	for _, c := range []struct {
		f    func(*Config)
		want string
	}{
		{func(c *Config) { c.Source = netip.Addr{} }, "source invalid IP: not a link-local address"},
		{func(c *Config) { c.Source = addr("fd00:1::1") }, "source fd00:1::1: not a link-local address"},
		{func(c *Config) { c.Source = addr("169.254.0.1") }, "source 169.254.0.1: not a link-local address"},
		{func(c *Config) { c.Source = addr("fe80::1%eth0") }, "source fe80::1%eth0: not a link-local address"},
		{func(c *Config) { c.Interval = time.Second }, "interval 1s: not between 4s and 30m0s"},
		{func(c *Config) { c.RouterLifetime = time.Minute },
			"router lifetime 1m0s: neither 0 nor between the interval 10m0s and 2h30m0s"},
		{func(c *Config) { c.RouterLifetime = 3 * time.Hour },
			"router lifetime 3h0m0s: neither 0 nor between the interval 10m0s and 2h30m0s"},
		{func(c *Config) { c.MTU = 1279 }, "mtu 1279: not between 1280 and 65536"},
		{func(c *Config) { c.Prefixes[0].Prefix = prefix("10.0.0.0/24") }, "prefix 10.0.0.0/24: not an IPv6 prefix"},
		{func(c *Config) { c.Prefixes[0].Prefix = prefix("fd00::1/64") }, "prefix fd00::1/64: has bits set beyond its length"},
		{func(c *Config) { c.Prefixes[0].Prefix = prefix("fd00::/56") }, "prefix fd00::/56: guests make addresses of a /64 only"},
		{func(c *Config) { c.Prefixes[0].Prefix = prefix("fe80::/64") }, "prefix fe80::/64: not for guests' own addresses"},
		{func(c *Config) { c.Prefixes = append(c.Prefixes, c.Prefixes[0]) }, "prefix fd00:1::/64: given twice"},
		{func(c *Config) { c.Prefixes[0].Preferred = 48 * time.Hour },
			"prefix fd00:1::/64: preferred for 48h0m0s, valid for 24h0m0s"},
		{func(c *Config) { c.Routes = []RouteInfo{{}} }, "route invalid Prefix: not an IPv6 prefix"},
		{func(c *Config) { c.Routes = []RouteInfo{{Prefix: prefix("::/0")}, {Prefix: prefix("::/0")}} }, "route ::/0: given twice"},
		{func(c *Config) { c.Routes = []RouteInfo{{Prefix: prefix("::/0"), Lifetime: -1}} }, "route ::/0: lifetime -1ns: negative"},
		{func(c *Config) { c.Routes = []RouteInfo{{Prefix: prefix("::/0"), Preference: 2}} },
			"route ::/0: preference 2: not between -1 and 1"},
		{func(c *Config) { c.RDNSS[0] = addr("8.8.8.8") }, "dns 8.8.8.8: not an IPv6 address"},
		{func(c *Config) { c.RDNSS = make([]netip.Addr, 16) }, "16 dns servers: more than 15"},
		{func(c *Config) { c.DNSSL = []string{"a..b"} }, `search "a..b": label "": not of 1 to 63 bytes`},
		{func(c *Config) { c.DNSSL = []string{"ö"} }, `search "ö": byte 0xc3: not a character of domains`},
		{func(c *Config) { many(100, func(int) { c.DNSSL = append(c.DNSSL, "ab") }) }, `search "ab": more than 240 bytes of domains`},
		{func(c *Config) {
			many(40, func(i int) { c.Prefixes = append(c.Prefixes, slaac(fmt.Sprintf("fd00:2:%x::/64", i))) })
		}, "all prefixes, routes and servers: 1384 bytes, more than the 1240 of one advertisement"},
	} {
		_, err := newAdvert(change(c.f), bridgeMAC, nil)
		if err == nil || err.Error() != c.want {
			t.Errorf("error %v, want %s", err, c.want)
		}
	}
}

func TestLargestOptions(t *testing.T) {
	c := Config{Source: routerLL, DNSSL: []string{
		strings.Repeat("a.", 118) + "aa", // 238 characters
	}}
	for i := range maxServers {
		c.RDNSS = append(c.RDNSS, netip.AddrFrom16([16]byte{0xfd, 15: byte(i)}))
	}
	a, err := newAdvert(c, bridgeMAC, nil)
	if err != nil {
		t.Fatal(err)
	}
	m, err := ndp.ParseMessage(a.message)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.farewell(bridgeMAC); err != nil {
		t.Error(err)
	}
	if got := find[*ndp.DNSSearchList](m.(*ndp.RouterAdvertisement)); len(got) != 1 || got[0].DomainNames[0] != c.DNSSL[0] {
		t.Errorf("search list %v", got)
	}
}

func TestConfigString(t *testing.T) {
	c := testConfig()
	c.Prefixes = append(c.Prefixes, Prefix{Prefix: prefix("fd00:2::/56"), Valid: Infinite})
	c.Other, c.MTU = true, 1400
	c.Routes = []RouteInfo{{Prefix: prefix("fd00:9::/48"), Preference: High}}
	want := "on virbr0 from fe80::5054:ff:fe11:2233 prefix fd00:1::/64 on-link autonomous valid 24h0m0s preferred 12h0m0s" +
		" prefix fd00:2::/56 valid for ever preferred 12h0m0s other router for 2h30m0s" +
		" route fd00:9::/48 for 30m0s preference high dns fd00:1::1 search example.test mtu 1400 hop limit 64 every 10m0s"
	if got := c.String(); got != want {
		t.Errorf("%s, want\n%s", got, want)
	}
	if got := (Config{Bridge: "b", Source: routerLL}).String(); !strings.Contains(got, " no router ") {
		t.Errorf("%s", got)
	}
}

// solicitations are examples and whether they are valid, from a guest with and
// without an address.
var solicitations = []struct {
	name         string
	hex          string
	addr, noAddr bool
}{
	{"without options", "85000000 00000000", true, true},
	{"with the sender's MAC", "85000000 00000000 0101525400000001", true, false},
	{"with a nonce", "85000000 00000000 0e01010203040506", true, true},
	{"reserved bits and unknown options", "85000000 ffffffff fe02000000000000 0000000000000000", true, true},
	{"options that do not belong here", "85000000 00000000 0501000000000000 1901000000000000", true, true},
	{"too short", "85000000 000000", false, false},
	{"code", "85010000 00000000", false, false},
	{"an advertisement", "86000000 00000000", false, false},
	{"option of length 0", "85000000 00000000 0100525400000001", false, false},
	{"option cut off", "85000000 00000000 0102525400000001", false, false},
	{"bytes after options", "85000000 00000000 010152540000000101", false, false},
}

func TestCheckSolicitation(t *testing.T) {
	for _, c := range solicitations {
		b, err := hex.DecodeString(strings.ReplaceAll(c.hex, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		for from, want := range map[netip.Addr]bool{guestLL: c.addr, netip.IPv6Unspecified(): c.noAddr} {
			if err := checkSolicitation(b, from); (err == nil) != want {
				t.Errorf("%s, from %s: %v", c.name, from, err)
			}
		}
	}
}

// FuzzCheckSolicitation holds that what another parser accepts is accepted too.
func FuzzCheckSolicitation(f *testing.F) {
	for _, c := range solicitations {
		b, _ := hex.DecodeString(strings.ReplaceAll(c.hex, " ", ""))
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got := checkSolicitation(b, guestLL)
		m, err := ndp.ParseMessage(b)
		if _, ok := m.(*ndp.RouterSolicitation); err == nil && ok && b[1] == 0 && got != nil {
			t.Errorf("refused: %v", got)
		}
		if checkSolicitation(b, netip.IPv6Unspecified()) == nil && got != nil {
			t.Errorf("refused only with an address: %v", got)
		}
	})
}
