package host

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"viaduct/internal/hoststate"
)

// Numbers and layouts of linux/pkt_sched.h, pkt_cls.h and tc_act/tc_mirred.h
// that x/sys lacks.
const (
	tcmsgLen = 20 // sizeof(struct tcmsg)

	tcRoot       = 0xffffffff // TC_H_ROOT
	tcIngress    = 0xfffffff1 // TC_H_INGRESS
	ingressQdisc = 0xffff0000 // the handle that an ingress or clsact qdisc has
	ingressSide  = 0xfffffff2 // TC_H_MAJ(ingressQdisc) | TC_H_MIN_INGRESS: what comes in
	egressSide   = 0xfffffff3 // TC_H_MAJ(ingressQdisc) | TC_H_MIN_EGRESS: what goes out
	kindFilters  = "clsact"   // the qdisc that holds filters for both

	htbParms, htbInit        = 1, 2 // TCA_HTB_PARMS, TCA_HTB_INIT
	htbRate64, htbCeil64     = 6, 7
	htbVersion, htbR2Q       = 3, 10
	ratespecLen, htbParmsLen = 12, 44 // sizeof(struct tc_ratespec), sizeof(struct tc_htb_opt)
	linklayerEthernet        = 1      // TC_LINKLAYER_ETHERNET: the kernel needs no table of times

	statsQueue = 3 // TCA_STATS_QUEUE

	u32ClassID, u32Sel, u32Act = 1, 5, 7 // TCA_U32_*
	u32Terminal                = 1       // TC_U32_TERMINAL
	u32SelLen, u32KeyLen       = 16, 16  // sizeof(struct tc_u32_sel), sizeof(struct tc_u32_key)

	actKind, actOptions = 1, 2 // TCA_ACT_KIND, TCA_ACT_OPTIONS
	mirredParms         = 2    // TCA_MIRRED_PARMS
	mirredParmsLen      = 28   // sizeof(struct tc_mirred)
	actStolen           = 4    // TC_ACT_STOLEN
	egressRedirect      = 1    // TCA_EGRESS_REDIR

	// psTick is the kernel's unit of time for buckets, in nanoseconds
	// (PSCHED_TICKS2NS).
	psTick = 64
)

// tcObject is what the kernel tells of a qdisc, a class or a filter.
type tcObject struct {
	index          int
	handle, parent uint32
	info           uint32
	kind           string
	options        []byte
	waiting        uint32 // packets, of a class
}

// tcBody is the body of a request about traffic control: a tcmsg, the kind and
// its options.
func tcBody(o tcObject, options func(*netlink.AttributeEncoder)) ([]byte, error) {
	b := make([]byte, 4, 256)
	for _, v := range []uint32{uint32(o.index), o.handle, o.parent, o.info} {
		b = binary.NativeEndian.AppendUint32(b, v)
	}
	return appendAttrs(b, func(e *netlink.AttributeEncoder) {
		if o.kind != "" {
			e.String(unix.TCA_KIND, o.kind)
		}
		switch {
		case o.options != nil:
			e.Bytes(unix.TCA_OPTIONS, o.options)
		case options != nil:
			e.Nested(unix.TCA_OPTIONS, func(e *netlink.AttributeEncoder) error {
				options(e)
				return nil
			})
		}
	})
}

func decodeTC(b []byte) (tcObject, error) {
	if len(b) < tcmsgLen {
		return tcObject{}, errShort
	}
	word := func(at int) uint32 { return binary.NativeEndian.Uint32(b[at:]) }
	o := tcObject{index: int(int32(word(4))), handle: word(8), parent: word(12), info: word(16)}
	d, err := netlink.NewAttributeDecoder(b[tcmsgLen:])
	if err != nil {
		return o, err
	}
	for d.Next() {
		switch d.Type() {
		case unix.TCA_KIND:
			o.kind = d.String()
		case unix.TCA_OPTIONS:
			o.options = d.Bytes()
		case unix.TCA_STATS2:
			d.Nested(func(d *netlink.AttributeDecoder) error {
				for d.Next() {
					if b := d.Bytes(); d.Type() == statsQueue && len(b) >= 4 {
						o.waiting = binary.NativeEndian.Uint32(b)
					}
				}
				return nil
			})
		}
	}
	return o, d.Err()
}

