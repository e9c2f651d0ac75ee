package httpapi

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"viaduct/internal/engine"
	"viaduct/internal/httpapi/apitest"
	"viaduct/internal/netdef"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve starts a server of the fake and returns its socket.
func serve(t *testing.T, f *apitest.Fake) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "api.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{API: f, Version: "1.2.3", Log: slog.New(slog.DiscardHandler)}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return socket
}

func client(t *testing.T, socket string) *Client {
	c := NewClient(socket)
	t.Cleanup(c.Close)
	return c
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestClientAndServer(t *testing.T) {
	f := apitest.New()
	c := client(t, serve(t, f))
	ctx := t.Context()

	v, err := c.Version(ctx)
	must(t, err)
	if v != (Version{"1.2.3", 1}) {
		t.Errorf("version %v", v)
	}
	nets, err := c.Networks(ctx)
	must(t, err)
	if nets == nil || len(nets) != 0 {
		t.Errorf("networks of an empty host: %#v, want an empty list", nets)
	}

	// Names that mean something in a URL are names like any other.
	for i, name := range []string{"lab", "..", "a b", "50%", "ü?x=y&z#", "a%2Fb", "."} {
		want := engine.Info{
			Name: name, UUID: netdef.UUID{6: 0x40, 8: 0x80, 15: byte(i)}, Mode: netdef.ModeNAT, Persistent: true,
			Bridge: "virbr" + string(rune('0'+i)),
		}
		got, err := c.Define(ctx, apitest.Definition(strings.NewReplacer("&", "&amp;").Replace(name), i))
		must(t, err)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("define %q (-want +got):\n%s", name, diff)
		}
		must(t, c.SetAutostart(ctx, name, true))
		must(t, c.Start(ctx, want.UUID.String()))
		want.Active, want.Autostart = true, true
		got, err = c.Lookup(ctx, name)
		must(t, err)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("lookup %q (-want +got):\n%s", name, diff)
		}
		live, err := c.XML(ctx, name, false)
		must(t, err)
		kept, err := c.XML(ctx, name, true)
		must(t, err)
		if live != "<!-- live -->\n"+kept || !strings.HasPrefix(kept, "<network>") {
			t.Errorf("xml of %q: live %q, inactive %q", name, live, kept)
		}
		must(t, c.SetAutostart(ctx, name, false))
		must(t, c.Destroy(ctx, name))
		must(t, c.Undefine(ctx, name))
	}
	if got := f.Networks(); len(got) != 0 {
		t.Errorf("left over: %v", got)
	}

	info, err := c.Create(ctx, apitest.Definition("brief", 1))
	must(t, err)
	if info.Persistent || !info.Active {
		t.Errorf("created: %+v, want an active transient network", info)
	}
	expiry := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	f.SetLeases(info.UUID, netdef.Lease{
		MAC: netdef.MAC{0x52, 0x54, 0, 0, 0, 1}, Addr: netip.MustParseAddr("10.9.1.7"), PrefixLen: 24,
		Hostname: "one", ClientID: []byte{1, 0xab}, Expiry: expiry,
	}, netdef.Lease{MAC: netdef.MAC{0x52, 0x54, 0, 0, 0, 2}, Addr: netip.MustParseAddr("10.9.1.8"), PrefixLen: 24})
	leases, err := c.Leases(ctx, "brief", "")
	must(t, err)
	want := []Lease{
		{MAC: netdef.MAC{0x52, 0x54, 0, 0, 0, 1}, IP: netip.MustParseAddr("10.9.1.7"), Prefix: 24, Hostname: "one", ClientID: "01:ab", Expiry: &expiry},
		{MAC: netdef.MAC{0x52, 0x54, 0, 0, 0, 2}, IP: netip.MustParseAddr("10.9.1.8"), Prefix: 24},
	}
	sameAddr := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	if diff := cmp.Diff(want, leases, sameAddr); diff != "" {
		t.Errorf("leases (-want +got):\n%s", diff)
	}
	leases, err = c.Leases(ctx, "brief", "52:54:00:00:00:02")
	must(t, err)
	if diff := cmp.Diff(want[1:], leases, sameAddr); diff != "" {
		t.Errorf("leases by MAC (-want +got):\n%s", diff)
	}

	for range 2 {
		must(t, c.Plug(ctx, "brief", "vif5.0", time.Second))
	}
	if got, err := c.Lookup(ctx, "brief"); err != nil || got.Connections != 1 {
		t.Errorf("plugged in a guest twice: %+v, %v, want one connection", got, err)
	}
	for range 2 {
		must(t, c.Unplug(ctx, "vif5.0"))
	}
	if got, err := c.Lookup(ctx, "brief"); err != nil || got.Connections != 0 {
		t.Errorf("unplugged the guest twice: %+v, %v, want no connection", got, err)
	}

	f.SetPlan(info.UUID, "+ bridge virbr1\n+ link virbr1 up\n")
	p, err := c.Plan(ctx, "brief")
	must(t, err)
	if diff := cmp.Diff(Plan{[]string{"+ bridge virbr1", "+ link virbr1 up"}}, p); diff != "" {
		t.Errorf("plan (-want +got):\n%s", diff)
	}
	if w, err := c.Warnings(ctx, "brief"); err != nil || len(w) != 0 {
		t.Errorf("warnings %q, %v, want none", w, err)
	}
	f.SetWarnings(info.UUID, "port vif5.0 is blocked")
	if w, err := c.Warnings(ctx, "brief"); err != nil || !slices.Equal(w, []string{"port vif5.0 is blocked"}) {
		t.Errorf("warnings %q, %v", w, err)
	}
	report := engine.ReloadReport{Added: []string{"x"}, Failed: []engine.ReloadFailure{{File: "y.xml", Error: "bad"}}}
	f.SetReport(report)
	r, err := c.Reload(ctx)
	must(t, err)
	if diff := cmp.Diff(report, r); diff != "" {
		t.Errorf("reload (-want +got):\n%s", diff)
	}
}

