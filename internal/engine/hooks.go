package engine

import (
	"context"

	"viaduct/internal/netdef"
)

// hook runs the administrator's programs for a moment in a network's life. They
// hear of changes of that life, never of healing and adopting, which are no
// change. The caller holds n.busy, and nothing that others wait for.
func (e *Engine) hook(ctx context.Context, n *network, op string, def *netdef.Network, p *netdef.Port) error {
	if !e.Hooks.Any() {
		return nil
	}
	return e.Hooks.Run(ctx, n.name, op, netdef.HookData(liveForm(def), p))
}

// tellHook is hook for what cannot be refused any more.
func (e *Engine) tellHook(ctx context.Context, n *network, op string, def *netdef.Network, p *netdef.Port) {
	if err := e.hook(context.WithoutCancel(ctx), n, op, def, p); err != nil {
		e.Log.Warn("hook failed", "network", n.name, "moment", op, "error", err)
	}
}
