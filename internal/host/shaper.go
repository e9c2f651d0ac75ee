package host

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"viaduct/internal/hoststate"
)

// How a shaper is made: an HTB qdisc as the link's root, with one class for all
// and below it one for what has no other, and one for each floor. What comes
// in by a link goes round by an ifb device that has such a qdisc, because the
// kernel lets packets wait only on their way out.
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

	kindIFB        = "ifb"
	ifbPrefix      = "ifb-"
	ifbAliasPrefix = aliasPrefix + " shaper "
	inet6NoAddress = 1 // IN6_ADDR_GEN_MODE_NONE
)

// leafKinds are the qdiscs in which packets wait, the best first. The last one
// is in every kernel.
var leafKinds = [...]string{"fq_codel", "sfq", "bfifo"}

// shaperApplier limits what goes over links.
type shaperApplier struct {
	rtnl   *rtnl
	mirror *mirror
	log    *slog.Logger

	mu   sync.Mutex
	leaf int // of leafKinds: those before it are known to be missing
}

func (a *shaperApplier) Kinds() []hoststate.Kind { return []hoststate.Kind{hoststate.KindShaper} }

// oneByOne implements sequential.
func (a *shaperApplier) oneByOne() {}

// Observe asks the kernel. Only networks with limits look for any, so others
// pay nothing for it.
func (a *shaperApplier) Observe(keys []hoststate.Key) hoststate.State {
	s := hoststate.State{}
	for _, k := range keys {
		link, direction, _ := strings.Cut(k.Name, " ")
		observe := a.outgoing
		if direction == "in" {
			observe = a.incoming
		}
		if o, ok := observe(link); ok {
			s.Add(o)
		}
	}
	return s
}

// Owned returns the shapers whose devices are ours. Others go with their links.
func (a *shaperApplier) Owned() hoststate.State {
	var links []string
	a.mirror.now(func() {
		for _, l := range a.mirror.links {
			if base, ok := l.shapes(); ok {
				links = append(links, base)
			}
		}
	})
	s := hoststate.State{}
	for _, link := range links {
		if o, ok := a.incoming(link); ok {
			s.Add(o)
		}
	}
	return s
}

// ifbName is the name of the device that shapes what comes in by a link.
func ifbName(link string) string {
	if name := ifbPrefix + link; len(name) <= maxLinkName {
		return name
	}
	h := fnv.New64a()
	h.Write([]byte(link))
	return fmt.Sprintf("%s%011x", ifbPrefix, h.Sum64()>>20)
}

// maxLinkName is the length of the longest name of a link (IFNAMSIZ - 1).
const maxLinkName = 15

// shapes returns the link whose incoming traffic goes round by l, if l is a
// device for that and ours. One that was cut short has no alias yet.
func (l link) shapes() (base string, ok bool) {
	if l.kind != kindIFB || !l.ours() {
		return "", false
	}
	if base, ok = strings.CutPrefix(l.alias, ifbAliasPrefix); ok {
		return base, true
	}
	return strings.CutPrefix(l.name, ifbPrefix)
}

// outgoing reads the shaper of what the host sends by a link.
func (a *shaperApplier) outgoing(name string) (hoststate.Shaper, bool) {
	s := hoststate.Shaper{Link: name}
	l, ok := a.mirror.link(name)
	if !ok {
		return s, false
	}
	return s, a.readTree(l.index, &s)
}

// incoming reads the shaper of what comes in by a link.
func (a *shaperApplier) incoming(name string) (hoststate.Shaper, bool) {
	s := hoststate.Shaper{Link: name, Incoming: true}
	ifb, ok := a.mirror.link(ifbName(name))
	if base, ours := ifb.shapes(); !ok || !ours || base != name {
		return s, false
	}
	l, exists := a.mirror.link(name)
	redirected := false
	if exists {
		_, redirected = a.redirect(l.index, ifb.index)
	}
	switch {
	case !a.readTree(ifb.index, &s):
		s.Fault = "not limited"
	case !redirected:
		s.Fault = "not redirected"
	case !ifb.up:
		s.Fault = ifb.name + " is down"
	case ifb.alias != ifbAliasPrefix+name:
		s.Fault = ifb.name + " has no alias"
	}
	return s, true
}

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

