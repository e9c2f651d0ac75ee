package host

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"

	"viaduct/internal/host/changes"
	"viaduct/internal/host/nft"
	"viaduct/internal/hoststate"
)

// Options say how to open a host.
type Options struct {
	// Appliers are responsible for kinds that this package knows nothing of,
	// such as services.
	Appliers []Applier
	// Tables are the nftables tables that are ours.
	Tables []hoststate.TableRef
	// TableOwner is whether to own them; "" is nft.OwnerAuto.
	TableOwner nft.OwnerMode
	// OwnerSocket is the socket by which a predecessor owned the tables, if
	// somebody has kept it: the tables then never were without an owner.
	OwnerSocket *os.File
	// KeepOwner, if set, is given that socket, to be kept over the end of this
	// process. It closes its handle.
	KeepOwner func(*os.File)
	// Sysfs is where the kernel shows its devices; "" is /sys.
	Sysfs string
	// Fault, if set, is called before and after every operation with a name
	// such as "before bridge create", so that tests can stop the program there.
	Fault func(point string)
	// Log takes what cannot be returned; nil discards it.
	Log *slog.Logger
}

// sequential is an applier that changes one object at a time. It gets its
// operations one by one, and the host does all the undoing.
type sequential interface {
	Applier
	OneByOne()
}

// container is an applier that knows what goes with the objects in takesAlong.
type container interface {
	// Contents lists the operations that bring back what goes with the object.
	// There may be more in it than goes.
	Contents(hoststate.Key) []hoststate.Op
}

// takesAlong are the kinds of objects that take others with them when they go:
// a bridge its addresses, a link that goes down its routes.
var takesAlong = map[hoststate.Kind]bool{
	hoststate.KindBridge: true, hoststate.KindLinkUp: true, hoststate.KindTable: true,
}

// expectant is an applier that likes to know how many more calls of its Apply
// are on their way, so that it can carry them out together. A negative number
// takes back what came, or what never will.
type expectant interface {
	Expect(n int)
}

// Watcher is an applier that tells of changes. An empty slice says that
// everything may have changed. It need not close the channel.
type Watcher interface {
	Events() <-chan []hoststate.Key
}

// What the firewall's appliers say of themselves beside Applier.
var (
	_ container  = (*nft.Applier)(nil)
	_ expectant  = (*nft.Applier)(nil)
	_ Watcher    = (*nft.Applier)(nil)
	_ Watcher    = (*nft.Passes)(nil)
	_ sequential = (*nft.Passes)(nil)
)

// kernelHost is the Host that the kernel and the given appliers make up.
type kernelHost struct {
	byKind   map[hoststate.Kind]Applier
	all      []Applier
	rtnl     *rtnl
	mirror   *mirror
	firewall *nft.Applier
	passes   *nft.Passes
	tracked  conntrack
	changes  *changes.Box
	fault    func(string)
	log      *slog.Logger
	sysfs    sysfs

	vlansOnce sync.Once
	vlans     bool // see FiltersVLANs

	done  chan struct{}
	tasks sync.WaitGroup
	close func() error
}

