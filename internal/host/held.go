package host

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"viaduct/internal/hoststate"
)

// Numbers of linux/if_addr.h and linux/rtnetlink.h that x/sys lacks.
const (
	ifaProto     = 11 // IFA_PROTO
	rtaNhID      = 30 // RTA_NH_ID
	infinity     = 0xffffffff
	userHz       = 100 // ticks a second in RTA_CACHEINFO
	rtnhOnlink   = 4   // RTNH_F_ONLINK
	cacheExpires = 8   // offset of rta_expires in struct rta_cacheinfo
)

// addressFlags are those of an address that somebody may ask for; the others are
// the kernel's own account.
const addressFlags = unix.IFA_F_HOMEADDRESS | unix.IFA_F_MANAGETEMPADDR | unix.IFA_F_NOPREFIXROUTE | unix.IFA_F_MCAUTOJOIN

// heldSettings are the settings that go with what a host has on a link.
var heldSettings = map[string][]string{
	"ipv4": {
		"forwarding", "rp_filter", "arp_ignore", "arp_announce", "arp_filter", "accept_redirects", "send_redirects", "secure_redirects",
		"accept_source_route", "log_martians", "src_valid_mark", "route_localnet", "proxy_arp", "promote_secondaries", "accept_local",
	},
	"ipv6": {
		"disable_ipv6", "forwarding", "accept_ra", "accept_ra_defrtr", "accept_ra_pinfo", "accept_ra_rtr_pref", "accept_ra_rt_info_max_plen",
		"accept_ra_mtu", "ra_defrtr_metric", "autoconf", "use_tempaddr", "addr_gen_mode", "accept_redirects", "hop_limit", "dad_transmits",
		"router_solicitations", "proxy_ndp",
	},
}

// Held implements Host.
func (h *kernelHost) Held(link string) (hoststate.Held, error) {
	l, ok := h.mirror.link(link)
	if !ok {
		return hoststate.Held{}, errVanished(link)
	}
	held, err := held(h.rtnl, h.mirror, l)
	if err != nil {
		return held, fmt.Errorf("read what %s has: %w", link, err)
	}
	return held, nil
}

// held reads what a link has, in the order in which the kernel lists it.
func held(r *rtnl, m *mirror, l link) (hoststate.Held, error) {
	h := hoststate.Held{Settings: map[string]string{}}
	now := time.Now()
	msgs, err := r.dump(unix.RTM_GETADDR, make([]byte, ifaddrLen))
	if err != nil {
		return h, err
	}
	for _, msg := range msgs {
		a, index, keep, err := decodeHeldAddress(msg.Data, l.name, now)
		if err != nil {
			return h, err
		}
		if keep && index == l.index {
			h.Addresses = append(h.Addresses, a)
		}
	}
	if msgs, err = r.dump(unix.RTM_GETROUTE, make([]byte, rtmsgLen)); err != nil {
		return h, err
	}
	names := map[int]string{}
	m.now(func() {
		for index, other := range m.links {
			names[index] = other.name
		}
	})
	for _, msg := range msgs {
		route, uses, err := decodeHeldRoute(msg.Data, l.index, names, now)
		if err != nil {
			return h, err
		}
		if uses && (route.Protocol != unix.RTPROT_KERNEL || withoutRoute(h, route.Dst)) {
			h.Routes = append(h.Routes, route)
		}
	}
	if h.Rules, err = heldRules(r, l.name); err != nil {
		return h, err
	}
	if h.Neighbours, err = heldNeighbours(r, l.index); err != nil {
		return h, err
	}
	for family, list := range heldSettings {
		for _, name := range list {
			if value, err := readSysctl("net/" + family + "/conf/" + l.name + "/" + name); err == nil && value != "" {
				h.Settings[family+" "+name] = value
			}
		}
	}
	if on, err := checksumOffload(l.name); err == nil {
		h.Settings[txChecksum] = strconv.FormatBool(on)
	}
	return h, nil
}

// withoutRoute reports whether there is an address in the subnet for which the
// kernel was told to make no route: then somebody else has made it, and said that
// it was the kernel, as NetworkManager does.
func withoutRoute(h hoststate.Held, subnet netip.Prefix) bool {
	return slices.ContainsFunc(h.Addresses, func(a hoststate.HeldAddress) bool {
		return a.Flags&unix.IFA_F_NOPREFIXROUTE != 0 && a.Prefix.Masked() == subnet
	})
}

// txChecksum names in hoststate.Held whether a card computes checksums.
const txChecksum = "card tx-checksum"

