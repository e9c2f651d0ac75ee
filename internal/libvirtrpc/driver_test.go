package libvirtrpc

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"viaduct/internal/engine"
	"viaduct/internal/libvirtrpc/dispatch"
	"viaduct/internal/libvirtrpc/rpctest"
	"viaduct/internal/libvirtrpc/wire"
	"viaduct/internal/libvirtrpc/xdr"
	"viaduct/internal/netdef"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var testID = netdef.UUID{1, 2, 3}

// unasked is Networks by another name: a field cannot be called as a method is.
type unasked interface{ Networks }

// stub is an engine with one network that can be started once. What it is not
// asked for in tests is nil.
type stub struct {
	unasked
	mu    sync.Mutex
	info  engine.Info
	start chan struct{} // a start waits for it to be closed, if it is not nil
}

func newStub() *stub {
	return &stub{info: engine.Info{Name: "default", UUID: testID, Bridge: "virbr0", Persistent: true}}
}

func (s *stub) all() engine.Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.info
}

func (s *stub) Networks() []engine.Info { return []engine.Info{s.all()} }

func (s *stub) Lookup(ref string) (engine.Info, error) {
	if i := s.all(); ref == i.Name || ref == i.UUID.String() {
		return i, nil
	}
	return engine.Info{}, netdef.Errorf(netdef.ErrNoNetwork, "no network with matching name '%s'", ref)
}

func (s *stub) ByName(name string) (engine.Info, error) { return s.Lookup(name) }

