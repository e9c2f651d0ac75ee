package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"viaduct/internal/engine"
)

// maxAnswer bounds what the client takes for an answer, in octets.
const maxAnswer = 64 << 20

// Client talks to a daemon. Errors that the daemon reports are *netdef.Error,
// the same that the engine gave. A network is named by UUID or name.
type Client struct {
	socket string
	http   *http.Client
}

// UnreachableError means that no daemon answers at the socket.
type UnreachableError struct {
	Socket string
	Err    error
}

func (e *UnreachableError) Error() string { return fmt.Sprintf("connect to %s: %v", e.Socket, e.Err) }

// Unwrap returns the cause.
func (e *UnreachableError) Unwrap() error { return e.Err }

// NewClient makes a client of the daemon that listens at a Unix socket.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	return &Client{socket: socket, http: &http.Client{Transport: &http.Transport{DialContext: dial}}}
}

// Close ends the connections that are not in use.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Version asks for the daemon's version.
func (c *Client) Version(ctx context.Context) (Version, error) {
	return get[Version](ctx, c, "/v1/version")
}

// Networks lists all networks, sorted by name without regard to case.
func (c *Client) Networks(ctx context.Context) ([]engine.Info, error) {
	return get[[]engine.Info](ctx, c, "/v1/networks")
}

// Lookup finds a network by UUID or name.
func (c *Client) Lookup(ctx context.Context, ref string) (engine.Info, error) {
	return get[engine.Info](ctx, c, network(ref))
}

// Define makes or changes a persistent network.
func (c *Client) Define(ctx context.Context, xml []byte) (engine.Info, error) {
	return call[engine.Info](ctx, c, http.MethodPost, "/v1/networks", xml)
}

// Create makes a transient network and starts it.
func (c *Client) Create(ctx context.Context, xml []byte) (engine.Info, error) {
	return call[engine.Info](ctx, c, http.MethodPost, "/v1/networks?transient=yes", xml)
}

// Start starts a network.
func (c *Client) Start(ctx context.Context, ref string) error {
	return c.act(ctx, http.MethodPost, network(ref)+"/start")
}

// Destroy stops a network.
func (c *Client) Destroy(ctx context.Context, ref string) error {
	return c.act(ctx, http.MethodPost, network(ref)+"/destroy")
}

// Undefine forgets the persistent definition.
func (c *Client) Undefine(ctx context.Context, ref string) error {
	return c.act(ctx, http.MethodDelete, network(ref))
}

// SetAutostart says whether the network starts with the host.
func (c *Client) SetAutostart(ctx context.Context, ref string, on bool) error {
	method := http.MethodDelete
	if on {
		method = http.MethodPut
	}
	return c.act(ctx, method, network(ref)+"/autostart")
}

// XML is the live definition, or the persistent one of an inactive network or if asked for.
func (c *Client) XML(ctx context.Context, ref string, inactive bool) (string, error) {
	path := network(ref) + "/xml"
	if inactive {
		path += "?inactive=yes"
	}
	return c.text(ctx, path)
}

// text gets an answer that is not JSON.
func (c *Client) text(ctx context.Context, path string) (string, error) {
	body, err := c.send(ctx, http.MethodGet, path, nil)
	if err != nil {
		return "", err
	}
	defer body.Close()
	text, err := io.ReadAll(io.LimitReader(body, maxAnswer))
	return string(text), err
}

// Leases lists the leases of a network's guests, or of one guest if mac is not "".
func (c *Client) Leases(ctx context.Context, ref, mac string) ([]Lease, error) {
	path := network(ref) + "/leases"
	if mac != "" {
		path += "?mac=" + url.QueryEscape(mac)
	}
	return get[[]Lease](ctx, c, path)
}

// Plan is what starting the network, or healing it, would change on the host.
func (c *Client) Plan(ctx context.Context, ref string) (Plan, error) {
	return get[Plan](ctx, c, network(ref)+"/plan")
}

