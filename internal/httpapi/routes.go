package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"viaduct/internal/engine"
	"viaduct/internal/netdef"
)

// request is a request with what was found out about it.
type request struct {
	*http.Request
	api API
	// net is the network that the path names, if it does.
	net engine.Info
}

// route is one resource and method. GET only looks; every other method changes
// something.
type route struct {
	pattern string
	params  []string // the query parameters it knows
	answer  func(s *Server, r request) (any, error)
}

// routes are all resources. {ref} is a network's UUID or name.
var routes = []route{
	{"GET /v1/version", nil, func(s *Server, _ request) (any, error) { return Version{s.Version, apiVersion}, nil }},
	{"GET /v1/networks", nil, func(_ *Server, r request) (any, error) { return list(r.api.Networks()), nil }},
	{"POST /v1/networks", []string{"transient"}, putNetwork},
	{"GET /v1/networks/{ref}", nil, func(_ *Server, r request) (any, error) { return r.net, nil }},
	{"DELETE /v1/networks/{ref}", nil, act(API.Undefine)},
	{"GET /v1/networks/{ref}/xml", []string{"inactive"}, getXML},
	{"POST /v1/networks/{ref}/update", []string{"command", "section", "parentIndex", "live", "config"}, update},
	{"GET /v1/networks/{ref}/metadata", []string{"type", "uri", "live", "config"}, getMetadata},
	{"PUT /v1/networks/{ref}/metadata", []string{"type", "uri", "key", "live", "config"}, setMetadata},
	{"GET /v1/networks/{ref}/leases", []string{"mac"}, getLeases},
	{"GET /v1/networks/{ref}/plan", nil, getPlan},
	{"GET /v1/networks/{ref}/warnings", nil, texts(API.Warnings)},
	{"GET /v1/networks/{ref}/notes", nil, texts(API.Notes)},
	{"POST /v1/networks/{ref}/start", nil, act(API.Start)},
	{"POST /v1/networks/{ref}/destroy", nil, act(API.Destroy)},
	{"PUT /v1/networks/{ref}/autostart", nil, act(autostart(true))},
	{"DELETE /v1/networks/{ref}/autostart", nil, act(autostart(false))},
	{"GET /v1/networks/{ref}/counters", nil, func(_ *Server, r request) (any, error) { return r.api.Counters(r.net.UUID) }},
	{"GET /v1/networks/{ref}/ports", nil, getPorts},
	{"POST /v1/networks/{ref}/ports", []string{"tap", "link", "mac", "owner", "group", "guard", "reclaim", "wait", "name", "mtu", "routed", "pattern"}, createPort},
	{"GET /v1/networks/{ref}/ports/{port}/xml", nil, getPortXML},
	{"PUT /v1/networks/{ref}/ports/{port}/xml", []string{"guard"}, putPortXML},
	{"PUT /v1/networks/{ref}/ports/{port}/bandwidth", []string{"inbound", "outbound"}, setBandwidth},
	{"DELETE /v1/networks/{ref}/ports/{port}", nil, func(_ *Server, r request) (any, error) {
		return nil, r.api.DeletePort(r.Context(), r.net.UUID, r.PathValue("port"))
	}},
	{"PUT /v1/networks/{ref}/ports/{link}", []string{"wait"}, plug},
	{"POST /v1/networks/{ref}/release", nil, act(API.Release)},
	{"GET /v1/ports", []string{"mac", "guest", "name"}, getGuestPorts},
	{"GET /v1/bridges", nil, func(_ *Server, r request) (any, error) { return r.api.Bridges(), nil }},
	{"DELETE /v1/ports/{link}", nil, func(_ *Server, r request) (any, error) { return nil, r.api.Unplug(r.Context(), r.PathValue("link")) }},
	{"POST /v1/networks/{ref}/confirm", []string{"undo"}, confirm},
	{"POST /v1/apply", nil, apply},
	{"POST /v1/takeover", []string{"plan"}, takeOver},
	{"POST /v1/networks/{ref}/give-back", nil, act(API.GiveBack)},
	{"PUT /v1/libvirtd", []string{"plan"}, attached(Attacher.Attach)},
	{"DELETE /v1/libvirtd", []string{"plan"}, attached(Attacher.Detach)},
	{"GET /v1/uplinks", nil, getUplinks},
	{"POST /v1/uplinks", nil, createUplink},
	{"DELETE /v1/uplinks/{bridge}", nil, func(_ *Server, r request) (any, error) {
		return r.api.DeleteUplink(r.Context(), r.PathValue("bridge"))
	}},
	{"POST /v1/uplinks/{bridge}/confirm", []string{"undo"}, confirmUplink},
	{"POST /v1/reload", nil, func(_ *Server, r request) (any, error) { return r.api.Reload(r.Context()) }},
}

