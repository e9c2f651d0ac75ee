package xenvif

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"viaduct/internal/engine"
	"viaduct/internal/netdef"
	"viaduct/internal/xenvif/xenstore"
	"viaduct/internal/xenvif/xenstore/xenstoretest"
)

// ratedPorts is an engine with ports that have no limits but those of a rate.
type ratedPorts struct {
	mu    sync.Mutex
	ports map[netdef.UUID]engine.RatedPort
	set   chan string // the rates that were set
}

func (p *ratedPorts) RatedPorts() (list []engine.RatedPort) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, port := range p.ports {
		list = append(list, port)
	}
	return list
}

func (p *ratedPorts) SetPortRate(_ context.Context, port engine.RatedPort, _ *netdef.Bandwidth) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.ports[port.UUID]; !ok {
		return netdef.Errorf(netdef.ErrNoNetworkPort, "no port %s", port.UUID)
	}
	p.ports[port.UUID] = port
	p.set <- port.Rate
	return nil
}

// A store that ends and comes again is followed on, and what changed meanwhile is
// seen; a port that is another by now is known by what it has.
func TestRatesOutliveTheStore(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "socket")
	serve := func() *xenstoretest.Server {
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		return xenstoretest.Serve(l)
	}
	const key = "backend/vif/5/0/rate"
	id := netdef.UUID{1}
	p := &ratedPorts{ports: map[netdef.UUID]engine.RatedPort{}, set: make(chan string, 9)}
	rates := NewRates(func(ctx context.Context) (*xenstore.Client, error) { return xenstore.Dial(ctx, socket) }, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { rates.Follow(ctx, p) })
	defer running.Wait()
	defer cancel()
	is := func(want string) {
		t.Helper()
		select {
		case got := <-p.set:
			if got != want {
				t.Errorf("rate %q was set, want %q", got, want)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("rate %q was never set", want)
		}
	}
	put := func(rate string) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.ports[id] = engine.RatedPort{UUID: id, Key: key, Rate: rate}
		rates.Look()
	}
	store := serve()
	store.Set(key, "1,1")
	put("")
	is("1,1")
	store.Close()
	store = serve()
	store.Set(key, "2,2")
	is("2,2")

	p.mu.Lock()
	delete(p.ports, id)
	p.mu.Unlock()
	store.Set(key, "3,3") // the watch may see this or not
	put("4,4")
	is("3,3")
	store.Set(key, "4,4")
	is("4,4")
	store.Close()
	put("")
	store = serve()
	store.Set(key, "5,5")
	is("5,5")

	// A guest that is gone without a word to the script.
	p.mu.Lock()
	delete(p.ports, id)
	p.mu.Unlock()
	store.Remove("backend/vif/5/0")
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		clients, watches := store.Watching()
		if clients == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d clients have %d watches", clients, watches)
		}
	}
	store.Close()
}
