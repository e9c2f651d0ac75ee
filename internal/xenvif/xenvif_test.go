package xenvif

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"viaduct/internal/engine"
	"viaduct/internal/netdef"
	"viaduct/internal/xenvif/hotplug"
	"viaduct/internal/xenvif/xenstore/xenstoretest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ports is a daemon that notes what was plugged where.
type ports struct {
	networks []engine.Info
	bridges  []string
	guests   []engine.GuestPort
	xml      map[string]string          // by UUID of a network; others are plain
	in       map[string]string          // network UUID by link
	specs    map[string]engine.PortSpec // by link
	released []string
	creating func() // is called by CreatePort
	err      error
}

func (p *ports) Networks() []engine.Info { return p.networks }

func (p *ports) Bridges() []string { return p.bridges }

func (p *ports) GuestPorts(netdef.MAC, netdef.UUID, string) []engine.GuestPort { return p.guests }

func (p *ports) XML(id netdef.UUID, _ bool) (string, error) {
	if text, ok := p.xml[id.String()]; ok {
		return text, p.err
	}
	for _, n := range p.networks {
		if n.UUID == id {
			return "<network><name>" + n.Name + "</name></network>", p.err
		}
	}
	return "", netdef.Errorf(netdef.ErrNoNetwork, "no network '%s'", id)
}

func (p *ports) Create(_ context.Context, xml []byte) (engine.Info, error) {
	def, err := netdef.Parse(xml)
	if err != nil {
		return engine.Info{}, err
	}
	if p.xml == nil {
		p.xml = map[string]string{}
	}
	p.xml[def.UUID.String()] = string(xml)
	return engine.Info{Name: def.Name, UUID: def.UUID}, p.err
}

func (p *ports) CreatePort(_ context.Context, id netdef.UUID, spec engine.PortSpec) (engine.Port, error) {
	if p.err != nil {
		return engine.Port{}, p.err
	}
	if p.specs == nil {
		p.specs = map[string]engine.PortSpec{}
	}
	if p.creating != nil {
		p.creating()
	}
	p.in[spec.Link], p.specs[spec.Link] = id.String(), spec
	return engine.Port{UUID: spec.UUID, Link: spec.Link, MTU: 1400}, nil
}

func (p *ports) Unplug(_ context.Context, ref string) error {
	for link, spec := range p.specs {
		if spec.UUID.String() == ref {
			delete(p.in, link)
			delete(p.specs, link)
		}
	}
	return p.err
}

func (p *ports) Release(_ context.Context, id netdef.UUID) error {
	p.released = append(p.released, id.String())
	return p.err
}

// open reaches this daemon.
func (p *ports) open(time.Time) (hotplug.Daemon, func(), error) {
	if errors.Is(p.err, syscall.ECONNREFUSED) {
		return nil, nil, p.err
	}
	return Desk{Networks: p, Settings: noSettings}, func() {}, nil
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
	if keys != nil {
		store.Set(backend+"/frontend-id", "5")
	}
	for key, value := range keys {
		store.Set(backend+"/"+key, value)
	}
	env := map[string]string{"XENBUS_PATH": backend, "vif": "vif5.0", "XENSTORED_PATH": l.Addr().String()}
	var errs strings.Builder
	code = hotplug.Script{
		Args: append([]string{"vif-viaduct"}, args...), Getenv: func(name string) string { return env[name] },
		Open: p.open, Resolvers: func() []string { return nil }, Errs: &errs,
	}.Run()
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
		{"", []engine.Info{{Name: "macvtap", UUID: id(5)}, standard}, id(2)},
		{"", []engine.Info{{Name: "macvtap", UUID: id(5)}}, netdef.UUID{}},
	} {
		p := &ports{networks: tt.networks, in: map[string]string{}}
		code, status, message, _ := run(t, p, map[string]string{"bridge": tt.bridge, "hotplug-error": "of old"}, "online", "type_if=vif")
		if tt.want.IsZero() {
			if code != 1 || status != "error" || !strings.Contains(message, "bridge") || len(p.in) > 0 {
				t.Errorf("bridge=%s: exit %d, %s, %q, plugged %v", tt.bridge, code, status, message, p.in)
			}
			continue
		}
		if code != 0 || status != "connected" || message != "" || p.in["vif5.0"] != tt.want.String() {
			t.Errorf("bridge=%s: exit %d, %s, %q, plugged %v, want %s", tt.bridge, code, status, message, p.in, tt.want)
		}
	}
}

