package xenvif

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"

	"viaduct/internal/engine"
	"viaduct/internal/netdef"
)

// Networks is what this door asks of the engine.
type Networks interface {
	Networks() []engine.Info
	Bridges() []string
	GuestPorts(mac netdef.MAC, guest netdef.UUID, name string) []engine.GuestPort
	XML(id netdef.UUID, inactive bool) (string, error)
	Create(ctx context.Context, xml []byte) (engine.Info, error)
	CreatePort(ctx context.Context, id netdef.UUID, p engine.PortSpec) (engine.Port, error)
	Unplug(ctx context.Context, ref string) error
	Release(ctx context.Context, id netdef.UUID) error
}

// Daemon does what a script asks for: it is a Desk, or leads to one.
type Daemon interface{ do(request) answer }

// Desk is the daemon's end: it finds out what is meant and has the engine do it.
type Desk struct {
	Networks Networks
	// Settings are those of the networks that are made for scripts, as an element
	// of their own (netdef.SettingsSpace), or "" for none.
	Settings func() (string, error)
	// Rates is told when guests come and go; nil for nobody.
	Rates *Rates
}

// FileSettings are settings that a file has, if it is there.
func FileSettings(path string) func() (string, error) {
	return func() (string, error) {
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return string(text), err
	}
}

// request is what a script asks for.
type request struct {
	call
	keys map[string]string // what the store has of the interface, as it is there
	// guest is the guest's name and guestUUID its UUID, "" if they cannot be read.
	guest, guestUUID string
	// unguarded says that guests are to be left alone of whose network nobody
	// has said whether they are to be guarded.
	unguarded bool
	resolvers []string // the host's name servers, for guests in NAT
	// hooked says that there are hooks, which want to know where the interface is.
	hooked bool
}

// answer is what came of it.
type answer struct {
	mtu      int // of the link that was plugged in
	warnings []string
	// For hooks: the bridge that the link is in, or the host's IPv4 address at the
	// link of a guest that is routed.
	bridge, gateway string
	err             error
}

// do implements Daemon. Whoever asked may be gone before it is done: half of a
// port is of no use to anybody.
func (d Desk) do(r request) answer {
	ctx, cancel := context.WithTimeout(context.Background(), workLimit)
	defer cancel()
	defer d.Rates.Look()
	v, warnings, err := r.vif()
	if commands[r.command].leaves {
		a := answer{}
		if r.hooked {
			a.where(d.Networks, v)
		}
		a.err = d.unplug(ctx, r.call)
		return a
	}
	var port engine.Port
	if err == nil {
		port, err = d.plug(ctx, v)
	}
	a := answer{mtu: port.MTU, warnings: warnings, err: err}
	if r.hooked && err == nil {
		a.where(d.Networks, v)
	}
	return a
}

// where finds out where the interface is plugged in.
func (a *answer) where(networks Networks, v vif) {
	for _, p := range networks.GuestPorts(v.mac, v.guestUUID, v.guest) {
		if p.UUID != v.port() {
			continue
		}
		if def, err := netdef.ParsePort([]byte(p.XML)); err == nil {
			a.bridge = def.Plug.Bridge
		}
		if gateway := p.Routed.Gateway(netip.Addr.Is4); gateway.IsValid() {
			a.gateway = gateway.String()
		}
	}
}

// plug makes the guest's link a port of the network that its keys name.
func (d Desk) plug(ctx context.Context, v vif) (engine.Port, error) {
	for attempt := 1; ; attempt++ {
		at, err := d.place(ctx, v)
		if err != nil {
			return engine.Port{}, err
		}
		spec, err := v.spec(at)
		if err != nil {
			return engine.Port{}, err
		}
		port, err := d.Networks.CreatePort(ctx, at.id, spec)
		if err == nil {
			return port, nil
		}
		if at.implicit {
			// It ended with its last port between our finding it and our asking.
			if netdef.CodeOf(err) == netdef.ErrNoNetwork && attempt < maxAttempts {
				continue
			}
			err = errors.Join(err, ignoreGone(d.Networks.Release(ctx, at.id)))
		}
		return engine.Port{}, fmt.Errorf("plug %s into network '%s': %w", v.link, at.name, err)
	}
}

// maxAttempts bounds how often a network may end before a guest gets into it.
const maxAttempts = 5

func ignoreGone(err error) error {
	if netdef.CodeOf(err) == netdef.ErrNoNetwork {
		return nil
	}
	return err
}

// unplug takes out the port of an interface, and with it the network that was
// made for such ports, if it was the last.
func (d Desk) unplug(ctx context.Context, c call) error {
	if err := d.Networks.Unplug(ctx, c.port().String()); err != nil {
		return err
	}
	var err error
	for _, n := range d.Networks.Networks() {
		if n.UUID == implicitUUID(n.Name) && n.Connections == 0 {
			err = errors.Join(err, ignoreGone(d.Networks.Release(ctx, n.UUID)))
		}
	}
	return err
}