// tcNeeds says which configuration option of the kernel has what is refused as
// unknown.
var tcNeeds = map[string]string{
	"htb": "CONFIG_NET_SCH_HTB", kindFilters: "CONFIG_NET_SCH_INGRESS", "u32": "CONFIG_NET_CLS_U32 and CONFIG_NET_ACT_MIRRED",
	kindIFB: "CONFIG_IFB", kindBPF: "CONFIG_NET_CLS_BPF",
}

// errLacks explains an error that says that the kernel does not know a kind.
func errLacks(kind string, err error) error {
	if option := tcNeeds[kind]; option != "" && (errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP)) {
		return fmt.Errorf("this kernel lacks %s (%s): %w", kind, option, err)
	}
	return err
}

// tc sends a request about traffic control.
func (r *rtnl) tc(typ netlink.HeaderType, flags netlink.HeaderFlags, o tcObject, options func(*netlink.AttributeEncoder)) error {
	body, err := tcBody(o, options)
	if err != nil {
		return err
	}
	return errLacks(o.kind, r.do(typ, flags, body))
}

// tcList lists the classes of a link, or the filters below a parent. There is
// no asking for a qdisc: the kernel would list those of all links, or, asked for
// one, tell everybody who listens, us included.
func (r *rtnl) tcList(typ netlink.HeaderType, index int, parent uint32) ([]tcObject, error) {
	body, err := tcBody(tcObject{index: index, parent: parent}, nil)
	if err != nil {
		return nil, err
	}
	msgs, err := r.dump(typ, body)
	if err != nil {
		return nil, err
	}
	var list []tcObject
	for _, m := range msgs {
		o, err := decodeTC(m.Data)
		if err != nil {
			return nil, err
		}
		list = append(list, o)
	}
	return list, nil
}

// bucket is a rate in bytes a second, and how much may pass at once, in ticks
// of the time that it takes at that rate.
type bucket struct {
	rate  uint64
	ticks uint32
}

// ticksOf is the time that so many bytes take, in the kernel's unit. The kernel
// keeps it in 32 bits, which is four and a half minutes.
func ticksOf(bytes, rate uint64) uint32 {
	t := float64(bytes) * 1e9 / psTick / float64(max(rate, 1))
	return uint32(min(t, 1<<32-1))
}

// size is how many bytes fit into the bucket.
func (b bucket) size() uint64 {
	return uint64(float64(b.ticks)*psTick*float64(b.rate)/1e9 + 0.5)
}

// htbClass is what a class of an HTB qdisc is allowed: its own share, and with
// what it may borrow from its parent.
type htbClass struct{ own, most bucket }

func (c htbClass) encode(quantum uint32) func(*netlink.AttributeEncoder) {
	b := appendRate(make([]byte, 0, htbParmsLen), c.own.rate)
	b = appendRate(b, c.most.rate)
	for _, v := range []uint32{c.own.ticks, c.most.ticks, quantum, 0, 0} {
		b = binary.NativeEndian.AppendUint32(b, v)
	}
	return func(e *netlink.AttributeEncoder) {
		e.Bytes(htbParms, b)
		e.Uint64(htbRate64, c.own.rate)
		e.Uint64(htbCeil64, c.most.rate)
	}
}

func appendRate(b []byte, rate uint64) []byte {
	b = append(b, 0, linklayerEthernet, 0, 0, 0, 0, 0, 0)
	return binary.NativeEndian.AppendUint32(b, uint32(min(rate, 1<<32-1)))
}

func decodeHTBClass(options []byte) (c htbClass, err error) {
	d, err := netlink.NewAttributeDecoder(options)
	if err != nil {
		return c, err
	}
	for d.Next() {
		switch b := d.Bytes(); {
		case d.Type() == htbParms && len(b) >= htbParmsLen:
			word := func(at int) uint32 { return binary.NativeEndian.Uint32(b[at:]) }
			c.own = bucket{max(c.own.rate, uint64(word(8))), word(2 * ratespecLen)}
			c.most = bucket{max(c.most.rate, uint64(word(ratespecLen+8))), word(2*ratespecLen + 4)}
		case d.Type() == htbRate64 && len(b) == 8:
			c.own.rate = d.Uint64()
		case d.Type() == htbCeil64 && len(b) == 8:
			c.most.rate = d.Uint64()
		}
	}
	return c, d.Err()
}

