package libvirtrpc

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"viaduct/internal/engine"
	"viaduct/internal/netdef"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// stubNetworks is an engine with one network that can be started once.
type stubNetworks struct{ info engine.Info }

var testID = netdef.UUID{1, 2, 3}

func newStub() *stubNetworks {
	return &stubNetworks{engine.Info{Name: "default", UUID: testID, Bridge: "virbr0", Persistent: true}}
}

func (s *stubNetworks) Networks() []engine.Info { return []engine.Info{s.info} }

func (s *stubNetworks) Lookup(ref string) (engine.Info, error) {
	if ref == s.info.Name || ref == s.info.UUID.String() {
		return s.info, nil
	}
	return engine.Info{}, netdef.Errorf(netdef.ErrNoNetwork, "no network with matching name '%s'", ref)
}

func (s *stubNetworks) ByName(name string) (engine.Info, error) { return s.Lookup(name) }

func (s *stubNetworks) Start(context.Context, netdef.UUID) error {
	if s.info.Active {
		return netdef.Errorf(netdef.ErrOperationInvalid, "network is already active")
	}
	s.info.Active = true
	return nil
}

func (s *stubNetworks) Destroy(context.Context, netdef.UUID) error {
	s.info.Active = false
	return nil
}

func call(t *testing.T, s *session, procedure uint32, args func(*encoder)) (header, *decoder) {
	t.Helper()
	var in encoder
	if args != nil {
		args(&in)
	}
	h := header{Program: programRemote, Version: programVersion, Procedure: procedure, Serial: 7}
	reply := s.answer(t.Context(), h, in.data)
	got, payload, err := readFrame(bytes.NewReader(reply))
	if err != nil {
		t.Fatal(err)
	}
	if got.Serial != 7 || got.Procedure != procedure || got.Type != typeReply {
		t.Fatalf("reply header %+v does not answer the call", got)
	}
	return got, &decoder{data: payload}
}

func TestStartTwice(t *testing.T) {
	s := &session{networks: newStub(), opened: true}
	args := func(e *encoder) { e.network(networkRef{"default", testID}) }
	if h, _ := call(t, s, 39, args); h.Status != statusOK {
		t.Fatal("first start failed")
	}
	h, d := call(t, s, 39, args)
	if h.Status != statusError {
		t.Fatal("second start succeeded")
	}
	code, domain := d.int32(), d.int32()
	message := d.optionalString()
	if code != int32(netdef.ErrOperationInvalid) || domain != domainNetwork ||
		*message != "Requested operation is not valid: network is already active" {
		t.Errorf("error %d from %d: %s", code, domain, *message)
	}
}

// A client that opened its connection read-only may look and not change.
func TestReadOnly(t *testing.T) {
	stub := newStub()
	s := &session{networks: stub}
	args := func(e *encoder) { e.network(networkRef{"default", testID}) }
	if h, _ := call(t, s, 1, func(e *encoder) { e.bool(false); e.uint32(openReadOnly) }); h.Status != statusOK {
		t.Fatal("open failed")
	}
	if h, d := call(t, s, 45, args); h.Status != statusOK || d.string() != "virbr0" {
		t.Error("does not tell the bridge's name")
	}
	for _, procedure := range []uint32{39, 42} {
		h, d := call(t, s, procedure, args)
		code, _, message := d.int32(), d.int32(), d.optionalString()
		if h.Status != statusError || code != int32(netdef.ErrOperationDenied) ||
			!strings.HasPrefix(*message, "operation forbidden: read only access prevents virNetwork") {
			t.Errorf("procedure %d: status %d, error %d", procedure, h.Status, code)
		}
	}
	if stub.info.Active {
		t.Error("the network was started")
	}
}

func TestListFilters(t *testing.T) {
	for _, c := range []struct {
		flags uint32
		want  uint32
	}{{0, 1}, {1, 1}, {2, 0}, {3, 1}, {4, 1}, {8, 0}, {16, 0}, {32, 1}, {1 | 4 | 32, 1}, {2 | 4, 0}} {
		s := &session{networks: newStub(), opened: true}
		_, d := call(t, s, 283, func(e *encoder) { e.int32(1); e.uint32(c.flags) })
		if n := d.uint32(); n != c.want {
			t.Errorf("flags %d: %d networks, want %d", c.flags, n, c.want)
		}
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name      string
		procedure uint32
		opened    bool
		args      func(*encoder)
		code      netdef.Code
	}{
		{"unknown procedure", 9999, true, nil, netdef.ErrRPC},
		{"procedure of another driver", 59, true, nil, netdef.ErrNoSupport},
		{"before open", 283, false, func(e *encoder) { e.int32(1); e.uint32(0) }, netdef.ErrInternal},
		{"arguments cut short", 39, true, func(e *encoder) { e.string("default") }, netdef.ErrRPC},
		{"arguments left over", 2, true, func(e *encoder) { e.uint32(1) }, netdef.ErrRPC},
		{"string longer than the message", 46, true, func(e *encoder) { e.uint32(1 << 20) }, netdef.ErrRPC},
		{"string longer than any may be", 46, true, func(e *encoder) { e.uint32(1 << 31) }, netdef.ErrRPC},
		{"no such network", 46, true, func(e *encoder) { e.string("other") }, netdef.ErrNoNetwork},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &session{networks: newStub(), opened: c.opened}
			h, d := call(t, s, c.procedure, c.args)
			if code := netdef.Code(d.int32()); h.Status != statusError || code != c.code {
				t.Errorf("status %d, code %d, want an error of code %d", h.Status, code, c.code)
			}
		})
	}
}

func TestServeEndsWithContext(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "sock"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, newStub()) }()
	c, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ping := appendFrame(nil, header{Program: programKeepalive, Version: 1, Procedure: keepalivePing, Type: typeMessage}, nil)
	if _, err := c.Write(ping); err != nil {
		t.Fatal(err)
	}
	h, _, err := readFrame(c)
	if err != nil || h.Procedure != keepalivePong {
		t.Fatalf("answer to a ping: %+v, %v", h, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func FuzzAnswer(f *testing.F) {
	for p := range procedures {
		var e encoder
		e.network(networkRef{"default", testID})
		h := header{Program: programRemote, Version: 1, Procedure: p}
		f.Add(appendFrame(nil, h, nil))
		f.Add(appendFrame(nil, h, e.data))
	}
	f.Add(appendFrame(nil, header{Program: programKeepalive, Procedure: keepalivePing, Type: typeMessage}, nil))
	f.Add(binary.BigEndian.AppendUint32(nil, 0xffffffff))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := &session{networks: newStub(), opened: true}
		r := bytes.NewReader(data)
		for {
			h, payload, err := readFrame(r)
			if err != nil {
				return
			}
			reply := s.answer(t.Context(), h, payload)
			if reply == nil {
				continue
			}
			if got, _, err := readFrame(bytes.NewReader(reply)); err != nil || got.Serial != h.Serial {
				t.Fatalf("reply %+v, %v to call %+v", got, err, h)
			}
		}
	})
}
