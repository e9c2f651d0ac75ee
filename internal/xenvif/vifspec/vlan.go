package vifspec

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// VLANs are a guest's VLANs on the bridge that its vif is a port of.
type VLANs struct {
	// PVID is the VLAN of what the guest sends without a tag.
	PVID uint16
	// Untagged are those whose frames reach the guest without a tag, Tagged
	// those whose frames keep it; both are sorted.
	Untagged, Tagged []uint16
}

const maxVLAN = 4094

// ParseVLANs reads the value of vlan= (xl-network-configuration(5)): terms
// divided by '/', each of them N[p|u], A-B[u] or A+STEPxCOUNT[u], which is A
// and COUNT more. p marks the VLAN of untagged frames, u those that leave
// without their tag. A single VLAN needs no mark.
func ParseVLANs(text string) (VLANs, error) {
	var v VLANs
	wrong := func(format string, args ...any) (VLANs, error) {
		return VLANs{}, fmt.Errorf("vlan '%s': %s", text, fmt.Sprintf(format, args...))
	}
	seen := map[uint16]bool{}
	for _, term := range strings.Split(text, "/") {
		ids, mark, err := parseTerm(term)
		if err != nil {
			return wrong("%v", err)
		}
		for _, id := range ids {
			if seen[id] {
				return wrong("%d is given twice", id)
			}
			seen[id] = true
		}
		switch {
		case mark == 'p' && len(ids) > 1:
			return wrong("'%s': only a single VLAN can be the one of untagged frames", term)
		case mark == 'p' && v.PVID != 0:
			return wrong("%d and %d are both marked p", v.PVID, ids[0])
		case mark == 'p':
			v.PVID = ids[0]
			v.Untagged = append(v.Untagged, ids...)
		case mark == 'u':
			v.Untagged = append(v.Untagged, ids...)
		default:
			v.Tagged = append(v.Tagged, ids...)
		}
	}
	if v.PVID == 0 && len(seen) == 1 && len(v.Tagged) == 1 {
		v.PVID, v.Untagged, v.Tagged = v.Tagged[0], v.Tagged, nil
	}
	if v.PVID == 0 {
		return wrong("one of the VLANs has to be marked p, as that of untagged frames")
	}
	slices.Sort(v.Untagged)
	slices.Sort(v.Tagged)
	return v, nil
}

// parseTerm reads one term; mark is 'p', 'u' or 0.
func parseTerm(term string) (ids []uint16, mark byte, err error) {
	numbers := term
	if last := len(term) - 1; last >= 0 && (term[last] == 'p' || term[last] == 'u') {
		mark, numbers = term[last], term[:last]
	}
	first, step, last := 0, 1, 0
	if a, series, ok := strings.Cut(numbers, "+"); ok {
		by, count, ok := strings.Cut(series, "x")
		n, nErr := number(count)
		first, err = number(a)
		step, last = 0, 0
		if s, sErr := number(by); ok && nErr == nil && sErr == nil && s > 0 {
			step, last = s, first+s*n
		}
		if step == 0 || err != nil {
			return nil, 0, fmt.Errorf("'%s' is no series A+STEPxCOUNT", term)
		}
	} else {
		a, b, isRange := strings.Cut(numbers, "-")
		if !isRange {
			b = a
		}
		var errB error
		first, err = number(a)
		last, errB = number(b)
		if err != nil || errB != nil {
			return nil, 0, fmt.Errorf("'%s' is no VLAN, range or series", term)
		}
		if isRange && mark == 'p' {
			return nil, 0, fmt.Errorf("'%s': a range cannot be marked p", term)
		}
	}
	switch {
	case first < 1 || last > maxVLAN:
		return nil, 0, fmt.Errorf("'%s' leaves 1-%d", term, maxVLAN)
	case first > last:
		return nil, 0, fmt.Errorf("'%s' ends before it begins", term)
	}
	for id := first; id <= last; id += step {
		ids = append(ids, uint16(id))
	}
	return ids, mark, nil
}

// number reads a decimal number of up to four digits.
func number(s string) (int, error) {
	if len(s) > 4 || strings.ContainsFunc(s, func(r rune) bool { return r < '0' || r > '9' }) {
		return 0, strconv.ErrSyntax
	}
	return strconv.Atoi(s)
}
