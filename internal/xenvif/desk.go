// Package xenvif is the daemon's door for Xen: it answers the hotplug script,
// which says what xenstore has of a guest's interface. It translates Xen's terms;
// what can be applied is the engine's to decide.
package xenvif

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"time"

	"viaduct/internal/engine"
	"viaduct/internal/netdef"
	"viaduct/internal/xenvif/hotplug"
)

// linkLimit is how long the guest's link may take to appear: the kernel tells
// libxl that it is there shortly before it is.
const linkLimit = 10 * time.Second

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

// Do implements hotplug.Daemon. Whoever asked may be gone before it is done: half
// of a port is of no use to anybody.
func (d Desk) Do(r hotplug.Request) (a hotplug.Answer) {
	ctx, cancel := context.WithTimeout(context.Background(), hotplug.WorkLimit)
	defer cancel()
	defer d.Rates.Look()
	v, warnings, err := readVif(r)
	if r.Leaves() {
		if r.Hooked {
			a.Bridge, a.Gateway = d.where(v)
		}
		a.Err = d.unplug(ctx, r.Call)
		return a
	}
	var port engine.Port
	if err == nil {
		port, err = d.plug(ctx, v)
	}
	a = hotplug.Answer{MTU: port.MTU, Warnings: warnings, Err: err}
	if r.Hooked && err == nil {
		a.Bridge, a.Gateway = d.where(v)
	}
	return a
}

// where finds out where the interface is plugged in, as hooks want to know.
func (d Desk) where(v vif) (bridge, gateway string) {
	for _, p := range d.Networks.GuestPorts(v.mac, v.guestUUID, v.guest) {
		if p.UUID != portOf(v.Call) {
			continue
		}
		if def, err := netdef.ParsePort([]byte(p.XML)); err == nil {
			bridge = def.Plug.Bridge
		}
		if own := p.Routed.Gateway(netip.Addr.Is4); own.IsValid() {
			gateway = own.String()
		}
	}
	return bridge, gateway
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
		return engine.Port{}, fmt.Errorf("plug %s into network '%s': %w", v.Link, at.name, err)
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
func (d Desk) unplug(ctx context.Context, c hotplug.Call) error {
	if err := d.Networks.Unplug(ctx, portOf(c).String()); err != nil {
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

// portOf is the UUID of the interface's port, which can be told from what libxl
// says at its end too, when xenstore may have forgotten it.
func portOf(c hotplug.Call) netdef.UUID {
	return netdef.NamedUUID(fmt.Sprintf("xen %s %d/%d", c.Kind, c.Domain, c.Device))
}
