package host

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"viaduct/internal/host/changes"
	"viaduct/internal/hoststate"
	"viaduct/internal/netdef"
)

// Fake is a Host in memory for tests. It behaves as the kernel's: what is in a
// container goes with it, and a failed Apply changes nothing.
type Fake struct {
	// FailOn, if set, is asked before every operation; its error makes Apply fail.
	FailOn func(hoststate.Op) error
	// Stock is what Inventory, Link and Ports tell of, besides the bridges that
	// were made.
	Stock Inventory
	// PassList and BlockerList are what Passes and Blockers tell.
	PassList    []hoststate.Pass
	BlockerList []string
	// OutwardList is what Outward tells, of any link.
	OutwardList []netip.Addr
	// VFs are what VirtualFunctions tells of a device.
	VFs map[string][]VF
	// NoVLANs makes its bridges know no VLANs.
	NoVLANs bool
	// CollectedList is what Collected tells, of any set.
	CollectedList []hoststate.Element

	// HeldOf is what Held tells of links.
	HeldOf map[string]hoststate.Held
	// Silent says who does not answer; nil is nobody.
	Silent func(netip.Addr) bool
	// Roots are what RemoteRoots tells.
	Roots []RemoteRoot
	// Way is what Towards tells.
	Way string

	mu      sync.Mutex
	state   hoststate.State
	calls   [][]hoststate.Op
	changes *changes.Box
	done    chan struct{}
	stopped chan struct{}
	close   func()
}

// NewFake makes a host that has the given objects, all of them ours. It has to
// be closed.
func NewFake(objects ...hoststate.Object) *Fake {
	f := &Fake{state: hoststate.State{}, changes: changes.New(), done: make(chan struct{}), stopped: make(chan struct{})}
	f.state.Add(objects...)
	f.close = sync.OnceFunc(func() { close(f.done) })
	go func() {
		defer close(f.stopped)
		f.changes.Run(f.done)
	}()
	return f
}

// Observe implements Host.
func (f *Fake) Observe(keys []hoststate.Key) hoststate.State {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := hoststate.State{}
	for _, k := range keys {
		if o, ok := f.state[k]; ok {
			s[k] = o
		}
	}
	return s
}

// Owned implements Host.
func (f *Fake) Owned() hoststate.State {
	s := f.State()
	for k := range s {
		switch k.Kind {
		case hoststate.KindUplink, hoststate.KindClaim, hoststate.KindSysctl, hoststate.KindAddress, hoststate.KindLinkUp, hoststate.KindMember,
			hoststate.KindPortFlags, hoststate.KindPortVLANs, hoststate.KindStation, hoststate.KindZone, hoststate.KindZoned:
			delete(s, k)
		}
	}
	return s
}

// State returns a copy of all that the host has.
func (f *Fake) State() hoststate.State {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := make(hoststate.State, len(f.state))
	for k, o := range f.state {
		s[k] = o
	}
	return s
}

// Calls returns the operations of every successful Apply that had any.
func (f *Fake) Calls() [][]hoststate.Op {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

// Uplinks implements Host: the links of the stock that are no ports.
func (f *Fake) Uplinks() []Uplink {
	var list []Uplink
	for _, l := range f.Stock.Links {
		if l.Master == "" {
			list = append(list, Uplink{Name: l.Name})
		}
	}
	return list
}

// Outward implements Host.
func (f *Fake) Outward(dev string) (string, []netip.Addr) { return dev, f.OutwardList }

// Counters implements Host: nothing ever went over any link.
func (f *Fake) Counters(name string) (Counters, error) {
	if _, ok := f.Link(name); !ok {
		return Counters{}, fmt.Errorf("link %s does not exist", name)
	}
	return Counters{}, nil
}

// Dropped implements Host: nothing was ever dropped.
func (f *Fake) Dropped(...hoststate.Chain) (Drops, error) { return Drops{}, nil }

// FiltersVLANs implements Host.
func (f *Fake) FiltersVLANs() bool { return !f.NoVLANs }

// OpenTap implements Host.
func (f *Fake) OpenTap(int, bool) (*os.File, string, error) {
	return nil, "", errors.New("a host in memory has no taps to attach to")
}

// VirtualFunctions implements Host.
func (f *Fake) VirtualFunctions(device string) ([]VF, error) { return f.VFs[device], nil }

// IsVF implements Host.
func (f *Fake) IsVF(address netdef.PCIAddress) bool {
	for _, list := range f.VFs {
		if slices.ContainsFunc(list, func(vf VF) bool { return vf.Address == address }) {
			return true
		}
	}
	return false
}

// Passes implements Host.
func (f *Fake) Passes() []hoststate.Pass { return f.PassList }

// Blockers implements Host.
func (f *Fake) Blockers() []string { return f.BlockerList }

// Set puts objects on the host by another's hand, without an event.
func (f *Fake) Set(objects ...hoststate.Object) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state.Add(objects...)
}