// Errors arrive as they were given, with code, wording and place.
func TestErrorsTravel(t *testing.T) {
	f := apitest.New()
	socket := serve(t, f)
	c := client(t, socket)
	ctx := t.Context()
	must(t, errOf(c.Define(ctx, apitest.Definition("lab", 1))))

	for _, tt := range []struct {
		name string
		err  error
		code netdef.Code
		text string
	}{
		{"unknown name", errOf(c.Lookup(ctx, "nope")), netdef.ErrNoNetwork, "Network not found: no network with matching name 'nope'"},
		{"no name", errOf(c.Define(ctx, []byte("<network/>"))), netdef.ErrNoName, "missing name information"},
		{"not XML", errOf(c.Define(ctx, []byte("<network"))), netdef.ErrXMLDetail, "XML syntax error on line 1: unexpected EOF"},
		{"empty", errOf(c.Define(ctx, nil)), netdef.ErrXMLDetail, "EOF"},
		{"bridge in use", errOf(c.Create(ctx, bytes.Replace(apitest.Definition("l2", 2), []byte("virbr2"), []byte("virbr1"), 1))), netdef.ErrInternal, "internal error: bridge name 'virbr1' already in use."},
		{"not running", c.Destroy(ctx, "lab"), netdef.ErrOperationInvalid, "Requested operation is not valid: network 'lab' is not active"},
		{"bad MAC", errOf(c.Leases(ctx, "lab", "zz")), netdef.ErrInvalidMAC, "invalid MAC address: zz"},
		{"too large", errOf(c.Define(ctx, bytes.Repeat([]byte(" "), MaxBody+1))), netdef.ErrInvalidArg, "invalid argument: definition is larger than 4194304 octets"},
	} {
		var got *netdef.Error
		if !errors.As(tt.err, &got) || got.Code != tt.code || got.Error() != tt.text {
			t.Errorf("%s: got %v, want code %d, %q", tt.name, tt.err, tt.code, tt.text)
		}
	}

	where := Error{Code: netdef.ErrXML, Message: "XML error: bad", Where: "line 3, <ip>"}
	if got := ErrorOf(where.netdefError()); got != where {
		t.Errorf("round trip: %+v, want %+v", got, where)
	}

	var gone *UnreachableError
	if err := errOf(client(t, socket+".not").Version(ctx)); !errors.As(err, &gone) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no daemon: %v, want UnreachableError", err)
	}
}

func errOf[T any](_ T, err error) error { return err }

