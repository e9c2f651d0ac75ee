// Package nft is the host's firewall: it keeps the objects of our nftables
// tables, and the rules in foreign tables that let pass what ours accept. It
// speaks nf_tables by netlink (linux/netfilter/nf_tables.h) and runs no program.
package nft

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/nftables"

	"viaduct/internal/host/changes"
	"viaduct/internal/hoststate"
)

// Options say how to open the firewall.
type Options struct {
	// Tables are the tables that are ours.
	Tables []hoststate.TableRef
	Owner  OwnerMode
	// Socket is the socket of a predecessor that still owns the tables, as
	// kept by a service manager (see KeepOwner). Nil opens a new one.
	Socket *os.File
	Log    *slog.Logger
}

// Applier is the host's firewall: the objects in our nftables tables.
// It keeps a mirror of them, writes to the kernel from one goroutine over one
// lasting socket, and hears from another socket what others change.
type Applier struct {
	names    []hoststate.TableRef
	log      *slog.Logger
	newTable nftables.TableFlags // the flags of tables that are created

	socket  *socket // the writer's, once it runs
	mirror  *mirror
	monitor *os.File
	dirty   *dirtyTables
	changes *changes.Box
	// foreign hears that foreign tables may have changed in a way that matters to passes.
	foreign chan struct{}

	requests chan *request
	coming   atomic.Int32  // requests that are on their way, see expect
	cost     time.Duration // what the last transaction took; the writer's
	done     chan struct{}
	tasks    sync.WaitGroup
	close    func() error
}

// Open observes our tables and makes them its own as the mode says. That
// writes nothing but the claim to tables that a predecessor left ownerless, or
// with OwnerYes their replacement.
func Open(o Options) (*Applier, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	socket, err := openSocket(o.Socket)
	if err != nil && o.Socket != nil {
		o.Log.Warn("the socket that a predecessor left is of no use", "error", err)
		socket, err = openSocket(nil)
	}
	if err != nil {
		return nil, err
	}
	a := &Applier{
		names: slices.Clone(o.Tables), log: o.Log, socket: socket,
		mirror:   newMirror(socket.port),
		dirty:    newDirtyTables(),
		changes:  changes.New(),
		foreign:  make(chan struct{}, 1),
		requests: make(chan *request),
		done:     make(chan struct{}),
	}
	// Listening before looking misses nothing.
	if a.monitor, err = openMonitor(socket.port); err == nil {
		if err = a.takeOver(o.Owner); err != nil {
			_ = a.monitor.Close()
		}
	}
	if err != nil {
		_ = socket.close()
		return nil, err
	}
	a.close = sync.OnceValue(a.shut)
	a.tasks.Go(a.write)
	a.tasks.Go(a.watch)
	a.tasks.Go(func() { a.changes.Run(a.done) })
	return a, nil
}

// takeOver reads our tables and settles whose they are.
func (a *Applier) takeOver(mode OwnerMode) error {
	if err := a.checkOwners(); err != nil {
		return err
	}
	if err := a.load(); err != nil {
		return err
	}
	if mode == OwnerNo {
		return nil
	}
	supported, err := a.socket.ownerSupported()
	switch {
	case err != nil:
		return err
	case !supported && mode == OwnerYes:
		return errOwnerUnsupported
	case !supported:
		a.log.Info("nftables tables are open to others", "reason", errOwnerUnsupported)
		return nil
	}
	a.newTable = owned
	if err := a.claim(); err != nil {
		return err
	}
	if mode == OwnerYes {
		return a.replaceUnowned()
	}
	return nil
}

// Kinds implements Applier.
func (a *Applier) Kinds() []hoststate.Kind {
	return []hoststate.Kind{hoststate.KindTable, hoststate.KindSet, hoststate.KindChain, hoststate.KindElement}
}

// Observe implements Applier, from the mirror.
func (a *Applier) Observe(keys []hoststate.Key) hoststate.State { return a.mirror.observe(keys) }

// Owned implements Applier: all that is in our tables, whoever put it there.
func (a *Applier) Owned() hoststate.State { return a.mirror.all() }

// Apply implements Applier. The operations are part of one transaction of the
// kernel, in which others may take part. Their order does not matter.
func (a *Applier) Apply(ctx context.Context, ops []hoststate.Op) error {
	if len(ops) == 0 {
		return nil
	}
	r := &request{ops: ops, reply: make(chan error, 1)}
	select {
	case a.requests <- r:
		return <-r.reply
	case <-ctx.Done():
		return &hoststate.OpError{Op: ops[0], Err: ctx.Err()}
	case <-a.done:
		return &hoststate.OpError{Op: ops[0], Err: errClosed}
	}
}

// Events tells what others have changed. It is closed with the applier.
func (a *Applier) Events() <-chan []hoststate.Key { return a.changes.Out() }

// Contents implements container for tables.
func (a *Applier) Contents(k hoststate.Key) []hoststate.Op {
	var ops []hoststate.Op
	all := a.mirror.all()
	for _, inside := range all.Keys() {
		if c, ok := all[inside].(hoststate.Contained); ok && c.Container() == k {
			ops = append(ops, hoststate.CreateOp(all[inside]))
		}
	}
	return ops
}

// Close stops observing. The tables stay, without an owner but for the
// sockets that others hold.
func (a *Applier) Close() error { return a.close() }

func (a *Applier) shut() error {
	close(a.done)
	err := a.monitor.Close()
	a.tasks.Wait()
	return errors.Join(err, a.socket.close())
}

// KeepOwner hands over another handle on the socket that owns our tables, if
// they are owned. Whoever holds it when this process ends, such as systemd's
// store of file descriptors, keeps the tables owned, and the next process takes
// them over by Options.Socket without a write.
func (a *Applier) KeepOwner(keep func(*os.File)) error {
	if a.newTable != owned {
		return nil
	}
	f, err := a.socket.file()
	if err != nil {
		return errors.Join(err, a.Close())
	}
	keep(f)
	return nil
}
