package apitest

import (
	"context"
	"time"

	"viaduct/internal/engine"
	"viaduct/internal/netdef"
)

// Apply defines and starts the networks, and tells the plan that was set.
func (f *Fake) Apply(_ context.Context, files []engine.File, o engine.ApplyOptions) (engine.ApplyReport, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	report := engine.ApplyReport{Networks: []engine.Applied{}}
	listed := map[netdef.UUID]bool{}
	for _, file := range files {
		n, err := f.read([]byte(file.XML))
		if err != nil {
			return report, err
		}
		a := engine.Applied{Name: n.Name, UUID: n.UUID, Result: engine.AppliedAdded}
		for _, old := range f.networks {
			if old.UUID == n.UUID {
				a.Result = engine.AppliedChanged
			}
		}
		if o.Plan {
			a.Operations = []string{"+ bridge " + n.Bridge}
		} else {
			n = f.put(n)
			n.Active, n.Persistent = true, true
			n.awaits = o.Confirm > 0
		}
		listed[n.UUID] = true
		report.Networks = append(report.Networks, a)
	}
	for _, n := range f.networks {
		if o.Prune && !listed[n.UUID] {
			report.Networks = append(report.Networks, engine.Applied{Name: n.Name, UUID: n.UUID, Result: engine.AppliedRemoved})
		}
	}
	if o.Confirm > 0 {
		deadline := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC).Add(o.Confirm)
		report.Deadline = &deadline
	}
	return report, nil
}

// Confirm ends the waiting of a network to which Apply was told to wait.
func (f *Fake) Confirm(_ context.Context, id netdef.UUID, _ bool) error {
	return f.change(id, func(n *network) error {
		if !n.awaits {
			return netdef.Errorf(netdef.ErrOperationInvalid, "network '%s' has no change that awaits confirmation", n.Name)
		}
		n.awaits = false
		return nil
	})
}

// TakeOver defines the network, as active if it has a live definition.
func (f *Fake) TakeOver(_ context.Context, t engine.Taking, plan bool) (engine.Taken, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	xml := t.Config
	if t.Live != "" {
		xml = t.Live
	}
	n, err := f.read([]byte(xml))
	if err != nil {
		return engine.Taken{}, err
	}
	taken := engine.Taken{Name: n.Name, UUID: n.UUID, Active: t.Live != ""}
	if plan {
		taken.Operations = []string{"+ take over bridge " + n.Bridge}
		return taken, nil
	}
	n = f.put(n)
	n.Active, n.Persistent, n.Autostart = t.Live != "", t.Config != "", t.Autostart
	return taken, nil
}

// GiveBack forgets the network.
func (f *Fake) GiveBack(ctx context.Context, id netdef.UUID) error {
	if err := f.Destroy(ctx, id); err != nil {
		return err
	}
	return f.Undefine(ctx, id)
}
