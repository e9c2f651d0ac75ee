package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"viaduct/internal/netdef"
	"viaduct/internal/plan"
)

// Define makes a network persistent, or replaces the persistent definition of
// one: an active network goes on with its live definition until it is started anew.
func (e *Engine) Define(_ context.Context, xml []byte) (Info, error) {
	def, err := e.read(xml)
	if err == nil {
		err = e.checkDevices(def)
	}
	if err != nil {
		return Info{}, err
	}
	n, err := e.admit(def)
	if err != nil {
		return Info{}, err
	}
	defer e.dismiss(n)
	if err := e.persist(n, def); err != nil {
		return Info{}, err
	}
	e.events.send(n, EventDefined)
	return e.infoOf(n), nil
}

// Create starts a transient network: one without a persistent definition.
func (e *Engine) Create(ctx context.Context, xml []byte) (Info, error) {
	def, err := e.read(xml)
	if err == nil {
		err = e.checkDevices(def)
	}
	if err != nil {
		return Info{}, err
	}
	n, err := e.admit(def)
	if err != nil {
		return Info{}, err
	}
	defer e.dismiss(n)
	e.mu.Lock()
	active := n.live != nil
	e.mu.Unlock()
	if active {
		return Info{}, netdef.Errorf(netdef.ErrOperationInvalid, "network is already active as '%s'", n.name)
	}
	if err := e.bringUp(ctx, n, def); err != nil {
		return Info{}, err
	}
	return e.infoOf(n), nil
}

// Undefine takes away a network's persistence. An active network becomes
// transient, an inactive one is gone.
func (e *Engine) Undefine(ctx context.Context, id netdef.UUID) error {
	n, err := e.seize(id)
	if err != nil {
		return err
	}
	defer n.busy.Unlock()
	e.mu.Lock()
	persistent := n.config != nil
	e.mu.Unlock()
	if !persistent {
		return netdef.Errorf(netdef.ErrOperationInvalid, "can't undefine transient network")
	}
	return e.undefine(ctx, n)
}

// undefine takes the network's persistence away. The caller holds n.busy.
func (e *Engine) undefine(ctx context.Context, n *network) error {
	err := e.Store.DeleteDefinition(n.name)
	if errors.Is(err, fs.ErrNotExist) { // somebody removed the file, but not the mark
		err = e.Store.SetAutostart(n.name, false)
	}
	if err != nil {
		return errAs(netdef.ErrInternal, err)
	}
	e.mu.Lock()
	n.config, n.autostart = nil, false
	active, status := n.live != nil, e.statusLocked(n)
	e.mu.Unlock()
	if active {
		err = e.Store.PutStatus(status)
	} else {
		e.Options.Leases.Drop(n.id)
		_, err = e.transition(context.WithoutCancel(ctx), n, plan.Fragment{})
		err = errors.Join(err, e.Store.DeleteStatus(n.name))
	}
	if err != nil { // it is of no consequence without the definition
		e.Log.Warn("keep status of undefined network", "network", n.name, "error", err)
	}
	// Nobody can take the name before all that belonged to it is gone and told.
	e.mu.Lock()
	defer e.mu.Unlock()
	e.events.send(n, EventUndefined)
	if !active {
		e.remove(n)
	}
	return nil
}

// SetAutostart marks a persistent network to be started with the host.
func (e *Engine) SetAutostart(_ context.Context, id netdef.UUID, on bool) error {
	n, err := e.seize(id)
	if err != nil {
		return err
	}
	defer n.busy.Unlock()
	e.mu.Lock()
	persistent := n.config != nil
	e.mu.Unlock()
	if !persistent {
		return netdef.Errorf(netdef.ErrOperationInvalid, "cannot set autostart for transient network")
	}
	return e.markAutostart(n, on)
}

// markAutostart marks a network that is persistent. The caller holds n.busy.
func (e *Engine) markAutostart(n *network, on bool) error {
	if err := e.Store.SetAutostart(n.name, on); err != nil {
		return errAs(netdef.ErrInternal, err)
	}
	e.mu.Lock()
	n.autostart = on
	e.mu.Unlock()
	return nil
}

// read turns XML into a definition that this version can put into effect.
func (e *Engine) read(xml []byte) (*netdef.Network, error) {
	def, err := netdef.Parse(xml)
	if err != nil {
		return nil, err
	}
	if err := def.Validate(); err != nil {
		return nil, err
	}
	return def, plan.Check(def)
}

// admit finds or makes the network that a definition is about, completes the
// definition with what was not given, and returns with the network's busy lock
// held. Until dismiss is called the definition is pending, so that no other
// network can take its name, UUID or bridge meanwhile.
func (e *Engine) admit(def *netdef.Network) (*network, error) {
	for {
		e.mu.Lock()
		n, err := e.match(def)
		if err == nil && n == nil {
			n = &network{name: def.Name}
			if err = e.complete(n, def, nil); err == nil {
				n.id, n.pending = def.UUID, def
				n.busy.Lock() // nobody else knows it yet
				e.add(n)
			}
			e.mu.Unlock()
			return n, err
		}
		e.mu.Unlock()
		if err != nil {
			return nil, err
		}
		n.busy.Lock()
		e.mu.Lock()
		gone := n.gone
		if !gone {
			if err = e.complete(n, def, nil); err == nil {
				n.pending = def
			}
		}
		e.mu.Unlock()
		if !gone && err == nil {
			return n, nil
		}
		n.busy.Unlock()
		if err != nil {
			return nil, err
		}
	}
}