// Open observes the host in whose network namespace the process runs.
func Open(o Options) (Host, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Fault == nil {
		o.Fault = func(string) {}
	}
	h := &kernelHost{
		byKind: map[hoststate.Kind]Applier{}, rtnl: newRTNL(), tracked: newConntrack(), changes: changes.New(),
		fault: o.Fault, log: o.Log, sysfs: sysfs(cmp.Or(o.Sysfs, "/sys")), done: make(chan struct{}),
	}
	var err error
	if h.mirror, err = newMirror(h.rtnl, h.changes); err != nil {
		h.rtnl.close()
		return nil, err
	}
	h.firewall, err = nft.Open(nft.Options{Tables: o.Tables, Owner: o.TableOwner, Socket: o.OwnerSocket, Log: o.Log})
	if err == nil && o.KeepOwner != nil {
		err = h.firewall.KeepOwner(o.KeepOwner)
	}
	if err != nil {
		_ = h.mirror.close()
		h.rtnl.close()
		return nil, err
	}
	if h.passes, err = h.firewall.Passes(); err != nil {
		err = errors.Join(err, h.firewall.Close(), h.mirror.close())
		h.rtnl.close()
		return nil, err
	}
	shapers := &shaperApplier{rtnl: h.rtnl, mirror: h.mirror, log: o.Log}
	stations := &stationApplier{rtnl: h.rtnl, mirror: h.mirror}
	links := &linkApplier{rtnl: h.rtnl, mirror: h.mirror, shapers: shapers, stations: stations}
	proxies := &proxyApplier{rtnl: h.rtnl, mirror: h.mirror}
	uplinks := &uplinkApplier{rtnl: h.rtnl, mirror: h.mirror, links: links, fault: o.Fault}
	h.all = append([]Applier{links, stations, uplinks, shapers, sysctlApplier{}, h.firewall, h.passes, proxies}, o.Appliers...)
	for _, a := range h.all {
		for _, k := range a.Kinds() {
			h.byKind[k] = a
		}
	}
	h.close = sync.OnceValue(h.shut)
	h.start()
	return h, nil
}

// start begins to follow changes.
func (h *kernelHost) start() {
	h.tasks.Go(h.mirror.follow)
	h.tasks.Go(func() { h.changes.Run(h.done) })
	for _, a := range h.all {
		if w, ok := a.(Watcher); ok {
			h.tasks.Go(func() { h.hear(w.Events()) })
		}
	}
}

func (h *kernelHost) hear(events <-chan []hoststate.Key) {
	for {
		select {
		case <-h.done:
			return
		case keys, ok := <-events:
			if !ok {
				return
			}
			h.changes.Add(keys...)
		}
	}
}

func (h *kernelHost) Close() error { return h.close() }

func (h *kernelHost) shut() error {
	close(h.done)
	err := errors.Join(h.mirror.close(), h.firewall.Close(), h.passes.Close())
	h.tasks.Wait()
	h.rtnl.close()
	h.tracked.netlink.close()
	return err
}

func (h *kernelHost) Events() <-chan []hoststate.Key { return h.changes.Out() }

func (h *kernelHost) Observe(keys []hoststate.Key) hoststate.State {
	byApplier := map[Applier][]hoststate.Key{}
	for _, k := range keys {
		if a, ok := h.byKind[k.Kind]; ok {
			byApplier[a] = append(byApplier[a], k)
		}
	}
	s := make(hoststate.State, len(keys))
	for a, keys := range byApplier {
		for k, o := range a.Observe(keys) {
			s[k] = o
		}
	}
	return s
}

func (h *kernelHost) Owned() hoststate.State {
	s := hoststate.State{}
	for _, a := range h.all {
		for k, o := range a.Owned() {
			s[k] = o
		}
	}
	return s
}

func (h *kernelHost) Inventory() Inventory { return h.mirror.inventory() }

func (h *kernelHost) Overlapping(prefixes ...netip.Prefix) []LinkPrefix {
	return h.mirror.overlapping(prefixes)
}

func (h *kernelHost) Uplinks() []Uplink { return h.mirror.uplinks() }

func (h *kernelHost) Passes() []hoststate.Pass { return h.passes.Needed() }

func (h *kernelHost) Collected(set hoststate.Set) ([]hoststate.Element, error) {
	return nft.Collected(set)
}

func (h *kernelHost) Blockers() []string { return h.passes.Blockers() }

func (h *kernelHost) Link(name string) (Link, bool) { return h.mirror.named(name) }

func (h *kernelHost) Ports(bridge string) []Link { return h.mirror.portsOf(bridge) }

// run is a part of the operations that one applier carries out together.
type run struct {
	applier Applier
	ops     []hoststate.Op
}

// split divides operations into runs, in order.
func (h *kernelHost) split(ops []hoststate.Op) ([]run, error) {
	var runs []run
	for _, op := range ops {
		a, ok := h.byKind[op.Key().Kind]
		if !ok {
			return nil, &OpError{Op: op, Err: fmt.Errorf("no applier for kind %s", op.Key().Kind)}
		}
		_, alone := a.(sequential)
		if last := len(runs) - 1; !alone && last >= 0 && runs[last].applier == a {
			runs[last].ops = append(runs[last].ops, op)
		} else {
			runs = append(runs, run{a, []hoststate.Op{op}})
		}
	}
	return runs, nil
}

