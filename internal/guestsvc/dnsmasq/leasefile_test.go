package dnsmasq

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"viaduct/internal/netdef"
)

var testSubnets = []netip.Prefix{netip.MustParsePrefix("192.168.7.0/24"), netip.MustParsePrefix("fd00::/64")}

func TestLeaseFile(t *testing.T) {
	mac := netdef.MAC{0x52, 0x54, 0, 1, 2, 3}
	want := []netdef.Lease{
		{Addr: netip.MustParseAddr("192.168.7.9"), PrefixLen: 24, MAC: mac, Hostname: "one", ClientID: []byte{1, 2}, Expiry: time.Unix(1700000000, 0)},
		{Addr: netip.MustParseAddr("192.168.7.10"), PrefixLen: 24, MAC: mac},
		{Addr: netip.MustParseAddr("fd00::7"), PrefixLen: 64, MAC: mac, IAID: 7, ClientID: append([]byte{0, 3, 0, 1}, mac[:]...), Expiry: time.Unix(1700000001, 0)},
	}
	file := "1700000000 52:54:00:01:02:03 192.168.7.9 one 01:02\n0 52:54:00:01:02:03 192.168.7.10 * *\n" +
		"duid 00:04:aa\n1700000001 7 fd00::7 * 00:03:00:01:52:54:00:01:02:03\n"
	if got := string(formatLeases(want, []byte{0, 4, 0xaa})); got != file {
		t.Errorf("wrote\n%s, want\n%s", got, file)
	}
	if got, whole := parseLeases([]byte(file), testSubnets); !whole || !reflect.DeepEqual(got, want) {
		t.Errorf("read %+v, %v, want %+v", got, whole, want)
	}
	for _, odd := range []string{
		"x 52:54:00:01:02:03 192.168.7.9 * *\n", "-1 52:54:00:01:02:03 192.168.7.9 * *\n", "1 52:54 192.168.7.9 * *\n", "1 52:54:00:01:02:03 192.168.7 * *\n",
		"1 52:54:00:01:02:03 192.168.7.9 * xx\n", "1 7 fd00::7 * *\n", "1 99999999999 fd00::7 * 00:01\n", "\n", "1 2 3\n",
	} {
		if got, whole := parseLeases([]byte(odd), testSubnets); len(got) > 0 || !whole {
			t.Errorf("%q: read %+v, whole %v", odd, got, whole)
		}
	}
	// What is still being written is not looked at.
	if got, whole := parseLeases([]byte(file[:len(file)-5]), testSubnets); whole || len(got) != 2 {
		t.Errorf("read %d leases of a torn file, whole %v", len(got), whole)
	}
}

// FuzzLeaseFile holds that what is read can be written and read again.
func FuzzLeaseFile(f *testing.F) {
	f.Add([]byte("1700000000 52:54:00:01:02:03 192.168.7.9 one 01:02\n0 52:54:00:01:02:03 192.168.7.10 * *\n"))
	f.Add([]byte("duid 00:04:aa\n1700000001 7 fd00::7 * 00:03:00:01:52:54:00:01:02:03\n1 T8 fd00::8 two 00:01"))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, _ := parseLeases(data, testSubnets)
		for _, l := range list {
			if strings.ContainsAny(l.Hostname, " \n\x00") {
				t.Errorf("name %q", l.Hostname)
			}
		}
		var v4, v6 []netdef.Lease
		for _, l := range list {
			if l.Addr.Is4() {
				v4 = append(v4, l)
			} else {
				v6 = append(v6, l)
			}
		}
		again, whole := parseLeases(formatLeases(list, []byte{1}), testSubnets)
		if want := append(v4, v6...); !whole || !reflect.DeepEqual(again, want) && len(want) > 0 {
			t.Errorf("read %+v again as %+v", want, again)
		}
	})
}
