// Package apitest has an engine made of paper: it keeps networks in memory and
// says what the real one says, so that doors can be tested without a host.
package apitest

import (
	"context"
	"encoding/xml"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"viaduct/internal/engine"
	"viaduct/internal/netdef"
)

// Fake implements httpapi.API.
type Fake struct {
	// Subscribed receives a value for each new reader of events, if it is not nil.
	Subscribed chan struct{}

	mu       sync.Mutex
	networks []*network
	leases   map[netdef.UUID][]netdef.Lease
	plans    map[netdef.UUID]string
	warnings map[netdef.UUID][]string
	ports    map[string]netdef.UUID // by link
	report   engine.ReloadReport
	readers  map[chan engine.Event]bool
}

type network struct {
	engine.Info
	texts  map[string]string // metadata, by type and URI
	awaits bool              // a change awaits confirmation
	xml    string
	ports  []engine.Port // those that CreatePort made
}

// New makes an engine with no networks.
func New() *Fake {
	return &Fake{
		leases: map[netdef.UUID][]netdef.Lease{}, plans: map[netdef.UUID]string{}, warnings: map[netdef.UUID][]string{}, ports: map[string]netdef.UUID{},
		readers: map[chan engine.Event]bool{},
	}
}

// SetLeases makes the network's leases.
func (f *Fake) SetLeases(id netdef.UUID, leases ...netdef.Lease) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.leases[id] = leases
}

// SetPlan makes what Plan answers.
func (f *Fake) SetPlan(id netdef.UUID, text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.plans[id] = text
}

// SetWarnings makes what Warnings answers.
func (f *Fake) SetWarnings(id netdef.UUID, warnings ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.warnings[id] = warnings
}

// SetReport makes what Reload answers.
func (f *Fake) SetReport(r engine.ReloadReport) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.report = r
}

// Networks lists the networks.
func (f *Fake) Networks() []engine.Info {
	f.mu.Lock()
	defer f.mu.Unlock()
	infos := make([]engine.Info, len(f.networks))
	for i, n := range f.networks {
		infos[i] = n.Info
	}
	slices.SortFunc(infos, func(a, b engine.Info) int {
		return strings.Compare(strings.ToLower(a.Name), strings.ToLower(b.Name))
	})
	return infos
}

// Lookup finds a network.
func (f *Fake) Lookup(ref string) (engine.Info, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range f.networks {
		if n.UUID.String() == ref || n.Name == ref {
			return n.Info, nil
		}
	}
	return engine.Info{}, netdef.Errorf(netdef.ErrNoNetwork, "no network with matching name '%s'", ref)
}

// definition is what the fake understands of network XML.
type definition struct {
	XMLName xml.Name    `xml:"network"`
	Name    string      `xml:"name"`
	UUID    netdef.UUID `xml:"uuid"`
	Title   string      `xml:"title"`
	Bridge  struct {
		Name string `xml:"name,attr"`
	} `xml:"bridge"`
	Forward struct {
		Mode netdef.Mode `xml:"mode,attr"`
	} `xml:"forward"`
}

func (f *Fake) read(text []byte) (*network, error) {
	var d definition
	if err := xml.Unmarshal(text, &d); err != nil {
		return nil, netdef.Errorf(netdef.ErrXMLDetail, "%w", err)
	}
	if d.Name == "" {
		return nil, netdef.Errorf(netdef.ErrNoName, "")
	}
	if d.UUID.IsZero() {
		d.UUID = netdef.NewUUID()
	}
	for _, n := range f.networks {
		switch {
		case n.Name == d.Name && n.UUID != d.UUID:
			return nil, netdef.Errorf(netdef.ErrOperationFailed, "network '%s' already exists with uuid %s", n.Name, n.UUID)
		case n.Name != d.Name && n.UUID == d.UUID:
			return nil, netdef.Errorf(netdef.ErrOperationFailed, "network '%s' is already defined with uuid %s", n.Name, n.UUID)
		case n.Bridge != "" && n.Bridge == d.Bridge.Name && n.UUID != d.UUID:
			return nil, netdef.Errorf(netdef.ErrInternal, "bridge name '%s' already in use.", n.Bridge)
		}
	}
	return &network{
		Info: engine.Info{Name: d.Name, UUID: d.UUID, Title: d.Title, Bridge: d.Bridge.Name, Mode: d.Forward.Mode},
		xml:  string(text),
	}, nil
}

