package xenvif

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"strings"
	"sync"
	"time"

	"viaduct/internal/engine"
	"viaduct/internal/netdef"
	"viaduct/internal/xenvif/vifspec"
	"viaduct/internal/xenvif/xenstore"
)

// RatedPorts is what Rates asks of the engine.
type RatedPorts interface {
	RatedPorts() []engine.RatedPort
	SetPortRate(ctx context.Context, p engine.RatedPort, limits *netdef.Bandwidth) error
}

// Rates has the limits of guests' ports follow the key rate of their interfaces
// in xenstore, as netback does, while guests run. There is a connection to the
// store, and on it a watch for each port, while there are ports that follow.
type Rates struct {
	// Open connects to the store.
	Open func(ctx context.Context) (*xenstore.Client, error)
	Log  *slog.Logger

	look chan struct{}
}

// NewRates makes a Rates that is not running yet.
func NewRates(open func(ctx context.Context) (*xenstore.Client, error), log *slog.Logger) *Rates {
	return &Rates{Open: open, Log: log, look: make(chan struct{}, 1)}
}

// Look tells that ports may have come or gone. It never waits.
func (r *Rates) Look() {
	if r == nil {
		return
	}
	select {
	case r.look <- struct{}{}:
	default:
	}
}

// A connection that cannot be made, or is lost, is tried again after the first of
// these, then twice as long, up to the last.
const (
	firstRetry = time.Second
	lastRetry  = time.Minute
)

// Follow runs until the context ends.
func (r *Rates) Follow(ctx context.Context, ports RatedPorts) error {
	var conn *rateConn
	defer func() { conn.close() }()
	retry := firstRetry
	for {
		var again <-chan time.Time
		var lost <-chan struct{}
		switch wanted := ports.RatedPorts(); {
		case len(wanted) == 0:
			conn.close()
			conn = nil
		default:
			var err error
			if conn == nil {
				conn, err = r.connect(ctx, ports)
			}
			if err == nil {
				lost = conn.store.Done()
				err = conn.watch(ctx, wanted)
			}
			if err != nil && ctx.Err() == nil {
				r.Log.Warn("follow the rates of guests in xenstore", "error", err, "again in", retry)
				again = time.After(retry)
				retry = min(2*retry, lastRetry)
			} else {
				retry = firstRetry
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-r.look:
		case <-again:
		case <-lost:
			conn.close()
			conn = nil
			select {
			case <-ctx.Done():
			case <-time.After(firstRetry):
			}
		}
	}
}

// rateConn is a connection to the store with its watches.
type rateConn struct {
	*Rates
	ports    RatedPorts
	store    *xenstore.Client
	watches  map[netdef.UUID]*rateWatch // by port
	watching sync.WaitGroup
}

// rateWatch is the watch for a port.
type rateWatch struct {
	stop func()
	// ended is closed when it follows no more.
	ended chan struct{}
}

func (r *Rates) connect(ctx context.Context, ports RatedPorts) (*rateConn, error) {
	store, err := r.Open(ctx)
	if err != nil {
		return nil, err
	}
	return &rateConn{Rates: r, ports: ports, store: store, watches: map[netdef.UUID]*rateWatch{}}, nil
}

func (c *rateConn) close() {
	if c == nil {
		return
	}
	c.store.Close()
	c.watching.Wait()
}

// watch has a watch for each of these ports and no other.
func (c *rateConn) watch(ctx context.Context, wanted []engine.RatedPort) error {
	by := make(map[netdef.UUID]engine.RatedPort, len(wanted))
	for _, p := range wanted {
		by[p.UUID] = p
	}
	for id, w := range c.watches {
		_, needed := by[id]
		select {
		case <-w.ended:
			needed = false
		default:
		}
		if !needed {
			w.stop()
			delete(c.watches, id)
		}
	}
	for id, p := range by {
		if c.watches[id] != nil {
			continue
		}
		changed, stop, err := c.store.Watch(ctx, p.Key)
		if err != nil {
			return err
		}
		w := &rateWatch{stop: stop, ended: make(chan struct{})}
		c.watches[id] = w
		c.watching.Go(func() {
			defer close(w.ended)
			for range changed {
				if !c.follow(ctx, &p) {
					c.Look() // there may be another port of that UUID by now
					return
				}
			}
		})
	}
	return nil
}

// follow gives the port the limits that the store says, if that is news. It
// reports whether the port is there still.
func (c *rateConn) follow(ctx context.Context, p *engine.RatedPort) bool {
	log := c.Log.With("link", p.Link)
	text, err := c.store.Read(ctx, p.Key)
	text = strings.TrimSpace(text)
	var rate *vifspec.Rate
	switch {
	case errors.Is(err, xenstore.ErrNotExist):
		// As to netback no key is no limit; but an interface that goes loses all it has.
		if _, err = c.store.List(ctx, path.Dir(p.Key)); errors.Is(err, xenstore.ErrNotExist) {
			c.Look() // the port may have gone with its link, and nobody told
			return true
		}
	case err == nil && text != p.Rate:
		var given vifspec.Rate
		given, err = vifspec.ParseStoredRate(text)
		rate = &given
	}
	if err == nil && text == p.Rate {
		return true
	}
	if err != nil {
		if ctx.Err() == nil {
			log.Warn("leave the limits of a guest as they are", "error", err)
		}
		return true
	}
	next := *p
	next.Rate = text
	if err := c.ports.SetPortRate(ctx, next, limits(rate)); err != nil {
		if code := netdef.CodeOf(err); code == netdef.ErrNoNetwork || code == netdef.ErrNoNetworkPort {
			return false
		}
		log.Warn("have the limits of a guest follow its rate", "rate", text, "error", err)
		return true
	}
	*p = next
	log.Info("the limits of a guest follow its rate", "rate", text)
	if rate != nil {
		for _, warning := range rate.Warnings() {
			log.Warn(fmt.Sprintf("rate=%s: %s", text, warning))
		}
	}
	return true
}

// limits are those that a rate comes to, in both directions; nil for none.
// Where no interval is given netback does not limit.
func limits(r *vifspec.Rate) *netdef.Bandwidth {
	if r == nil || r.Interval == 0 {
		return nil
	}
	kib := max(r.BytesPerSecond()>>10, 1)
	return &netdef.Bandwidth{Inbound: &netdef.Rate{Average: kib}, Outbound: &netdef.Rate{Average: kib}}
}