// Requests that make no sense get a status of their own and change nothing.
func TestStatuses(t *testing.T) {
	f := apitest.New()
	must(t, errOf(f.Define(t.Context(), apitest.Definition("lab", 1))))
	h := (&Server{API: f, Log: slog.New(slog.DiscardHandler)}).handler()
	for _, tt := range []struct {
		request string
		status  int
		say     string
	}{
		{"GET /v1/networks/lab", 200, `"name":"lab"`},
		{"HEAD /v1/networks/lab", 200, ""},
		{"GET /v1/networks/nope", 404, "no network with matching name"},
		{"GET /v1/nonsense", 404, "GET /v1/nonsense"},
		{"PATCH /v1/networks/lab", 404, "PATCH /v1/networks/lab"},
		{"GET /v1/networks?colour=red", 400, "unknown parameter 'colour'"},
		{"GET /v1/networks/lab/xml?inactive=maybe", 400, "parameter 'inactive' is yes or no, not 'maybe'"},
		{"GET /v1/networks/lab/xml?inactive=yes&inactive=no", 400, "parameter 'inactive' is given 2 times"},
		{"GET /v1/events?network=nope", 404, "no network with matching name"},
		{"GET /v1/events?x=y", 400, "unknown parameter 'x'"},
		{"POST /v1/networks/lab/start", 204, ""},
		{"POST /v1/networks/lab/start", 409, "network is already active"},
		{"PUT /v1/networks/lab/ports/vif5.0?wait=1h", 400, "parameter 'wait' is a duration up to 15s, not '1h'"},
		{"PUT /v1/networks/lab/ports/vif5.0?wait=-1s", 400, "parameter 'wait'"},
		{"PUT /v1/networks/lab/ports/vif5.0", 204, ""},
		{"PUT /v1/networks/lab/ports/eth7", 500, "link 'eth7' does not exist"},
		{"PUT /v1/networks/nope/ports/vif5.0", 404, "no network with matching name"},
		{"DELETE /v1/ports/vif5.0", 204, ""},
		{"POST /v1/networks?transient=2", 400, "parameter 'transient'"},
		{"POST /v1/networks/lab/update?command=add&section=dns", 400, "unrecognized section name 'dns'"},
		{"POST /v1/networks/lab/update?command=none&section=dns-txt", 400, "unrecognized command name 'none'"},
		{"POST /v1/networks/lab/update?command=add&section=dns-txt&parentIndex=x", 400, "parameter 'parentIndex' is a number, not 'x'"},
		{"POST /v1/networks/lab/update?command=add&section=dns-txt&live=true", 400, "parameter 'live' is yes or no, not 'true'"},
		{"POST /v1/networks/lab/update?command=add&section=dns-txt", 400, "network_update_xml"},
		{"GET /v1/networks/lab/metadata?type=colour", 400, "unknown metadata type 'colour'"},
		{"GET /v1/networks/lab/metadata?type=title", 404, "metadata not found"},
		{"PUT /v1/networks/lab/metadata?type=element&key=k", 400, "uri in virNetworkSetMetadata"},
		{"PUT /v1/networks/lab/metadata?type=title&live=yes", 204, ""},
		{"POST /v1/apply", 400, "read request"},
		{"POST /v1/networks/lab/confirm", 409, "no change that awaits confirmation"},
		{"POST /v1/networks/lab/confirm?undo=1", 400, "parameter 'undo'"},
	} {
		method, target, _ := strings.Cut(tt.request, " ")
		r := httptest.NewRequest(method, target, nil)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), accessKey{}, access{change: true})))
		if w.Code != tt.status || !strings.Contains(w.Body.String(), tt.say) {
			t.Errorf("%s: %d %s, want %d %s", tt.request, w.Code, w.Body, tt.status, tt.say)
		}
	}
}

// dialAs connects as somebody else.
func dialAs(t *testing.T, socket string, uid, gid int, groups ...uint32) net.Conn {
	t.Helper()
	type result struct {
		c   net.Conn
		err error
	}
	got := make(chan result)
	go func() {
		// Raw system calls change this thread only. It ends with the goroutine,
		// since it is never unlocked.
		runtime.LockOSThread()
		gids := append(groups, 0)
		for _, call := range [][4]uintptr{
			{syscall.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(&gids[0]))},
			{syscall.SYS_SETRESGID, uintptr(gid), uintptr(gid), uintptr(gid)},
			{syscall.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)},
		} {
			if _, _, errno := syscall.RawSyscall(call[0], call[1], call[2], call[3]); errno != 0 {
				got <- result{nil, errno}
				return
			}
		}
		c, err := net.Dial("unix", socket)
		got <- result{c, err}
	}()
	r := <-got
	must(t, r.err)
	t.Cleanup(func() { r.c.Close() })
	return r.c
}

// Whoever is let in may look. Changes take root or the socket's group.
func TestAccess(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" || os.Getenv("VIADUCT_REQUIRE_LANES") == "1" {
			t.Fatal("needs root to connect as somebody else")
		}
		t.Skip("needs root to connect as somebody else")
	}
	const group = 4242
	f := apitest.New()
	must(t, errOf(f.Define(t.Context(), apitest.Definition("lab", 1))))
	socket := serve(t, f)
	must(t, os.Chmod(filepath.Dir(socket), 0o755))
	must(t, os.Chmod(filepath.Dir(filepath.Dir(socket)), 0o755))
	must(t, os.Chown(socket, 0, group))
	must(t, os.Chmod(socket, 0o666))

	many := make([]uint32, 100) // more than fit into the first try
	for i := range many {
		many[i] = uint32(5000 + i)
	}
	for _, tt := range []struct {
		who      string
		uid, gid int
		groups   []uint32
		status   int
	}{
		{"stranger", 1234, 1234, nil, 403},
		{"stranger in other groups", 1234, 1234, many, 403},
		{"member by primary group", 1234, group, nil, 204},
		{"member by supplementary group", 1234, 1234, append(many, group), 204},
		{"root", 0, 0, nil, 204},
	} {
		c := dialAs(t, socket, tt.uid, tt.gid, tt.groups...)
		in := bufio.NewReader(c)
		for request, want := range map[string]int{"GET /v1/networks/lab": 200, "PUT /v1/networks/lab/autostart": tt.status} {
			io.WriteString(c, request+" HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
			resp, err := http.ReadResponse(in, nil)
			must(t, err)
			body, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != want {
				t.Errorf("%s: %s: %s %s, want %d", tt.who, request, resp.Status, body, want)
			}
			if want == 403 && !strings.Contains(string(body), `"code":29,"message":"operation forbidden: uid 1234 has read only access`) {
				t.Errorf("%s: %s: body %s", tt.who, request, body)
			}
		}
		c.Close()
	}
}

