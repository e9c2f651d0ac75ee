package nft

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"viaduct/internal/hoststate"
)

// OwnerMode is whether our nftables tables belong to this process, so that
// nobody else can change or flush them.
type OwnerMode string

// The modes. The zero value is OwnerAuto.
const (
	// OwnerAuto owns tables where the kernel can. A table that exists and is
	// not owned stays so until it is emptied.
	OwnerAuto OwnerMode = "auto"
	// OwnerYes insists on it and replaces tables that are not owned.
	OwnerYes OwnerMode = "yes"
	// OwnerNo leaves tables open, for hosts that load a saved ruleset with
	// ours in it or whose administrator edits it by hand.
	OwnerNo OwnerMode = "no"
)

// owned are the flags of a table that only its owner's socket can change, and
// that outlives it.
const owned = nftables.TableFlagOwner | nftables.TableFlagPersist

// errOwnerUnsupported says what OwnerYes needs.
var errOwnerUnsupported = errors.New("table owner: not supported by this kernel, needs Linux 6.9 (nftables flags owner and persist)")

// probeTable is the name of a table that never comes to be: transactions about
// it are made to fail.
const probeTable = "viaduct-probe"

// rehearse asks the kernel what it would refuse of the messages, by index. The
// transaction is made to fail, so that nothing changes and nobody is notified.
func (s *socket) rehearse(msgs ...message) (map[int]refusal, error) {
	impossible := deleteTable(hoststate.TableRef{Family: hoststate.Inet, Name: probeTable + "-absent"})
	refused, err := s.commit(append(msgs, impossible))
	delete(refused, len(msgs))
	return refused, err
}

// ownerSupported finds out whether the kernel has owned, persistent tables.
func (s *socket) ownerSupported() (bool, error) {
	refused, err := s.rehearse(addTable(hoststate.TableRef{Family: hoststate.Inet, Name: probeTable}, owned))
	r, bad := refused[0]
	switch {
	case err != nil:
		return false, fmt.Errorf("probe nftables: %w", err)
	case !bad:
		return true, nil
	case r.errno == unix.EPERM:
		return false, fmt.Errorf("probe nftables: %w: changing nftables needs CAP_NET_ADMIN", r.err())
	}
	return false, nil
}

// claim makes tables that a predecessor left behind ours again. The kernel
// announces that like a new table ("add table inet viaduct" in nft monitor)
// and nothing can prevent it, so all tables are claimed in one transaction.
func (a *Applier) claim() error {
	view := a.mirror.view(a.newTable)
	var msgs []message
	for t, info := range a.mirror.tables {
		if a.newTable == owned && info.flags&owned == nftables.TableFlagPersist {
			info.flags |= owned
			info.owner = a.socket.port
			view.tables[t] = info
			msgs = append(msgs, addTable(t, info.flags))
		}
	}
	refused, err := a.socket.commit(msgs)
	for _, r := range refused {
		err = r.err()
	}
	if err != nil {
		return fmt.Errorf("claim nftables tables: %w", err)
	}
	a.mirror.adopt(view)
	return nil
}

// replaceUnowned replaces tables that are not owned by owned ones with the
// same contents.
func (a *Applier) replaceUnowned() error {
	for t, info := range a.mirror.tables {
		if info.flags&nftables.TableFlagOwner != 0 {
			continue
		}
		view := a.mirror.view(a.newTable)
		p := &planner{view: view}
		if err := p.rebuildTable(t, 0); err != nil {
			return fmt.Errorf("replace table %s by an owned one: %w", t, err)
		}
		var msgs []message
		for _, steps := range p.steps {
			for _, s := range steps {
				msgs = append(msgs, s.msg)
			}
		}
		refused, err := a.socket.commit(msgs)
		for _, r := range refused {
			err = r.err()
		}
		if err != nil {
			return fmt.Errorf("replace table %s by an owned one: %w", t, err)
		}
		a.mirror.adopt(view)
		a.log.Info("replaced a table by one that only viaduct can change", "table", t.String())
	}
	return nil
}

// ownerPatience is how long a predecessor that was killed may take to lose its
// tables: the kernel releases its locks and its sockets one after the other.
const ownerPatience = 500 * time.Millisecond

// checkOwners fails if another process owns one of our tables.
func (a *Applier) checkOwners() error {
	for deadline := time.Now().Add(ownerPatience); ; time.Sleep(ownerPatience / 50) {
		tables, err := a.listTables()
		if err != nil {
			return err
		}
		for t, info := range tables {
			if info.flags&nftables.TableFlagOwner != 0 && info.owner != a.socket.port {
				err = fmt.Errorf("table %s is owned by %s: only one process can manage it", t, processOfSocket(info.owner))
			}
		}
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// foreignOwner names the process that owns a table of ours, or "".
func (a *Applier) foreignOwner(t hoststate.TableRef) string {
	tables, err := a.listTables()
	if info := tables[t]; err == nil && info.flags&nftables.TableFlagOwner != 0 && info.owner != a.socket.port {
		return processOfSocket(info.owner)
	}
	return ""
}

// processOfSocket names the process that has the nf_tables socket with the
// given port id.
func processOfSocket(port uint32) string {
	inode, err := socketInode(port)
	if err == nil {
		fds, _ := filepath.Glob("/proc/[0-9]*/fd/*")
		for _, fd := range fds {
			if link, err := os.Readlink(fd); err == nil && link == "socket:["+inode+"]" {
				pid := strings.Split(fd, "/")[2]
				name, _ := os.ReadFile("/proc/" + pid + "/comm")
				return fmt.Sprintf("process %s (%s)", pid, strings.TrimSpace(string(name)))
			}
		}
	}
	return fmt.Sprintf("another process (netlink port %d)", port)
}

// socketInode finds the netfilter socket with a port id in the kernel's list
// of netlink sockets.
func socketInode(port uint32) (string, error) {
	f, err := os.Open("/proc/thread-self/net/netlink")
	if err != nil {
		return "", err
	}
	defer f.Close()
	const protocol, portID, inode = 1, 2, 9 // columns
	for lines := bufio.NewScanner(f); lines.Scan(); {
		col := strings.Fields(lines.Text())
		if len(col) > inode && col[protocol] == strconv.Itoa(unix.NETLINK_NETFILTER) && col[portID] == strconv.FormatUint(uint64(port), 10) {
			return col[inode], nil
		}
	}
	return "", os.ErrNotExist
}