// xmlText is an answer that is XML rather than JSON.
type xmlText string

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	for _, rt := range routes {
		mux.HandleFunc(rt.pattern, func(w http.ResponseWriter, hr *http.Request) {
			answer, err := s.dispatch(rt, w, hr)
			limitWrite(w)
			switch text, isXML := answer.(xmlText); {
			case err != nil:
				s.writeError(w, hr, err)
			case isXML:
				w.Header().Set("Content-Type", "application/xml")
				io.WriteString(w, string(text))
			case answer == nil:
				w.WriteHeader(http.StatusNoContent)
			default:
				writeJSON(w, http.StatusOK, answer)
			}
		})
	}
	mux.HandleFunc("GET /v1/events", s.streamEvents)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		limitWrite(w)
		s.writeError(w, r, netdef.Errorf(netdef.ErrNoSupport, "%s %s", r.Method, r.URL.Path))
	})
	return mux
}

// dispatch checks what all resources have in common and answers.
func (s *Server) dispatch(rt route, w http.ResponseWriter, hr *http.Request) (any, error) {
	if hr.Method != http.MethodGet && hr.Method != http.MethodHead {
		if err := mayChange(hr.Context()); err != nil {
			return nil, err
		}
		// A client that goes away does not leave half of what it asked for.
		hr = hr.WithContext(context.WithoutCancel(hr.Context()))
	}
	if err := checkParams(hr, rt.params); err != nil {
		return nil, err
	}
	hr.Body = http.MaxBytesReader(w, hr.Body, MaxBody)
	r := request{Request: hr, api: s.API}
	if ref := hr.PathValue("ref"); ref != "" {
		var err error
		if r.net, err = s.API.Lookup(ref); err != nil {
			return nil, err
		}
	}
	return rt.answer(s, r)
}

func checkParams(r *http.Request, known []string) error {
	for name, values := range r.URL.Query() {
		if !slices.Contains(known, name) {
			return netdef.Errorf(netdef.ErrInvalidArg, "unknown parameter '%s' for %s", name, r.URL.Path)
		}
		if len(values) > 1 {
			return netdef.Errorf(netdef.ErrInvalidArg, "parameter '%s' is given %d times", name, len(values))
		}
	}
	return nil
}

// yes reads a parameter that is yes or no; absent means no.
func (r request) yes(name string) (bool, error) {
	switch v := r.URL.Query().Get(name); v {
	case "yes":
		return true, nil
	case "no", "":
		return false, nil
	default:
		return false, netdef.Errorf(netdef.ErrInvalidArg, "parameter '%s' is yes or no, not '%s'", name, v)
	}
}

// wait reads for how long a link may be waited for.
func (r request) wait() (wait time.Duration, err error) {
	if text := r.URL.Query().Get("wait"); text != "" {
		if wait, err = time.ParseDuration(text); err != nil || wait < 0 || wait > maxWait {
			return 0, netdef.Errorf(netdef.ErrInvalidArg, "parameter 'wait' is a duration up to %s, not '%s'", maxWait, text)
		}
	}
	return wait, nil
}

// body reads what was sent along.
func (r request) body(what string) ([]byte, error) {
	b, err := io.ReadAll(r.Body)
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, netdef.Errorf(netdef.ErrInvalidArg, "%s is larger than %d octets", what, MaxBody)
	case err != nil:
		return nil, netdef.Errorf(netdef.ErrInvalidArg, "read %s: %w", what, err)
	}
	return b, nil
}