func TestEvents(t *testing.T) {
	f := apitest.New()
	c := client(t, serve(t, f))
	ctx := t.Context()
	must(t, errOf(c.Define(ctx, apitest.Definition("lab", 1))))
	must(t, errOf(c.Define(ctx, apitest.Definition("other", 2))))

	ready := make(chan struct{})
	events := make(chan Event, 8)
	ended := make(chan error, 1)
	go func() {
		ended <- c.Events(ctx, "lab", func() { close(ready) }, func(e Event) bool {
			events <- e
			return e.Event != "Undefined"
		})
	}()
	<-ready
	must(t, c.Start(ctx, "other"))
	must(t, c.Start(ctx, "lab"))
	must(t, c.Destroy(ctx, "lab"))
	must(t, c.Undefine(ctx, "lab"))
	must(t, <-ended)
	close(events)
	var got []string
	for e := range events {
		got = append(got, e.Name+" "+e.Event)
	}
	if diff := cmp.Diff([]string{"lab Started", "lab Stopped", "lab Undefined"}, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// A reader that was too slow is told by the end of the stream, and so is one
// whose daemon stops.
func TestEventsEnd(t *testing.T) {
	f := apitest.New()
	c := client(t, serve(t, f))
	err := c.Events(t.Context(), "", f.DropReaders, func(Event) bool { return true })
	if err == nil || !strings.Contains(err.Error(), "the daemon ended the stream") {
		t.Errorf("dropped reader: %v", err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	if err := c.Events(ctx, "", cancel, func(Event) bool { return true }); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled reader: %v", err)
	}
}

// A server that has to stop ends streams and lets work finish.
func TestStop(t *testing.T) {
	f := apitest.New()
	socket := filepath.Join(t.TempDir(), "api.sock")
	l, err := net.Listen("unix", socket)
	must(t, err)
	slow := &slowStart{Fake: f, started: make(chan struct{}), finish: make(chan struct{})}
	must(t, errOf(f.Define(t.Context(), apitest.Definition("lab", 1))))
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		served <- (&Server{API: slow, Log: slog.New(slog.DiscardHandler)}).Serve(ctx, l)
	}()
	c := client(t, socket)
	streamed := make(chan error, 1)
	ready := make(chan struct{})
	go func() {
		streamed <- c.Events(t.Context(), "", func() { close(ready) }, func(Event) bool { return true })
	}()
	<-ready
	acted := make(chan error, 1)
	go func() { acted <- c.Start(t.Context(), "lab") }()
	<-slow.started
	stop()
	if err := <-streamed; err == nil {
		t.Error("stream of a stopped daemon ended without an error")
	}
	close(slow.finish)
	must(t, <-acted)
	must(t, <-served)
	if info, _ := f.Lookup("lab"); !info.Active {
		t.Error("request did not finish")
	}
}

type slowStart struct {
	*apitest.Fake
	started, finish chan struct{}
}

func (s *slowStart) Start(ctx context.Context, id netdef.UUID) error {
	close(s.started)
	<-s.finish
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return s.Fake.Start(ctx, id)
}

// Connections beyond the limit wait; a listener that closes lets none hang.
func TestBoundedListener(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	must(t, err)
	b := &boundedListener{Listener: l, slots: make(chan struct{}, 1), done: make(chan struct{})}
	for range 2 {
		c, err := net.Dial("unix", l.Addr().String())
		must(t, err)
		defer c.Close()
	}
	c, err := b.Accept()
	must(t, err)
	accepted := make(chan net.Conn, 1)
	go func() {
		c, _ := b.Accept()
		accepted <- c
	}()
	select {
	case <-accepted:
		t.Fatal("accepted more than allowed")
	default:
	}
	c.Close()
	b.connState(c, http.StateClosed)
	second := <-accepted
	defer second.Close()
	go b.Close()
	if _, err := b.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept on a closed listener: %v", err)
	}
}
