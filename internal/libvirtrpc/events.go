package libvirtrpc

import (
	"context"
	"maps"
	"slices"
	"sync"

	"viaduct/internal/engine"
	"viaduct/internal/libvirtrpc/dispatch"
	"viaduct/internal/libvirtrpc/xdr"
	"viaduct/internal/netdef"
)

// The kinds of events that a client may register for (virNetworkEventID), and
// the messages that tell of them.
const (
	eventLifecycle = 0
	eventMetadata  = 1

	messageLifecycle = 315
	messageMetadata  = 446
)

// maxCallbacks bounds what one client may register.
const maxCallbacks = 1024

// registrations are what one client wants to be told.
type registrations struct {
	mu        sync.Mutex
	next      int32
	callbacks map[int32]callback
	running   bool
}

// callback is one registration: for events of a kind, of one network or of all.
type callback struct {
	kind    int32
	network *netdef.UUID
}

func newRegistrations() *registrations { return &registrations{callbacks: map[int32]callback{}} }

func (d *driver) register(c *dispatch.Call) error {
	kind, network := c.In.Int32(), xdr.Optional(c.In, readNetwork)
	if err := c.In.End(); err != nil {
		return err
	}
	if kind != eventLifecycle && kind != eventMetadata {
		return netdef.Errorf(netdef.ErrInternal, "unsupported network event ID %d", kind)
	}
	if err := connectAllowed(c, "search-networks"); err != nil {
		return err
	}
	r := dispatch.State(c.Session, newRegistrations)
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.callbacks) >= maxCallbacks {
		return netdef.Errorf(netdef.ErrOperationFailed, "there are %d event callbacks already", maxCallbacks)
	}
	id := r.next
	c.Out.Int32(id)
	r.next++
	wanted := callback{kind: kind}
	if network != nil {
		wanted.network = &network.UUID
	}
	if !r.running {
		r.running = true
		s := d.networks.Subscribe()
		// The client does not know the callback before it has the reply.
		c.After = func() { c.Go(func(ctx context.Context) { r.deliver(ctx, c.Session, s) }) }
	}
	r.callbacks[id] = wanted
	return nil
}

func (d *driver) deregister(c *dispatch.Call) error {
	id := c.In.Int32()
	if err := c.In.End(); err != nil {
		return err
	}
	r := dispatch.State(c.Session, newRegistrations)
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.callbacks[id]; !ok {
		return netdef.Errorf(netdef.ErrInternal, "network event callback %d not registered", id)
	}
	delete(r.callbacks, id)
	return nil
}

// deliver tells the client what happens, in the order in which it does. A
// client that does not keep up is left: it would miss something.
func (r *registrations) deliver(ctx context.Context, s *dispatch.Session, from *engine.Subscription) {
	defer from.Close()
	for {
		select {
		case <-ctx.Done():
			return
		case ev, ok := <-from.C:
			if !ok {
				s.Close()
				return
			}
			for _, id := range r.meant(ev) {
				if s.Event(message(id, ev)) != nil {
					s.Close()
					return
				}
			}
		}
	}
}

// message tells a callback of an event.
func message(id int32, ev engine.Event) (uint32, []byte) {
	out := &xdr.Encoder{}
	out.Int32(id)
	out.String(ev.Name)
	out.UUID(ev.UUID)
	if !ev.Type.Lifecycle() {
		out.Int32(int32(ev.Metadata))
		out.OptionalString(given(ev.URI))
		return messageMetadata, out.Data()
	}
	out.Int32(int32(ev.Type))
	out.Int32(0) // no details are known
	return messageLifecycle, out.Data()
}

// meant lists the callbacks that an event is for, in the order of registration.
func (r *registrations) meant(ev engine.Event) []int32 {
	r.mu.Lock()
	defer r.mu.Unlock()
	kind := int32(eventLifecycle)
	if !ev.Type.Lifecycle() {
		kind = eventMetadata
	}
	var ids []int32
	for _, id := range slices.Sorted(maps.Keys(r.callbacks)) {
		cb := r.callbacks[id]
		if cb.kind == kind && (cb.network == nil || *cb.network == ev.UUID) {
			ids = append(ids, id)
		}
	}
	return ids
}
