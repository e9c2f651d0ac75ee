package guestsvc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"viaduct/internal/host"
	"viaduct/internal/hoststate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// config is a configuration that says what its service does: "refused" never
// starts, "moved" needs a new service, "clumsy" complains when it ends.
type config string

func (c config) String() string { return string(c) }

// world has what the services of a test do.
type world struct {
	*Manager
	mu   sync.Mutex
	log  []string
	dead map[*service]bool
	// starting, if set, is called while a service starts.
	starting func()
}

type service struct {
	w    *world
	name config
}

func newWorld() *world {
	w := &world{dead: map[*service]bool{}}
	w.Manager = NewManager(map[string]Starter{"echo": w.start}, slog.New(slog.DiscardHandler))
	return w
}

func (w *world) say(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log = append(w.log, fmt.Sprintf(format, args...))
}

func (w *world) start(c fmt.Stringer) (Service, error) {
	if w.starting != nil {
		w.starting()
	}
	if c == config("refused") {
		return nil, errors.New("address in use")
	}
	w.say("start %s", c)
	return &service{w, c.(config)}, nil
}

func (s *service) Reconfigure(c fmt.Stringer) error {
	switch c {
	case config("refused"):
		return errors.New("no such address")
	case config("moved"):
		return ErrOtherLink
	}
	s.w.say("change %s to %s", s.name, c)
	s.name = c.(config)
	return nil
}

func (s *service) Alive() bool {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	return !s.w.dead[s]
}

func (s *service) Close() error {
	s.w.say("end %s", s.name)
	if s.name == "clumsy" {
		return errors.New("close of closed file")
	}
	return nil
}

func object(network string, c config) hoststate.Service {
	return hoststate.Service{Type: "echo", Network: network, Config: c}
}

func create(network string, c config) hoststate.Op {
	return hoststate.CreateOp(object(network, c))
}

func change(network string, old, c config) hoststate.Op {
	return hoststate.ChangeOp(object(network, old), object(network, c))
}

func remove(network string, c config) hoststate.Op {
	return hoststate.DeleteOp(object(network, c))
}

func (w *world) running() string {
	var all []string
	for k, o := range w.Owned() {
		all = append(all, strings.TrimPrefix(k.Name, "echo ")+"="+o.(hoststate.Service).Config.String())
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

func TestManager(t *testing.T) {
	for _, c := range []struct {
		name    string
		ops     [][]hoststate.Op
		fails   string
		log     string
		running int
	}{
		{name: "start and end", ops: [][]hoststate.Op{{create("a", "x"), create("b", "y")}, {remove("a", "x")}},
			log: "start x, start y, end x", running: 1},
		{name: "the same again", ops: [][]hoststate.Op{{create("a", "x")}, {create("a", "x"), change("a", "y", "x")}}, log: "start x", running: 1},
		{name: "change in place", ops: [][]hoststate.Op{{create("a", "x")}, {change("a", "x", "y")}}, log: "start x, change x to y", running: 1},
		{name: "change to another link", ops: [][]hoststate.Op{{create("a", "x")}, {change("a", "x", "moved")}},
			log: "start x, start moved, end x", running: 1},
		{name: "one of several fails", ops: [][]hoststate.Op{{create("c", "z")}, {create("a", "x"), change("c", "z", "u"), create("b", "refused")}},
			fails: "echo refused", log: "start z, start x, change z to u, change u to z, end x", running: 1},
		{name: "a change fails", ops: [][]hoststate.Op{{create("a", "x")}, {change("a", "x", "refused")}}, fails: "no such address", log: "start x", running: 1},
		{name: "an end with a complaint", ops: [][]hoststate.Op{{create("a", "clumsy")}, {remove("a", "clumsy"), create("b", "x")}},
			log: "start clumsy, end clumsy, start x", running: 1},
		{name: "end what does not run", ops: [][]hoststate.Op{{remove("a", "x")}}},
		{name: "unknown type", ops: [][]hoststate.Op{{{Verb: hoststate.Create, New: hoststate.Service{Type: "gopher", Network: "a", Config: config("x")}}}},
			fails: `unknown type of service "gopher"`},
		{name: "no service", ops: [][]hoststate.Op{{{Verb: hoststate.Create, New: hoststate.LinkUp{Link: "a"}}}}, fails: "is no service"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld()
			var err error
			for _, ops := range c.ops {
				err = w.Apply(t.Context(), ops)
			}
			if (err == nil) != (c.fails == "") || err != nil && !strings.Contains(err.Error(), c.fails) {
				t.Errorf("error %v, want %q", err, c.fails)
			}
			var opErr *host.OpError
			if err != nil && !errors.As(err, &opErr) {
				t.Errorf("%T is no OpError", err)
			}
			if got := strings.Join(w.log, ", "); got != c.log {
				t.Errorf("did    %s\nwanted %s", got, c.log)
			}
			if n := len(w.Owned()); n != c.running {
				t.Errorf("running: %s, want %d", w.running(), c.running)
			}
			if len(w.busy) != 0 {
				t.Errorf("%d locks are left", len(w.busy))
			}
		})
	}
}

// A service that cannot work any more counts as not running, and is replaced;
// what is left of it goes first.
func TestManagerReplacesTheDead(t *testing.T) {
	w := newWorld()
	op := create("a", "x")
	if err := w.Apply(t.Context(), []hoststate.Op{op}); err != nil {
		t.Fatal(err)
	}
	keys := []hoststate.Key{op.Key()}
	if len(w.Observe(keys)) != 1 {
		t.Fatal("the service is not observed")
	}
	w.dead[w.Manager.running[op.Key()].service.(*service)] = true
	if len(w.Observe(keys)) != 0 {
		t.Error("a dead service is observed")
	}
	if err := w.Apply(t.Context(), []hoststate.Op{op}); err != nil {
		t.Fatal(err)
	}
	if len(w.Observe(keys)) != 1 || strings.Join(w.log, ", ") != "start x, end x, start x" {
		t.Errorf("%s, did %s", w.running(), w.log)
	}
}

// Close leaves none behind, not even one that is just starting.
func TestManagerClose(t *testing.T) {
	w := newWorld()
	if err := w.Apply(t.Context(), []hoststate.Op{create("a", "x")}); err != nil {
		t.Fatal(err)
	}
	starting, goOn := make(chan struct{}), make(chan struct{})
	w.starting = func() { close(starting); <-goOn }
	var all sync.WaitGroup
	all.Go(func() { _ = w.Apply(context.Background(), []hoststate.Op{create("b", "y")}) })
	<-starting
	all.Go(w.Close)
	close(goOn)
	all.Wait()
	if len(w.Owned()) != 0 {
		t.Errorf("running: %s", w.running())
	}
	w.starting = nil
	if err := w.Apply(t.Context(), []hoststate.Op{create("c", "z")}); err == nil {
		t.Error("a service began after the end")
	}
}
