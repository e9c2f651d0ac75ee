// Package engine is the one owner of state. It knows the networks that are
// defined and those that are active, and it makes the host follow: start,
// stop, edit, heal and adopt all end in reconcile.go's one way of applying the
// difference between what is planned and what is observed.
package engine

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"viaduct/internal/guestsvc/leases"
	"viaduct/internal/hook"
	"viaduct/internal/host"
	"viaduct/internal/hoststate"
	"viaduct/internal/netdef"
	"viaduct/internal/plan"
	"viaduct/internal/store"
	"viaduct/internal/uplink"
)

// Options are what an Engine works with. All fields but the last three are needed.
type Options struct {
	Host   host.Host
	Store  *store.Store
	Leases *leases.DB
	Log    *slog.Logger
	// DNSPort says on which port DNS can be served at the address: 53, or
	// another one if a foreign program holds 53.
	DNSPort func(addr netip.Addr) (uint16, error)
	// NoIPv6 says that the kernel runs without IPv6.
	NoIPv6 bool
	// ForceForwarding says that the kernel can forward IPv6 on single links.
	ForceForwarding bool
	// LiveRename says that the kernel gives links another name while they are up.
	LiveRename bool
	// Dnsmasq says when and how dnsmasq serves guests in our place.
	Dnsmasq plan.Dnsmasq
	// Default makes the network called default at the first start.
	Default bool
	// Firewalld knows the host's firewalld. It may be nil: there is none.
	Firewalld Firewalld
	// Foreign returns definitions of other network managers on this host,
	// which the default network must not collide with. It may be nil.
	Foreign func() []*netdef.Network
	// Hooks are the administrator's programs for moments in networks' lives.
	Hooks *hook.Runner
	// System is the host's files and programs, for those who configure its
	// network cards; nil if there are none.
	System uplink.System
}

// Engine owns the networks of a host. Its methods may be called concurrently:
// work on one network never waits for work on another, except where the kernel
// itself does one thing at a time.
type Engine struct {
	Options

	mu       sync.Mutex
	networks map[netdef.UUID]*network
	names    map[string]*network
	// claims says which network an object belongs to.
	claims map[hoststate.Key]*network
	// shared counts the networks that use an object. What none uses any more
	// stays listed until sweep has removed it.
	shared map[hoststate.Key]sharedObject
	// moving counts the transitions under way. While there are any, nothing
	// shared is removed; while sweeping, none begins.
	moving   int
	sweeping bool
	closed   bool
	idle     *sync.Cond // a sweep, or the last transition, has ended
	// changed is closed, and replaced, when something on the host has changed.
	changed chan struct{}

	// making is held while shared objects are made, so that only one of the
	// networks that miss them does it.
	making sync.Mutex

	settings sync.Mutex // guards sysctls and their record in the store
	// sysctls are the host's settings that we changed, as the store has them.
	sysctls map[string]store.SysctlRecord

	// strangers says that networks are active which this version does not
	// understand: what ours no longer share, those may. It is guarded by mu.
	strangers bool

	reloading sync.Mutex // held by the one Reload under way
	applying  sync.Mutex // held by the one change of several networks under way

	// awaited are the changes that await confirmation, by the UUID of their
	// network. It is guarded by mu.
	awaited map[netdef.UUID]*awaiting

	uplinks   uplinks
	events    broadcaster
	healing   healer
	learning  learner
	filtering filtering
	tasks     sync.WaitGroup
	stop      context.CancelFunc
}

type sharedObject struct {
	object hoststate.Object
	users  int
}

// network is one network that is defined, active or both.
type network struct {
	id   netdef.UUID
	name string
	// busy is held by the one operation that changes the network.
	busy sync.Mutex

	// The rest is guarded by Engine.mu.

	config    *netdef.Network // the persistent definition; nil for a transient network
	live      *netdef.Network // the definition in effect; nil while inactive
	pending   *netdef.Network // what an operation under way may make of one of the above
	autostart bool
	gone      bool           // removed from Engine.networks
	taking    bool           // its bridge is being taken over: should that fail, it stays
	fragment  plan.Fragment  // what is applied for live
	subnets   []netip.Prefix // those of fragment and of what it is about to become
	dnsPort   uint16
	// translated is whether live has been in NAT mode since the network started.
	translated bool
	ports      []port // the links in the bridge, as far as known
}

