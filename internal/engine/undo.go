package engine

import (
	"context"
	"errors"
	"time"

	"viaduct/internal/netdef"
	"viaduct/internal/store"
)

// awaiting is a change that is taken back unless it is confirmed in time.
type awaiting struct {
	undo  store.Undo
	timer *time.Timer
}

// before is what the store keeps of a network that is to become again what
// back says.
func before(back move) store.Before {
	b := store.Before{Name: back.n.name, UUID: back.n.id, Autostart: back.to.autostart}
	if back.to.live != nil {
		b.Live = back.to.live.Format(netdef.FormatOptions{})
	}
	if back.to.config != nil {
		b.Config = back.to.config.Format(netdef.FormatOptions{Inactive: true})
	}
	return b
}

// await takes the change back at its deadline.
func (e *Engine) await(u store.Undo) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return // the next daemon does
	}
	w := &awaiting{undo: u}
	for _, b := range u.Networks {
		e.awaited[b.UUID] = w
	}
	e.tasks.Add(1)
	// A clock that was set back does not prolong the time.
	w.timer = time.AfterFunc(min(time.Until(u.Deadline), u.Within), func() {
		defer e.tasks.Done()
		if !e.claimAwaited(w) {
			return
		}
		if err := e.takeBack(context.Background(), u); err != nil {
			e.Log.Error("take back a change that nobody confirmed", "error", err)
			return
		}
		e.Log.Warn("took back a change that nobody confirmed in time", "network", u.Networks[0].Name)
	})
}

// claimAwaited makes the caller the one who ends the waiting. It reports
// whether nobody else has.
func (e *Engine) claimAwaited(w *awaiting) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	found := false
	for id, other := range e.awaited {
		if other == w {
			delete(e.awaited, id)
			found = true
		}
	}
	return found
}

// stopAwaiting leaves what is not confirmed to the next daemon.
func (e *Engine) stopAwaiting() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for id, w := range e.awaited {
		delete(e.awaited, id)
		if w.timer.Stop() {
			e.tasks.Done()
		}
	}
}

// Confirm keeps a change that awaits confirmation, or, if undo is set, takes it
// back at once.
func (e *Engine) Confirm(ctx context.Context, id netdef.UUID, undo bool) error {
	e.mu.Lock()
	w := e.awaited[id]
	name := id.String()
	if n := e.networks[id]; n != nil {
		name = n.name
	}
	e.mu.Unlock()
	if w == nil || !e.claimAwaited(w) {
		return netdef.Errorf(netdef.ErrOperationInvalid, "network '%s' has no change that awaits confirmation", name)
	}
	if w.timer.Stop() {
		e.tasks.Done()
	}
	var err error
	if undo {
		// Should the daemon die half-way, the next one goes on.
		due := w.undo
		due.Deadline = time.Now()
		if err = e.Store.PutUndo(due); err == nil {
			err = e.takeBack(context.WithoutCancel(ctx), due)
		}
	} else {
		err = e.Store.DeleteUndo(w.undo.ID)
	}
	if err != nil {
		e.await(w.undo)
	}
	return errAs(netdef.ErrInternal, err)
}

// recallUndos takes back changes that were cut short, and goes on waiting for
// confirmation of those that were done.
func (e *Engine) recallUndos(ctx context.Context) {
	undos, errs := e.Store.Undos()
	for _, bad := range errs {
		e.Log.Error("record of a change left aside", "file", bad.Path, "error", bad.Err)
		var newer *store.FormatError
		if !errors.As(bad.Err, &newer) {
			if err := e.Store.SetAsideUndo(bad); err != nil {
				e.Log.Error("set a record aside", "file", bad.Path, "error", err)
			}
		}
	}
	for _, u := range undos {
		switch {
		case !u.Deadline.IsZero() && time.Now().Before(u.Deadline):
			e.await(u)
			continue
		case u.Deadline.IsZero():
			e.Log.Warn("taking back a change that was cut short")
		default:
			e.Log.Warn("taking back a change that nobody confirmed in time", "network", u.Networks[0].Name)
		}
		if err := e.takeBack(ctx, u); err != nil {
			e.Log.Error("take back a change", "error", err)
		}
	}
}

// takeBack makes networks again what they were.
func (e *Engine) takeBack(ctx context.Context, u store.Undo) error {
	if len(u.Networks) > 1 {
		e.applying.Lock()
		defer e.applying.Unlock()
	}
	var moves []move
	defer func() { e.dismissAll(moves) }()
	for _, b := range u.Networks {
		to, err := targetOf(b)
		if err != nil {
			return err
		}
		e.mu.Lock()
		n := e.networks[b.UUID]
		e.mu.Unlock()
		if n == nil && (to.live == nil && to.config == nil || !u.Deadline.IsZero()) {
			continue // it is gone, by the change or since
		}
		def := to.live
		if def == nil {
			def = to.config
		}
		if def == nil { // it was not there before
			if n, err = e.seize(b.UUID); err != nil {
				continue
			}
		} else if n, err = e.hold(def); err != nil {
			return err
		}
		if !e.Store.ThisBoot(u) {
			// Nothing that was active then is so by itself.
			to.live = nil
			if n.live != nil {
				to.live = to.config
			}
		}
		moves = append(moves, move{n, to})
	}
	if err := e.settle(ctx, moves); err != nil {
		return err
	}
	return e.Store.DeleteUndo(u.ID)
}

// targetOf reads what a network is to become again.
func targetOf(b store.Before) (target, error) {
	to := target{autostart: b.Autostart}
	for _, d := range []struct {
		xml string
		def **netdef.Network
	}{{b.Live, &to.live}, {b.Config, &to.config}} {
		if d.xml == "" {
			continue
		}
		def, err := netdef.Parse([]byte(d.xml))
		if err != nil {
			return to, err
		}
		*d.def = def
	}
	return to, nil
}
