package host

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// Rename implements Host.
func (h *kernelHost) Rename(link, name string) error {
	if err := (&linkApplier{rtnl: h.rtnl, mirror: h.mirror}).rename(link, name); err != nil {
		return fmt.Errorf("rename link %s to %s: %w", link, name, err)
	}
	return nil
}

// Outward implements Host.
func (h *kernelHost) Outward(dev string) (string, []netip.Addr) { return h.mirror.outward(dev) }

// outward is the host's own address of each family towards the outside: on
// the named link, or else on the one that its best default route leads to.
func (m *mirror) outward(dev string) (link string, own []netip.Addr) {
	link = dev
	m.now(func() {
		for _, unspecified := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
			id, info, ok := m.bestDefault(unspecified, dev)
			index := id.index
			if dev != "" {
				index = m.names[dev]
			} else if !ok {
				continue
			}
			link = cmp.Or(link, m.links[index].name)
			if a := m.addressTowards(index, unspecified, info); a.IsValid() {
				own = append(own, a)
			}
		}
	})
	return link, own
}

// bestDefault is the default route of the family with the smallest metric, by
// the named link or any. The mirror is locked.
func (m *mirror) bestDefault(unspecified netip.Addr, dev string) (best routeID, info routeInfo, ok bool) {
	for id, i := range m.routes {
		if id.table != unix.RT_TABLE_MAIN || id.dst != netip.PrefixFrom(unspecified, 0) || dev != "" && m.links[id.index].name != dev {
			continue
		}
		if !ok || cmp.Or(cmp.Compare(id.metric, best.metric), cmp.Compare(id.index, best.index)) < 0 {
			best, info, ok = id, i, true
		}
	}
	return best, info, ok
}

// addressTowards is the link's address that a router there knows the host by:
// the one the route prefers, or one in the gateway's subnet, or the lowest. The
// mirror is locked.
func (m *mirror) addressTowards(index int, family netip.Addr, route routeInfo) netip.Addr {
	if route.source.IsValid() {
		return route.source
	}
	var found []netip.Prefix
	for a := range m.addrs {
		if a.index == index && a.prefix.Addr().BitLen() == family.BitLen() && !a.prefix.Addr().IsLinkLocalUnicast() {
			found = append(found, a.prefix)
		}
	}
	slices.SortFunc(found, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	if near := slices.IndexFunc(found, func(p netip.Prefix) bool { return p.Contains(route.via) }); near >= 0 {
		return found[near].Addr()
	}
	if len(found) == 0 {
		return netip.Addr{}
	}
	return found[0].Addr()
}
