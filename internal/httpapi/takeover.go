package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"

	"viaduct/internal/engine"
	"viaduct/internal/netdef"
)

// takeOver makes a network of another program's ours, or tells how.
func takeOver(_ *Server, r request) (any, error) {
	plan, err := r.yes("plan")
	if err != nil {
		return nil, err
	}
	text, err := r.body("request")
	if err != nil {
		return nil, err
	}
	var t engine.Taking
	in := json.NewDecoder(bytes.NewReader(text))
	in.DisallowUnknownFields()
	if err := in.Decode(&t); err != nil {
		return nil, netdef.Errorf(netdef.ErrInvalidArg, "read request: %w", err)
	}
	taken, err := r.api.TakeOver(r.Context(), t, plan)
	return taken, aboutInput(err)
}

// TakeOver makes a network of another program's one of the daemon's. With plan
// it only tells what would be done.
func (c *Client) TakeOver(ctx context.Context, t engine.Taking, plan bool) (engine.Taken, error) {
	body, err := json.Marshal(t)
	if err != nil {
		return engine.Taken{}, err
	}
	path := "/v1/takeover"
	if plan {
		path += "?plan=yes"
	}
	return call[engine.Taken](ctx, c, http.MethodPost, path, body)
}

// GiveBack leaves an active network's bridge to another program, and forgets
// the network.
func (c *Client) GiveBack(ctx context.Context, ref string) error {
	return c.act(ctx, http.MethodPost, network(ref)+"/give-back")
}
