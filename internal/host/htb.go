package host

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"viaduct/internal/host/nl"
	"viaduct/internal/hoststate"
)

// The HTB qdisc of a shaper has one class for all and below it one for what has
// no other, and one for each floor.
const (
	shaperHandle = 0x76690000 // "vi": the qdisc is ours
	classAll     = shaperHandle | 1
	classRest    = shaperHandle | 2
	// maxClass is the largest number of a class that fits into a u32 filter's
	// handle, and into that of a leaf.
	maxClass = 0xffe
	// leafHandles is the first of the handles of our leaves, which tell the kind
	// of the leaf and its class.
	leafHandles = 0x40000000

	// shaperPrio is the priority of our filters: everybody else's come first.
	shaperPrio = 0x7669 << 16
)

// leafKinds are the qdiscs in which packets wait, the best first. The last one
// is in every kernel.
var leafKinds = [...]string{"fq_codel", "sfq", "bfifo"}

// tree is what an HTB qdisc of ours has in it.
type tree struct {
	classes map[uint32]htbClass
	leaves  map[uint32]uint32        // handles by class
	filters map[uint32]hoststate.MAC // by class
}

// read reads the tree on a link, if its root is ours.
func (a *shaperApplier) read(index int) (t tree, ok bool, err error) {
	classes, err := a.rtnl.tcList(unix.RTM_GETTCLASS, index, 0)
	if err != nil {
		return t, false, err
	}
	t = tree{map[uint32]htbClass{}, map[uint32]uint32{}, map[uint32]hoststate.MAC{}}
	for _, o := range classes {
		if o.kind != "htb" || o.handle&0xffff0000 != shaperHandle {
			continue
		}
		t.leaves[o.handle] = o.info
		if t.classes[o.handle], err = decodeHTBClass(o.options); err != nil {
			return t, false, err
		}
	}
	if len(t.classes) == 0 {
		return t, false, nil
	}
	filters, err := a.rtnl.tcList(unix.RTM_GETTFILTER, index, shaperHandle)
	for _, o := range filters {
		if u, err := decodeU32(o.options); err == nil && o.kind == "u32" && u.class != 0 {
			if mac, ok := macOf(u.sel); ok {
				t.filters[u.class] = mac
			}
		}
	}
	return t, true, err
}

// readTree fills in what the tree on a link says, and reports whether there is one.
func (a *shaperApplier) readTree(index int, s *hoststate.Shaper) bool {
	t, ok, err := a.read(index)
	if !ok {
		return false
	}
	all := t.classes[classAll]
	s.Average, s.Peak, s.Burst = all.own.rate, all.most.rate, all.own.size()
	for id := range t.classes {
		if id != classAll && id != classRest {
			s.Floors = append(s.Floors, hoststate.Floor{Class: uint16(id), MAC: t.filters[id], Rate: t.classes[id].own.rate})
		}
	}
	slices.SortFunc(s.Floors, func(a, b hoststate.Floor) int { return cmp.Compare(a.Class, b.Class) })
	want := classesOf(*s)
	for id, c := range want {
		switch {
		case t.classes[id] != c:
			s.Fault = fmt.Sprintf("class %d is not as it should be", id&0xffff)
		case id != classAll && !fineLeaf(id, t.leaves[id]):
			s.Fault = fmt.Sprintf("the queue of class %d is not as it should be", id&0xffff)
		}
	}
	if err != nil {
		s.Fault = err.Error()
	}
	return true
}

// slack is what may pass at once of a rate that is not given a burst: what it
// allows in 10 ms, since the kernel may be late by some of them, and never less
// than two frames.
func slack(rate uint64) uint64 { return max(rate/100, 2*1600) }

// minShare is the share of what has no floor if floors take up everything, in
// bytes a second.
const minShare = 1024

// classesOf lists the classes of a shaper.
func classesOf(s hoststate.Shaper) map[uint32]htbClass {
	own := func(rate, burst uint64) bucket { return bucket{rate, ticksOf(burst, rate)} }
	most := own(s.Peak, slack(s.Peak))
	rest := s.Average
	list := map[uint32]htbClass{classAll: {own(s.Average, s.Burst), most}}
	for _, f := range s.Floors {
		list[shaperHandle|uint32(f.Class)] = htbClass{own(f.Rate, slack(f.Rate)), most}
		rest -= min(rest, f.Rate)
	}
	rest = max(rest, minShare)
	list[classRest] = htbClass{own(rest, slack(rest)), most}
	return list
}

// quantum is how many bytes a class sends before its sibling's turn: classes
// borrow in proportion to their own rates.
func (c htbClass) quantum() uint32 { return uint32(min(max(c.own.rate/100, 1600), 200_000)) }

// Bounds of a queue that drops by length only, in bytes: an eighth of a second
// of the rate, and some of the large packets that offloading makes.
const minQueue, maxQueue = 192 << 10, 4 << 20

func queueOf(c htbClass) uint32 { return uint32(min(max(c.most.rate/8, minQueue), maxQueue)) }

// leafHandle is the handle of a class' leaf.
func leafHandle(class uint32, kind int) uint32 {
	return leafHandles + uint32(kind)<<28 + class&0xfff<<16
}

// fineLeaf reports whether the leaf of a class is one of ours.
func fineLeaf(class, leaf uint32) bool {
	for kind := range leafKinds {
		if leaf == leafHandle(class, kind) {
			return true
		}
	}
	return false
}