// Remove takes objects, and what they contain, from the host by another's
// hand, without an event.
func (f *Fake) Remove(keys ...hoststate.Key) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, k := range keys {
		remove(f.state, k)
	}
}

// Emit delivers an event; no keys at all say that everything may have changed.
func (f *Fake) Emit(keys ...hoststate.Key) { f.changes.Add(keys...) }

// Apply implements Host.
func (f *Fake) Apply(ctx context.Context, ops []hoststate.Op) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	next := make(hoststate.State, len(f.state))
	for k, o := range f.state {
		next[k] = o
	}
	for _, op := range ops {
		err := ctx.Err()
		if err == nil && f.FailOn != nil {
			err = f.FailOn(op)
		}
		if err == nil {
			err = applyTo(next, op)
		}
		if err != nil {
			return &OpError{Op: op, Err: err}
		}
	}
	f.state = next
	if len(ops) > 0 {
		f.calls = append(f.calls, slices.Clone(ops))
	}
	return nil
}

// applyTo carries out an operation on a state.
func applyTo(s hoststate.State, op hoststate.Op) error {
	if op.Verb == hoststate.Delete {
		remove(s, op.Key())
		return nil
	}
	if op.Renames() {
		giveName(s, op.Old.Key(), op.Key())
	}
	_, exists := s[op.Key()]
	if op.Verb == hoststate.Change && !exists {
		return fmt.Errorf("%s does not exist", op.Key())
	}
	if b, ok := op.New.(hoststate.Bridge); ok && b.MTU == 0 {
		b.MTU = defaultMTU
		op.New = b
	}
	s.Add(op.New)
	return nil
}

// giveName gives a bridge another name, and with it what belongs to it.
func giveName(s hoststate.State, old, name hoststate.Key) {
	if o, exists := s[old]; exists {
		delete(s, old)
		s[name] = o
	}
	for k, o := range s {
		if moved := hoststate.OnBridge(o, old.Name, name.Name); k.Kind != hoststate.KindBridge && moved.Key() != k {
			delete(s, k)
			s.Add(moved)
		}
	}
}

// remove takes an object and what it contains out of a state. Settings of the
// host itself stay: there is no removing those.
func remove(s hoststate.State, key hoststate.Key) {
	if key.Kind == hoststate.KindSysctl {
		return
	}
	delete(s, key)
	for k, o := range s {
		if c, ok := o.(hoststate.Contained); ok && c.Container() == key || isOf(o, key) {
			delete(s, k)
		}
	}
}

// masterOf needs f.mu.
func (f *Fake) masterOf(link string) string {
	for _, o := range f.state {
		if m, ok := o.(hoststate.Member); ok && m.Link == link {
			return m.Bridge
		}
	}
	return ""
}

// isOf reports whether o is a state of the tap with that key.
func isOf(o hoststate.Object, tap hoststate.Key) bool {
	switch o := o.(type) {
	case hoststate.LinkUp:
		return hoststate.TapKey(o.Link) == tap || hoststate.MacvtapKey(o.Link) == tap
	case hoststate.Member:
		return hoststate.TapKey(o.Link) == tap
	case hoststate.PortFlags:
		return hoststate.TapKey(o.Link) == tap
	case hoststate.PortVLANs:
		return hoststate.TapKey(o.Link) == tap
	case hoststate.Station:
		return hoststate.TapKey(o.Link) == tap
	}
	return false
}

