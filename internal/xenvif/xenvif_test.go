package xenvif

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"viaduct/internal/engine"
	"viaduct/internal/netdef"
	"viaduct/internal/xenvif/xenstore/xenstoretest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ports is a daemon that notes what was plugged where.
type ports struct {
	networks []engine.Info
	in       map[string]string // network UUID by link
	err      error
}

func (p *ports) Networks(context.Context) ([]engine.Info, error) { return p.networks, p.err }

func (p *ports) Plug(_ context.Context, ref, link string, _ time.Duration) error {
	if p.err == nil {
		p.in[link] = ref
	}
	return p.err
}

func (p *ports) Unplug(_ context.Context, link string) error {
	delete(p.in, link)
	return p.err
}

const backend = "backend/vif/5/0"

// run calls the script with a store that holds the keys, and returns the exit
// status, what it wrote into the store, and what it said.
func run(t *testing.T, p *ports, keys map[string]string, args ...string) (code int, status, message, said string) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "socket"))
	if err != nil {
		t.Fatal(err)
	}
	store := xenstoretest.Serve(l)
	defer store.Close()
	for key, value := range keys {
		store.Set(backend+"/"+key, value)
	}
	env := map[string]string{"XENBUS_PATH": backend, "vif": "vif5.0", "XENSTORED_PATH": l.Addr().String()}
	var errs strings.Builder
	code = Script{
		Args: append([]string{"vif-viaduct"}, args...), Getenv: func(name string) string { return env[name] },
		Networks: p, Errs: &errs,
	}.Run(t.Context())
	return code, store.Get(backend + "/hotplug-status"), store.Get(backend + "/hotplug-error"), errs.String()
}

func id(n byte) netdef.UUID { return netdef.UUID{15: n} }

func TestBridgeNamesANetwork(t *testing.T) {
	lab := engine.Info{Name: "lab", UUID: id(1), Bridge: "br0"}
	standard := engine.Info{Name: "default", UUID: id(2), Bridge: "virbr0"}
	decoy := engine.Info{Name: "br0", UUID: id(3), Bridge: "lab"}
	for _, tt := range []struct {
		bridge   string
		networks []engine.Info
		want     netdef.UUID // zero for none
	}{
		{"lab", []engine.Info{standard, lab}, id(1)},
		{"br0", []engine.Info{standard, lab}, id(1)},
		{"br0", []engine.Info{lab, decoy}, id(3)},
		{"xenbr0", []engine.Info{lab, standard}, id(2)},
		{"xenbr0", []engine.Info{standard, {Name: "x", UUID: id(4), Bridge: "xenbr0"}}, id(4)},
		{"xenbr0", []engine.Info{lab}, netdef.UUID{}},
		{"xenbr1", []engine.Info{standard}, netdef.UUID{}},
		{"", []engine.Info{standard, {Name: "macvtap", UUID: id(5)}}, netdef.UUID{}},
	} {
		p := &ports{networks: tt.networks, in: map[string]string{}}
		code, status, message, _ := run(t, p, map[string]string{"bridge": tt.bridge, "hotplug-error": "of old"}, "online", "type_if=vif")
		if tt.want.IsZero() {
			if code != 1 || status != "error" || !strings.Contains(message, "bridge="+tt.bridge+":") || len(p.in) > 0 {
				t.Errorf("bridge=%s: exit %d, %s, %q, plugged %v", tt.bridge, code, status, message, p.in)
			}
			continue
		}
		if code != 0 || status != "connected" || message != "" || p.in["vif5.0"] != tt.want.String() {
			t.Errorf("bridge=%s: exit %d, %s, %q, plugged %v, want %s", tt.bridge, code, status, message, p.in, tt.want)
		}
	}
}

// What the script cannot do it says where libxl and its user read it.
func TestFailures(t *testing.T) {
	good := map[string]string{"bridge": "default"}
	networks := []engine.Info{{Name: "default", UUID: id(2), Bridge: "virbr0"}}
	for _, tt := range []struct {
		name string
		err  error
		keys map[string]string
		args string
		say  string // "" if it succeeds
	}{
		{"no bridge", nil, nil, "online type_if=vif", "read backend/vif/5/0/bridge: no such key"},
		{"vlan", nil, map[string]string{"bridge": "default", "vlan": "10p/20"}, "online type_if=vif", "vlan=10p/20 is not supported yet"},
		{"address", nil, map[string]string{"bridge": "default", "ip": "10.0.0.1"}, "online type_if=vif", "ip=10.0.0.1 is not supported yet"},
		{"refused", errors.New("no room"), good, "online type_if=vif", "no room"},
		{"long", errors.New(strings.Repeat("ü", 3000)), good, "online type_if=vif", "üüü..."},
		{"command", nil, good, "add type_if=vif", "unknown command 'add'"},
		{"no command", nil, good, "type_if=vif", "unknown command ''"},
		{"tap", nil, good, "online type_if=tap", "type 'tap'"},
		{"offline refused", errors.New("no room"), nil, "offline type_if=vif", "no room"},
		{"offline without a daemon", fmt.Errorf("connect: %w", syscall.ECONNREFUSED), nil, "offline type_if=vif", ""},
		{"offline of nothing", nil, nil, "offline type_if=vif", ""},
	} {
		p := &ports{networks: networks, in: map[string]string{}, err: tt.err}
		code, status, message, said := run(t, p, tt.keys, strings.Fields(tt.args)...)
		if tt.say == "" {
			if code != 0 {
				t.Errorf("%s: exit %d, said %q", tt.name, code, said)
			}
			continue
		}
		if code != 1 || !strings.Contains(said, tt.say) && tt.name != "long" {
			t.Errorf("%s: exit %d, said %q, want %q", tt.name, code, said, tt.say)
		}
		if strings.HasPrefix(tt.args, "online type_if=vif") && (status != "error" || !strings.Contains(message, tt.say)) {
			t.Errorf("%s: %s, %q, want %q", tt.name, status, message, tt.say)
		}
	}
}

func TestWithoutStore(t *testing.T) {
	env := map[string]string{"XENBUS_PATH": backend, "vif": "vif5.0", "XENSTORED_PATH": "/nowhere/socket"}
	getenv := func(name string) string { return env[name] }
	for _, command := range []string{"online", "offline"} {
		var errs strings.Builder
		p := &ports{in: map[string]string{"vif5.0": id(1).String()}}
		code := Script{Args: []string{"vif-viaduct", command}, Getenv: getenv, Networks: p, Errs: &errs}.Run(t.Context())
		if command == "online" && (code != 1 || !strings.Contains(errs.String(), "connect to xenstore at /nowhere/socket")) {
			t.Errorf("online: exit %d, said %q", code, errs.String())
		}
		if command == "offline" && (code != 0 || len(p.in) > 0) {
			t.Errorf("offline: exit %d, said %q, plugged %v", code, errs.String(), p.in)
		}
	}
}