// removeTree removes the root of a link if it is ours.
func (a *shaperApplier) removeTree(index int) error {
	err := a.rtnl.tc(unix.RTM_DELQDISC, 0, tcObject{index: index, handle: shaperHandle, parent: tcRoot}, nil)
	return allow(err, unix.ENODEV, unix.ENOENT, unix.EINVAL)
}

// makeTree makes the tree on a link say what the shaper says. What it says
// already is left alone, so that no packet is lost when only a rate changes.
func (a *shaperApplier) makeTree(index int, s hoststate.Shaper) error {
	have, ok, err := a.read(index)
	if err != nil {
		return err
	}
	if !ok {
		// There may be a root without classes.
		if err := a.removeTree(index); err != nil {
			return err
		}
		err := a.rtnl.tc(unix.RTM_NEWQDISC, netlink.Create|netlink.Replace,
			tcObject{index: index, handle: shaperHandle, parent: tcRoot, kind: "htb"}, func(e *netlink.AttributeEncoder) {
				b := binary.NativeEndian.AppendUint32(nil, htbVersion)
				for _, v := range []uint32{htbR2Q, classRest & 0xffff, 0, 0} {
					b = binary.NativeEndian.AppendUint32(b, v)
				}
				e.Bytes(htbInit, b)
			})
		if err != nil {
			return err
		}
	}
	want := classesOf(s)
	ids := make([]uint32, 0, len(want))
	for id := range want {
		ids = append(ids, id)
	}
	slices.Sort(ids) // parents first
	for _, id := range ids {
		if err := a.makeClass(index, id, have, want[id]); err != nil {
			return err
		}
	}
	for _, f := range s.Floors {
		id := shaperHandle | uint32(f.Class)
		if have.filters[id] != f.MAC {
			if err := a.filter(index, id, have, f.MAC); err != nil {
				return err
			}
		}
	}
	for id := range have.classes {
		if _, wanted := want[id]; wanted {
			continue
		}
		if err := a.filter(index, id, have, hoststate.MAC{}); err != nil {
			return err
		}
		if err := a.rtnl.tc(unix.RTM_DELTCLASS, 0, tcObject{index: index, handle: id}, nil); err != nil {
			return err
		}
	}
	return nil
}

// lifted is what a class is allowed that is to hold nothing back, which is more
// than memory carries.
var lifted = func() htbClass {
	all := bucket{1 << 36, ticksOf(slack(1<<36), 1<<36)}
	return htbClass{all, all}
}()

// liftTree lets what waits in a tree go.
func (a *shaperApplier) liftTree(index int) {
	t, _, err := a.read(index)
	if err != nil {
		return // then it goes at the old rate
	}
	for id := range t.classes {
		if err := a.setClass(index, id, lifted); err != nil {
			return
		}
	}
}

// waiting is how many packets wait in the tree on a link.
func (a *shaperApplier) waiting(index int) (n uint32, err error) {
	classes, err := a.rtnl.tcList(unix.RTM_GETTCLASS, index, 0)
	for _, o := range classes {
		n += o.waiting
	}
	return n, err
}

func (a *shaperApplier) setClass(index int, id uint32, c htbClass) error {
	parent := uint32(classAll)
	if id == classAll {
		parent = shaperHandle
	}
	return a.rtnl.tc(unix.RTM_NEWTCLASS, netlink.Create, tcObject{index: index, handle: id, parent: parent, kind: "htb"}, c.encode(c.quantum()))
}

func (a *shaperApplier) makeClass(index int, id uint32, have tree, want htbClass) error {
	if have.classes[id] != want {
		if err := a.setClass(index, id, want); err != nil {
			return err
		}
	}
	if id == classAll || have.classes[id] == want && fineLeaf(id, have.leaves[id]) {
		return nil
	}
	return a.makeLeaf(index, id, want)
}

// makeLeaf gives a class the best queue that the kernel has.
func (a *shaperApplier) makeLeaf(index int, class uint32, c htbClass) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for {
		leaf := tcObject{index: index, handle: leafHandle(class, a.leaf), parent: class, kind: leafKinds[a.leaf]}
		last := a.leaf == len(leafKinds)-1
		if last {
			leaf.options = binary.NativeEndian.AppendUint32(nil, queueOf(c))
		}
		err := a.rtnl.tc(unix.RTM_NEWQDISC, netlink.Create|netlink.Replace, leaf, nil)
		if last || !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EOPNOTSUPP) {
			return err
		}
		if a.leaf++; a.leaf == len(leafKinds)-1 {
			a.log.Info("this kernel has neither fq_codel nor sfq (CONFIG_NET_SCH_FQ_CODEL, CONFIG_NET_SCH_SFQ): " +
				"the connections of a limited guest share one queue, so they may wait for each other")
		}
	}
}

// filter gives a class the frames to a guest, or with the zero address none.
func (a *shaperApplier) filter(index int, class uint32, have tree, mac hoststate.MAC) error {
	o := tcObject{
		index: index, parent: shaperHandle, handle: 0x80000000 | class&0xfff, kind: "u32", info: shaperPrio | uint32(nl.NetworkOrder(unix.ETH_P_ALL)),
	}
	if _, exists := have.filters[class]; exists {
		if err := a.rtnl.tc(unix.RTM_DELTFILTER, 0, o, nil); err != nil {
			return err
		}
	}
	if mac == (hoststate.MAC{}) {
		return nil
	}
	return a.rtnl.tc(unix.RTM_NEWTFILTER, netlink.Create|netlink.Excl, o, func(e *netlink.AttributeEncoder) {
		e.Uint32(u32ClassID, class)
		e.Bytes(u32Sel, encodeSel(matchMAC(mac)))
	})
}