func (h *kernelHost) Apply(ctx context.Context, ops []hoststate.Op) error {
	runs, err := h.split(ops)
	if err != nil {
		return err
	}
	var undo []hoststate.Op // in the order in which to carry it out
	var ending sync.WaitGroup
	defer ending.Wait()
	gone := withdrawn(ops)
	expect(runs, 1)
	for i, r := range runs {
		expect(runs[i:i+1], -1)
		inverse := h.inverse(r.ops)
		if err := h.carryOut(ctx, r); err != nil {
			expect(runs[i+1:], -1)
			err.Err = errors.Join(err.Err, h.undo(context.WithoutCancel(ctx), undo))
			return err
		}
		undo = append(inverse, undo...)
		// What the rules forbid now ends, also where a connection that is
		// established could pass. The kernel takes 10 ms to go through all
		// connections, meanwhile the bridge can go.
		if len(gone) > 0 && onlyRemovals(runs[i+1:]) {
			withdrawn := gone
			gone = nil
			ending.Go(func() { h.forget(withdrawn) })
		}
	}
	return nil
}

// onlyRemovals reports whether runs only remove things, none of them rules:
// the rules are in force and what is left does not fail.
func onlyRemovals(runs []run) bool {
	for _, r := range runs {
		if slices.ContainsFunc(r.ops, func(o hoststate.Op) bool {
			return o.Verb != hoststate.Delete || o.Key().Kind == hoststate.KindChain
		}) {
			return false
		}
	}
	return true
}

// forget ends connections that are no longer permitted.
func (h *kernelHost) forget(gone []ended) {
	if err := h.tracked.forget(gone, h.mirror.leads); err != nil {
		h.log.Warn("connections that are no longer permitted may go on until they end", "permissions", gone, "error", err)
	}
}

// expect tells appliers how many more calls each run makes.
func expect(runs []run, calls int) {
	for _, r := range runs {
		if e, ok := r.applier.(expectant); ok {
			e.Expect(calls)
		}
	}
}

// carryOut carries out one run.
func (h *kernelHost) carryOut(ctx context.Context, r run) *OpError {
	h.faults("before", r.ops)
	err := ctx.Err()
	if err == nil {
		err = r.applier.Apply(ctx, r.ops)
	}
	var opErr *OpError
	switch {
	case err == nil:
		h.faults("after", r.ops)
		return nil
	case errors.As(err, &opErr):
		return &OpError{Op: opErr.Op, Err: opErr.Err}
	}
	return &OpError{Op: r.ops[0], Err: err}
}

// verbNames name the verbs in fault points.
var verbNames = [...]string{hoststate.Create: "create", hoststate.Change: "change", hoststate.Delete: "delete"}

func (h *kernelHost) faults(when string, ops []hoststate.Op) {
	for _, op := range ops {
		h.fault(when + " " + op.Key().Kind.String() + " " + verbNames[op.Verb])
	}
}

// inverse lists what undoes the operations of a run. It is asked before they
// are carried out.
func (h *kernelHost) inverse(ops []hoststate.Op) []hoststate.Op {
	var inverse []hoststate.Op
	for _, op := range slices.Backward(ops) {
		inverse = append(inverse, op.Inverse())
		key := op.Key()
		if c, ok := h.byKind[key.Kind].(container); ok && op.Verb == hoststate.Delete && takesAlong[key.Kind] {
			inverse = append(inverse, c.Contents(key)...)
		}
	}
	return inverse
}

// undo carries out as much of the operations as it can.
func (h *kernelHost) undo(ctx context.Context, ops []hoststate.Op) error {
	runs, err := h.split(ops)
	for _, r := range runs {
		if e := h.carryOut(ctx, r); e != nil {
			err = errors.Join(err, fmt.Errorf("undo: %w", e))
		}
	}
	return err
}
