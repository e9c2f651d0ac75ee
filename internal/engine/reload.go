package engine

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"viaduct/internal/hook"
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
// Once begun it goes on even if whoever asked leaves.
func (e *Engine) Reload(ctx context.Context) (ReloadReport, error) {
	e.reloading.Lock()
	defer e.reloading.Unlock()
	ctx = context.WithoutCancel(ctx)
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
	// What is gone goes first: it may make room for what has come.
	slices.SortStableFunc(changed, func(a, b store.Definition) int {
		return cmp.Compare(min(len(a.XML), 1), min(len(b.XML), 1))
	})
	for _, d := range changed {
		take := e.takeIn
		if d.XML == nil {
			take = e.takeOut
		}
		list, err := take(ctx, d, &report)
		if err != nil {
			fail(d.Path, err)
			continue
		}
		*list = append(*list, d.Name)
	}
	return report, nil
}

// takeOut undefines the network of a file that is gone. It returns the list of
// the report that the network belongs on.
func (e *Engine) takeOut(ctx context.Context, d store.Definition, report *ReloadReport) (*[]string, error) {
	e.mu.Lock()
	n := e.names[d.Name]
	defined := n != nil && n.config != nil
	e.mu.Unlock()
	if defined {
		if err := e.Undefine(ctx, n.id); err != nil {
			return nil, err
		}
	}
	e.Store.Accept(d)
	return &report.Removed, nil
}

// takeIn defines the network of a file that is new or was edited, and changes
// it if it is active. It returns the list of the report that the network
// belongs on.
func (e *Engine) takeIn(ctx context.Context, d store.Definition, report *ReloadReport) (*[]string, error) {
	def, err := e.readFile(d)
	if err != nil {
		return nil, err
	}
	given := *def
	n, err := e.admitFile(def)
	if err != nil {
		return nil, err
	}
	defer e.dismiss(n)
	e.mu.Lock()
	active, isNew := n.live != nil, !n.known()
	e.mu.Unlock()
	if active {
		if err := e.change(ctx, n, def); err != nil {
			return nil, err
		}
		defer func() { e.tellHook(ctx, n, hook.Updated, def, nil) }()
	}
	if incomplete(&given, def) {
		if err := e.persist(n, def); err != nil {
			return nil, err
		}
	} else {
		e.Store.Accept(d)
		e.mu.Lock()
		n.config = def
		e.mu.Unlock()
	}
	e.events.send(n, EventDefined)
	if isNew {
		return &report.Added, nil
	}
	return &report.Changed, nil
}
