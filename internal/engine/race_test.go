package engine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"viaduct/internal/host"
	"viaduct/internal/hoststate"
	"viaduct/internal/netdef"
)

// stepHost carries out operations one by one as the kernel does, so that
// others see a host on which half is done.
type stepHost struct {
	*host.Fake
	// before is asked before every operation; its error makes Apply fail.
	before func(hoststate.Op) error
}

func (h *stepHost) Apply(ctx context.Context, ops []hoststate.Op) error {
	for i, op := range ops {
		err := ctx.Err()
		if err == nil {
			err = h.before(op)
		}
		if err == nil {
			err = h.Fake.Apply(ctx, []hoststate.Op{op})
		}
		if err != nil {
			for j := i - 1; j >= 0; j-- {
				_ = h.Fake.Apply(context.WithoutCancel(ctx), []hoststate.Op{ops[j].Inverse()})
			}
			return &host.OpError{Op: op, Err: err}
		}
	}
	return nil
}

// stepByStep is a rig whose host is a stepHost.
func stepByStep(t *testing.T) (*rig, *stepHost) {
	t.Helper()
	r := newRig(t)
	r.stop()
	h := &stepHost{r.host, func(hoststate.Op) error { return nil }}
	r.options = func(o *Options) { o.Host = h }
	r.start()
	return r, h
}

// soon fails the test if f does not return.
func soon(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal(what + " waits")
	}
}

func isService(network netdef.UUID, op hoststate.Op) bool {
	s, ok := op.Object().(hoststate.Service)
	return ok && s.Network == network.String()
}

// whole fails the test unless the network is on the host as planned.
func (r *rig) whole(id netdef.UUID) {
	r.t.Helper()
	if left, err := r.Plan(id); err != nil || left != "" {
		r.t.Errorf("plan: %v\n%s", err, left)
	}
}

// What a start that fails has made for all stays for those that use it meanwhile.
func TestFailedStartLeavesWhatOthersShare(t *testing.T) {
	r, h := stepByStep(t)
	a, b := r.define(natXML("a", 1)), r.define(natXML("b", 2))
	h.before = func(op hoststate.Op) error {
		if !isService(a.UUID, op) || op.Verb != hoststate.Create {
			return nil
		}
		r.must(r.Start(t.Context(), b.UUID))
		return errors.New("no room")
	}
	if err := r.Start(t.Context(), a.UUID); err == nil {
		t.Fatal("the start did not fail")
	}
	r.whole(b.UUID)
	h.before = func(hoststate.Op) error { return nil }
	r.must(r.Destroy(t.Context(), b.UUID))
	if left := r.host.State(); len(left) != 1 {
		t.Errorf("left behind: %v", left.Keys())
	}
}

// Removing what no network uses any more makes nobody wait, and is done in the end.
func TestNobodyWaitsForOthersToStop(t *testing.T) {
	r, h := stepByStep(t)
	a, b := r.define(natXML("a", 1)), r.define(`<network><name>b</name></network>`)
	c := r.define(natXML("c", 3))
	r.must(r.Start(t.Context(), a.UUID))
	reached, goOn := make(chan struct{}), make(chan struct{})
	h.before = func(op hoststate.Op) error {
		if op.Verb == hoststate.Create && op.Key() == hoststate.BridgeKey(b.Bridge) {
			close(reached)
			<-goOn
		}
		return nil
	}
	var wg sync.WaitGroup
	wg.Go(func() { r.must(r.Start(t.Context(), b.UUID)) })
	<-reached
	release := sync.OnceFunc(func() { close(goOn); wg.Wait() })
	defer release()
	soon(t, "a stop", func() { r.must(r.Destroy(t.Context(), a.UUID)) })
	soon(t, "a start", func() { r.must(r.Start(t.Context(), c.UUID)) })
	r.whole(c.UUID)
	soon(t, "a stop", func() { r.must(r.Destroy(t.Context(), c.UUID)) })
	release()
	r.must(r.Destroy(t.Context(), b.UUID))
	if left := r.host.State(); len(left) != 1 {
		t.Errorf("left behind: %v", left.Keys())
	}
}

// A client that disconnects while its network is being started or stopped
// leaves no half of it.
func TestLeavingClientChangesNothing(t *testing.T) {
	r, h := stepByStep(t)
	i := r.define(natXML("a", 1))
	during := func(verb hoststate.Verb, do func(context.Context, netdef.UUID) error) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		h.before = func(op hoststate.Op) error {
			if op.Verb == verb && op.Key().Kind == hoststate.KindLinkUp {
				cancel()
			}
			return nil
		}
		r.must(do(ctx, i.UUID))
		if err := do(ctx, i.UUID); err == nil {
			t.Error("a client that has left got something done")
		}
	}
	during(hoststate.Create, r.Start)
	r.whole(i.UUID)
	during(hoststate.Delete, r.Destroy)
	if left := r.host.State(); len(left) != 1 {
		t.Errorf("left behind: %v", left.Keys())
	}
}

