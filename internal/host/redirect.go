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
