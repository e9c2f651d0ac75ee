package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"viaduct/internal/host/nl"
	"viaduct/internal/hoststate"
)

// dirtyTables are our tables that somebody else has changed.
type dirtyTables struct {
	wake chan struct{}

	mu     sync.Mutex
	tables map[hoststate.TableRef]bool
}

func newDirtyTables() *dirtyTables {
	return &dirtyTables{wake: make(chan struct{}, 1), tables: map[hoststate.TableRef]bool{}}
}

func (d *dirtyTables) add(tables ...hoststate.TableRef) {
	if len(tables) == 0 {
		return
	}
	d.mu.Lock()
	for _, t := range tables {
		d.tables[t] = true
	}
	d.mu.Unlock()
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

func (d *dirtyTables) take() []hoststate.TableRef {
	d.mu.Lock()
	defer d.mu.Unlock()
	list := make([]hoststate.TableRef, 0, len(d.tables))
	for t := range d.tables {
		list = append(list, t)
	}
	clear(d.tables)
	return list
}

// openMonitor opens a socket that hears of all changes to nftables but
// those made through the socket with the given port id.
func openMonitor(but uint32) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("monitor nftables: %w", err)
	}
	f := os.NewFile(uintptr(fd), "nf_tables monitor")
	// Somebody may load a large ruleset in one go.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20)
	err = ignoreSender(fd, but)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	}
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, unix.NFNLGRP_NFTABLES)
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("monitor nftables: %w", err)
	}
	return f, nil
}

// ignoreSender makes the kernel drop what it would tell of the transactions of
// one socket, so that our own changes do not even wake us. All messages in one
// packet are about one transaction; the first one's header names the socket.
func ignoreSender(fd int, port uint32) error {
	const portOffset = 12 // in struct nlmsghdr
	asLoaded := binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, port))
	return nl.AttachFilter(fd, []bpf.Instruction{
		bpf.LoadAbsolute{Off: portOffset, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: asLoaded, SkipTrue: 1},
		bpf.RetConstant{Val: ^uint32(0)},
		bpf.RetConstant{Val: 0},
	})
}

// watch notes which of our tables others change, until the monitor is closed.
// Of what happens in foreign tables it reads no more than the table's name.
func (a *Applier) watch() {
	buf := make([]byte, readBytes<<10)
	for {
		n, err := a.monitor.Read(buf)
		switch {
		case err == nil:
			a.dirty.add(a.mentioned(buf[:n])...)
			if a.concernsPasses(buf[:n]) {
				a.noteForeign()
			}
		case errors.Is(err, unix.ENOBUFS):
			a.log.Warn("nftables changed faster than it could be followed; reading all tables again")
			a.dirty.add(a.names...)
			a.noteForeign()
		case errors.Is(err, os.ErrClosed):
			return
		default:
			a.log.Error("monitor nftables", "error", err)
			a.changes.Add() // from here on anything may have changed
			return
		}
	}
}

// mentioned lists those of our tables that notifications are about.
func (a *Applier) mentioned(b []byte) []hoststate.TableRef {
	var list []hoststate.TableRef
	for m := range nlMessages(b) {
		if m.typ>>8 != unix.NFNL_SUBSYS_NFTABLES || len(m.body) < nfHeaderLen || m.typ&0xff == unix.NFT_MSG_NEWGEN {
			continue
		}
		about := message{family: m.body[0], attrs: m.body[nfHeaderLen:]}
		for _, t := range a.names {
			if about.about(t) {
				list = append(list, t)
			}
		}
	}
	return list
}