// The engine ends after the work on the host that is under way.
func TestCloseWaitsForWorkUnderWay(t *testing.T) {
	r, h := stepByStep(t)
	i := r.define(natXML("a", 1))
	reached, goOn := make(chan struct{}), make(chan struct{})
	h.before = func(op hoststate.Op) error {
		if op.Key() == hoststate.BridgeKey(i.Bridge) {
			close(reached)
			<-goOn
		}
		return nil
	}
	started, closed := make(chan error, 1), make(chan struct{})
	go func() { started <- r.Start(context.Background(), i.UUID) }()
	<-reached
	go func() { defer close(closed); r.Engine.Close() }()
	select {
	case <-closed:
		t.Error("closed while a network was being started")
	case <-time.After(100 * time.Millisecond):
	}
	close(goOn)
	r.must(<-started)
	soon(t, "Close", func() { <-closed })
}

// A network that is only being made is not there yet.
func TestNetworkInTheMakingIsNotSeen(t *testing.T) {
	r, h := stepByStep(t)
	id := netdef.NewUUID()
	xml := withElements(natXML("a", 1), "<uuid>"+id.String()+"</uuid>")
	looked := false
	h.before = func(hoststate.Op) error {
		looked = true
		for _, look := range []func() error{
			func() error { _, err := r.Lookup("a"); return err },
			func() error { _, err := r.Lookup(id.String()); return err },
			func() error { _, err := r.XML(id, true); return err },
			func() error { _, err := r.Leases(id, ""); return err },
		} {
			if err := look(); netdef.CodeOf(err) != netdef.ErrNoNetwork {
				t.Errorf("found a network in the making: %v", err)
			}
		}
		if len(r.Networks()) != 0 {
			t.Error("a network in the making is listed")
		}
		return errors.New("no room")
	}
	if _, err := r.Create(t.Context(), []byte(xml)); err == nil || !looked {
		t.Fatalf("create: %v", err)
	}
	h.before = func(hoststate.Op) error { return nil }
	_, err := r.Create(t.Context(), []byte(xml))
	r.must(err)
}

// Of two that want the same thing at the same time one gets it.
func TestOneOfTwoGetsIt(t *testing.T) {
	r := newRig(t)
	both := func(what string, one, two func() error) {
		t.Helper()
		var wg sync.WaitGroup
		errs := make([]error, 2)
		wg.Go(func() { errs[0] = one() })
		wg.Go(func() { errs[1] = two() })
		wg.Wait()
		if (errs[0] == nil) == (errs[1] == nil) {
			t.Errorf("%s: want one error, got %v", what, errs)
		}
	}
	alone := r.DNSPort
	a, b := r.define(natXML("a", 1)), r.define(natXML("b", 1))
	start := func(i Info) func() error { return func() error { return r.Start(t.Context(), i.UUID) } }
	for i := range 50 {
		// Both have looked at the host before either changes it.
		var met sync.WaitGroup
		met.Add(2)
		r.DNSPort = func(netip.Addr) (uint16, error) {
			met.Done()
			met.Wait()
			return 53, nil
		}
		both("subnet", start(a), start(b))
		r.DNSPort = alone
		_, _ = r.Destroy(t.Context(), a.UUID), r.Destroy(t.Context(), b.UUID)

		redefine := func(n Info) func() error {
			xml := withElements(natXML(n.Name, 1), fmt.Sprintf("<uuid>%s</uuid><bridge name='br%d'/>", n.UUID, i))
			return func() error { _, err := r.Define(t.Context(), []byte(xml)); return err }
		}
		both("bridge", redefine(a), redefine(b))

		create := func() error { _, err := r.Create(t.Context(), []byte(natXML("x", 7))); return err }
		both("name", create, create)
		x, err := r.Lookup("x")
		r.must(err)
		r.must(r.Destroy(t.Context(), x.UUID))
	}
}

// withElements puts elements behind the name of a definition.
func withElements(xml, elements string) string {
	return strings.Replace(xml, "</name>", "</name>"+elements, 1)
}

// Events tell in which order networks of one name came and went, even if one
// comes the moment the other is gone.
func TestEventsOfSuccessorsComeInOrder(t *testing.T) {
	r := newRig(t)
	s := r.Subscribe()
	defer s.Close()
	xml := []byte(withElements(natXML("a", 1), "<uuid>"+netdef.NewUUID().String()+"</uuid>"))
	const rounds = 100
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for done := 0; done < rounds; {
				i, err := r.Create(t.Context(), xml)
				if err != nil {
					continue // it is the other's turn
				}
				r.must(r.Destroy(t.Context(), i.UUID))
				done++
			}
		})
	}
	wg.Wait()
	for i := range 2 * rounds {
		for _, want := range []EventType{EventStarted, EventStopped} {
			if ev := <-s.C; ev.Type != want {
				t.Fatalf("round %d: got %s, want %s", i, ev.Type, want)
			}
		}
	}
}
