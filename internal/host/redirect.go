package host

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"viaduct/internal/host/nl"
)

// What comes in by a bridge has been through the bridge's own hooks, which may
// have found the packet's connection already (bridge-nf-call-iptables). The
// mirred action makes a packet forget that, and nobody finds it again. So what
// leads packets of a bridge to another device is a program of four instructions,
// which leaves them as they are.

// Numbers of linux/bpf.h and pkt_cls.h that x/sys lacks.
const (
	bpfMove64, bpfCall, bpfExit = 0xb7, 0x85, 0x95
	bpfRedirect                 = 23 // BPF_FUNC_redirect
	bpfInsnLen                  = 8  // sizeof(struct bpf_insn)

	clsBPFFd, clsBPFName, clsBPFFlags = 6, 7, 8 // TCA_BPF_*
	clsBPFDirect                      = 1       // TCA_BPF_FLAG_ACT_DIRECT
)

// redirectName begins the name of our programs; the index of the device to
// which they lead follows.
const redirectName = "viaduct to "

// redirectProgram loads a program that sends every packet to a device. Whoever
// attaches it keeps it, so the file can be closed then.
func redirectProgram(index int) (fd int, err error) {
	var code []byte
	for _, i := range []struct {
		op, register byte
		value        int
	}{{bpfMove64, 1, index}, {bpfMove64, 2, 0}, {bpfCall, 0, bpfRedirect}, {bpfExit, 0, 0}} {
		register := i.register
		if isBigEndian {
			register <<= 4
		}
		code = append(code, i.op, register, 0, 0)
		code = binary.NativeEndian.AppendUint32(code, uint32(i.value))
	}
	licence := []byte("Apache-2.0\x00")
	attr := struct {
		kind, count          uint32
		code, licence        uint64
		logLevel, logSize    uint32
		log                  uint64
		kernelVersion, flags uint32
		name                 [16]byte
	}{
		kind: unix.BPF_PROG_TYPE_SCHED_CLS, count: uint32(len(code) / bpfInsnLen),
		code: uint64(uintptr(unsafe.Pointer(&code[0]))), licence: uint64(uintptr(unsafe.Pointer(&licence[0]))),
	}
	r, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	runtime.KeepAlive(code)
	runtime.KeepAlive(licence)
	switch errno {
	case 0:
		return int(r), nil
	case unix.ENOSYS:
		return -1, fmt.Errorf("this kernel lacks bpf (CONFIG_BPF_SYSCALL): %w", errno)
	case unix.EPERM:
		return -1, fmt.Errorf("load a program that redirects packets, which needs CAP_BPF: %w", errno)
	}
	return -1, fmt.Errorf("load a program that redirects packets: %w", errno)
}

var isBigEndian = binary.NativeEndian.Uint16([]byte{0, 1}) == 1

// redirectsSince is the first version of Linux, major and minor, in which an ifb
// surely takes packets from a program. Older ones drop them.
var redirectsSince = [2]int{6, 5}

// lacksRedirect explains why programs cannot be used on a kernel of that release.
func lacksRedirect(release string) error {
	var version [2]int
	if _, err := fmt.Sscanf(release, "%d.%d", &version[0], &version[1]); err != nil {
		return fmt.Errorf("read the version of the kernel from %q: %w", release, err)
	}
	if slices.Compare(version[:], redirectsSince[:]) < 0 {
		return fmt.Errorf("to limit what comes in by a bridge needs Linux %d.%d, this is %s", redirectsSince[0], redirectsSince[1], release)
	}
	return nil
}

// sideOf is where filters for one direction of a link are.
func sideOf(incoming bool) uint32 {
	if incoming {
		return ingressSide
	}
	return egressSide
}

// prepare gives a link a place for filters, empty, which costs packets nothing.
// To make one on a link that is up costs it the packets of that moment, so links
// get theirs before their first limit: when they are set up or plugged in.
func (a *shaperApplier) prepare(index int) error {
	// Without a flag that asks for a new one the kernel leaves one that is there.
	return a.rtnl.tc(unix.RTM_NEWQDISC, netlink.Create, tcObject{index: index, handle: ingressQdisc, parent: tcIngress, kind: kindFilters}, nil)
}

// prepared reports whether a link keeps its place for filters while it has no
// limit. A bridge of the host's does not, nor what is down.
func (l link) prepared() bool { return l.up && (l.kind != kindBridge || l.ours()) }