// u32Key matches four bytes of a packet at an offset from its network header.
type u32Key struct {
	mask, value uint32
	offset      int32
}

// matchAll matches every packet.
var matchAll = []u32Key{{}}

// matchMAC matches frames to an Ethernet address, 14 bytes before what it carries.
func matchMAC(m hoststate.MAC) []u32Key {
	return []u32Key{
		{0xffffffff, binary.BigEndian.Uint32(m[:4]), -14},
		{0xffff0000, uint32(binary.BigEndian.Uint16(m[4:])) << 16, -10},
	}
}

func encodeSel(keys []u32Key) []byte {
	b := append(make([]byte, 0, u32SelLen+len(keys)*u32KeyLen), u32Terminal, 0, byte(len(keys)))
	b = append(b, make([]byte, u32SelLen-len(b))...)
	for _, k := range keys {
		b = binary.BigEndian.AppendUint32(b, k.mask)
		b = binary.BigEndian.AppendUint32(b, k.value)
		b = binary.NativeEndian.AppendUint32(b, uint32(k.offset))
		b = binary.NativeEndian.AppendUint32(b, 0)
	}
	return b
}

// macOf is the address that matchMAC matches.
func macOf(sel []byte) (m hoststate.MAC, ok bool) {
	if len(sel) != u32SelLen+2*u32KeyLen {
		return m, false
	}
	copy(m[:4], sel[u32SelLen+4:])
	copy(m[4:], sel[u32SelLen+u32KeyLen+4:])
	want := encodeSel(matchMAC(m))
	// The kernel fills in counters and flags of its own before the keys.
	return m, string(want[u32SelLen:]) == string(sel[u32SelLen:])
}

// u32Options are what is looked at of a u32 filter.
type u32Options struct {
	class    uint32
	sel      []byte
	redirect int // the index of the link that it sends packets to
}

func decodeU32(options []byte) (o u32Options, err error) {
	d, err := netlink.NewAttributeDecoder(options)
	if err != nil {
		return o, err
	}
	for d.Next() {
		switch d.Type() {
		case u32ClassID:
			o.class = d.Uint32()
		case u32Sel:
			o.sel = d.Bytes()
		case u32Act:
			d.Nested(func(d *netlink.AttributeDecoder) error { return decodeRedirect(d, &o.redirect) })
		}
	}
	return o, d.Err()
}

// decodeRedirect reads a list of actions.
func decodeRedirect(d *netlink.AttributeDecoder, index *int) error {
	for d.Next() {
		d.Nested(func(d *netlink.AttributeDecoder) error {
			for d.Next() {
				if d.Type() != actOptions {
					continue
				}
				d.Nested(func(d *netlink.AttributeDecoder) error {
					for d.Next() {
						if b := d.Bytes(); d.Type() == mirredParms && len(b) >= mirredParmsLen {
							*index = int(binary.NativeEndian.Uint32(b[24:]))
						}
					}
					return nil
				})
			}
			return nil
		})
	}
	return nil
}

// redirectTo sends every packet to another link, as if the host sent it there.
func redirectTo(index int) func(*netlink.AttributeEncoder) {
	b := make([]byte, 0, mirredParmsLen)
	for _, v := range []uint32{0, 0, actStolen, 0, 0, egressRedirect, uint32(index)} {
		b = binary.NativeEndian.AppendUint32(b, v)
	}
	nest := func(e *netlink.AttributeEncoder, typ uint16, f func(*netlink.AttributeEncoder)) {
		e.Nested(typ, func(e *netlink.AttributeEncoder) error {
			f(e)
			return nil
		})
	}
	return func(e *netlink.AttributeEncoder) {
		e.Bytes(u32Sel, encodeSel(matchAll))
		nest(e, u32Act, func(e *netlink.AttributeEncoder) {
			nest(e, 1, func(e *netlink.AttributeEncoder) {
				e.String(actKind, "mirred")
				nest(e, actOptions, func(e *netlink.AttributeEncoder) { e.Bytes(mirredParms, b) })
			})
		})
	}
}
