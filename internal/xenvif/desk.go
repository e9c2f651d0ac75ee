package xenvif

import (
	"context"
	"errors"
	"fmt"

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
type Desk struct{ Networks Networks }

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
}

// answer is what came of it.
type answer struct {
	mtu      int // of the link that was plugged in
	warnings []string
	err      error
}

// do implements Daemon. Whoever asked may be gone before it is done: half of a
// port is of no use to anybody.
func (d Desk) do(r request) answer {
	ctx, cancel := context.WithTimeout(context.Background(), workLimit)
	defer cancel()
	if commands[r.command].leaves {
		return answer{err: d.unplug(ctx, r.call)}
	}
	v, warnings, err := r.vif()
	var port engine.Port
	if err == nil {
		port, err = d.plug(ctx, v)
	}
	return answer{mtu: port.MTU, warnings: warnings, err: err}
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
