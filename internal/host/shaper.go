package host

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"viaduct/internal/hoststate"
)

// A shaper is an ifb device that has an HTB qdisc as its root, and a filter that
// leads what goes over a link in one direction round by it. HTB as the root of
// the link itself would do for what the host sends; but the kernel drops what is
// sent while it puts another root in place, for which it waits for all cores. A
// filter comes and goes between two packets.
const (
	kindIFB        = "ifb"
	ifbAliasPrefix = aliasPrefix + " shaper "
	inet6NoAddress = 1 // IN6_ADDR_GEN_MODE_NONE

	// drainLimit is how long what waits for a limit that goes away may take to
	// leave, and drainPace how often is looked whether it has. HTB keeps a packet
	// until the one before is paid for at the old rate, which takes longer only
	// where 64 KiB, the largest packet, take longer than that.
	drainLimit, drainPace = time.Second, time.Millisecond
)

// directions are those of shapers, with what begins the names of their devices.
var directions = []struct {
	incoming     bool
	name, prefix string
}{{true, "in", "ifbi-"}, {false, "out", "ifbo-"}}

// shaperApplier limits what goes over links.
type shaperApplier struct {
	rtnl   *rtnl
	mirror *mirror
	log    *slog.Logger

	mu   sync.Mutex
	leaf int // of leafKinds: those before it are known to be missing
}

func (a *shaperApplier) Kinds() []hoststate.Kind { return []hoststate.Kind{hoststate.KindShaper} }

// OneByOne implements sequential.
func (a *shaperApplier) OneByOne() {}

// Observe asks the kernel. Only networks with limits look for any, so others
// pay nothing for it.
func (a *shaperApplier) Observe(keys []hoststate.Key) hoststate.State {
	s := hoststate.State{}
	for _, k := range keys {
		link, direction, _ := strings.Cut(k.Name, " ")
		for _, d := range directions {
			if d.name == direction {
				if o, ok := a.look(link, d.incoming); ok {
					s.Add(o)
				}
			}
		}
	}
	return s
}

// Owned returns all shapers that are ours.
func (a *shaperApplier) Owned() hoststate.State {
	var keys []hoststate.Key
	a.mirror.now(func() {
		for _, l := range a.mirror.links {
			if key, ok := l.shapes(); ok {
				keys = append(keys, key)
			}
		}
	})
	return a.Observe(keys)
}

// ifbName is the name of the device that shapes what goes over a link.
func ifbName(link string, incoming bool) string {
	prefix := ""
	for _, d := range directions {
		if d.incoming == incoming {
			prefix = d.prefix
		}
	}
	if name := prefix + link; len(name) <= maxLinkName {
		return name
	}
	h := fnv.New64a()
	h.Write([]byte(link))
	return fmt.Sprintf("%s%010x", prefix, h.Sum64()>>24)
}

// maxLinkName is the length of the longest name of a link (IFNAMSIZ - 1).
const maxLinkName = 15

// ifbAlias tells of what shaper a device is.
func ifbAlias(k hoststate.Key) string { return ifbAliasPrefix + k.Name }

// shapes returns the key of the shaper that l is the device of, if it is ours.
// One that was cut short has no alias yet.
func (l link) shapes() (key hoststate.Key, ok bool) {
	if l.kind != kindIFB || !l.ours() {
		return key, false
	}
	if name, ok := strings.CutPrefix(l.alias, ifbAliasPrefix); ok {
		return hoststate.Key{Kind: hoststate.KindShaper, Name: name}, true
	}
	for _, d := range directions {
		if base, ok := strings.CutPrefix(l.name, d.prefix); ok {
			return hoststate.ShaperKey(base, d.incoming), true
		}
	}
	return key, false
}

// device is the device of a shaper, if there is one and it is ours.
func (a *shaperApplier) device(name string, incoming bool) (link, bool) {
	l, ok := a.mirror.link(ifbName(name, incoming))
	key, ours := l.shapes()
	return l, ok && ours && key == hoststate.ShaperKey(name, incoming)
}

// look reads a shaper of a link.
func (a *shaperApplier) look(name string, incoming bool) (hoststate.Shaper, bool) {
	s := hoststate.Shaper{Link: name, Incoming: incoming}
	ifb, ok := a.device(name, incoming)
	if !ok {
		return s, false
	}
	l, exists := a.mirror.link(name)
	redirected := false
	if exists {
		_, redirected = a.redirect(l.index, incoming, ifb.index)
	}
	switch {
	case !a.readTree(ifb.index, &s):
		s.Fault = "not limited"
	case !redirected:
		s.Fault = "not redirected"
	case !ifb.up:
		s.Fault = ifb.name + " is down"
	case ifb.alias != ifbAlias(s.Key()):
		s.Fault = ifb.name + " has no alias"
	}
	return s, true
}