// setLive makes another definition the one in effect.
func (n *network) setLive(def *netdef.Network, dnsPort uint16) {
	n.live, n.dnsPort = def, dnsPort
	n.translated = n.translated || def.Forward.Mode == netdef.ModeNAT
}

// known reports whether the network is more than the attempt to make one.
func (n *network) known() bool { return n.live != nil || n.config != nil }

// definition is what describes the network best: the live definition, or else
// the persistent one. It is nil only for a network that is not registered yet.
func (n *network) definition() *netdef.Network {
	for _, d := range n.definitions() {
		if d != nil {
			return d
		}
	}
	return nil
}

// definitions are all that the network has, any of which may be nil.
func (n *network) definitions() [3]*netdef.Network {
	return [...]*netdef.Network{n.live, n.config, n.pending}
}

// connections counts the ports that somebody asked for.
func (n *network) connections() int {
	count := 0
	for _, p := range n.ports {
		if p.declared {
			count++
		}
	}
	return count
}

// deviceConnections counts those that use a device of the network's pool.
func (n *network) deviceConnections() map[string]int {
	count := map[string]int{}
	for _, p := range n.ports {
		if p.declared && p.def.Plug.Dev != "" {
			count[p.def.Plug.Dev]++
		}
	}
	return count
}

// New makes an engine. It does nothing before Run.
func New(o Options) *Engine {
	e := &Engine{
		Options:  o,
		networks: map[netdef.UUID]*network{},
		names:    map[string]*network{},
		claims:   map[hoststate.Key]*network{},
		shared:   map[hoststate.Key]sharedObject{},
		sysctls:  map[string]store.SysctlRecord{},
		awaited:  map[netdef.UUID]*awaiting{},
		changed:  make(chan struct{}),
		uplinks: uplinks{
			records: map[string]uplink.Record{}, waiting: map[string]chan struct{}{}, healing: map[string]*healing{},
		},
	}
	e.idle = sync.NewCond(&e.mu)
	o.Leases.Watch(e.leaseKept)
	return e
}

// Close stops the engine's work, after what is under way on the host. Networks
// stay on the host as they are.
func (e *Engine) Close() error {
	if e.stop != nil {
		e.stop()
	}
	e.healing.close(e.tasks.Done)
	e.learning.close()
	e.stopAwaiting()
	e.closeUplinks()
	e.tasks.Wait()
	e.mu.Lock()
	e.closed = true
	for e.moving > 0 || e.sweeping {
		e.idle.Wait()
	}
	e.mu.Unlock()
	e.events.close()
	return nil
}

// Networks lists all networks, sorted by name without regard to case.
func (e *Engine) Networks() []Info {
	e.mu.Lock()
	defer e.mu.Unlock()
	infos := make([]Info, 0, len(e.networks))
	for _, n := range e.networks {
		if n.known() {
			infos = append(infos, n.info())
		}
	}
	slices.SortFunc(infos, func(a, b Info) int {
		return cmp.Or(strings.Compare(strings.ToLower(a.Name), strings.ToLower(b.Name)), strings.Compare(a.Name, b.Name))
	})
	return infos
}

func (n *network) info() Info {
	d := n.definition()
	return Info{
		Name: n.name, UUID: n.id, Title: d.Title, Bridge: d.Bridge.Name, Mode: d.Forward.Mode,
		Active: n.live != nil, Persistent: n.config != nil, Autostart: n.autostart, Connections: n.connections(),
	}
}

// Lookup finds a network by UUID or by name.
func (e *Engine) Lookup(ref string) (Info, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(ref) == 36 {
		if id, err := netdef.ParseUUID(ref); err == nil {
			if n := e.networks[id]; n != nil && n.known() {
				return n.info(), nil
			}
		}
	}
	if n := e.names[ref]; n != nil && n.known() {
		return n.info(), nil
	}
	return Info{}, noName(ref)
}