// put adds the network, or changes the one with its UUID.
func (f *Fake) put(n *network) *network {
	for _, old := range f.networks {
		if old.UUID == n.UUID {
			old.xml, old.Title, old.Bridge = n.xml, n.Title, n.Bridge
			return old
		}
	}
	f.networks = append(f.networks, n)
	return n
}

// Define makes or changes a persistent network.
func (f *Fake) Define(_ context.Context, text []byte) (engine.Info, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.read(text)
	if err != nil {
		return engine.Info{}, err
	}
	n = f.put(n)
	n.Persistent = true
	f.tell(n, engine.EventDefined)
	return n.Info, nil
}

// Create makes a transient network.
func (f *Fake) Create(_ context.Context, text []byte) (engine.Info, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.read(text)
	if err != nil {
		return engine.Info{}, err
	}
	n = f.put(n)
	n.Active = true
	f.tell(n, engine.EventStarted)
	return n.Info, nil
}

// change does something to a network.
func (f *Fake) change(id netdef.UUID, do func(*network) error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range f.networks {
		if n.UUID == id {
			return do(n)
		}
	}
	return netdef.Errorf(netdef.ErrNoNetwork, "no network with matching uuid '%s'", id)
}

// Start starts a network.
func (f *Fake) Start(_ context.Context, id netdef.UUID) error {
	return f.change(id, func(n *network) error {
		if n.Active {
			return netdef.Errorf(netdef.ErrOperationInvalid, "network is already active")
		}
		n.Active = true
		f.tell(n, engine.EventStarted)
		return nil
	})
}

// Destroy stops a network.
func (f *Fake) Destroy(_ context.Context, id netdef.UUID) error {
	return f.change(id, func(n *network) error {
		if !n.Active {
			return netdef.Errorf(netdef.ErrOperationInvalid, "network '%s' is not active", n.Name)
		}
		n.Active = false
		f.tell(n, engine.EventStopped)
		f.dropIfGone(n)
		return nil
	})
}

// Undefine forgets the persistent definition.
func (f *Fake) Undefine(_ context.Context, id netdef.UUID) error {
	return f.change(id, func(n *network) error {
		if !n.Persistent {
			return netdef.Errorf(netdef.ErrOperationInvalid, "can't undefine transient network")
		}
		n.Persistent = false
		f.tell(n, engine.EventUndefined)
		f.dropIfGone(n)
		return nil
	})
}

func (f *Fake) dropIfGone(n *network) {
	if !n.Active && !n.Persistent {
		f.networks = slices.DeleteFunc(f.networks, func(m *network) bool { return m == n })
	}
}

// SetAutostart marks a network.
func (f *Fake) SetAutostart(_ context.Context, id netdef.UUID, on bool) error {
	return f.change(id, func(n *network) error {
		if !n.Persistent {
			return netdef.Errorf(netdef.ErrOperationInvalid, "cannot set autostart for transient network")
		}
		n.Autostart = on
		return nil
	})
}

// XML is the definition as it was given; the live one begins with a comment that says so.
func (f *Fake) XML(id netdef.UUID, inactive bool) (text string, err error) {
	err = f.change(id, func(n *network) error {
		text = n.xml
		if n.Active && !inactive {
			text = "<!-- live -->\n" + text
		}
		return nil
	})
	return text, err
}