// decodeHeldAddress reads an RTM_NEWADDR. An address that another host turned
// out to have is none to keep.
func decodeHeldAddress(b []byte, link string, now time.Time) (a hoststate.HeldAddress, index int, keep bool, err error) {
	plain, err := decodeAddress(b)
	if err != nil {
		return a, 0, false, err
	}
	a = hoststate.HeldAddress{Prefix: plain.prefix, Peer: plain.peer, Scope: b[3], Flags: uint32(b[2])}
	d, err := netlink.NewAttributeDecoder(b[ifaddrLen:])
	if err != nil {
		return a, 0, false, err
	}
	for d.Next() {
		switch d.Type() {
		case unix.IFA_BROADCAST:
			a.Broadcast, _ = netip.AddrFromSlice(d.Bytes())
		case unix.IFA_LABEL:
			a.Label = strings.TrimPrefix(d.String(), link)
		case unix.IFA_FLAGS:
			a.Flags = d.Uint32()
		case unix.IFA_RT_PRIORITY:
			a.Metric = d.Uint32()
		case ifaProto:
			a.Proto = d.Uint8()
		case unix.IFA_CACHEINFO:
			if c := d.Bytes(); len(c) >= 8 {
				a.Preferred = until(now, binary.NativeEndian.Uint32(c))
				a.Valid = until(now, binary.NativeEndian.Uint32(c[4:]))
			}
		}
	}
	keep = a.Flags&unix.IFA_F_DADFAILED == 0
	a.Flags &= addressFlags
	return a, plain.index, keep, d.Err()
}

// until is when a lifetime of so many seconds ends.
func until(now time.Time, seconds uint32) time.Time {
	if seconds == infinity {
		return time.Time{}
	}
	return now.Add(time.Duration(seconds) * time.Second).UTC().Truncate(time.Second)
}

// left is the inverse of until.
func left(now, end time.Time) uint32 {
	if end.IsZero() {
		return infinity
	}
	return uint32(min(max(end.Sub(now).Round(time.Second).Seconds(), 0), infinity-1))
}

// heldAddressBody is the body of an address request.
func heldAddressBody(index int, link string, a hoststate.HeldAddress, now time.Time) ([]byte, error) {
	addr := a.Prefix.Addr()
	family, flags := byte(unix.AF_INET), a.Flags&addressFlags
	if addr.Is6() {
		// It was found to be free on the card, with the same MAC address.
		family, flags = unix.AF_INET6, flags|unix.IFA_F_NODAD
	}
	b := append(make([]byte, 0, 128), family, byte(a.Prefix.Bits()), 0, a.Scope)
	b = binary.NativeEndian.AppendUint32(b, uint32(index))
	return appendAttrs(b, func(e *netlink.AttributeEncoder) {
		other := addr
		if a.Peer.IsValid() {
			other = a.Peer
		}
		e.Bytes(unix.IFA_LOCAL, addr.AsSlice())
		e.Bytes(unix.IFA_ADDRESS, other.AsSlice())
		if a.Broadcast.IsValid() {
			e.Bytes(unix.IFA_BROADCAST, a.Broadcast.AsSlice())
		}
		if label := link + a.Label; a.Label != "" && len(label) < unix.IFNAMSIZ {
			e.String(unix.IFA_LABEL, label)
		}
		if a.Metric != 0 {
			e.Uint32(unix.IFA_RT_PRIORITY, a.Metric)
		}
		if a.Proto != 0 {
			e.Uint8(ifaProto, a.Proto)
		}
		e.Uint32(unix.IFA_FLAGS, flags)
		if !a.Lasting() {
			cache := binary.NativeEndian.AppendUint32(nil, left(now, a.Preferred))
			cache = binary.NativeEndian.AppendUint32(cache, left(now, a.Valid))
			e.Bytes(unix.IFA_CACHEINFO, append(cache, make([]byte, 8)...))
		}
	})
}