// Warnings tells what keeps the network from working as defined.
func (c *Client) Warnings(ctx context.Context, ref string) ([]string, error) {
	return get[[]string](ctx, c, network(ref)+"/warnings")
}

// Notes tells what is to be done elsewhere for the network to be of full use.
func (c *Client) Notes(ctx context.Context, ref string) ([]string, error) {
	return get[[]string](ctx, c, network(ref)+"/notes")
}

// Plug makes a guest's link a port of the network. The daemon waits for a link
// that does not exist yet, up to 15 s.
func (c *Client) Plug(ctx context.Context, ref, link string, wait time.Duration) error {
	return c.act(ctx, http.MethodPut, network(ref)+"/ports/"+segment(link)+"?wait="+wait.String())
}

// Unplug takes a link out of the network that it is in, if it is in one.
func (c *Client) Unplug(ctx context.Context, link string) error {
	return c.act(ctx, http.MethodDelete, "/v1/ports/"+segment(link))
}

// Reload makes the daemon reread the definitions.
func (c *Client) Reload(ctx context.Context) (engine.ReloadReport, error) {
	return call[engine.ReloadReport](ctx, c, http.MethodPost, "/v1/reload", nil)
}

// Events calls each with everything that happens to the network, or to all if
// ref is "", until each returns false or ctx is done. It calls ready once
// nothing can be missed any more.
func (c *Client) Events(ctx context.Context, ref string, ready func(), each func(Event) bool) error {
	path := "/v1/events"
	if ref != "" {
		path += "?network=" + url.QueryEscape(ref)
	}
	body, err := c.send(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer body.Close()
	ready()
	for lines := json.NewDecoder(body); ; {
		var e Event
		if err := lines.Decode(&e); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("read events: the daemon ended the stream: %w", err)
		}
		if !each(e) {
			return nil
		}
	}
}

// network is the path of a network.
func network(ref string) string { return "/v1/networks/" + segment(ref) }

// segment is a name as part of a path. Dots are escaped since "." and ".." mean
// something else there.
func segment(name string) string { return strings.ReplaceAll(url.PathEscape(name), ".", "%2E") }

func get[T any](ctx context.Context, c *Client, path string) (T, error) {
	return call[T](ctx, c, http.MethodGet, path, nil)
}

func call[T any](ctx context.Context, c *Client, method, path string, xml []byte) (T, error) {
	var answer T
	body, err := c.send(ctx, method, path, xml)
	if err != nil {
		return answer, err
	}
	defer body.Close()
	return answer, decode(body, &answer)
}

func (c *Client) act(ctx context.Context, method, path string) error {
	body, err := c.send(ctx, method, path, nil)
	if err != nil {
		return err
	}
	return body.Close()
}

func decode(body io.Reader, into any) error {
	if err := json.NewDecoder(io.LimitReader(body, maxAnswer)).Decode(into); err != nil {
		return fmt.Errorf("read the daemon's answer: %w", err)
	}
	return nil
}

// send sends a request and returns the answer's body if it is a good one.
func (c *Client) send(ctx context.Context, method, path string, xml []byte) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://viaduct"+path, bytes.NewReader(xml))
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	if xml != nil {
		req.Header.Set("Content-Type", "application/xml")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.explain(ctx, err)
	}
	if resp.StatusCode < 300 {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	var e Error
	if err := decode(resp.Body, &e); err != nil {
		return nil, fmt.Errorf("%s %s: %s: %w", method, path, resp.Status, err)
	}
	return nil, e.netdefError()
}

// explain tells a daemon that is not there from a connection that broke.
func (c *Client) explain(ctx context.Context, err error) error {
	var op *net.OpError
	var errno syscall.Errno
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("the viaduct daemon does not answer at %s: %w", c.socket, ctx.Err())
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &op) && op.Op == "dial" && errors.As(err, &errno):
		return &UnreachableError{Socket: c.socket, Err: errno}
	}
	return fmt.Errorf("talk to the daemon at %s: %w", c.socket, err)
}