// shaperSatisfies is satisfies for shapers: the kernel keeps a burst in units of time.
func shaperSatisfies(h, w hoststate.Shaper) bool {
	w.Burst = bucket{w.Average, ticksOf(w.Burst, w.Average)}.size()
	return hoststate.Equal(h, w)
}

func (a *shaperApplier) Apply(_ context.Context, ops []hoststate.Op) error {
	for _, op := range ops {
		if err := a.apply(op); err != nil {
			return &OpError{Op: op, Err: err}
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
	ifb, err := a.makeIFB(s)
	if err == nil {
		err = a.makeTree(ifb.index, s)
	}
	if err != nil {
		return err
	}
	return a.makeRedirect(l, s.Incoming, ifb.index)
}

// remove takes a limit away. What waits for it goes on its way first.
func (a *shaperApplier) remove(s hoststate.Shaper) error {
	l, exists := a.mirror.link(s.Link)
	ifb, limited := a.device(s.Link, s.Incoming)
	if exists {
		if limited && a.carries(l) {
			a.liftTree(ifb.index)
		}
		if err := a.removeRedirect(l, s.Incoming); err != nil {
			return err
		}
	}
	if !limited {
		return nil
	}
	if exists && a.carries(l) {
		a.drain(ifb)
	}
	body, err := linkBody(ifb.index, 0, 0, nil)
	if err != nil {
		return err
	}
	return allow(a.rtnl.do(unix.RTM_DELLINK, 0, body), unix.ENODEV)
}

// carries reports whether anything goes over a link: it, and the bridge that it
// may be a port of, are up.
func (a *shaperApplier) carries(l link) (carries bool) {
	a.mirror.now(func() {
		master, isPort := a.mirror.links[l.master]
		carries = l.up && (!isPort || master.up)
	})
	return carries
}

// drain waits until a device has passed on what was led to it.
func (a *shaperApplier) drain(ifb link) {
	for deadline := time.Now().Add(drainLimit); time.Now().Before(deadline); time.Sleep(drainPace) {
		waiting, err := a.waiting(ifb.index)
		if err != nil || waiting > 0 {
			continue
		}
		c, err := a.rtnl.counters(ifb.index)
		if err == nil && c.In.Packets-c.In.Drops[dropped] == c.Out.Packets {
			return
		}
	}
}

// renameUp gives the devices of a link's shapers the names that go with another
// name of the link.
func (a *shaperApplier) renameUp(old, name string) error {
	for _, d := range directions {
		ifb, ok := a.device(old, d.incoming)
		if !ok {
			continue
		}
		body, err := linkBody(ifb.index, 0, 0, func(e *netlink.AttributeEncoder) {
			e.String(unix.IFLA_IFNAME, ifbName(name, d.incoming))
			e.String(unix.IFLA_IFALIAS, ifbAlias(hoststate.ShaperKey(name, d.incoming)))
		})
		if err == nil {
			err = a.rtnl.do(unix.RTM_SETLINK, 0, body)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// makeIFB makes the device of a shaper.
func (a *shaperApplier) makeIFB(s hoststate.Shaper) (link, error) {
	name := ifbName(s.Link, s.Incoming)
	l, exists := a.mirror.link(name)
	if !exists {
		shaped, _ := a.mirror.link(s.Link)
		body, err := linkBody(0, 0, 0, func(e *netlink.AttributeEncoder) {
			e.String(unix.IFLA_IFNAME, name)
			if shaped.mac != (hoststate.MAC{}) {
				e.Bytes(unix.IFLA_ADDRESS, shaped.mac[:]) // or it would have another each time
			}
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
	if found, ours := l.shapes(); !ours || found != s.Key() && l.alias != "" {
		return l, errNotOurs(l)
	}
	alias := ifbAlias(s.Key())
	if l.up && l.alias == alias {
		return l, nil
	}
	// The kernel sets a link up before it reads the rest of a request, and would
	// make it an address; so that comes by a request of its own.
	body, err := linkBody(l.index, 0, 0, func(e *netlink.AttributeEncoder) {
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
	up, err := linkBody(l.index, unix.IFF_UP, unix.IFF_UP, nil)
	if err != nil {
		return l, err
	}
	for _, body := range [][]byte{body, up} {
		if err := a.rtnl.do(unix.RTM_SETLINK, 0, body); err != nil {
			return l, err
		}
	}
	return l, nil
}
