package engine

import (
	"context"

	"viaduct/internal/hook"
	"viaduct/internal/netdef"
	"viaduct/internal/plan"
)

// Update adds, deletes or modifies one piece of a network's live definition,
// of its persistent one, or of both; where neither is asked for, of the live
// one if the network is active. parent is the index of the <ip> that a DHCP
// piece belongs to, -1 for the one that fits. On error nothing has changed.
func (e *Engine) Update(ctx context.Context, id netdef.UUID, command netdef.UpdateCommand, section netdef.Section, parent int, xml string, live, config bool) error {
	n, err := e.seize(id)
	if err != nil {
		return err
	}
	defer n.busy.Unlock()
	before := n.live
	err = e.alter(ctx, n, live, config, func(def *netdef.Network) (*netdef.Network, error) {
		return def.Update(command, section, parent, []byte(xml))
	})
	if err == nil && n.live != before {
		e.tellHook(ctx, n, hook.Updated, n.live, nil)
	}
	return err
}

// SetMetadata changes one of the texts that people attach to a network; an
// empty value removes it. An element is known by the namespace uri, and key is
// the prefix that it gets. live and config are as in Update.
func (e *Engine) SetMetadata(ctx context.Context, id netdef.UUID, t netdef.MetadataType, value, key, uri string, live, config bool) error {
	n, err := e.seize(id)
	if err != nil {
		return err
	}
	defer n.busy.Unlock()
	err = e.alter(ctx, n, live, config, func(def *netdef.Network) (*netdef.Network, error) {
		return def.WithMetadata(t, value, key, uri)
	})
	if err != nil {
		return err
	}
	e.events.publish(Event{Name: n.name, UUID: n.id, Type: EventMetadataChange, Metadata: t, URI: uri})
	return nil
}

// Metadata is one of the texts of the live definition or of the persistent
// one; where neither is asked for, of the live one if the network is active.
func (e *Engine) Metadata(id netdef.UUID, t netdef.MetadataType, uri string, live, config bool) (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := e.networks[id]
	if n == nil || !n.known() {
		return "", noNetwork(id)
	}
	live, config, err := n.affected(live, config)
	switch {
	case err != nil:
		return "", err
	case live && config:
		return "", netdef.Errorf(netdef.ErrInvalidArg, "only one of live and config can be read")
	case live:
		return n.live.MetadataOf(t, uri)
	}
	return n.config.MetadataOf(t, uri)
}

// affected decides which definitions are meant. It needs Engine.mu.
func (n *network) affected(live, config bool) (bool, bool, error) {
	if !live && !config {
		live = n.live != nil
		config = !live
	}
	switch {
	case live && n.live == nil:
		return live, config, netdef.Errorf(netdef.ErrOperationInvalid, "network is not running")
	case config && n.config == nil:
		return live, config, netdef.Errorf(netdef.ErrOperationInvalid, "cannot change persistent config of a transient network")
	}
	return live, config, nil
}

// alter makes the same edit to the definitions that are meant: to all of them
// or, on error, to none. The caller holds n.busy.
func (e *Engine) alter(ctx context.Context, n *network, live, config bool, edit func(*netdef.Network) (*netdef.Network, error)) error {
	e.mu.Lock()
	old, persistent := n.live, n.config
	live, config, err := n.affected(live, config)
	e.mu.Unlock()
	if err != nil {
		return err
	}
	var next, kept *netdef.Network
	if live {
		if next, err = edited(old, netdef.FormatOptions{}, edit); err != nil {
			return err
		}
	}
	if config {
		if kept, err = edited(persistent, netdef.FormatOptions{Inactive: true}, edit); err != nil {
			return err
		}
	}
	if live {
		if err := e.change(ctx, n, next); err != nil {
			return err
		}
	}
	if !config {
		return nil
	}
	if err = e.persist(n, kept); err != nil && live {
		if undo := e.change(context.WithoutCancel(ctx), n, old); undo != nil {
			e.Log.Error("undo live half of an update", "network", n.name, "error", undo)
		}
	}
	return err
}

// edited is the definition after an edit, if it is one that can be put into
// effect. It is read once more, since pieces that are right by themselves may
// be wrong together.
func edited(def *netdef.Network, form netdef.FormatOptions, edit func(*netdef.Network) (*netdef.Network, error)) (*netdef.Network, error) {
	next, err := edit(def)
	if err != nil {
		return nil, err
	}
	next, err = netdef.Parse([]byte(next.Format(form)))
	if err != nil {
		return nil, err
	}
	if err := next.Validate(); err != nil {
		return nil, err
	}
	return next, plan.Check(next)
}