// ByName finds a network by its name, whatever the name looks like.
func (e *Engine) ByName(name string) (Info, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if n := e.names[name]; n != nil && n.known() {
		return n.info(), nil
	}
	return Info{}, noName(name)
}

func noName(name string) error {
	return netdef.Errorf(netdef.ErrNoNetwork, "no network with matching name '%s'", name)
}

func noNetwork(id netdef.UUID) error {
	return netdef.Errorf(netdef.ErrNoNetwork, "no network with matching uuid '%s'", id)
}

// seize finds a network and takes its busy lock. The caller gives it back.
func (e *Engine) seize(id netdef.UUID) (*network, error) {
	e.mu.Lock()
	n := e.networks[id]
	e.mu.Unlock()
	if n == nil {
		return nil, noNetwork(id)
	}
	n.busy.Lock()
	e.mu.Lock()
	gone := n.gone
	e.mu.Unlock()
	if gone {
		n.busy.Unlock()
		return nil, noNetwork(id)
	}
	return n, nil
}

// XML is the definition of a network: the live one, or the persistent one if
// the network is inactive or inactive is set.
func (e *Engine) XML(id netdef.UUID, inactive bool) (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := e.networks[id]
	if n == nil || !n.known() {
		return "", noNetwork(id)
	}
	if n.live != nil && (!inactive || n.config == nil) {
		return liveForm(n.live).Format(netdef.FormatOptions{
			Inactive: inactive, Connections: n.connections(), DeviceConnections: n.deviceConnections(),
		}), nil
	}
	return n.config.Format(netdef.FormatOptions{Inactive: true}), nil
}

// liveForm is the definition as libvirt shows it of an active network: with
// the ports that masquerading uses by default.
func liveForm(n *netdef.Network) *netdef.Network {
	if n.Forward.Mode != netdef.ModeNAT {
		return n
	}
	c := n.Clone()
	if c.Forward.NAT == nil {
		c.Forward.NAT = &netdef.NAT{}
	}
	if c.Forward.NAT.PortStart == 0 && c.Forward.NAT.PortEnd == 0 {
		c.Forward.NAT.PortStart, c.Forward.NAT.PortEnd = 1024, 65535
	}
	return c
}

// Leases lists the addresses that guests of the network hold, sorted by
// address. With a MAC address it lists that guest's only.
func (e *Engine) Leases(id netdef.UUID, mac string) ([]netdef.Lease, error) {
	e.mu.Lock()
	n := e.networks[id]
	known := n != nil && n.known()
	e.mu.Unlock()
	if !known {
		return nil, noNetwork(id)
	}
	all := e.Options.Leases.Table(id).All()
	if mac == "" {
		return all, nil
	}
	m, err := netdef.ParseMAC(mac)
	if err != nil {
		return nil, netdef.Errorf(netdef.ErrInvalidMAC, "%s", mac)
	}
	return slices.DeleteFunc(all, func(l netdef.Lease) bool { return l.MAC != m }), nil
}

// Plan is what would change on the host if the network were started, or, if it
// is active, brought back to what its definition says. It is empty if nothing would.
func (e *Engine) Plan(id netdef.UUID) (string, error) {
	n, err := e.seize(id)
	if err != nil {
		return "", err
	}
	defer n.busy.Unlock()
	ops, err := e.planned(n)
	return hoststate.FormatOps(ops), err
}

// planned needs n.busy.
func (e *Engine) planned(n *network) ([]hoststate.Op, error) {
	e.mu.Lock()
	def, old, active := n.definition().Clone(), n.fragment, n.live != nil
	e.mu.Unlock()
	if active {
		e.notePorts(n, def)
	} else if err := e.collisions(n, def); err != nil {
		return nil, err
	}
	dnsPort, err := e.portForDNS(n, def)
	if err != nil {
		return nil, err
	}
	next, err := plan.Network(def, e.facts(n, def, dnsPort))
	if err != nil {
		return nil, err
	}
	shared, own := e.difference(old, next)
	return append(shared, own...), nil
}

// errAs turns an error of a lower floor into one a client may see.
func errAs(code netdef.Code, err error) error {
	var known *netdef.Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	return netdef.Errorf(code, "%w", err)
}