// Inventory implements Host.
func (f *Fake) Inventory() Inventory {
	f.mu.Lock()
	defer f.mu.Unlock()
	inv := Inventory{
		Links: slices.Clone(f.Stock.Links), Addresses: slices.Clone(f.Stock.Addresses), Routes: slices.Clone(f.Stock.Routes),
	}
	for i, l := range inv.Links {
		if bridge := f.masterOf(l.Name); bridge != "" {
			inv.Links[i].Master = bridge
		}
	}
	for _, o := range f.state {
		switch o := o.(type) {
		case hoststate.Bridge:
			_, up := f.state[hoststate.LinkUp{Link: o.Name}.Key()]
			inv.Links = append(inv.Links, Link{Name: o.Name, Kind: kindBridge, Alias: o.Alias, MAC: o.MAC, MTU: o.MTU, Up: up})
		case hoststate.Tap:
			inv.Links = append(inv.Links, Link{Name: o.Name, Kind: kindTap, Alias: o.Alias, MTU: o.MTU, Master: f.masterOf(o.Name)})
		case hoststate.Macvtap:
			_, up := f.state[hoststate.LinkUp{Link: o.Name}.Key()]
			inv.Links = append(inv.Links, Link{Name: o.Name, Kind: kindMacvtap, Alias: o.Alias, MAC: o.MAC, Device: o.Device, Up: up})
		case hoststate.Address:
			inv.Addresses = append(inv.Addresses, LinkPrefix{o.Link, o.Prefix})
			inv.Routes = append(inv.Routes, LinkPrefix{o.Link, o.Prefix.Masked()})
		case hoststate.Route:
			inv.Routes = append(inv.Routes, LinkPrefix{o.Link, o.Dst})
		}
	}
	return inv
}

// Overlapping implements Host.
func (f *Fake) Overlapping(prefixes ...netip.Prefix) []LinkPrefix {
	inv := f.Inventory()
	return slices.DeleteFunc(slices.Concat(inv.Addresses, inv.Routes), func(have LinkPrefix) bool {
		return !slices.ContainsFunc(prefixes, have.Prefix.Overlaps)
	})
}

// Link implements Host.
func (f *Fake) Link(name string) (Link, bool) {
	links := f.Inventory().Links
	i := slices.IndexFunc(links, func(l Link) bool { return l.Name == name })
	if i < 0 {
		return Link{}, false
	}
	return links[i], true
}

// Rename implements Host, of links in the stock.
func (f *Fake) Rename(link, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := slices.IndexFunc(f.Stock.Links, func(l Link) bool { return l.Name == link })
	if i < 0 {
		return fmt.Errorf("rename link %s to %s: it does not exist", link, name)
	}
	f.Stock.Links = slices.Clone(f.Stock.Links)
	f.Stock.Links[i].Name = name
	return nil
}

// Ports implements Host.
func (f *Fake) Ports(bridge string) []Link {
	var ports []Link
	for _, l := range f.Inventory().Links {
		_, member := f.Observe([]hoststate.Key{hoststate.MemberKey(l.Name, bridge)})[hoststate.MemberKey(l.Name, bridge)]
		if l.Master == bridge || member {
			l.Master = bridge
			ports = append(ports, l)
		}
	}
	slices.SortFunc(ports, func(a, b Link) int { return strings.Compare(a.Name, b.Name) })
	return ports
}

// Collected implements Host.
func (f *Fake) Collected(hoststate.Set) ([]hoststate.Element, error) { return f.CollectedList, nil }

// Events implements Host.
func (f *Fake) Events() <-chan []hoststate.Key { return f.changes.Out() }

// Close implements Host.
func (f *Fake) Close() error {
	f.close()
	<-f.stopped
	return nil
}

// Held implements Host.
func (f *Fake) Held(link string) (hoststate.Held, error) { return f.HeldOf[link], nil }

// Neighbour implements Host: those in Silent do not answer.
func (f *Fake) Neighbour(_ context.Context, _ string, addr netip.Addr) error { return f.ask(addr) }

// Echo implements Host.
func (f *Fake) Echo(_ context.Context, addr netip.Addr) error { return f.ask(addr) }

func (f *Fake) ask(addr netip.Addr) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.Silent != nil && f.Silent(addr) {
		return fmt.Errorf("%s does not answer", addr)
	}
	return nil
}

// Towards implements Host: all ways are by Way.
func (f *Fake) Towards(netip.Addr) string { return f.Way }

// RemoteRoots implements Host.
func (f *Fake) RemoteRoots() []RemoteRoot { return f.Roots }