func (s *stub) Start(context.Context, netdef.UUID) error {
	if s.start != nil {
		<-s.start
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.info.Active {
		return netdef.Errorf(netdef.ErrOperationInvalid, "network is already active")
	}
	s.info.Active = true
	return nil
}

func (s *stub) Destroy(context.Context, netdef.UUID) error { return errors.New("out of luck") }

// serve makes a server with a stub behind it, and returns a way to connect.
func serve(t *testing.T, s *dispatch.Server) func() *rpctest.Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s.Log = slog.New(slog.DiscardHandler)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return func() *rpctest.Client {
		t.Helper()
		c, err := rpctest.Dial(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c
	}
}

// connect connects to a server of its own and opens the connection.
func connect(t *testing.T, s *stub) *rpctest.Client {
	t.Helper()
	c := serve(t, &dispatch.Server{Driver: Driver(s)})()
	if err := c.Open("network:///system", 0); err != nil {
		t.Fatal(err)
	}
	return c
}

func network(name string, id netdef.UUID) func(*xdr.Encoder) {
	return func(e *xdr.Encoder) {
		e.String(name)
		e.UUID(id)
	}
}

// refused checks that a call fails in certain words.
func refused(t *testing.T, err error, code netdef.Code, message string) {
	t.Helper()
	var f *rpctest.Failure
	if !errors.As(err, &f) || f.Code != int32(code) || f.Message != message {
		t.Errorf("%v (%T), want error %d: %s", err, err, code, message)
	}
}

func TestStartTwice(t *testing.T) {
	c := connect(t, newStub())
	if _, err := c.Call(39, network("default", testID)); err != nil {
		t.Fatal(err)
	}
	_, err := c.Call(39, network("default", testID))
	refused(t, err, netdef.ErrOperationInvalid, "Requested operation is not valid: network is already active")
}

// A client that opened its connection read-only, or whose socket is, may look
// and not change.
func TestReadOnly(t *testing.T) {
	for name, s := range map[string]*dispatch.Server{"by flag": {}, "by socket": {ReadOnly: true}} {
		t.Run(name, func(t *testing.T) {
			stub := newStub()
			s.Driver = Driver(stub)
			c := serve(t, s)()
			flags := uint32(1)
			if s.ReadOnly {
				flags = 0
			}
			if err := c.Open("network:///system", flags); err != nil {
				t.Fatal(err)
			}
			if d, err := c.Call(45, network("default", testID)); err != nil || d.String() != "virbr0" {
				t.Error("does not tell the bridge's name")
			}
			for number, p := range s.Driver.Procedures {
				if p.Changes == "" {
					continue
				}
				_, err := c.Call(number, network("default", testID))
				refused(t, err, netdef.ErrOperationDenied, "operation forbidden: read only access prevents "+p.Changes)
			}
			if stub.all().Active {
				t.Error("the network was started")
			}
		})
	}
}

func TestListFilters(t *testing.T) {
	c := connect(t, newStub())
	for _, v := range []struct {
		flags uint32
		want  uint32
	}{{0, 1}, {1, 1}, {2, 0}, {3, 1}, {4, 1}, {8, 0}, {16, 0}, {32, 1}, {1 | 4 | 32, 1}, {2 | 4, 0}} {
		d, err := c.Call(283, func(e *xdr.Encoder) {
			e.Int32(1)
			e.Uint32(v.flags)
		})
		if err != nil || d.Uint32() != v.want {
			t.Errorf("flags %d: %v, want %d networks", v.flags, err, v.want)
		}
	}
}

func TestRefusals(t *testing.T) {
	c := connect(t, newStub())
	for _, v := range []struct {
		name      string
		procedure uint32
		args      func(*xdr.Encoder)
		code      netdef.Code
		message   string
	}{
		{"unknown procedure", 9999, nil, netdef.ErrRPC, "unknown procedure: 9999"},
		{"procedure of another driver", 59, nil, netdef.ErrNoSupport,
			"this function is not supported by the connection driver: virConnectGetHostname"},
		{"arguments cut short", 39, func(e *xdr.Encoder) { e.String("default") }, netdef.ErrRPC, "Unable to decode message payload"},
		{"arguments left over", 2, func(e *xdr.Encoder) { e.Uint32(1) }, netdef.ErrRPC, "Unable to decode message payload"},
		{"string longer than the message", 46, func(e *xdr.Encoder) { e.Uint32(1 << 20) }, netdef.ErrRPC, "Unable to decode message payload"},
		{"string longer than any may be", 46, func(e *xdr.Encoder) { e.Uint32(1 << 31) }, netdef.ErrRPC, "Unable to decode message payload"},
		{"list longer than the message", 419, func(e *xdr.Encoder) { e.Uint32(20) }, netdef.ErrRPC, "Unable to decode message payload"},
		{"list longer than any may be", 419, func(e *xdr.Encoder) { e.Uint32(0xffffffff) }, netdef.ErrRPC, "Unable to decode message payload"},
		{"no such network", 46, func(e *xdr.Encoder) { e.String("other") }, netdef.ErrNoNetwork,
			"Network not found: no network with matching name 'other'"},
		{"unknown flag", 43, func(e *xdr.Encoder) { network("default", testID)(e); e.Uint32(6) }, netdef.ErrInvalidArg,
			"invalid argument: unsupported flags (0x6) in function networkGetXMLDesc"},
		{"error of no known kind", 42, network("default", testID), netdef.ErrInternal, "internal error: out of luck"},
	} {
		t.Run(v.name, func(t *testing.T) {
			_, err := c.Call(v.procedure, v.args)
			refused(t, err, v.code, v.message)
		})
	}
	if _, err := c.Call(46, func(e *xdr.Encoder) { e.String("default") }); err != nil {
		t.Errorf("the connection has not survived: %v", err)
	}
}

func TestNothingGoesBeforeOpen(t *testing.T) {
	c := serve(t, &dispatch.Server{Driver: Driver(newStub())})()
	_, err := c.Call(46, func(e *xdr.Encoder) { e.String("default") })
	refused(t, err, netdef.ErrInternal, "internal error: connection not open")
	if d, err := c.Call(60, func(e *xdr.Encoder) { e.Int32(10) }); err != nil || d.Int32() != 1 {
		t.Errorf("keepalive is not offered: %v", err)
	}
}

// A call that takes long holds up no other of its connection, and an answer to
// a ping no call at all.
func TestCallsGoInParallel(t *testing.T) {
	s := newStub()
	s.start = make(chan struct{})
	c := connect(t, s)
	started := make(chan error, 1)
	go func() {
		_, err := c.Call(39, network("default", testID))
		started <- err
	}()
	if _, err := c.Call(46, func(e *xdr.Encoder) { e.String("default") }); err != nil {
		t.Error(err)
	}
	if err := c.Send(wire.Header{Program: wire.ProgramKeepalive, Version: 1, Procedure: wire.Ping, Type: wire.Message}, nil); err != nil {
		t.Fatal(err)
	}
	if ev := <-c.Events; ev.Header.Procedure != wire.Pong {
		t.Errorf("answer to a ping: %+v", ev.Header)
	}
	select {
	case <-started:
		t.Error("the start has not waited")
	default:
	}
	close(s.start)
	if err := <-started; err != nil {
		t.Error(err)
	}
}

// A server asks a silent client whether it is there, and gives it up in the end.
func TestSilentClientIsGivenUp(t *testing.T) {
	dial := serve(t, &dispatch.Server{Driver: Driver(newStub()), KeepaliveInterval: 20 * time.Millisecond, KeepaliveCount: 3})
	offer := func(c *rpctest.Client) {
		if _, err := c.Call(60, func(e *xdr.Encoder) { e.Int32(10) }); err != nil {
			t.Fatal(err)
		}
	}
	lively, silent := dial(), dial()
	silent.Silent = true
	offer(lively)
	offer(silent)
	<-silent.Done()
	if n := len(silent.Events); n != 3 {
		t.Errorf("it was asked %d times, want 3", n)
	}
	if _, err := lively.Call(60, func(e *xdr.Encoder) { e.Int32(10) }); err != nil {
		t.Errorf("who answers was given up too: %v", err)
	}
}

// FuzzServer sends anything at all. The server answers every call, or ends the
// connection, and stays there for others.
func FuzzServer(f *testing.F) {
	d := Driver(newStub())
	for _, p := range slices.Concat([]uint32{1, 2, 3, 60, 66, 70, 110, 149, 157, 360, 361, 419}, keys(d.Procedures)) {
		e := &xdr.Encoder{}
		network("default", testID)(e)
		h := wire.Header{Program: wire.ProgramRemote, Version: 1, Procedure: p}
		f.Add(wire.Append(nil, h, nil))
		f.Add(wire.Append(nil, h, e.Data()))
	}
	f.Add(wire.Append(nil, wire.Header{Program: wire.ProgramKeepalive, Procedure: wire.Ping, Type: wire.Message}, nil))
	f.Add(binary.BigEndian.AppendUint32(nil, 0xffffffff))
	path := filepath.Join(f.TempDir(), "sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		f.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	server := &dispatch.Server{Driver: Driver(fuzzed{newStub()}), Log: slog.New(slog.DiscardHandler), KeepaliveInterval: -1}
	go func() { done <- server.Serve(ctx, l) }()
	f.Cleanup(func() {
		cancel()
		<-done
	})
	open := &xdr.Encoder{}
	open.OptionalString(nil)
	open.Uint32(0)
	f.Fuzz(func(t *testing.T, data []byte) {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		first := wire.Append(nil, wire.Header{Program: wire.ProgramRemote, Version: 1, Procedure: 1}, open.Data())
		if _, err := conn.Write(first); err != nil {
			t.Fatal(err)
		}
		if _, _, err := wire.Read(conn, wire.MaxPayload); err != nil {
			t.Fatal(err)
		}
		// How many answers there are to be.
		calls := map[uint32]int{}
		whole := true
		r := bytes.NewReader(data)
		for r.Len() > 0 {
			h, _, err := wire.Read(r, wire.MaxPayload)
			if err != nil {
				whole = false
				break
			}
			if h.Type == wire.Call && h.Program != wire.ProgramKeepalive {
				calls[h.Serial]++
			}
		}
		go func() {
			conn.Write(data)
			conn.(*net.UnixConn).CloseWrite()
		}()
		for {
			h, _, err := wire.Read(conn, wire.MaxPayload)
			if err != nil {
				break
			}
			if h.Type == wire.Reply {
				calls[h.Serial]--
			}
		}
		for serial, left := range calls {
			if left < 0 || left > 0 && whole && len(calls) == 1 {
				t.Errorf("%d answers too few to call %d", left, serial)
			}
		}
	})
}

// fuzzed does nothing that lasts.
type fuzzed struct{ *stub }

func (fuzzed) Start(context.Context, netdef.UUID) error                  { return nil }
func (fuzzed) Undefine(context.Context, netdef.UUID) error               { return nil }
func (fuzzed) SetAutostart(context.Context, netdef.UUID, bool) error     { return nil }
func (fuzzed) XML(netdef.UUID, bool) (string, error)                     { return "<network/>", nil }
func (fuzzed) Leases(netdef.UUID, string) ([]netdef.Lease, error)        { return nil, nil }
func (fuzzed) Define(_ context.Context, xml []byte) (engine.Info, error) { return parse(xml) }
func (fuzzed) Create(_ context.Context, xml []byte) (engine.Info, error) { return parse(xml) }
func (fuzzed) Subscribe() *engine.Subscription                           { return engine.New(engine.Options{}).Subscribe() }

func parse(xml []byte) (engine.Info, error) {
	n, err := netdef.Parse(xml)
	if err != nil {
		return engine.Info{}, err
	}
	return engine.Info{Name: n.Name, UUID: n.UUID}, nil
}

func keys(m map[uint32]dispatch.Procedure) []uint32 {
	var list []uint32
	for k := range m {
		list = append(list, k)
	}
	slices.Sort(list)
	return list
}

// What a client is told of who made the error is libvirt's.
func TestErrorsSayWhereTheyComeFrom(t *testing.T) {
	c := connect(t, newStub())
	for procedure, domain := range map[uint32]int32{46: 19, 59: 0, 23: 20, 126: 26, 9999: 7} {
		_, err := c.Call(procedure, func(e *xdr.Encoder) { e.String("other") })
		var f *rpctest.Failure
		if !errors.As(err, &f) || f.Domain != domain || f.Level != 2 || f.Number1 != -1 || f.Number2 != -1 || f.AboutIt || f.AboutGuest {
			t.Errorf("procedure %d: %+v, want one of domain %d", procedure, f, domain)
		} else if !strings.Contains(f.Message, f.Str2) || !strings.HasSuffix(f.Str1, "%s") {
			t.Errorf("procedure %d: %+v", procedure, f)
		}
	}
}
