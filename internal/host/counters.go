package host

import (
	"encoding/binary"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"viaduct/internal/host/nft"
	"viaduct/internal/hoststate"
)

// Counters are what the kernel has counted of a link since the link was made.
type Counters struct {
	In  Traffic // what came to the host by the link
	Out Traffic // what the host sent by it
}

// Traffic is what went in one direction.
type Traffic struct {
	Bytes   uint64 `json:"bytes"`
	Packets uint64 `json:"packets"`
	// Drops are packets that did not get further.
	Drops Drops `json:"drops,omitempty"`
}

// Drops counts packets by the reason why they did not get further: the kernel's
// reasons, and those of our rules. Reasons that never occurred are left out.
type Drops map[string]uint64

// Add counts other's drops too.
func (d Drops) Add(other Drops) {
	for reason, n := range other {
		d[reason] += n
	}
}

// Add counts other's traffic too.
func (t *Traffic) Add(other Traffic) {
	t.Bytes += other.Bytes
	t.Packets += other.Packets
	t.AddDrops(other.Drops)
}

// AddDrops counts further drops.
func (t *Traffic) AddDrops(d Drops) {
	if t.Drops == nil && len(d) > 0 {
		t.Drops = Drops{}
	}
	t.Drops.Add(d)
}

// The places of counters in struct rtnl_link_stats64 (linux/if_link.h), each 8
// octets wide. Errors are counted in total too; only their details are
// mentioned here, and what the total has besides.
const (
	rxPackets = 0
	txPackets = 1
	rxBytes   = 2
	txBytes   = 3
	rxErrors  = 4
	txErrors  = 5
)

// dropped is the reason of packets that a link did not take.
const dropped = "dropped"

var rxDrops = dropReasons{
	total: rxErrors, other: "other error",
	besides: map[int]string{6: dropped, 23: "no handler"},
	errors:  map[int]string{10: "wrong length", 11: "overrun", 12: "wrong checksum", 13: "wrong alignment", 14: "queue full", 15: "missed"},
}

var txDrops = dropReasons{
	total: txErrors, other: "other error",
	besides: map[int]string{7: dropped},
	errors:  map[int]string{16: "aborted", 17: "no carrier", 18: "queue full", 19: "no heartbeat", 20: "late collision"},
}

// dropReasons says which counters stand for what.
type dropReasons struct {
	total   int            // the counter of all errors
	other   string         // what to call those without details
	errors  map[int]string // details of total
	besides map[int]string // what total does not contain
}

func (d dropReasons) read(at func(int) uint64) Drops {
	drops := Drops{}
	note := func(reason string, n uint64) {
		if n > 0 {
			drops[reason] += n
		}
	}
	for i, reason := range d.besides {
		note(reason, at(i))
	}
	detailed := uint64(0)
	for i, reason := range d.errors {
		note(reason, at(i))
		detailed += at(i)
	}
	note(d.other, max(at(d.total), detailed)-detailed)
	if len(drops) == 0 {
		return nil
	}
	return drops
}

// decodeCounters reads IFLA_STATS64. Older kernels have fewer counters.
func decodeCounters(b []byte) Counters {
	at := func(i int) uint64 {
		if len(b) < 8*(i+1) {
			return 0
		}
		return binary.NativeEndian.Uint64(b[8*i:])
	}
	return Counters{
		In:  Traffic{Bytes: at(rxBytes), Packets: at(rxPackets), Drops: rxDrops.read(at)},
		Out: Traffic{Bytes: at(txBytes), Packets: at(txPackets), Drops: txDrops.read(at)},
	}
}

// Counters implements Host.
func (h *kernelHost) Counters(name string) (Counters, error) {
	l, ok := h.mirror.named(name)
	if !ok {
		return Counters{}, errVanished(name)
	}
	c, err := h.rtnl.counters(l.Index)
	if err != nil {
		return c, fmt.Errorf("read counters of %s: %w", name, err)
	}
	return c, nil
}

// counters asks for those of one link.
func (r *rtnl) counters(index int) (c Counters, err error) {
	body, err := linkBody(index, 0, 0, nil)
	if err != nil {
		return c, err
	}
	msgs, err := r.get(unix.RTM_GETLINK, body)
	if err != nil {
		return c, err
	}
	for _, m := range msgs {
		if len(m.Data) < ifinfoLen {
			return c, errShort
		}
		d, err := netlink.NewAttributeDecoder(m.Data[ifinfoLen:])
		if err != nil {
			return c, err
		}
		for d.Next() {
			if d.Type() == unix.IFLA_STATS64 {
				c = decodeCounters(d.Bytes())
			}
		}
	}
	return c, nil
}

// Dropped implements Host.
func (h *kernelHost) Dropped(chains ...hoststate.Chain) (Drops, error) {
	return nft.Dropped(chains...)
}