// decodeHeldRoute reads an RTM_NEWROUTE. It reports false for a route that does
// not use the link, and for those that the kernel makes of others.
func decodeHeldRoute(b []byte, index int, names map[int]string, now time.Time) (hoststate.HeldRoute, bool, error) {
	var r hoststate.HeldRoute
	if len(b) < rtmsgLen {
		return r, false, errShort
	}
	if binary.NativeEndian.Uint32(b[8:])&unix.RTM_F_CLONED != 0 || b[5] == unix.RTPROT_REDIRECT {
		return r, false, nil
	}
	r = hoststate.HeldRoute{Table: uint32(b[4]), Protocol: b[5], Scope: b[6], Type: b[7], TOS: b[3]}
	everywhere := netip.IPv4Unspecified()
	if b[0] == unix.AF_INET6 {
		everywhere = netip.IPv6Unspecified()
	}
	dst, single, uses := everywhere, hoststate.Hop{Flags: uint8(binary.NativeEndian.Uint32(b[8:])) & rtnhOnlink}, false
	var refused error
	d, err := netlink.NewAttributeDecoder(b[rtmsgLen:])
	if err != nil {
		return r, false, err
	}
	for d.Next() {
		switch d.Type() {
		case unix.RTA_DST:
			dst, _ = netip.AddrFromSlice(d.Bytes())
		case unix.RTA_SRC:
			from, _ := netip.AddrFromSlice(d.Bytes())
			r.From = netip.PrefixFrom(from, int(b[2]))
		case unix.RTA_TABLE:
			r.Table = d.Uint32()
		case unix.RTA_PRIORITY:
			r.Metric = d.Uint32()
		case unix.RTA_PREFSRC:
			r.Source, _ = netip.AddrFromSlice(d.Bytes())
		case unix.RTA_PREF:
			r.Pref = d.Uint8()
		case unix.RTA_GATEWAY:
			single.Via, _ = netip.AddrFromSlice(d.Bytes())
		case unix.RTA_VIA:
			if v := d.Bytes(); len(v) > 2 {
				single.Via, _ = netip.AddrFromSlice(v[2:])
			}
		case unix.RTA_OIF:
			uses = int(d.Uint32()) == index
		case unix.RTA_MULTIPATH:
			r.Hops, uses = decodeHops(d.Bytes(), index, names)
		case unix.RTA_METRICS:
			r.Metrics = decodeMetrics(d.Bytes())
		case unix.RTA_CACHEINFO:
			if c := d.Bytes(); len(c) >= cacheExpires+4 {
				if ticks := int32(binary.NativeEndian.Uint32(c[cacheExpires:])); ticks > 0 {
					r.Until = until(now, uint32(ticks)/userHz)
				}
			}
		case rtaNhID:
			refused = errors.New("uses a nexthop object")
		case unix.RTA_ENCAP:
			refused = errors.New("encapsulates")
		}
	}
	if r.Hops == nil {
		r.Hops = []hoststate.Hop{single}
	}
	if r.Dst = netip.PrefixFrom(dst, int(b[1])); !r.Dst.IsValid() {
		return r, false, errors.New("netlink message has no valid destination")
	}
	if r.Table == unix.RT_TABLE_LOCAL {
		uses = false
	}
	if uses && refused != nil {
		return r, false, fmt.Errorf("route %s %w, which cannot be moved", r, refused)
	}
	return r, uses, d.Err()
}

// decodeHops reads RTA_MULTIPATH, see decodeNexthops.
func decodeHops(b []byte, index int, names map[int]string) (hops []hoststate.Hop, uses bool) {
	for len(b) >= unix.SizeofRtNexthop {
		n := int(binary.NativeEndian.Uint16(b))
		if n < unix.SizeofRtNexthop || n > len(b) {
			return hops, uses
		}
		hop := hoststate.Hop{Flags: b[2] & rtnhOnlink, Weight: b[3]}
		if link := int(int32(binary.NativeEndian.Uint32(b[4:]))); link == index {
			uses = true
		} else {
			hop.Link = names[link]
		}
		if d, err := netlink.NewAttributeDecoder(b[unix.SizeofRtNexthop:n]); err == nil {
			for d.Next() {
				switch d.Type() {
				case unix.RTA_GATEWAY:
					hop.Via, _ = netip.AddrFromSlice(d.Bytes())
				case unix.RTA_VIA:
					if v := d.Bytes(); len(v) > 2 {
						hop.Via, _ = netip.AddrFromSlice(v[2:])
					}
				}
			}
		}
		hops = append(hops, hop)
		b = b[min((n+3)&^3, len(b)):]
	}
	return hops, uses
}

// decodeMetrics reads RTA_METRICS, but for those that are no numbers.
func decodeMetrics(b []byte) map[uint16]uint32 {
	d, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return nil
	}
	var metrics map[uint16]uint32
	for d.Next() {
		if v := d.Bytes(); len(v) == 4 {
			if metrics == nil {
				metrics = map[uint16]uint32{}
			}
			metrics[d.Type()] = binary.NativeEndian.Uint32(v)
		}
	}
	return metrics
}

