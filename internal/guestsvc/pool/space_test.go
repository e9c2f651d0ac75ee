package pool

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func ranges(pairs ...string) []Range {
	var rs []Range
	for i := 0; i < len(pairs); i += 2 {
		rs = append(rs, Range{First: addr(pairs[i]), Last: addr(pairs[i+1])})
	}
	return rs
}

func TestSpaceNumbersAddressesInOrder(t *testing.T) {
	for _, c := range []struct {
		ranges  []Range
		want    []string
		outside []string
	}{
		{
			ranges("2001:db8:7::fffe", "2001:db8:7::1:2",
				"2001:db8:6:ffff:ffff:ffff:ffff:fffe", "2001:db8:7::3", // over the border of 64 bits
				"2001:db8:7::2", "2001:db8:7::5", // overlaps
				"2001:db8:7::3", "2001:db8:7::4"), // inside
			[]string{
				"2001:db8:6:ffff:ffff:ffff:ffff:fffe", "2001:db8:6:ffff:ffff:ffff:ffff:ffff",
				"2001:db8:7::", "2001:db8:7::1", "2001:db8:7::2", "2001:db8:7::3", "2001:db8:7::4", "2001:db8:7::5",
				"2001:db8:7::fffe", "2001:db8:7::ffff", "2001:db8:7::1:0", "2001:db8:7::1:1", "2001:db8:7::1:2",
			},
			[]string{"2001:db8:7::6", "2001:db8:7::fffd", "2001:db8:7::1:3", "::", "192.0.2.1"},
		},
		{
			ranges("255.255.255.254", "255.255.255.255", "0.0.0.0", "0.0.0.1", "10.0.0.255", "10.0.1.0"),
			[]string{"0.0.0.0", "0.0.0.1", "10.0.0.255", "10.0.1.0", "255.255.255.254", "255.255.255.255"},
			[]string{"0.0.0.2", "10.0.0.254", "::ffff:10.0.1.0", "::"},
		},
	} {
		s := NewSpace(c.ranges, nil, nil)
		if got := s.Size(); got != uint32(len(c.want)) {
			t.Fatalf("%d addresses, want %d", got, len(c.want))
		}
		for i, a := range c.want {
			if got := s.at(uint32(i)); got != addr(a) {
				t.Errorf("address %d = %v, want %s", i, got, a)
			}
			if _, got, ok := s.find(addr(a)); !ok || got != uint32(i) {
				t.Errorf("number of %s = %d, %v, want %d", a, got, ok, i)
			}
		}
		for _, a := range c.outside {
			if _, i, ok := s.find(addr(a)); ok {
				t.Errorf("number of %s = %d", a, i)
			}
		}
	}
}

func TestOpenAddresses(t *testing.T) {
	own, reserved := addr("10.0.0.1"), addr("10.0.0.5")
	s := NewSpace(ranges("10.0.0.0", "10.0.0.9"), []netip.Addr{own}, []netip.Addr{reserved})
	for a, want := range map[string]bool{"10.0.0.0": true, "10.0.0.1": false, "10.0.0.5": false, "10.0.0.9": true, "10.0.0.10": false} {
		if s.Open(addr(a)) != want {
			t.Errorf("open %s = %v", a, !want)
		}
	}
	if !s.HasRole(own) || s.HasRole(reserved) {
		t.Error("roles and reservations are mixed up")
	}
}

func TestCheck(t *testing.T) {
	subnet := netip.MustParsePrefix("10.0.0.0/8")
	for _, c := range []struct {
		ranges []Range
		want   string // a part of the error
	}{
		{ranges("10.0.0.1", "10.0.0.9"), ""},
		{ranges("10.0.0.1", "11.0.0.9"), "10.0.0.1-11.0.0.9: not in 10.0.0.0/8"},
		{ranges("fd00::1", "fd00::2"), "not in"},
		{ranges("10.0.0.9", "10.0.0.1"), "ends before it begins"},
		{[]Range{{First: addr("10.0.0.1"), Last: addr("10.0.0.1"), Lease: -time.Second}}, "negative"},
		{ranges("10.0.0.0", "10.0.3.231", "10.1.0.0", "10.1.0.0"), "10.1.0.0-10.1.0.0: more than 1000 addresses"},
		{ranges("10.0.0.0", "10.255.255.255"), "more than 1000 addresses"},
		{make([]Range, maxRanges+1), "257 ranges: more than 256"},
	} {
		switch err := Check(c.ranges, subnet, 1000); {
		case c.want == "" && err != nil:
			t.Error(err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
	whole := []Range{{First: addr("fd00::"), Last: addr("fd00::ff:ffff")}}
	if err := Check(whole, netip.MustParsePrefix("fd00::/64"), MaxSize); err != nil {
		t.Error(err)
	}
	whole[0].Last = whole[0].Last.Next()
	if err := Check(whole, netip.MustParsePrefix("fd00::/64"), MaxSize); err == nil {
		t.Error("one more address than there may be is taken")
	}
}
