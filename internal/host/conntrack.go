package host

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"viaduct/internal/hoststate"
)

// The kernel's connection tracking over netlink (linux/netfilter/nfnetlink_conntrack.h).
const (
	ctGet    = unix.NFNL_SUBSYS_CTNETLINK<<8 | 1 // IPCTNL_MSG_CT_GET
	ctDelete = unix.NFNL_SUBSYS_CTNETLINK<<8 | 2 // IPCTNL_MSG_CT_DELETE

	ctaTupleOrig  = 1
	ctaTupleReply = 2
	ctaTupleIP    = 1 // within a tuple; in it are the addresses of either family, types 1 to 4

	nfgenmsgSize = 4
)

// trackedCount holds how many connections are tracked in our network namespace.
const trackedCount = "/proc/sys/net/netfilter/nf_conntrack_count"

// conntrack knows the connections that the kernel tracks.
type conntrack struct{ netlink *rtnl }

func newConntrack() conntrack { return conntrack{newNetlink(unix.NETLINK_NETFILTER)} }

// withdrawn lists the prefixes whose traffic the operations no longer let
// through as before. A rule with a verdict that goes takes its permission with
// it, even where a wider one takes its place: what is established under one
// rule may be what the next forbids to begin.
func withdrawn(ops []hoststate.Op) []netip.Prefix {
	var list []netip.Prefix
	for _, op := range ops {
		old, ok := op.Old.(hoststate.Chain)
		if !ok || old.Hook != nil {
			continue
		}
		now, _ := op.New.(hoststate.Chain)
		for _, r := range old.Rules {
			if permits(r) && !slices.ContainsFunc(now.Rules, func(n hoststate.Rule) bool { return n.String() == r.String() }) {
				list = append(list, prefixesIn(r)...)
			}
		}
	}
	return list
}

// permits reports whether a rule lets something through, as far as it goes.
func permits(r hoststate.Rule) bool {
	if len(r) == 0 {
		return false
	}
	v, ok := r[len(r)-1].(hoststate.Verdict)
	return ok && (v.Kind == hoststate.Accept || v.Kind == hoststate.Return)
}

// prefixesIn are the addresses that a rule is about.
func prefixesIn(r hoststate.Rule) []netip.Prefix {
	var list []netip.Prefix
	for _, e := range r {
		switch e := e.(type) {
		case hoststate.Source:
			list = append(list, e.Prefix)
		case hoststate.Destination:
			list = append(list, e.Prefix)
		}
	}
	return list
}

// forget ends the tracking of connections that have an end in one of the
// prefixes, before or after translation. What goes on of them is judged as new.
func (c conntrack) forget(prefixes []netip.Prefix) error {
	// Listing costs the kernel 10 ms for its empty table too.
	if count, err := os.ReadFile(trackedCount); err == nil && string(count) == "0\n" {
		return nil
	}
	for _, family := range []struct {
		number byte
		is     func(netip.Addr) bool
	}{{unix.AF_INET, netip.Addr.Is4}, {unix.AF_INET6, netip.Addr.Is6}} {
		if !slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return family.is(p.Addr()) }) {
			continue
		}
		if err := c.forgetFamily(family.number, prefixes); err != nil {
			return fmt.Errorf("forget connections: %w", err)
		}
	}
	return nil
}

func (c conntrack) forgetFamily(family byte, prefixes []netip.Prefix) error {
	entries, err := c.netlink.dump(ctGet, []byte{family, unix.NFNETLINK_V0, 0, 0})
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !hasEnd(e, prefixes) {
			continue
		}
		// An entry names itself; one that has ended meanwhile is no loss.
		if err := c.netlink.do(ctDelete, 0, e.Data); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return nil
}

// hasEnd reports whether one of the four addresses of a tracked connection
// is in one of the prefixes.
func hasEnd(entry netlink.Message, prefixes []netip.Prefix) bool {
	if len(entry.Data) < nfgenmsgSize {
		return false
	}
	for _, tuple := range []uint16{ctaTupleOrig, ctaTupleReply} {
		for _, raw := range eachAttr(attrIn(attrIn(entry.Data[nfgenmsgSize:], tuple), ctaTupleIP)) {
			a, ok := netip.AddrFromSlice(raw)
			if ok && slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) }) {
				return true
			}
		}
	}
	return false
}