// backup is how much longer than its own a route that the kernel learned is
// when it is moved, and how long it is kept at most. The kernel learns its own
// on the new link, and stops reading the advertisement where it finds one in the
// way that it did not make.
const (
	backupMetric = 1
	backupTime   = time.Minute
)

// heldRouteBody is the body of a route request.
func heldRouteBody(index int, indexes map[string]int, r hoststate.HeldRoute, now time.Time) ([]byte, error) {
	family := byte(unix.AF_INET)
	if r.Dst.Addr().Is6() {
		family = unix.AF_INET6
	}
	if r.Protocol == unix.RTPROT_RA && !r.Until.IsZero() {
		r.Metric += backupMetric
		if last := now.Add(backupTime); last.Before(r.Until) {
			r.Until = last
		}
	}
	linkOf := func(h hoststate.Hop) int {
		if h.Link == "" {
			return index
		}
		return indexes[h.Link]
	}
	flags := uint32(0)
	if len(r.Hops) == 1 {
		flags = uint32(r.Hops[0].Flags)
	}
	fromBits := 0
	if r.From.IsValid() {
		fromBits = r.From.Bits()
	}
	table := byte(unix.RT_TABLE_UNSPEC)
	if r.Table < 256 {
		table = byte(r.Table)
	}
	b := append(make([]byte, 0, 128), family, byte(r.Dst.Bits()), byte(fromBits), r.TOS, table, r.Protocol, r.Scope, r.Type)
	b = binary.NativeEndian.AppendUint32(b, flags)
	return appendAttrs(b, func(e *netlink.AttributeEncoder) {
		if r.Dst.Bits() > 0 {
			e.Bytes(unix.RTA_DST, r.Dst.Addr().AsSlice())
		}
		if fromBits > 0 {
			e.Bytes(unix.RTA_SRC, r.From.Addr().AsSlice())
		}
		e.Uint32(unix.RTA_TABLE, r.Table)
		if r.Metric != 0 {
			e.Uint32(unix.RTA_PRIORITY, r.Metric)
		}
		if r.Source.IsValid() {
			e.Bytes(unix.RTA_PREFSRC, r.Source.AsSlice())
		}
		if family == unix.AF_INET6 && r.Pref != 0 {
			e.Uint8(unix.RTA_PREF, r.Pref)
		}
		if !r.Until.IsZero() {
			e.Uint32(unix.RTA_EXPIRES, left(now, r.Until))
		}
		if len(r.Metrics) > 0 {
			e.Nested(unix.RTA_METRICS, func(e *netlink.AttributeEncoder) error {
				for typ, value := range r.Metrics {
					e.Uint32(typ, value)
				}
				return nil
			})
		}
		if len(r.Hops) == 1 {
			e.Uint32(unix.RTA_OIF, uint32(linkOf(r.Hops[0])))
			encodeVia(e, family, r.Hops[0].Via)
			return
		}
		e.Do(unix.RTA_MULTIPATH, func() ([]byte, error) { return encodeHops(family, r.Hops, linkOf) })
	})
}

func encodeVia(e *netlink.AttributeEncoder, family byte, via netip.Addr) {
	switch {
	case !via.IsValid():
	case via.Is6() && family == unix.AF_INET:
		e.Bytes(unix.RTA_VIA, append(binary.NativeEndian.AppendUint16(nil, unix.AF_INET6), via.AsSlice()...))
	default:
		e.Bytes(unix.RTA_GATEWAY, via.AsSlice())
	}
}

func encodeHops(family byte, hops []hoststate.Hop, linkOf func(hoststate.Hop) int) ([]byte, error) {
	var all []byte
	for _, h := range hops {
		one, err := appendAttrs(make([]byte, unix.SizeofRtNexthop), func(e *netlink.AttributeEncoder) { encodeVia(e, family, h.Via) })
		if err != nil {
			return nil, err
		}
		binary.NativeEndian.PutUint16(one, uint16(len(one)))
		one[2], one[3] = h.Flags, h.Weight
		binary.NativeEndian.PutUint32(one[4:], uint32(linkOf(h)))
		all = append(all, one...)
	}
	return all, nil
}

// sameRoute reports whether two routes lead the same way, whatever else is said
// of them.
func sameRoute(a, b hoststate.HeldRoute) bool {
	return a.Dst == b.Dst && a.From == b.From && a.Table == b.Table && a.TOS == b.TOS && a.Metric == b.Metric && a.Source == b.Source &&
		slices.Equal(a.Hops, b.Hops)
}