// Leases are those that were set.
func (f *Fake) Leases(id netdef.UUID, mac string) ([]netdef.Lease, error) {
	var want netdef.MAC
	if mac != "" {
		var err error
		if want, err = netdef.ParseMAC(mac); err != nil {
			return nil, netdef.Errorf(netdef.ErrInvalidMAC, "%s", mac)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var found []netdef.Lease
	for _, l := range f.leases[id] {
		if mac == "" || l.MAC == want {
			found = append(found, l)
		}
	}
	return found, nil
}

// Plan is the text that was set.
func (f *Fake) Plan(id netdef.UUID) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.plans[id], nil
}

// Warnings are those that were set.
func (f *Fake) Warnings(id netdef.UUID) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.warnings[id], nil
}

// Notes are about routed networks.
func (f *Fake) Notes(id netdef.UUID) (notes []string, err error) {
	return notes, f.change(id, func(n *network) error {
		if n.Active && n.Mode == netdef.ModeRoute {
			notes = []string{"the LAN's router needs a route"}
		}
		return nil
	})
}

// Plug counts a link that begins with "vif" as a port of an active network.
// Others do not exist.
func (f *Fake) Plug(_ context.Context, id netdef.UUID, link string, _ time.Duration) error {
	return f.change(id, func(n *network) error {
		switch {
		case !n.Active:
			return netdef.Errorf(netdef.ErrOperationInvalid, "network '%s' is not active", n.Name)
		case !strings.HasPrefix(link, "vif"):
			return netdef.Errorf(netdef.ErrInternal, "link '%s' does not exist", link)
		}
		if f.ports[link] != n.UUID {
			f.ports[link] = n.UUID
			n.Connections++
		}
		return nil
	})
}

// Unplug forgets a port.
func (f *Fake) Unplug(_ context.Context, link string) error {
	f.mu.Lock()
	id, plugged := f.ports[link]
	delete(f.ports, link)
	f.mu.Unlock()
	if !plugged {
		return nil
	}
	return f.change(id, func(n *network) error {
		n.Connections--
		return nil
	})
}

// GuestPorts finds none.
func (f *Fake) GuestPorts(netdef.MAC, netdef.UUID, string) []engine.GuestPort { return nil }

// Bridges finds none.
func (f *Fake) Bridges() []string { return nil }

// Release destroys a transient network without ports.
func (f *Fake) Release(ctx context.Context, id netdef.UUID) error {
	n, err := f.Lookup(id.String())
	if err != nil || n.Persistent || n.Connections > 0 {
		return err
	}
	return f.Destroy(ctx, id)
}

// Ports are those that CreatePort made.
func (f *Fake) Ports(id netdef.UUID) (ports []engine.Port, err error) {
	err = f.change(id, func(n *network) error {
		ports = slices.Clone(n.ports)
		return nil
	})
	return ports, err
}

// PortXML is the port's UUID in an element.
func (f *Fake) PortXML(id netdef.UUID, ref string) (text string, err error) {
	err = f.change(id, func(n *network) error {
		i, err := n.port(ref)
		if err == nil {
			text = fmt.Sprintf("<networkport>\n  <uuid>%s</uuid>\n</networkport>\n", n.ports[i].UUID)
		}
		return err
	})
	return text, err
}

func (n *network) port(ref string) (int, error) {
	i := slices.IndexFunc(n.ports, func(p engine.Port) bool { return p.Link == ref || p.UUID.String() == ref })
	if i < 0 {
		return i, netdef.Errorf(netdef.ErrNoNetworkPort, "network '%s' has no port '%s'", n.Name, ref)
	}
	return i, nil
}

// SetPortBandwidth gives the port the limits.
func (f *Fake) SetPortBandwidth(_ context.Context, id netdef.UUID, ref string, b *netdef.Bandwidth) error {
	return f.change(id, func(n *network) error {
		i, err := n.port(ref)
		if err == nil {
			n.ports[i].Def.Bandwidth = b
		}
		return err
	})
}