// act answers by doing something to the network.
func act(do func(API, context.Context, netdef.UUID) error) func(*Server, request) (any, error) {
	return func(_ *Server, r request) (any, error) { return nil, do(r.api, r.Context(), r.net.UUID) }
}

func autostart(on bool) func(API, context.Context, netdef.UUID) error {
	return func(a API, ctx context.Context, id netdef.UUID) error { return a.SetAutostart(ctx, id, on) }
}

// putNetwork defines a network, or creates a transient one.
func putNetwork(_ *Server, r request) (any, error) {
	transient, err := r.yes("transient")
	if err != nil {
		return nil, err
	}
	xml, err := r.body("definition")
	if err != nil {
		return nil, err
	}
	if transient {
		return definition(r.api.Create(r.Context(), xml))
	}
	return definition(r.api.Define(r.Context(), xml))
}

// definition answers with a network that was defined; aboutInput marks libvirt's "internal errors" about a definition as the
// client's. Those about the host have a cause.
func definition(info engine.Info, err error) (any, error) { return info, aboutInput(err) }

func aboutInput(err error) error {
	var known *netdef.Error
	if errors.As(err, &known) && known.Code == netdef.ErrInternal && known.Err == nil {
		return &inputError{err}
	}
	return err
}

func getXML(_ *Server, r request) (any, error) {
	inactive, err := r.yes("inactive")
	if err != nil {
		return nil, err
	}
	text, err := r.api.XML(r.net.UUID, inactive)
	return xmlText(text), err
}

func getLeases(_ *Server, r request) (any, error) {
	leases, err := r.api.Leases(r.net.UUID, r.URL.Query().Get("mac"))
	wire := make([]Lease, len(leases))
	for i, l := range leases {
		wire[i] = leaseOf(l)
	}
	return wire, err
}

// maxWait bounds how long a request may wait for a link. It is less than what
// requests have to finish in when the daemon stops.
const maxWait = 15 * time.Second

// plug makes a link a port of the network.
func plug(_ *Server, r request) (any, error) {
	wait, err := r.wait()
	if err != nil {
		return nil, err
	}
	return nil, r.api.Plug(r.Context(), r.net.UUID, r.PathValue("link"), wait)
}

func getPlan(_ *Server, r request) (any, error) {
	text, err := r.api.Plan(r.net.UUID)
	p := Plan{Operations: []string{}}
	for line := range strings.Lines(text) {
		p.Operations = append(p.Operations, strings.TrimSuffix(line, "\n"))
	}
	return p, err
}

// texts answers with what there is to say about the network.
func texts(say func(API, netdef.UUID) ([]string, error)) func(*Server, request) (any, error) {
	return func(_ *Server, r request) (any, error) {
		said, err := say(r.api, r.net.UUID)
		return list(said), err
	}
}

// streamEvents writes one JSON object a line for each event, until the client
// goes away, lags too far behind, or the daemon stops. The answer's header is
// sent once the subscription stands, so a client that has it misses nothing.
func (s *Server) streamEvents(w http.ResponseWriter, r *http.Request) {
	limitWrite(w)
	if err := checkParams(r, []string{"network"}); err != nil {
		s.writeError(w, r, err)
		return
	}
	var only netdef.UUID
	if ref := r.URL.Query().Get("network"); ref != "" {
		info, err := s.API.Lookup(ref)
		if err != nil {
			s.writeError(w, r, err)
			return
		}
		only = info.UUID
	}
	events, stop := s.API.Events()
	defer stop()

	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	out := http.NewResponseController(w)
	if out.Flush() != nil {
		return
	}
	lines := json.NewEncoder(w)
	for {
		select {
		case <-r.Context().Done():
			return
		case e, ok := <-events:
			if !ok {
				return
			}
			if !only.IsZero() && e.UUID != only {
				continue
			}
			limitWrite(w)
			if lines.Encode(eventOf(e)) != nil || out.Flush() != nil {
				return
			}
		}
	}
}
