package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"viaduct/internal/host"
	"viaduct/internal/hoststate"
	"viaduct/internal/netdef"
	"viaduct/internal/plan"
	"viaduct/internal/store"
)

// Taking is a network that another program, libvirt's own driver, has on this
// host, with all that is known of it.
type Taking struct {
	// Config is its persistent definition, and Live the one in effect; "" if
	// there is none.
	Config    string `json:"config,omitempty"`
	Live      string `json:"live,omitempty"`
	Autostart bool   `json:"autostart,omitempty"`
	// Leases are the addresses that its guests hold. What network they are of
	// need not be said.
	Leases []netdef.Lease `json:"leases,omitempty"`
	// Ports are its ports, as libvirt's networkport XML.
	Ports []string `json:"ports,omitempty"`
	// PortsEnd says that nobody will delete the ports: each ends with its link.
	PortsEnd bool `json:"portsEnd,omitempty"`
	// Dnsmasq is the process that serves it; 0 if there is none.
	Dnsmasq int `json:"dnsmasq,omitempty"`
}

// Taken is what became of a network that was to be taken over.
type Taken struct {
	Name string      `json:"name"`
	UUID netdef.UUID `json:"uuid"`
	// Active says that it is in effect, on the bridge that was there before.
	Active bool `json:"active"`
	// Operations are what is to be done on the host, in a plan.
	Operations []string `json:"operations,omitempty"`
	// Notes tell of what could not be taken over with it.
	Notes []string `json:"notes,omitempty"`
}

// TakeOver makes a network of another program's ours: its bridge stays with all
// that is plugged in, so its guests go on. The other program must have let go
// of it, but for the dnsmasq that serves it, which is ended when ours is about
// to start. With planned it only tells what would be done.
func (e *Engine) TakeOver(ctx context.Context, t Taking, planned bool) (Taken, error) {
	config, live, err := e.readTaking(t)
	if err != nil {
		return Taken{}, err
	}
	def := live
	if def == nil {
		def = config
	}
	n, err := e.admit(def)
	if err != nil {
		return Taken{}, err
	}
	defer e.dismiss(n)
	taken := Taken{Name: def.Name, UUID: def.UUID, Active: live != nil}
	e.mu.Lock()
	known := n.known()
	e.mu.Unlock()
	if known {
		return taken, netdef.Errorf(netdef.ErrOperationFailed, "network '%s' already exists with uuid %s", n.name, n.id)
	}
	if live != nil && live.OwnsBridge() {
		if l, ok := e.Host.Link(live.Bridge.Name); !ok || l.Kind != kindBridge {
			return taken, netdef.Errorf(netdef.ErrOperationInvalid, "network '%s' is said to be active, but the host has no bridge '%s'", def.Name, live.Bridge.Name)
		}
	}
	if planned {
		taken.Operations, err = e.planTaking(n, live)
		return taken, err
	}
	ctx = context.WithoutCancel(ctx) // half of it is of no use to anybody
	if err := e.take(ctx, n, config, live, t); err != nil {
		return taken, err
	}
	for _, xml := range t.Ports {
		if err := e.takePort(ctx, n, xml, t.PortsEnd); err != nil {
			taken.Notes = append(taken.Notes, "a port was left out: "+err.Error())
		}
	}
	return taken, nil
}

// readTaking reads the definitions, of which there must be one.
func (e *Engine) readTaking(t Taking) (config, live *netdef.Network, err error) {
	if t.Config != "" {
		if config, err = e.read([]byte(t.Config)); err != nil {
			return nil, nil, err
		}
	}
	if t.Live != "" {
		if live, err = e.read([]byte(t.Live)); err != nil {
			return nil, nil, err
		}
	}
	switch {
	case config == nil && live == nil:
		err = netdef.Errorf(netdef.ErrInvalidArg, "there is no definition to take over")
	case config != nil && live != nil && (config.Name != live.Name || config.UUID != live.UUID):
		err = netdef.Errorf(netdef.ErrInvalidArg, "the definitions are those of two networks, '%s' and '%s'", config.Name, live.Name)
	}
	return config, live, err
}

// planTaking lists the operations by which the network becomes ours.
func (e *Engine) planTaking(n *network, live *netdef.Network) ([]string, error) {
	if live == nil {
		return nil, nil
	}
	dnsPort := uint16(0)
	if plan.ServesDNS(live) {
		dnsPort = usualDNSPort // dnsmasq gives it up
	}
	next, err := plan.Network(live, e.facts(n, live, dnsPort))
	if err != nil {
		return nil, errAs(netdef.ErrInternal, err)
	}
	shared, own := e.difference(plan.Fragment{}, next)
	ops := append(shared, own...)
	if live.OwnsBridge() {
		// Instead of being made it is taken.
		ops = slices.DeleteFunc(ops, func(o hoststate.Op) bool { return o.Key().Kind == hoststate.KindBridge })
		ops = slices.Insert(ops, 0, hoststate.CreateOp(claimOf(live)))
	}
	var lines []string
	for _, o := range ops {
		lines = append(lines, o.String())
	}
	return lines, nil
}

