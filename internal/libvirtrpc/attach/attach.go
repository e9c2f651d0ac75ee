// Package attach makes the networks of Viaduct known to a libvirtd that has
// its own network driver built in, as Debian and Ubuntu ship it: that one asks
// no other daemon, so its guests find a network only if it has one of that
// name. So it gets one for each of ours that only names our bridge. It
// decides nothing about our networks, but follows them.
package attach

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"viaduct/internal/engine"
	"viaduct/internal/libvirtrpc/remote"
	"viaduct/internal/netdef"
)

// uri is opened at libvirtd.
const uri = "network:///system"

// Networks is what is asked of the engine.
type Networks interface {
	Networks() []engine.Info
	XML(id netdef.UUID, inactive bool) (string, error)
	Subscribe() *engine.Subscription
}

// Libvirtd is the daemon that is attached.
type Libvirtd struct {
	Socket string
	// Mark is a file that is there for as long as it is to be attached.
	Mark string
	Log  *slog.Logger

	mu sync.Mutex // held while it is talked to
}

// Attach makes libvirtd's networks follow ours, from now on. With plan it only
// tells what would be done.
func (l *Libvirtd) Attach(ctx context.Context, ours Networks, plan bool) ([]Step, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	steps, err := l.follow(ctx, ours, plan)
	if err == nil && !plan {
		err = l.setMark()
	}
	return steps, err
}

// Remove takes back from libvirtd what Attach has put there, and no more. With
// plan it only tells what would be done.
func (l *Libvirtd) Remove(ctx context.Context, plan bool) ([]Step, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !plan {
		// From here on nothing is put there again, whatever else may fail.
		if err := os.Remove(l.Mark); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return l.sync(ctx, nil, plan)
}

// setMark makes the mark, which is on disk when it returns.
func (l *Libvirtd) setMark() error {
	f, err := os.Create(l.Mark)
	if err != nil {
		return err
	}
	_, err = f.WriteString("format 1\n")
	return errors.Join(err, f.Sync(), f.Close())
}

// follow needs l.mu.
func (l *Libvirtd) follow(ctx context.Context, ours Networks, plan bool) ([]Step, error) {
	var wanted []network
	for _, i := range ours.Networks() {
		w, err := wish(ours, i)
		if err != nil {
			var gone *netdef.Error
			if errors.As(err, &gone) && gone.Code == netdef.ErrNoNetwork {
				continue // it went since it was listed
			}
			return nil, fmt.Errorf("read network '%s': %w", i.Name, err)
		}
		wanted = append(wanted, w)
	}
	return l.sync(ctx, wanted, plan)
}

// sync makes libvirtd's networks of ours those that are wanted. It needs l.mu.
func (l *Libvirtd) sync(ctx context.Context, wanted []network, plan bool) ([]Step, error) {
	c, err := remote.Dial(ctx, l.Socket, uri)
	if err != nil {
		return nil, netdef.Errorf(netdef.ErrOperationFailed, "cannot reach libvirtd: %w", err)
	}
	defer c.Close()
	have, err := inventory(c)
	if err != nil {
		return nil, netdef.Errorf(netdef.ErrOperationFailed, "cannot read libvirtd's networks: %w", err)
	}
	steps, err := compare(wanted, have)
	if err != nil || plan {
		return steps, err
	}
	var done []Step
	left := map[string]bool{}
	for _, s := range steps {
		if left[s.Network] {
			continue
		}
		if err := s.carryOut(c); err != nil {
			var refused *remote.Error
			if !errors.As(err, &refused) {
				return done, netdef.Errorf(netdef.ErrOperationFailed, "cannot %s network '%s' in libvirtd: %w", s.Action, s.Network, err)
			}
			// The others do not suffer from one that libvirtd does not take.
			left[s.Network] = true
			s.Action, s.Reason = Leave, "libvirtd refuses it: "+refused.Message
		}
		done = append(done, s)
	}
	return done, nil
}

// inventory reads what libvirtd has.
func inventory(c *remote.Conn) ([]network, error) {
	list, err := c.Networks()
	if err != nil {
		return nil, err
	}
	var have []network
	for _, n := range list {
		h, err := observe(c, n)
		var gone *remote.Error
		if errors.As(err, &gone) && gone.Code == int32(netdef.ErrNoNetwork) {
			continue
		}
		if err != nil {
			return nil, err
		}
		have = append(have, h)
	}
	return have, nil
}

// The times between attempts to reach libvirtd while it is away.
const (
	firstRetry = 2 * time.Second
	lastRetry  = 5 * time.Minute
)

// Follow keeps libvirtd in step with our networks for as long as it is to be
// attached, until the context ends.
func (l *Libvirtd) Follow(ctx context.Context, ours Networks) error {
	for ctx.Err() == nil {
		l.followOnce(ctx, ours)
	}
	return nil
}

// followOnce follows until the engine gives up a subscriber that lags behind.
func (l *Libvirtd) followOnce(ctx context.Context, ours Networks) {
	events := ours.Subscribe()
	defer events.Close()
	retry := time.NewTimer(0) // what happened before we listened
	defer retry.Stop()
	wait := firstRetry
	for {
		select {
		case <-ctx.Done():
			return
		case ev, ok := <-events.C:
			if !ok {
				return
			}
			if !ev.Type.Lifecycle() {
				continue
			}
			drain(events.C)
			wait = firstRetry
		case <-retry.C:
		}
		if err := l.catchUp(ctx, ours); err != nil && ctx.Err() == nil {
			l.Log.Warn("keep libvirtd's networks in step", "error", err, "again in", wait)
			retry.Reset(wait)
			wait = min(2*wait, lastRetry)
		}
	}
}

// drain takes what has come together: one look at the networks is enough for all of it.
func drain(c <-chan engine.Event) {
	for {
		select {
		case _, ok := <-c:
			if !ok {
				return
			}
		default:
			return
		}
	}
}

func (l *Libvirtd) catchUp(ctx context.Context, ours Networks) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, err := os.Stat(l.Mark); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return err
	}
	steps, err := l.follow(ctx, ours, false)
	for _, s := range steps {
		level := slog.LevelInfo
		if s.Action == Leave {
			level = slog.LevelWarn
		}
		l.Log.Log(ctx, level, "libvirtd's networks", "network", s.Network, "action", s.Action, "reason", s.Reason)
	}
	return err
}