// Where no bridge is named and there is no default network the host's only bridge
// is meant, and none of two.
func TestNoBridgeNamed(t *testing.T) {
	for bridges, want := range map[[2]string]string{
		{"br7"}:        implicitUUID("xen-bridge-br7").String(),
		{"br7", "br8"}: "",
	} {
		p := &ports{bridges: slices.DeleteFunc(bridges[:], func(b string) bool { return b == "" }), in: map[string]string{}}
		code, status, message, _ := run(t, p, map[string]string{"mac": "00:16:3e:00:00:01"}, "online", "type_if=vif")
		refused := code == 1 && status == "error" && strings.Contains(message, "which one is meant cannot be told")
		if p.in["vif5.0"] != want || refused != (want == "") {
			t.Errorf("bridges %v: exit %d, %s, %q, plugged %v", bridges, code, status, message, p.in)
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
		{"no keys", nil, nil, "online type_if=vif", "xenstore has nothing at backend/vif/5/0"},
		{"vlan", nil, map[string]string{"bridge": "default", "vlan": "10/20"}, "online type_if=vif", "vlan=10/20: vlan '10/20': one of the VLANs has to be marked p"},
		{"untagged", nil, map[string]string{"bridge": "default", "vlan": "10p/20u"}, "online type_if=vif", "vlan=10p/20u: a guest can have a single VLAN without tags"},
		{"address", nil, map[string]string{"bridge": "default", "ip": "10.0.0.1 x"}, "online type_if=vif", "ip=10.0.0.1 x: 'x' is no IP address or network"},
		{"mac", nil, map[string]string{"bridge": "default", "mac": "01:16:3e:00:00:01"}, "online type_if=vif", "is a group address"},
		{"mtu", nil, map[string]string{"bridge": "default", "mtu": "67"}, "online type_if=vif", "mtu=67: an MTU is"},
		{"rate", nil, map[string]string{"bridge": "default", "rate": "fast"}, "online type_if=vif", "rate=fast: rate 'fast' in xenstore is not"},
		{"name", nil, map[string]string{"bridge": "default", "vifname": "a234567890123456"}, "online type_if=vif", "vifname=a234567890123456 is too long: names of links have at most 15 characters"},
		{"refused", errors.New("no room"), good, "online type_if=vif", "no room"},
		{"long", errors.New(strings.Repeat("ü", 3000)), good, "online type_if=vif", "üüü..."},
		{"another kind", nil, good, "add type_if=vif", ""},
		{"another kind of the other", nil, good, "online type_if=tap", ""},
		{"command", nil, good, "start type_if=vif", "unknown command 'start'"},
		{"no command", nil, good, "type_if=vif", "unknown command ''"},
		{"tap without a name", nil, good, "add type_if=tap", "the variable INTERFACE is not set"},
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
		if !strings.HasPrefix(tt.args, "offline") && (status != "error" || !strings.Contains(message, tt.say)) {
			t.Errorf("%s: %s, %q, want %q", tt.name, status, message, tt.say)
		}
	}
}

func TestWithoutStore(t *testing.T) {
	env := map[string]string{"XENBUS_PATH": backend, "vif": "vif5.0", "XENSTORED_PATH": "/nowhere/socket"}
	getenv := func(name string) string { return env[name] }
	for _, command := range []string{"online", "offline"} {
		var errs strings.Builder
		port := portOf(hotplug.Call{Kind: hotplug.KindVif, Domain: 5})
		p := &ports{in: map[string]string{"vif5.0": id(1).String()}, specs: map[string]engine.PortSpec{"vif5.0": {Port: netdef.Port{UUID: port}}}}
		code := hotplug.Script{Args: []string{"vif-viaduct", command}, Getenv: getenv, Open: p.open, Errs: &errs}.Run()
		if command == "online" && (code != 1 || !strings.Contains(errs.String(), "connect to xenstore at /nowhere/socket")) {
			t.Errorf("online: exit %d, said %q", code, errs.String())
		}
		if command == "offline" && (code != 0 || len(p.in) > 0) {
			t.Errorf("offline: exit %d, said %q, plugged %v", code, errs.String(), p.in)
		}
	}
}

func noSettings() (string, error) { return "", nil }
