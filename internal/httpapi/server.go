package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"viaduct/internal/engine"
	"viaduct/internal/netdef"
)

// The limits of what clients can make the server hold.
const (
	// MaxBody is what a request's body may hold in octets; libvirt's limit for strings.
	MaxBody = 4 << 20

	maxConns      = 1024
	maxHeader     = 64 << 10
	headerTimeout = 10 * time.Second
	bodyTimeout   = 30 * time.Second
	writeTimeout  = 30 * time.Second
	idleTimeout   = 2 * time.Minute
	// closeTimeout is how long requests may take to finish once the server has to stop.
	closeTimeout = 20 * time.Second
)

// API is what the server needs of the engine.
type API interface {
	Networks() []engine.Info
	Lookup(ref string) (engine.Info, error)
	Define(ctx context.Context, xml []byte) (engine.Info, error)
	Create(ctx context.Context, xml []byte) (engine.Info, error)
	Start(ctx context.Context, id netdef.UUID) error
	Destroy(ctx context.Context, id netdef.UUID) error
	Undefine(ctx context.Context, id netdef.UUID) error
	SetAutostart(ctx context.Context, id netdef.UUID, on bool) error
	Update(ctx context.Context, id netdef.UUID, command netdef.UpdateCommand, section netdef.Section, parent int, xml string, live, config bool) error
	SetMetadata(ctx context.Context, id netdef.UUID, t netdef.MetadataType, value, key, uri string, live, config bool) error
	Metadata(id netdef.UUID, t netdef.MetadataType, uri string, live, config bool) (string, error)
	XML(id netdef.UUID, inactive bool) (string, error)
	Leases(id netdef.UUID, mac string) ([]netdef.Lease, error)
	Plan(id netdef.UUID) (string, error)
	Warnings(id netdef.UUID) ([]string, error)
	Notes(id netdef.UUID) ([]string, error)
	Apply(ctx context.Context, files []engine.File, o engine.ApplyOptions) (engine.ApplyReport, error)
	Confirm(ctx context.Context, id netdef.UUID, undo bool) error
	TakeOver(ctx context.Context, t engine.Taking, plan bool) (engine.Taken, error)
	GiveBack(ctx context.Context, id netdef.UUID) error
	CreateUplink(ctx context.Context, spec engine.UplinkSpec) (engine.UplinkReport, error)
	DeleteUplink(ctx context.Context, bridge string) (engine.UplinkReport, error)
	ConfirmUplink(ctx context.Context, bridge string, undo bool) error
	Uplinks() ([]engine.UplinkReport, []engine.UplinkProposal)
	Reload(ctx context.Context) (engine.ReloadReport, error)
	Plug(ctx context.Context, id netdef.UUID, link string, wait time.Duration) error
	Unplug(ctx context.Context, link string) error
	GuestPorts(mac netdef.MAC, guest netdef.UUID, name string) []engine.GuestPort
	Bridges() []string
	Release(ctx context.Context, id netdef.UUID) error
	Ports(id netdef.UUID) ([]engine.Port, error)
	PortXML(id netdef.UUID, port string) (string, error)
	CreatePort(ctx context.Context, id netdef.UUID, p engine.PortSpec) (engine.Port, error)
	UpdatePort(ctx context.Context, id netdef.UUID, port string, def netdef.Port, guard *netdef.Guard) error
	SetPortBandwidth(ctx context.Context, id netdef.UUID, port string, b *netdef.Bandwidth) error
	DeletePort(ctx context.Context, id netdef.UUID, port string) error
	Counters(id netdef.UUID) (engine.NetworkCounters, error)
	// Events delivers what happens from now on, until stop is called. The
	// channel is closed early if the reader was too slow.
	Events() (events <-chan engine.Event, stop func())
}

// Of is the API of an engine.
func Of(e *engine.Engine) API { return engineAPI{e} }

type engineAPI struct{ *engine.Engine }

func (a engineAPI) Events() (<-chan engine.Event, func()) {
	s := a.Subscribe()
	return s.C, s.Close
}

// Server is the server's end.
type Server struct {
	API API
	// Version is that of the program.
	Version string
	// Libvirtd attaches a libvirtd; nil if nothing does.
	Libvirtd Attacher
	Log      *slog.Logger
}

// Serve answers on l, which it closes, until ctx is done. Requests that are
// being worked on then get some time to finish.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	bounded := &boundedListener{Listener: l, slots: make(chan struct{}, maxConns), done: make(chan struct{})}
	srv := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       bodyTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext:       withAccess,
		ConnState:         bounded.connState,
	}
	stopped := make(chan error, 1)
	go func() {
		<-ctx.Done()
		// The streams of events end with ctx; only real work is waited for.
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		stopped <- srv.Shutdown(closing)
	}()
	if err := srv.Serve(bounded); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-stopped
}

// boundedListener accepts only so many connections at a time. The next ones
// wait in the kernel's queue.
type boundedListener struct {
	net.Listener
	slots chan struct{}
	once  sync.Once
	done  chan struct{}
}

func (l *boundedListener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.done:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
	}
	return c, err
}

func (l *boundedListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return l.Listener.Close()
}

func (l *boundedListener) connState(_ net.Conn, state http.ConnState) {
	if state == http.StateClosed {
		<-l.slots
	}
}

// writeJSON sends v. A client that does not read loses its connection.
func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v) // an error is the connection's: nobody is left to tell
}

func (s *Server) writeError(w http.ResponseWriter, r *http.Request, err error) {
	status := statusOf(err)
	if status >= http.StatusInternalServerError {
		s.Log.Warn("request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	writeJSON(w, status, ErrorOf(err))
}

// limitWrite gives the client time to read what is written next.
func limitWrite(w http.ResponseWriter) {
	http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout)) // not supported only in tests' recorders
}