// UpdatePort gives the port the description.
func (f *Fake) UpdatePort(_ context.Context, id netdef.UUID, ref string, def netdef.Port, _ *netdef.Guard) error {
	return f.change(id, func(n *network) error {
		i, err := n.port(ref)
		if err == nil {
			n.ports[i].Def = def
		}
		return err
	})
}

// CreatePort adds a port with a UUID that counts up, over which something went.
func (f *Fake) CreatePort(_ context.Context, id netdef.UUID, p engine.PortSpec) (made engine.Port, err error) {
	err = f.change(id, func(n *network) error {
		if !n.Active {
			return netdef.Errorf(netdef.ErrOperationInvalid, "network '%s' is not active", n.Name)
		}
		made = engine.Port{
			UUID: netdef.UUID{15: byte(len(n.ports) + 1)}, Link: p.Link, Origin: engine.OriginPlugged, Group: p.Group, MAC: p.MAC, Active: true,
			FromGuest: fromGuest, ToGuest: toGuest,
		}
		if p.Tap != nil {
			made.Link, made.Origin, made.Owner = p.Tap.Name, engine.OriginTap, &p.Tap.Owner
		}
		n.ports = append(n.ports, made)
		n.Connections++
		return nil
	})
	return made, err
}

// What went over ports and networks.
var (
	fromGuest = engine.Traffic{Bytes: 5000, Packets: 50, Drops: map[string]uint64{"dropped": 3}}
	toGuest   = engine.Traffic{Bytes: 70, Packets: 1}
)

// DeletePort forgets a port.
func (f *Fake) DeletePort(_ context.Context, id netdef.UUID, ref string) error {
	return f.change(id, func(n *network) error {
		i, err := n.port(ref)
		if err == nil {
			n.ports = slices.Delete(n.ports, i, i+1)
			n.Connections--
		}
		return err
	})
}

// Counters are always the same.
func (f *Fake) Counters(id netdef.UUID) (engine.NetworkCounters, error) {
	return engine.NetworkCounters{FromGuests: fromGuest, ToGuests: toGuest}, f.change(id, func(*network) error { return nil })
}

// Reload answers the report that was set.
func (f *Fake) Reload(context.Context) (engine.ReloadReport, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.report, nil
}

// Events delivers what happens from now on. A reader that lags 16 events behind is dropped.
func (f *Fake) Events() (<-chan engine.Event, func()) {
	c := make(chan engine.Event, 16)
	f.mu.Lock()
	f.readers[c] = true
	f.mu.Unlock()
	if f.Subscribed != nil {
		f.Subscribed <- struct{}{}
	}
	return c, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.drop(c)
	}
}

func (f *Fake) drop(c chan engine.Event) {
	if f.readers[c] {
		delete(f.readers, c)
		close(c)
	}
}

// DropReaders ends all streams of events, as if their readers were too slow.
func (f *Fake) DropReaders() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.readers {
		f.drop(c)
	}
}

func (f *Fake) tell(n *network, t engine.EventType) {
	f.publish(engine.Event{Name: n.Name, UUID: n.UUID, Type: t})
}

func (f *Fake) publish(ev engine.Event) {
	ev.Time = time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	for c := range f.readers {
		select {
		case c <- ev:
		default:
			f.drop(c)
		}
	}
}

// Definition is a small network with a given name and bridge number.
func Definition(name string, bridge int) []byte {
	return fmt.Appendf(nil, "<network>\n  <name>%s</name>\n  <uuid>00000000-0000-4000-8000-%012d</uuid>\n"+
		"  <forward mode='nat'/>\n  <bridge name='virbr%d'/>\n"+
		"  <ip address='10.9.%d.1' netmask='255.255.255.0'>\n  </ip>\n</network>\n", name, bridge, bridge, bridge)
}
