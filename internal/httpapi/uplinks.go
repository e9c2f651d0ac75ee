package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"

	"viaduct/internal/engine"
	"viaduct/internal/netdef"
)

// Uplinks is what GET /v1/uplinks answers.
type Uplinks struct {
	Uplinks []engine.UplinkReport `json:"uplinks"`
	// Proposals are the cards that could have a bridge in front of them.
	Proposals []engine.UplinkProposal `json:"proposals"`
}

// Uplink is what POST /v1/uplinks takes.
type Uplink struct {
	engine.UplinkSpec
	// Confirm is a duration such as "60s"; "" to need no confirmation.
	Confirm string `json:"confirm,omitempty"`
}

func getUplinks(_ *Server, r request) (any, error) {
	uplinks, proposals := r.api.Uplinks()
	return Uplinks{uplinks, proposals}, nil
}

func createUplink(_ *Server, r request) (any, error) {
	text, err := r.body("request")
	if err != nil {
		return nil, err
	}
	var asked Uplink
	in := json.NewDecoder(bytes.NewReader(text))
	in.DisallowUnknownFields()
	if err := in.Decode(&asked); err != nil {
		return nil, netdef.Errorf(netdef.ErrInvalidArg, "read request: %w", err)
	}
	if asked.UplinkSpec.Confirm, err = confirmTime(asked.Confirm); err != nil {
		return nil, err
	}
	return r.api.CreateUplink(r.Context(), asked.UplinkSpec)
}

func confirmUplink(_ *Server, r request) (any, error) {
	undo, err := r.yes("undo")
	if err != nil {
		return nil, err
	}
	return nil, r.api.ConfirmUplink(r.Context(), r.PathValue("bridge"), undo)
}

// Uplinks lists the bridges in front of network cards, and cards without one.
func (c *Client) Uplinks(ctx context.Context) (Uplinks, error) {
	return get[Uplinks](ctx, c, "/v1/uplinks")
}

// CreateUplink puts a bridge in front of a network card.
func (c *Client) CreateUplink(ctx context.Context, spec engine.UplinkSpec) (engine.UplinkReport, error) {
	asked := Uplink{UplinkSpec: spec}
	if spec.Confirm != 0 {
		asked.Confirm = spec.Confirm.String()
	}
	body, err := json.Marshal(asked)
	if err != nil {
		return engine.UplinkReport{}, err
	}
	return call[engine.UplinkReport](ctx, c, http.MethodPost, "/v1/uplinks", body)
}

// DeleteUplink removes a bridge from in front of its card.
func (c *Client) DeleteUplink(ctx context.Context, bridge string) (engine.UplinkReport, error) {
	return call[engine.UplinkReport](ctx, c, http.MethodDelete, "/v1/uplinks/"+segment(bridge), nil)
}

// ConfirmUplink keeps an uplink that awaits confirmation, or takes it back at once.
func (c *Client) ConfirmUplink(ctx context.Context, bridge string, undo bool) error {
	path := "/v1/uplinks/" + segment(bridge) + "/confirm"
	if undo {
		path += "?undo=yes"
	}
	return c.act(ctx, http.MethodPost, path)
}
