package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"time"

	"viaduct/internal/engine"
	"viaduct/internal/netdef"
)

// maxConfirm bounds how long a change may await confirmation.
const maxConfirm = 24 * time.Hour

// Apply is what POST /v1/apply takes.
type Apply struct {
	Files []engine.File `json:"files"`
	Plan  bool          `json:"plan,omitempty"`
	Prune bool          `json:"prune,omitempty"`
	// Confirm is a duration such as "60s"; "" to need no confirmation.
	Confirm string `json:"confirm,omitempty"`
}

// confirmTime reads the member of a request that says how long a change awaits
// confirmation.
func confirmTime(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 || d > maxConfirm {
		return 0, netdef.Errorf(netdef.ErrInvalidArg, "member 'confirm' is a duration up to %s, not '%s'", maxConfirm, text)
	}
	return d, nil
}

// apply makes networks equal to their definitions.
func apply(_ *Server, r request) (any, error) {
	text, err := r.body("request")
	if err != nil {
		return nil, err
	}
	var a Apply
	in := json.NewDecoder(bytes.NewReader(text))
	in.DisallowUnknownFields()
	if err := in.Decode(&a); err != nil {
		return nil, netdef.Errorf(netdef.ErrInvalidArg, "read request: %w", err)
	}
	o := engine.ApplyOptions{Plan: a.Plan, Prune: a.Prune}
	if o.Confirm, err = confirmTime(a.Confirm); err != nil {
		return nil, err
	}
	report, err := r.api.Apply(r.Context(), a.Files, o)
	return report, aboutInput(err)
}

// confirm ends the waiting of a change.
func confirm(_ *Server, r request) (any, error) {
	undo, err := r.yes("undo")
	if err != nil {
		return nil, err
	}
	return nil, r.api.Confirm(r.Context(), r.net.UUID, undo)
}

// Apply makes networks equal to their definitions, all of them or none.
func (c *Client) Apply(ctx context.Context, a Apply) (engine.ApplyReport, error) {
	body, err := json.Marshal(a)
	if err != nil {
		return engine.ApplyReport{}, err
	}
	return call[engine.ApplyReport](ctx, c, http.MethodPost, "/v1/apply", body)
}

// Confirm keeps a change that awaits confirmation, or takes it back at once.
func (c *Client) Confirm(ctx context.Context, ref string, undo bool) error {
	path := network(ref) + "/confirm"
	if undo {
		path += "?undo=yes"
	}
	return c.act(ctx, http.MethodPost, path)
}