// redirect looks for our filter on one direction of a link: whether there is
// one, and whether it leads to that device.
func (a *shaperApplier) redirect(index int, incoming bool, to int) (exists, right bool) {
	filters, err := a.rtnl.tcList(unix.RTM_GETTFILTER, index, sideOf(incoming))
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

func (a *shaperApplier) makeRedirect(l link, incoming bool, to int) error {
	exists, right := a.redirect(l.index, incoming, to)
	if right {
		return nil
	}
	if err := a.prepare(l.index); err != nil {
		// Another's ingress qdisc has no place for what goes out, but takes what is
		// meant for that among what comes in.
		if !errors.Is(err, unix.EINVAL) || !incoming {
			return fmt.Errorf("make a place for filters on %s: %w", l.name, err)
		}
	}
	o := tcObject{index: l.index, parent: sideOf(incoming), info: shaperPrio | uint32(nl.NetworkOrder(unix.ETH_P_ALL)), kind: "u32"}
	if exists { // it leads to a device that is gone
		o.kind = ""
		if err := a.rtnl.tc(unix.RTM_DELTFILTER, 0, o, nil); err != nil {
			return err
		}
		o.kind = "u32"
	}
	if l.kind == kindBridge && incoming {
		return a.makeBridgeRedirect(o, to)
	}
	return a.rtnl.tc(unix.RTM_NEWTFILTER, netlink.Create|netlink.Excl, o, redirectTo(to))
}

// removeRedirect removes our filter, and its place unless the link keeps that.
func (a *shaperApplier) removeRedirect(l link, incoming bool) error {
	if exists, _ := a.redirect(l.index, incoming, 0); !exists {
		return nil
	}
	o := tcObject{index: l.index, parent: sideOf(incoming), info: shaperPrio | uint32(nl.NetworkOrder(unix.ETH_P_ALL))}
	err := allow(a.rtnl.tc(unix.RTM_DELTFILTER, 0, o, nil), unix.ENOENT, unix.ENODEV, unix.EINVAL)
	if err != nil || l.prepared() {
		return err
	}
	return a.removePlace(l.index)
}

// removePlace takes the place for filters from a link, unless there are any.
func (a *shaperApplier) removePlace(index int) error {
	for _, d := range directions {
		filters, err := a.rtnl.tcList(unix.RTM_GETTFILTER, index, sideOf(d.incoming))
		if err != nil || len(filters) > 0 {
			return allow(err, unix.ENODEV, unix.EINVAL)
		}
	}
	o := tcObject{index: index, handle: ingressQdisc, parent: tcIngress, kind: kindFilters}
	return allow(a.rtnl.tc(unix.RTM_DELQDISC, 0, o, nil), unix.ENODEV, unix.ENOENT, unix.EINVAL)
}

// makeBridgeRedirect adds a filter with such a program to what comes in by a bridge.
func (a *shaperApplier) makeBridgeRedirect(o tcObject, to int) error {
	var system unix.Utsname
	if err := unix.Uname(&system); err != nil {
		return err
	}
	if err := lacksRedirect(unix.ByteSliceToString(system.Release[:])); err != nil {
		return err
	}
	fd, err := redirectProgram(to)
	if err != nil {
		return err
	}
	o.kind = kindBPF
	err = a.rtnl.tc(unix.RTM_NEWTFILTER, netlink.Create|netlink.Excl, o, func(e *netlink.AttributeEncoder) {
		e.Uint32(clsBPFFd, uint32(fd))
		e.String(clsBPFName, redirectName+strconv.Itoa(to))
		e.Uint32(clsBPFFlags, clsBPFDirect)
	})
	return errors.Join(err, unix.Close(fd))
}

// kindBPF is the kind of filter that is a program.
const kindBPF = "bpf"

// redirectsTo is the index of the device to which a filter of ours leads.
func redirectsTo(f tcObject) (index int, err error) {
	if f.kind != kindBPF {
		u, err := decodeU32(f.options)
		return u.redirect, err
	}
	d, err := netlink.NewAttributeDecoder(f.options)
	if err != nil {
		return 0, err
	}
	for d.Next() {
		if d.Type() == clsBPFName {
			if index, err = strconv.Atoi(strings.TrimPrefix(d.String(), redirectName)); err != nil {
				return 0, err
			}
		}
	}
	return index, d.Err()
}
