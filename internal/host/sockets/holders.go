package sockets

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Holder is a program that listens on a port.
type Holder struct {
	Program string // as the kernel calls it; "" if it is out of our sight
	PID     int    // 0 if it is out of our sight
	Addr    netip.AddrPort
	Proto   string // "udp" or "tcp"
}

// socketTables are the kernel's lists of sockets, and the state, as they write
// it, in which a socket receives from anybody.
var socketTables = []struct{ file, proto, state string }{
	{"udp", "udp", "07"}, {"udp6", "udp", "07"}, // TCP_CLOSE: not connected
	{"tcp", "tcp", "0A"}, {"tcp6", "tcp", "0A"}, // TCP_LISTEN
}

// PortHolders lists who listens on a port, on whatever address. It looks at
// all processes, so it is for explaining a failure.
func PortHolders(port uint16) []Holder {
	held := map[uint64]Holder{} // by inode
	for _, t := range socketTables {
		f, err := os.Open("/proc/net/" + t.file)
		if err != nil {
			continue // a kernel without IPv6
		}
		for _, s := range parseSockets(f) {
			if s.state == t.state && s.local.Port() == port {
				held[s.inode] = Holder{Proto: t.proto, Addr: s.local}
			}
		}
		_ = f.Close()
	}
	if len(held) > 0 {
		nameHolders(held)
	}
	holders := make([]Holder, 0, len(held))
	for _, h := range held {
		holders = append(holders, h)
	}
	slices.SortFunc(holders, func(a, b Holder) int {
		return cmp.Or(cmp.Compare(a.PID, b.PID), cmp.Compare(a.Proto, b.Proto), a.Addr.Compare(b.Addr))
	})
	return holders
}

// nameHolders finds the processes that have the sockets open.
func nameHolders(held map[uint64]Holder) {
	files, err := filepath.Glob("/proc/[0-9]*/fd/[0-9]*")
	if err != nil {
		return
	}
	for _, file := range files {
		target, err := os.Readlink(file)
		if err != nil {
			continue // the process has ended
		}
		text, isSocket := strings.CutPrefix(target, "socket:[")
		inode, err := strconv.ParseUint(strings.TrimSuffix(text, "]"), 10, 64)
		h, wanted := held[inode]
		if !isSocket || err != nil || !wanted || h.PID != 0 {
			continue
		}
		process := filepath.Dir(filepath.Dir(file))
		if name, err := os.ReadFile(process + "/comm"); err == nil {
			h.Program = strings.TrimSpace(string(name))
		}
		h.PID, _ = strconv.Atoi(filepath.Base(process))
		held[inode] = h
	}
}

// socketLine is what we need of one line of the kernel's list of sockets.
type socketLine struct {
	local netip.AddrPort
	state string
	inode uint64
}

// parseSockets reads a file such as /proc/net/udp (proc_net_tcp.rst in the
// kernel's documentation). It passes over lines that it does not understand.
func parseSockets(r io.Reader) []socketLine {
	var sockets []socketLine
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		// sl, local, remote, state, queues, timer, retransmits, uid, timeout, inode
		f := strings.Fields(lines.Text())
		if len(f) < 10 {
			continue
		}
		local, err := parseHexAddr(f[1])
		if err != nil {
			continue
		}
		inode, err := strconv.ParseUint(f[9], 10, 64)
		if err != nil {
			continue
		}
		sockets = append(sockets, socketLine{local, f[3], inode})
	}
	return sockets
}

// parseHexAddr reads "0100007F:0035": the address as 32-bit words in the
// machine's byte order, the port as a number.
func parseHexAddr(s string) (netip.AddrPort, error) {
	words, portText, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(words)
	if err != nil {
		return netip.AddrPort{}, err
	}
	for i := 0; i+4 <= len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	addr, ok := netip.AddrFromSlice(b)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("parse address %q: wrong length", s)
	}
	port, err := strconv.ParseUint(portText, 16, 16)
	return netip.AddrPortFrom(addr, uint16(port)), err
}
