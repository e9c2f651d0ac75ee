package netdef

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func TestPrefix(t *testing.T) {
	for _, c := range []struct {
		address, netmask string
		length           int
		want, subnet     string
	}{
		{"10.1.2.3", "", -1, "10.1.2.3/8", "10.0.0.0/8"},
		{"127.255.255.255", "", -1, "127.255.255.255/8", "127.0.0.0/8"},
		{"128.0.0.1", "", -1, "128.0.0.1/16", "128.0.0.0/16"},
		{"191.255.0.1", "", -1, "191.255.0.1/16", "191.255.0.0/16"},
		{"223.255.255.1", "", -1, "223.255.255.1/24", "223.255.255.0/24"},
		{"172.16.2.3", "", -1, "172.16.2.3/16", "172.16.0.0/16"},
		{"192.168.2.3", "", -1, "192.168.2.3/24", "192.168.2.0/24"},
		{"224.0.0.1", "", -1, "invalid Prefix", "invalid Prefix"},
		{"10.1.2.3", "255.255.255.0", -1, "10.1.2.3/24", "10.1.2.0/24"},
		{"10.1.2.3", "255.255.255.255", -1, "10.1.2.3/32", "10.1.2.3/32"},
		{"10.1.2.3", "255.0.255.0", -1, "invalid Prefix", "invalid Prefix"},
		{"10.1.2.3", "", 20, "10.1.2.3/20", "10.1.0.0/20"},
		{"fd00::1", "", -1, "fd00::1/64", "fd00::/64"},
		{"fd00::1", "", 48, "fd00::1/48", "fd00::/48"},
	} {
		ip := IP{Address: addr(c.address), PrefixLen: c.length}
		if c.netmask != "" {
			ip.Netmask = addr(c.netmask)
		}
		if got := ip.Prefix().String(); got != c.want {
			t.Errorf("%s %s %d: got prefix %s, want %s", c.address, c.netmask, c.length, got, c.want)
		}
		if got := ip.Subnet().String(); got != c.subnet {
			t.Errorf("%s %s %d: got subnet %s, want %s", c.address, c.netmask, c.length, got, c.subnet)
		}
	}
	if got := (IP{}).Prefix(); got.IsValid() {
		t.Errorf("nothing has the prefix %s", got)
	}
}

func TestRoutePrefix(t *testing.T) {
	for _, c := range []struct {
		route Route
		want  string
	}{
		{Route{Address: addr("0.0.0.0"), PrefixLen: -1}, "0.0.0.0/0"},
		{Route{Address: addr("::"), PrefixLen: -1}, "::/0"},
		{Route{Address: addr("0.0.0.0"), PrefixLen: 0}, "0.0.0.0/0"},
		{Route{Address: addr("10.0.0.0"), PrefixLen: -1, Netmask: addr("255.0.0.0")}, "10.0.0.0/8"},
		{Route{Address: addr("fd00::"), PrefixLen: 16}, "fd00::/16"},
	} {
		if got := c.route.Prefix().String(); got != c.want {
			t.Errorf("%+v: got %s, want %s", c.route, got, c.want)
		}
	}
}

func TestLeaseTime(t *testing.T) {
	for _, c := range []struct {
		lease    LeaseTime
		text     string
		duration time.Duration
	}{
		{LeaseTime{}, "infinite", 0},
		{LeaseTime{Unit: "hours"}, "infinite", 0},
		{LeaseTime{Expiry: 120, Unit: "seconds"}, "120s", 2 * time.Minute},
		{LeaseTime{Expiry: 90, Unit: "minutes"}, "90m", 90 * time.Minute},
		{LeaseTime{Expiry: 90}, "90m", 90 * time.Minute},
		{LeaseTime{Expiry: 2, Unit: "hours"}, "2h", 2 * time.Hour},
	} {
		if got := c.lease.String(); got != c.text {
			t.Errorf("%+v: got %q, want %q", c.lease, got, c.text)
		}
		if got := c.lease.Duration(); got != c.duration {
			t.Errorf("%+v: got %v, want %v", c.lease, got, c.duration)
		}
	}
}

// An octet's first zero may be missing, as it is in libvirt's own examples.
func TestClientID(t *testing.T) {
	for id, want := range map[string]string{
		"": "", "0:4:7e:7D": "00047e7d", "000300011122": "000300011122", "0:3:0:1:52:54:0:a:b:c": "00030001525400" + "0a0b0c", "abc:1": "0abc01", ":1::2": "0102",
	} {
		if got := fmt.Sprintf("%x", DHCPHost{ID: id}.ClientID()); got != want {
			t.Errorf("%q is %s, want %s", id, got, want)
		}
	}
}
