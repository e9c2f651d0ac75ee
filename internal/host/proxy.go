package host

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"viaduct/internal/hoststate"
)

// proxyApplier observes and changes the addresses for which links answer. The
// kernel does not announce their changes, so they are read when they are asked
// for; there are as many as guests with such an address.
type proxyApplier struct {
	rtnl   *rtnl
	mirror *mirror
}

func (*proxyApplier) Kinds() []hoststate.Kind { return []hoststate.Kind{hoststate.KindProxy} }

// Owned is empty: the kernel does not tell who has made one.
func (*proxyApplier) Owned() hoststate.State { return hoststate.State{} }

// OneByOne implements sequential.
func (*proxyApplier) OneByOne() {}

func (a *proxyApplier) Observe(keys []hoststate.Key) hoststate.State {
	s := hoststate.State{}
	if len(keys) == 0 {
		return s
	}
	msgs, err := a.rtnl.dump(unix.RTM_GETNEIGH, neighbourHeader(unix.AF_UNSPEC, 0))
	if err != nil {
		return s
	}
	all := hoststate.State{}
	for _, m := range msgs {
		index, addr, ok := decodeProxy(m.Data)
		if !ok {
			continue
		}
		a.mirror.now(func() { all.Add(hoststate.Proxy{Link: a.mirror.links[index].name, Addr: addr}) })
	}
	for _, k := range keys {
		if o, ok := all[k]; ok {
			s[k] = o
		}
	}
	return s
}

func (a *proxyApplier) Apply(_ context.Context, ops []hoststate.Op) error {
	for _, op := range ops {
		if err := a.apply(op); err != nil {
			return &OpError{Op: op, Err: err}
		}
	}
	return nil
}

func (a *proxyApplier) apply(op hoststate.Op) error {
	p, ok := op.Object().(hoststate.Proxy)
	if !ok {
		return fmt.Errorf("not a proxy: %T", op.Object())
	}
	l, exists := a.mirror.link(p.Link)
	if !exists {
		if op.Verb == hoststate.Delete {
			return nil
		}
		return errVanished(p.Link)
	}
	family := uint8(unix.AF_INET)
	if p.Addr.Is6() {
		family = unix.AF_INET6
	}
	body, err := appendAttrs(neighbourHeader(family, l.index), func(e *netlink.AttributeEncoder) {
		e.Bytes(unix.NDA_DST, p.Addr.AsSlice())
	})
	if err != nil {
		return err
	}
	if op.Verb == hoststate.Delete {
		return allow(a.rtnl.do(unix.RTM_DELNEIGH, 0, body), unix.ENOENT, unix.ENODEV, unix.ENXIO)
	}
	return a.rtnl.do(unix.RTM_NEWNEIGH, netlink.Create|netlink.Replace, body)
}

const ndmsgLen = 12 // sizeof(struct ndmsg)

// neighbourHeader is an ndmsg about a proxy.
func neighbourHeader(family uint8, index int) []byte {
	b := append(make([]byte, 0, 64), family, 0, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, uint32(index))
	return append(b, 0, 0, unix.NTF_PROXY, 0)
}

// decodeProxy reads an RTM_NEWNEIGH. It is not ok if it tells of no proxy.
func decodeProxy(b []byte) (index int, addr netip.Addr, ok bool) {
	if len(b) < ndmsgLen || b[10]&unix.NTF_PROXY == 0 {
		return 0, addr, false
	}
	d, err := netlink.NewAttributeDecoder(b[ndmsgLen:])
	if err != nil {
		return 0, addr, false
	}
	for d.Next() {
		if d.Type() == unix.NDA_DST {
			addr, ok = netip.AddrFromSlice(d.Bytes())
		}
	}
	return int(int32(binary.NativeEndian.Uint32(b[4:]))), addr, ok && d.Err() == nil
}
