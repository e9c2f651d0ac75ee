package httpapi

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"viaduct/internal/engine"
	"viaduct/internal/netdef"
)

func getPorts(_ *Server, r request) (any, error) {
	ports, err := r.api.Ports(r.net.UUID)
	return list(ports), err
}

func getPortXML(_ *Server, r request) (any, error) {
	text, err := r.api.PortXML(r.net.UUID, r.PathValue("port"))
	return xmlText(text), err
}

// createPort makes a port with a tap of its own.
func createPort(_ *Server, r request) (any, error) {
	given := r.URL.Query()
	p := engine.TapPort{Tap: given.Get("tap")}
	if text := given.Get("mac"); text != "" {
		var err error
		if p.MAC, err = netdef.ParseMAC(text); err != nil || p.MAC.IsZero() {
			return nil, netdef.Errorf(netdef.ErrInvalidMAC, "%s", text)
		}
	}
	if text := given.Get("owner"); text != "" {
		uid, err := strconv.ParseUint(text, 10, 32)
		if err != nil || uid == noUser {
			return nil, netdef.Errorf(netdef.ErrInvalidArg, "parameter 'owner' is the number of a user, not '%s'", text)
		}
		p.Owner = uint32(uid)
	}
	return r.api.CreatePort(r.Context(), r.net.UUID, p)
}

// noUser is what the kernel takes for no user at all, and so for everybody.
const noUser = 1<<32 - 1

// Ports lists the ports of a network, with what went over them.
func (c *Client) Ports(ctx context.Context, ref string) ([]engine.Port, error) {
	return get[[]engine.Port](ctx, c, network(ref)+"/ports")
}

// PortXML describes a port, named by its UUID or its link.
func (c *Client) PortXML(ctx context.Context, ref, port string) (string, error) {
	return c.text(ctx, network(ref)+"/ports/"+segment(port)+"/xml")
}

// CreatePort makes a port and the tap that is its link.
func (c *Client) CreatePort(ctx context.Context, ref string, p engine.TapPort) (engine.Port, error) {
	query := url.Values{"tap": {p.Tap}, "owner": {strconv.FormatUint(uint64(p.Owner), 10)}}
	if !p.MAC.IsZero() {
		query.Set("mac", p.MAC.String())
	}
	return call[engine.Port](ctx, c, http.MethodPost, network(ref)+"/ports?"+query.Encode(), nil)
}

// DeletePort takes a port, named by its UUID or its link, out of its network.
func (c *Client) DeletePort(ctx context.Context, ref, port string) error {
	return c.act(ctx, http.MethodDelete, network(ref)+"/ports/"+segment(port))
}

// Counters tells what went over an active network.
func (c *Client) Counters(ctx context.Context, ref string) (engine.NetworkCounters, error) {
	return get[engine.NetworkCounters](ctx, c, network(ref)+"/counters")
}
