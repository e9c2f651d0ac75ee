// Package guestsvc runs the services that networks offer to their guests. To
// the rest of Viaduct a running service is an object of the host like a bridge
// or a chain: it is planned, compared and applied the same way.
package guestsvc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"viaduct/internal/host"
	"viaduct/internal/hoststate"
)

// Service is one running service of one network.
type Service interface {
	// Reconfigure changes to another configuration in place, losing nothing
	// that the change does not forbid. On error the service runs on as it was;
	// ErrOtherLink says that only a new one can do what is asked.
	Reconfigure(config fmt.Stringer) error
	// Alive reports whether the service can still do its work. One whose link
	// was deleted under it cannot, and counts as not running.
	Alive() bool
	// Close ends the service. It does not wait for more than what is in flight.
	Close() error
}

// Leaver is a service that tells guests when it ends, and can end without: when
// the process ends, the network goes on and the next process serves it.
type Leaver interface {
	Leave() error
}

// ErrOtherLink is what a service that is bound to its link returns when it is
// to serve another one.
var ErrOtherLink = errors.New("the service cannot leave its link")

// Starter starts a service of one type.
type Starter func(config fmt.Stringer) (Service, error)

// Manager is the host.Applier for services.
type Manager struct {
	starters map[string]Starter
	log      *slog.Logger

	mu      sync.Mutex
	closed  bool
	running map[hoststate.Key]instance
	// busy holds a lock for every service that is being worked on, so that work
	// on one never waits for another.
	busy map[hoststate.Key]*turn

	events chan []hoststate.Key
}

// turn is a lock that is forgotten when nobody wants it any more.
type turn struct {
	sync.Mutex
	users int // those who have it or wait for it, guarded by Manager.mu
}

type instance struct {
	object  hoststate.Service
	service Service
}

// NewManager makes a manager that knows the given types of services.
func NewManager(starters map[string]Starter, log *slog.Logger) *Manager {
	return &Manager{
		starters: starters, log: log,
		running: map[hoststate.Key]instance{}, busy: map[hoststate.Key]*turn{},
		events: make(chan []hoststate.Key, 1),
	}
}

// Adopt takes up a service that runs already, since what it consists of outlives us.
func (m *Manager) Adopt(object hoststate.Service, s Service) {
	m.remember(object.Key(), instance{object, s})
}

// Changed says that a service has ended by itself, or has something new that
// somebody may want to look at.
func (m *Manager) Changed(key hoststate.Key) {
	keys := []hoststate.Key{key}
	for {
		select {
		case m.events <- keys:
			return
		case earlier := <-m.events: // nobody has heard of that yet
			keys = append(earlier, keys...)
		}
	}
}

// Events implements host.Watcher.
func (m *Manager) Events() <-chan []hoststate.Key { return m.events }

// Kinds implements host.Applier.
func (m *Manager) Kinds() []hoststate.Kind { return []hoststate.Kind{hoststate.KindService} }

// Observe implements host.Applier.
func (m *Manager) Observe(keys []hoststate.Key) hoststate.State {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := hoststate.State{}
	for _, k := range keys {
		if i, ok := m.running[k]; ok && i.service.Alive() {
			s[k] = i.object
		}
	}
	return s
}

// Owned implements host.Applier: every running service is ours.
func (m *Manager) Owned() hoststate.State {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := make(hoststate.State, len(m.running))
	for k, i := range m.running {
		s[k] = i.object
	}
	return s
}

// Apply implements host.Applier.
func (m *Manager) Apply(_ context.Context, ops []hoststate.Op) error {
	for i, op := range ops {
		err := m.applyOne(op)
		if err == nil {
			continue
		}
		errs := []error{&host.OpError{Op: op, Err: err}}
		for j := i - 1; j >= 0; j-- {
			if undo := m.applyOne(ops[j].Inverse()); undo != nil {
				errs = append(errs, fmt.Errorf("undo %q: %w", ops[j], undo))
			}
		}
		return errors.Join(errs...)
	}
	return nil
}

func (m *Manager) applyOne(op hoststate.Op) error {
	key := op.Key()
	defer m.take(key)()
	if op.Verb == hoststate.Delete {
		m.end(key, Service.Close)
		return nil
	}
	m.mu.Lock()
	old, running := m.running[key]
	closed := m.closed
	m.mu.Unlock()
	if closed {
		return errors.New("all services have ended")
	}
	want, ok := op.New.(hoststate.Service)
	if !ok {
		return fmt.Errorf("%T is no service", op.New)
	}
	if running && !old.service.Alive() {
		m.end(key, Service.Close)
		running = false
	}
	if running {
		if hoststate.Equal(old.object, want) {
			return nil
		}
		err := old.service.Reconfigure(want.Config)
		if err == nil {
			m.remember(key, instance{want, old.service})
		}
		if !errors.Is(err, ErrOtherLink) {
			return err
		}
	}
	start := m.starters[want.Type]
	if start == nil {
		return fmt.Errorf("unknown type of service %q", want.Type)
	}
	s, err := start(want.Config)
	if err != nil {
		return err
	}
	m.remember(key, instance{want, s})
	if running {
		if err := old.service.Close(); err != nil {
			m.log.Warn("close service whose place a new one has taken", "service", key.Name, "error", err)
		}
	}
	return nil
}

// take waits for the turn to work on a service. The function it returns gives
// the turn back.
func (m *Manager) take(key hoststate.Key) (giveBack func()) {
	m.mu.Lock()
	t := m.busy[key]
	if t == nil {
		t = &turn{}
		m.busy[key] = t
	}
	t.users++
	m.mu.Unlock()
	t.Lock()
	return func() {
		t.Unlock()
		m.mu.Lock()
		defer m.mu.Unlock()
		if t.users--; t.users == 0 {
			delete(m.busy, key)
		}
	}
}

// end ends a service in the given way, if it runs. One that complains has ended
// nevertheless.
func (m *Manager) end(key hoststate.Key, how func(Service) error) {
	m.mu.Lock()
	i, running := m.running[key]
	delete(m.running, key)
	m.mu.Unlock()
	if !running {
		return
	}
	if err := how(i.service); err != nil {
		m.log.Warn("close service", "service", key.Name, "error", err)
	}
}

func (m *Manager) remember(key hoststate.Key, i instance) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.running[key] = i
}

// leave ends a service because the process ends.
func leave(s Service) error {
	if l, ok := s.(Leaver); ok {
		return l.Leave()
	}
	return s.Close()
}

// Close ends all services, when the process ends, and lets none begin.
func (m *Manager) Close() {
	m.mu.Lock()
	m.closed = true
	keys := slices.AppendSeq(slices.Collect(maps.Keys(m.running)), maps.Keys(m.busy))
	m.mu.Unlock()
	for _, k := range keys {
		giveBack := m.take(k)
		m.end(k, leave)
		giveBack()
	}
}