// shaperSatisfies is satisfies for shapers: the kernel keeps a burst in units of time.
func shaperSatisfies(h, w hoststate.Shaper) bool {
	w.Burst = bucket{w.Average, ticksOf(w.Burst, w.Average)}.size()
	return hoststate.Equal(h, w)
}

func (a *shaperApplier) Apply(_ context.Context, ops []hoststate.Op) error {
	for _, op := range ops {
		if err := a.apply(op); err != nil {
			return &OpError{op, err}
		}
	}
	return nil
}

// apply makes the kernel have the shaper. If it fails, it goes back.
func (a *shaperApplier) apply(op hoststate.Op) error {
	want, ok := op.New.(hoststate.Shaper)
	if !ok {
		return a.remove(op.Old.(hoststate.Shaper))
	}
	err := a.make(want)
	if err == nil {
		return nil
	}
	if old, ok := op.Old.(hoststate.Shaper); ok && old.Fault == "" {
		return errors.Join(err, a.make(old))
	}
	return errors.Join(err, a.remove(want))
}

func (a *shaperApplier) make(s hoststate.Shaper) error {
	for _, f := range s.Floors {
		if f.Class <= classRest&0xffff || f.Class > maxClass {
			return fmt.Errorf("class %d is not between 3 and %d", f.Class, maxClass)
		}
	}
	l, ok := a.mirror.link(s.Link)
	if !ok {
		return errVanished(s.Link)
	}
	if !s.Incoming {
		return a.makeTree(l.index, s)
	}
	ifb, err := a.makeIFB(s.Link)
	if err == nil {
		err = a.makeTree(ifb.index, s)
	}
	if err != nil {
		return err
	}
	return a.makeRedirect(l, ifb.index)
}

func (a *shaperApplier) remove(s hoststate.Shaper) error {
	l, exists := a.mirror.link(s.Link)
	if !s.Incoming {
		if !exists {
			return nil
		}
		return a.removeTree(l.index)
	}
	if exists {
		if err := a.removeRedirect(l.index); err != nil {
			return err
		}
	}
	ifb, ok := a.mirror.link(ifbName(s.Link))
	if base, ours := ifb.shapes(); !ok || !ours || base != s.Link {
		return nil
	}
	body, err := linkBody(ifb.index, 0, 0, nil)
	if err != nil {
		return err
	}
	return allow(a.rtnl.do(unix.RTM_DELLINK, 0, body), unix.ENODEV)
}