const usualDNSPort = 53

func claimOf(n *netdef.Network) hoststate.Claim {
	return hoststate.Claim{Bridge: n.Bridge.Name, Alias: plan.Alias(n.UUID)}
}

// take makes the network ours. On error all is as before, but that dnsmasq may
// have ended. The caller holds n.busy.
func (e *Engine) take(ctx context.Context, n *network, config, live *netdef.Network, t Taking) (err error) {
	defer func() {
		if err == nil {
			return
		}
		if undo := e.Store.DeleteDefinition(n.name); undo != nil && !errors.Is(undo, fs.ErrNotExist) {
			e.Log.Error("forget network that was not taken over", "network", n.name, "error", undo)
		}
		e.Options.Leases.Drop(n.id)
		e.mu.Lock()
		n.config, n.autostart = nil, false
		e.mu.Unlock()
	}()
	if config != nil {
		if err := e.persist(n, config); err != nil {
			return err
		}
		if t.Autostart {
			if err := e.markAutostart(n, true); err != nil {
				return err
			}
		}
	}
	if err := e.putLeases(n, t.Leases); err != nil {
		return errAs(netdef.ErrInternal, err)
	}
	if live != nil {
		if err := e.takeLive(ctx, n, live, t.Dnsmasq); err != nil {
			return err
		}
	}
	if config != nil {
		e.events.send(n, EventDefined)
	}
	return nil
}

// putLeases records leases and waits until they are on disk.
func (e *Engine) putLeases(n *network, leases []netdef.Lease) error {
	table := e.Options.Leases.Table(n.id)
	done := make(chan error, len(leases))
	for _, l := range leases {
		table.Put(l, func(err error) { done <- err })
	}
	var errs []error
	for range leases {
		errs = append(errs, <-done)
	}
	return errors.Join(errs...)
}

// takeLive makes the network that is in effect ours: its bridge gets our mark,
// and from there on it is started like any other, which makes what is missing.
// Should the daemon die in between, the next one goes on, see recall.
func (e *Engine) takeLive(ctx context.Context, n *network, live *netdef.Network, dnsmasq int) error {
	if !live.OwnsBridge() {
		return e.bringUp(ctx, n, live)
	}
	ports := e.portsOn(live, nil)
	e.mu.Lock()
	n.taking, n.ports = true, ports
	status := e.statusLocked(n)
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		n.taking = false
		e.mu.Unlock()
	}()
	status.Next = live.Format(netdef.FormatOptions{})
	if err := e.Store.PutStatus(status); err != nil {
		return errAs(netdef.ErrInternal, err)
	}
	claim := hoststate.CreateOp(claimOf(live))
	err := endDnsmasq(dnsmasq, n.name)
	if err == nil {
		err = e.Host.Apply(ctx, []hoststate.Op{claim})
	}
	if err == nil {
		if err = e.bringUp(ctx, n, live); err == nil {
			return nil
		}
		if undo := e.Host.Apply(ctx, []hoststate.Op{claim.Inverse()}); undo != nil {
			e.Log.Error("give back a bridge", "network", n.name, "error", undo)
		}
	}
	e.mu.Lock()
	n.ports = nil
	e.mu.Unlock()
	if undo := e.Store.DeleteStatus(n.name); undo != nil {
		e.Log.Error("forget status of network that was not taken over", "network", n.name, "error", undo)
	}
	return opError(err)
}

// recallClaim makes the bridge ours that a daemon which died was about to take over.
func (e *Engine) recallClaim(s store.Status) error {
	def, err := netdef.Parse([]byte(s.Live))
	if err != nil {
		return err
	}
	if _, exists := e.Host.Link(def.Bridge.Name); !exists {
		return nil // then it is made
	}
	return e.Host.Apply(context.Background(), []hoststate.Op{{Verb: hoststate.Create, New: claimOf(def)}})
}

// endLimit is how long a dnsmasq may take to end.
const endLimit = 5 * time.Second

