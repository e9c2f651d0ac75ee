// Package pool keeps the addresses that a DHCP server of either family has to
// give: which of them belong to no guest yet, which are promised, which are
// kept back because somebody uses them without a lease, and which comes next.
package pool

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"time"
)

// Range is a range of addresses for guests without a reservation, both ends included.
type Range struct {
	First, Last netip.Addr
	// Lease is 0 where that of the whole configuration counts.
	Lease time.Duration
	// Infinite leases never end.
	Infinite bool
}

// String is the range as a plan shows it.
func (r Range) String() string {
	return fmt.Sprintf("%s-%s%s", r.First, r.Last, LeaseText(r.Lease, r.Infinite))
}

// LeaseText is a lease time of its own as a plan shows it behind what has it,
// "" where there is none.
func LeaseText(d time.Duration, infinite bool) string {
	switch {
	case infinite:
		return " for ever"
	case d != 0:
		return " for " + d.String()
	}
	return ""
}

const (
	// maxRanges is how many ranges there may be.
	maxRanges = 256
	// MaxSize is how many addresses ranges may have together: those of an IPv4 /8.
	MaxSize = 1 << 24
)

// Check reports the first range that cannot be served in a subnet, and why. All
// of them together may have most addresses, up to MaxSize.
func Check(ranges []Range, subnet netip.Prefix, most uint32) error {
	if len(ranges) > maxRanges {
		return fmt.Errorf("%d ranges: more than %d", len(ranges), maxRanges)
	}
	size := uint64(0)
	for _, r := range ranges {
		switch {
		case !subnet.Contains(r.First) || !subnet.Contains(r.Last):
			return fmt.Errorf("range %s-%s: not in %s", r.First, r.Last, subnet.Masked())
		case r.Last.Less(r.First):
			return fmt.Errorf("range %s-%s: ends before it begins", r.First, r.Last)
		case r.Lease < 0:
			return fmt.Errorf("range %s-%s: lease %s: negative", r.First, r.Last, r.Lease)
		}
		n, ok := distance(r.First, r.Last)
		if size += uint64(n) + 1; !ok || size > uint64(most) {
			return fmt.Errorf("range %s-%s: more than %d addresses in all ranges", r.First, r.Last, most)
		}
	}
	return nil
}

// Space is all addresses that a server gives, in order and numbered from 0. It
// is never changed.
type Space struct {
	spans           []span
	roles, reserved map[netip.Addr]bool
}

// span is the part of a range that no range before it has.
type span struct {
	first netip.Addr
	size  uint32
	// base is the number of the first address.
	base uint32
	of   Range
}

// NewSpace makes the space of ranges that have passed Check. Where they overlap,
// the one that begins first counts. Addresses with roles of their own (the
// host's, the subnet's) are for no guest, and reserved ones for one only.
func NewSpace(ranges []Range, roles, reserved []netip.Addr) *Space {
	s := &Space{roles: setOf(roles), reserved: setOf(reserved)}
	sorted := slices.Clone(ranges)
	slices.SortStableFunc(sorted, func(a, b Range) int { return a.First.Compare(b.First) })
	var base uint32
	var taken netip.Addr // the last address so far
	for _, r := range sorted {
		first := r.First
		if taken.IsValid() && first.Compare(taken) <= 0 {
			first = taken.Next()
		}
		if !first.IsValid() || r.Last.Less(first) {
			continue
		}
		n, _ := distance(first, r.Last)
		s.spans = append(s.spans, span{first: first, size: n + 1, base: base, of: r})
		base += n + 1
		taken = r.Last
	}
	return s
}

func setOf(addrs []netip.Addr) map[netip.Addr]bool {
	set := make(map[netip.Addr]bool, len(addrs))
	for _, a := range addrs {
		set[a] = true
	}
	return set
}

// Size is how many addresses there are.
func (s *Space) Size() uint32 {
	if len(s.spans) == 0 {
		return 0
	}
	last := s.spans[len(s.spans)-1]
	return last.base + last.size
}

// find is the span in which an address is, and the address's number.
func (s *Space) find(a netip.Addr) (sp span, number uint32, ok bool) {
	for _, sp := range s.spans {
		if n, ok := distance(sp.first, a); ok && n < sp.size {
			return sp, sp.base + n, true
		}
	}
	return span{}, 0, false
}

// at is the address of a number below Size.
func (s *Space) at(number uint32) netip.Addr {
	i, found := slices.BinarySearchFunc(s.spans, number, func(sp span, n uint32) int { return int(int64(sp.base) - int64(n)) })
	if !found {
		i--
	}
	return advance(s.spans[i].first, number-s.spans[i].base)
}

// RangeOf is the range that counts for an address.
func (s *Space) RangeOf(a netip.Addr) (Range, bool) {
	sp, _, ok := s.find(a)
	return sp.of, ok
}

// HasRole reports whether the address is for no guest at all.
func (s *Space) HasRole(a netip.Addr) bool { return s.roles[a] }

// Open reports whether the address is one for guests without a reservation.
func (s *Space) Open(a netip.Addr) bool {
	_, _, ok := s.find(a)
	return ok && !s.roles[a] && !s.reserved[a]
}

// distance is how far b is after a, both of one family, if that is less than MaxSize.
func distance(a, b netip.Addr) (uint32, bool) {
	if a.Is4() != b.Is4() {
		return 0, false
	}
	a16, b16 := a.As16(), b.As16()
	low, borrow := bits.Sub64(binary.BigEndian.Uint64(b16[8:]), binary.BigEndian.Uint64(a16[8:]), 0)
	high, borrow := bits.Sub64(binary.BigEndian.Uint64(b16[:]), binary.BigEndian.Uint64(a16[:]), borrow)
	if borrow != 0 || high != 0 || low >= MaxSize {
		return 0, false
	}
	return uint32(low), true
}

// advance is the address n after a.
func advance(a netip.Addr, n uint32) netip.Addr {
	b := a.As16()
	low, carry := bits.Add64(binary.BigEndian.Uint64(b[8:]), uint64(n), 0)
	binary.BigEndian.PutUint64(b[8:], low)
	binary.BigEndian.PutUint64(b[:], binary.BigEndian.Uint64(b[:])+carry)
	if a.Is4() {
		return netip.AddrFrom16(b).Unmap()
	}
	return netip.AddrFrom16(b)
}
