package engine

import (
	"context"
	"errors"

	"viaduct/internal/netdef"
	"viaduct/internal/store"
)

// ReloadReport says what a Reload did, by network name.
type ReloadReport struct {
	Added   []string        `json:"added,omitempty"`
	Changed []string        `json:"changed,omitempty"`
	Removed []string        `json:"removed,omitempty"`
	Failed  []ReloadFailure `json:"failed,omitempty"`
}

// ReloadFailure is a file that could not be taken in. What it describes goes
// on as it was.
type ReloadFailure struct {
	File  string `json:"file"`
	Error string `json:"error"`
}

// Reload takes in definition files that were edited, added or removed since
// they were last read. Unlike Define it also changes active networks, in place.
func (e *Engine) Reload(ctx context.Context) (ReloadReport, error) {
	var report ReloadReport
	fail := func(file string, err error) {
		text := err.Error()
		var known *netdef.Error
		if errors.As(err, &known) && known.Where != "" {
			text = known.Where + ": " + text
		}
		report.Failed = append(report.Failed, ReloadFailure{file, text})
	}
	changed, errs := e.Store.Changed()
	for _, bad := range errs {
		fail(bad.Path, bad.Err)
	}
	for _, d := range changed {
		list, err := e.reloadOne(ctx, d, &report)
		if err != nil {
			fail(d.Path, err)
			continue
		}
		*list = append(*list, d.Name)
	}
	return report, nil
}

// reloadOne takes one changed file in and returns the list of the report that
// the network belongs on.
func (e *Engine) reloadOne(ctx context.Context, d store.Definition, report *ReloadReport) (*[]string, error) {
	if d.XML == nil {
		e.mu.Lock()
		n := e.byName(d.Name)
		e.mu.Unlock()
		if n != nil {
			if err := e.Undefine(ctx, n.id); err != nil {
				return nil, err
			}
		}
		e.Store.Accept(d)
		return &report.Removed, nil
	}
	def, err := e.readFile(d)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	if n := e.byName(def.Name); n != nil && def.UUID.IsZero() {
		def.UUID = n.id
	}
	e.mu.Unlock()
	given := *def
	n, isNew, err := e.admit(def)
	if err != nil {
		return nil, err
	}
	defer n.busy.Unlock()
	e.mu.Lock()
	active := n.live != nil
	e.mu.Unlock()
	if active {
		if err := e.change(ctx, n, def); err != nil {
			return nil, err
		}
	}
	if given.UUID != def.UUID || given.MAC != def.MAC || given.Bridge.Name != def.Bridge.Name {
		err = e.persist(n, def)
	} else {
		e.mu.Lock()
		n.config, n.pending = def, nil
		e.mu.Unlock()
		e.Store.Accept(d)
	}
	if err != nil {
		if isNew {
			e.withdraw(n)
		}
		return nil, err
	}
	e.events.send(n, EventDefined)
	if isNew {
		return &report.Added, nil
	}
	return &report.Changed, nil
}