// endDnsmasq ends the dnsmasq by which libvirt serves the network. That a
// process has the number proves nothing, so its command line is looked at.
func endDnsmasq(pid int, network string) error {
	if pid == 0 {
		return nil
	}
	p, err := host.OpenProcess(pid)
	if errors.Is(err, syscall.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer p.Close()
	line, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil {
		return err
	}
	words := strings.Split(string(line), "\x00")
	serves := func(w string) bool {
		return strings.HasPrefix(w, "--conf-file=") && filepath.Base(w) == network+".conf"
	}
	if filepath.Base(words[0]) != "dnsmasq" || !slices.ContainsFunc(words, serves) {
		return netdef.Errorf(netdef.ErrInvalidArg, "process %d is not the dnsmasq of network '%s'", pid, network)
	}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if err := p.Signal(sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("end dnsmasq: %w", err)
		}
		select {
		case <-p.Done():
			return nil
		case <-time.After(endLimit):
		}
	}
	return fmt.Errorf("end dnsmasq: process %d does not end", pid)
}

// takePort declares a port of a guest that runs. The caller holds n.busy.
func (e *Engine) takePort(ctx context.Context, n *network, xml string, ends bool) error {
	def, err := netdef.ParsePort([]byte(xml))
	if err != nil {
		return err
	}
	e.mu.Lock()
	active := n.live != nil
	e.mu.Unlock()
	if !active {
		return netdef.Errorf(netdef.ErrOperationInvalid, "network '%s' is not active", n.name)
	}
	spec := PortSpec{Port: *def, Reclaim: true}
	known := e.currentPorts(n)
	if ends {
		link, found := e.linkOf(n, *def)
		if !found {
			return fmt.Errorf("guest %s has no link in network '%s'", def.OwnerName, n.name)
		}
		// Who made the link limits it too.
		spec.Link, spec.Reclaim, spec.Plug, spec.Bandwidth = link, false, netdef.Plug{}, nil
	}
	p, err := e.newPort(n, known, spec)
	if err != nil {
		return err
	}
	return e.changePorts(ctx, n, func(ports []port) []port {
		return e.portsOn(n.live, append(slices.DeleteFunc(ports, p.replaces), p))
	})
}

// linkOf finds the link that another program has plugged in for a port.
func (e *Engine) linkOf(n *network, def netdef.Port) (string, bool) {
	wanted := port{def: def, declared: true}
	for _, l := range e.linksOf(n.live) {
		if wanted.awaits(l) {
			return l.Name, true
		}
	}
	return "", false
}

// GiveBack makes an active network nobody's: its bridge stays with its addresses
// and all that is plugged in, for another program to take it up. Nothing of the
// network is left here, leases included.
func (e *Engine) GiveBack(ctx context.Context, id netdef.UUID) error {
	n, err := e.seizeActive(id)
	if err != nil {
		return err
	}
	defer n.busy.Unlock()
	ctx = context.WithoutCancel(ctx)
	if !n.live.OwnsBridge() {
		return netdef.Errorf(netdef.ErrOperationInvalid, "network '%s' has no bridge of its own to give back", n.name)
	}
	if err := e.leave(ctx, n); err != nil {
		return opError(err)
	}
	err = e.Store.DeleteStatus(n.name)
	e.events.send(n, EventStopped)
	e.mu.Lock()
	n.ports = nil
	defined := n.config != nil
	e.mu.Unlock()
	if defined {
		return errors.Join(err, e.undefine(ctx, n))
	}
	e.Options.Leases.Drop(n.id)
	e.mu.Lock()
	e.remove(n)
	e.mu.Unlock()
	return err
}

// stays are the kinds of objects that a bridge keeps when it is given back.
var stays = map[hoststate.Kind]bool{
	hoststate.KindBridge: true, hoststate.KindMTU: true, hoststate.KindSysctl: true, hoststate.KindAddress: true,
	hoststate.KindLinkUp: true, hoststate.KindMember: true, hoststate.KindPortFlags: true, hoststate.KindPortVLANs: true,
}

// leave takes from the host what is ours of a network but for its bridge, which
// it gives up. The caller holds n.busy.
func (e *Engine) leave(ctx context.Context, n *network) error {
	e.mu.Lock()
	def := n.definition()
	kept := plan.Fragment{Own: hoststate.State{}}
	for k, o := range n.fragment.Own {
		if stays[k.Kind] {
			kept.Own[k] = o
		}
	}
	e.mu.Unlock()
	if l, ok := e.Host.Link(def.Bridge.Name); !ok || l.Alias != plan.Alias(def.UUID) {
		delete(kept.Own, hoststate.BridgeKey(def.Bridge.Name)) // it is nobody's already
	}
	if _, err := e.transition(ctx, n, kept); err != nil {
		return err
	}
	e.mu.Lock()
	n.live, n.fragment = nil, plan.Fragment{}
	e.release(n, kept, n.fragment)
	e.mu.Unlock()
	e.healing.forget(n)
	return e.Host.Apply(ctx, []hoststate.Op{{Verb: hoststate.Delete, Old: claimOf(def)}})
}
