package host

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"viaduct/internal/host/nl"
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

// forget ends the tracking of connections that are no longer permitted. What
// goes on of them is judged as new. leads says which link leads to an address.
func (c conntrack) forget(gone []ended, leads func(netip.Addr) string) error {
	// Listing costs the kernel 10 ms for its empty table too.
	if count, err := os.ReadFile(trackedCount); err == nil && string(count) == "0\n" {
		return nil
	}
	for _, family := range []struct {
		number byte
		is     func(netip.Addr) bool
	}{{unix.AF_INET, netip.Addr.Is4}, {unix.AF_INET6, netip.Addr.Is6}} {
		if !slices.ContainsFunc(gone, func(e ended) bool { return family.is(e.prefix.Addr()) }) {
			continue
		}
		if err := c.forgetFamily(family.number, gone, leads); err != nil {
			return fmt.Errorf("forget connections: %w", err)
		}
	}
	return nil
}

func (c conntrack) forgetFamily(family byte, gone []ended, leads func(netip.Addr) string) error {
	entries, err := c.netlink.dump(ctGet, []byte{family, unix.NFNETLINK_V0, 0, 0})
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if len(entry.Data) < nfgenmsgSize {
			continue
		}
		connection := trackedIn(entry.Data[nfgenmsgSize:])
		if !slices.ContainsFunc(gone, func(e ended) bool { return e.ends(connection, leads) }) {
			continue
		}
		// An entry names itself; one that has ended meanwhile is no loss.
		if err := c.netlink.do(ctDelete, 0, entry.Data); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return nil
}

// trackedIn reads the addresses of an entry.
func trackedIn(entry []byte) (c tracked) {
	for tuple, addresses := range map[uint16][2]*netip.Addr{ctaTupleOrig: {&c.from, &c.to}, ctaTupleReply: {&c.answerFrom, &c.answerTo}} {
		for typ, raw := range nl.Attrs(nl.Attr(nl.Attr(entry, tuple), ctaTupleIP)) {
			if a, ok := netip.AddrFromSlice(raw); ok && typ > 0 {
				*addresses[(typ-1)%2] = a // sources have odd numbers
			}
		}
	}
	return c
}
