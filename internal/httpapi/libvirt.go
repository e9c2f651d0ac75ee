package httpapi

import (
	"context"
	"net/http"

	"viaduct/internal/netdef"
)

// Attacher makes the networks known to a libvirtd that has networks of its own.
type Attacher interface {
	// Attach does so from now on, and Detach takes it back. With plan they only
	// tell what would be done.
	Attach(ctx context.Context, plan bool) ([]AttachStep, error)
	Detach(ctx context.Context, plan bool) ([]AttachStep, error)
}

// AttachStep is what is done about one network in libvirtd.
type AttachStep struct {
	Network string `json:"network"`
	Action  string `json:"action"`
	// Reason is why nothing is done, where Action is "leave".
	Reason string `json:"reason,omitempty"`
}

// attached answers with what was, or would be, done in libvirtd.
func attached(do func(Attacher, context.Context, bool) ([]AttachStep, error)) func(*Server, request) (any, error) {
	return func(s *Server, r request) (any, error) {
		plan, err := r.yes("plan")
		if err != nil {
			return nil, err
		}
		if s.Libvirtd == nil {
			return nil, netdef.Errorf(netdef.ErrNoSupport, "%s %s", r.Method, r.URL.Path)
		}
		steps, err := do(s.Libvirtd, r.Context(), plan)
		return list(steps), err
	}
}

// AttachLibvirtd makes the networks known to libvirtd from now on, or only
// tells how.
func (c *Client) AttachLibvirtd(ctx context.Context, plan bool) ([]AttachStep, error) {
	return call[[]AttachStep](ctx, c, http.MethodPut, attachmentPath(plan), nil)
}

// DetachLibvirtd takes from libvirtd what AttachLibvirtd has put there, or only
// tells what that is.
func (c *Client) DetachLibvirtd(ctx context.Context, plan bool) ([]AttachStep, error) {
	return call[[]AttachStep](ctx, c, http.MethodDelete, attachmentPath(plan), nil)
}

func attachmentPath(plan bool) string {
	if plan {
		return "/v1/libvirtd?plan=yes"
	}
	return "/v1/libvirtd"
}