// makeIFB makes the device that shapes what comes in by a link.
func (a *shaperApplier) makeIFB(base string) (link, error) {
	name := ifbName(base)
	l, exists := a.mirror.link(name)
	if !exists {
		body, err := linkBody(0, 0, 0, func(e *netlink.AttributeEncoder) {
			e.String(unix.IFLA_IFNAME, name)
			e.Uint32(unix.IFLA_GROUP, ownGroup)
			e.Nested(unix.IFLA_LINKINFO, func(e *netlink.AttributeEncoder) error {
				e.String(unix.IFLA_INFO_KIND, kindIFB)
				return nil
			})
		})
		if err == nil {
			err = allow(a.rtnl.do(unix.RTM_NEWLINK, netlink.Create|netlink.Excl, body), unix.EEXIST)
		}
		if err != nil {
			return l, errLacks(kindIFB, err)
		}
		if l, exists = a.mirror.link(name); !exists {
			return l, errVanished(name)
		}
	}
	if found, ours := l.shapes(); !ours || found != base && l.alias != "" {
		return l, errNotOurs(l)
	}
	alias := ifbAliasPrefix + base
	if l.up && l.alias == alias {
		return l, nil
	}
	body, err := linkBody(l.index, unix.IFF_UP, unix.IFF_UP, func(e *netlink.AttributeEncoder) {
		e.String(unix.IFLA_IFALIAS, alias)
		e.Nested(unix.IFLA_AF_SPEC, func(e *netlink.AttributeEncoder) error {
			e.Nested(unix.AF_INET6, func(e *netlink.AttributeEncoder) error {
				e.Uint8(unix.IFLA_INET6_ADDR_GEN_MODE, inet6NoAddress)
				return nil
			})
			return nil
		})
	})
	if err != nil {
		return l, err
	}
	if err := a.rtnl.do(unix.RTM_SETLINK, 0, body); err != nil {
		return l, err
	}
	return l, nil
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

func (a *shaperApplier) makeClass(index int, id uint32, have tree, want htbClass) error {
	if have.classes[id] != want {
		parent := uint32(classAll)
		if id == classAll {
			parent = shaperHandle
		}
		err := a.rtnl.tc(unix.RTM_NEWTCLASS, netlink.Create, tcObject{index: index, handle: id, parent: parent, kind: "htb"}, want.encode(want.quantum()))
		if err != nil {
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
		index: index, parent: shaperHandle, handle: 0x80000000 | class&0xfff, kind: "u32", info: shaperPrio | uint32(networkOrder(unix.ETH_P_ALL)),
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

// redirect looks for our filter on what comes in by a link: whether there is
// one, and whether it leads to that device.
func (a *shaperApplier) redirect(index, to int) (exists, right bool) {
	filters, err := a.rtnl.tcList(unix.RTM_GETTFILTER, index, ingressSide)
	if err != nil {
		return false, false
	}
	for _, f := range filters {
		if f.info&0xffff0000 != shaperPrio {
			continue
		}
		exists = true
		if index, err := redirectsTo(f); err == nil && index == to {
			right = true
		}
	}
	return exists, right
}

func (a *shaperApplier) makeRedirect(l link, to int) error {
	index := l.index
	exists, right := a.redirect(index, to)
	if right {
		return nil
	}
	err := a.rtnl.tc(unix.RTM_NEWQDISC, netlink.Create|netlink.Excl,
		tcObject{index: index, handle: ingressQdisc, parent: tcIngress, kind: "ingress"}, nil)
	if err := allow(err, unix.EEXIST); err != nil {
		return err
	}
	o := tcObject{index: index, parent: ingressSide, info: shaperPrio | uint32(networkOrder(unix.ETH_P_ALL)), kind: "u32"}
	if exists { // it leads to a device that is gone
		o.kind = ""
		if err := a.rtnl.tc(unix.RTM_DELTFILTER, 0, o, nil); err != nil {
			return err
		}
		o.kind = "u32"
	}
	if l.kind == kindBridge {
		return a.makeBridgeRedirect(o, to)
	}
	return a.rtnl.tc(unix.RTM_NEWTFILTER, netlink.Create|netlink.Excl, o, redirectTo(to))
}

// removeRedirect removes our filter, and the qdisc it is in unless somebody else
// has filters there.
func (a *shaperApplier) removeRedirect(index int) error {
	if exists, _ := a.redirect(index, 0); !exists {
		return nil
	}
	o := tcObject{index: index, parent: ingressSide, info: shaperPrio | uint32(networkOrder(unix.ETH_P_ALL))}
	err := allow(a.rtnl.tc(unix.RTM_DELTFILTER, 0, o, nil), unix.ENOENT, unix.ENODEV, unix.EINVAL)
	if err != nil {
		return err
	}
	others, err := a.rtnl.tcList(unix.RTM_GETTFILTER, index, ingressSide)
	if err != nil || len(others) > 0 {
		return allow(err, unix.ENODEV, unix.EINVAL)
	}
	o = tcObject{index: index, handle: ingressQdisc, parent: tcIngress, kind: "ingress"}
	return allow(a.rtnl.tc(unix.RTM_DELQDISC, 0, o, nil), unix.ENODEV, unix.ENOENT, unix.EINVAL)
}