// dismiss ends what admit began. A network that has become neither defined nor
// active is forgotten.
func (e *Engine) dismiss(n *network) {
	e.mu.Lock()
	n.pending = nil
	if !n.known() && !n.gone {
		e.remove(n)
	}
	e.mu.Unlock()
	n.busy.Unlock()
}

// match finds the network with the definition's UUID and name. It needs e.mu.
func (e *Engine) match(def *netdef.Network) (*network, error) {
	if n := e.networks[def.UUID]; n != nil && !def.UUID.IsZero() {
		if n.name != def.Name {
			return nil, netdef.Errorf(netdef.ErrOperationFailed, "network '%s' is already defined with uuid %s", n.name, n.id)
		}
		return n, nil
	}
	if n := e.names[def.Name]; n != nil {
		return nil, netdef.Errorf(netdef.ErrOperationFailed, "network '%s' already exists with uuid %s", n.name, n.id)
	}
	return nil, nil
}

// complete chooses what the definition leaves open, keeping what the network
// had before. Of networks that are moving only what they are about to become
// counts. It needs e.mu.
func (e *Engine) complete(n *network, def *netdef.Network, moving map[*network]bool) error {
	if def.UUID.IsZero() {
		def.UUID = netdef.NewUUID()
	}
	if !def.OwnsBridge() {
		return nil
	}
	old := cmp.Or(n.live, n.config)
	if def.MAC.IsZero() {
		def.MAC = netdef.NewMAC()
		if old != nil && !old.MAC.IsZero() {
			def.MAC = old.MAC
		}
	}
	name := def.Bridge.Name
	if name == "" && old != nil {
		name = old.Bridge.Name
	}
	if name == "" {
		name = "virbr%d"
	}
	if strings.Contains(name, "%d") {
		var err error
		if name, err = e.freeBridgeName(name); err != nil {
			return err
		}
	} else if other := e.bridgeUser(name, n, moving); other != nil {
		return netdef.Errorf(netdef.ErrInternal, "bridge name '%s' already in use.", name)
	}
	def.Bridge.Name = name
	return nil
}

// bridgeUser is a network, other than except, that has, or, if it is moving, is
// about to have a bridge of that name: the one whose own it is, or else the
// first by name of those whose ports are in it. It needs e.mu.
func (e *Engine) bridgeUser(name string, except *network, moving map[*network]bool) *network {
	var user *network
	for _, n := range e.networks {
		if n == except {
			continue
		}
		for _, d := range n.definitions() {
			switch {
			case d == nil || d.Bridge.Name != name || moving[n] && d != n.pending:
			case d.Forward.Mode.OwnsBridge():
				return n
			case user == nil || n.name < user.name:
				user = n
			}
		}
	}
	return user
}

// maxBridge bounds the numbers of automatic bridge names, as libvirt does.
const maxBridge = 256 * 256

// freeBridgeName finds the lowest number for the template that neither a
// network nor a link of the host uses. It needs e.mu.
func (e *Engine) freeBridgeName(template string) (string, error) {
	used := map[string]bool{}
	for _, n := range e.networks {
		for _, d := range n.definitions() {
			if d != nil {
				used[d.Bridge.Name] = true
			}
		}
	}
	for i := range maxBridge {
		name := strings.Replace(template, "%d", fmt.Sprint(i), 1)
		if used[name] {
			continue
		}
		if _, exists := e.Host.Link(name); !exists {
			return name, nil
		}
	}
	return "", netdef.Errorf(netdef.ErrInternal, "Bridge generation exceeded max id %d", maxBridge)
}

// persist stores the definition and makes it the network's own. The caller
// holds n.busy.
func (e *Engine) persist(n *network, def *netdef.Network) error {
	if err := e.Store.PutDefinition(n.name, []byte(def.Format(netdef.FormatOptions{Inactive: true}))); err != nil {
		return errAs(netdef.ErrInternal, err)
	}
	e.mu.Lock()
	n.config = def
	active, status := n.live != nil, e.statusLocked(n)
	e.mu.Unlock()
	if active { // one that was transient is so no more
		if err := e.Store.PutStatus(status); err != nil {
			e.Log.Warn("keep status of defined network", "network", n.name, "error", err)
		}
	}
	return nil
}

// add registers a network. It needs e.mu.
func (e *Engine) add(n *network) {
	e.networks[n.id] = n
	e.names[n.name] = n
}

// remove needs e.mu.
func (e *Engine) remove(n *network) {
	n.gone = true
	delete(e.networks, n.id)
	delete(e.names, n.name)
}

func (e *Engine) infoOf(n *network) Info {
	e.mu.Lock()
	defer e.mu.Unlock()
	return n.info()
}
