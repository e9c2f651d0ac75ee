package engine

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"viaduct/internal/host"
	"viaduct/internal/hoststate"
	"viaduct/internal/uplink"
)

// fakeSystem is a host's files and commands in memory.
type fakeSystem struct {
	files map[string]string
	ran   []string
	fail  bool
}

func (f *fakeSystem) Root() fs.FS {
	root := fstest.MapFS{}
	for path, content := range f.files {
		root[strings.TrimPrefix(path, "/")] = &fstest.MapFile{Data: []byte(content)}
	}
	return root
}

func (f *fakeSystem) Write(path, content string, _ uint32) error {
	f.files[path] = content
	return nil
}

func (f *fakeSystem) Remove(path string) error {
	delete(f.files, path)
	return nil
}

func (f *fakeSystem) Run(_ context.Context, argv []string) error {
	f.ran = append(f.ran, strings.Join(argv, " "))
	if f.fail {
		return errors.New("it says no")
	}
	return nil
}

func (f *fakeSystem) Clients(string) []uplink.Client  { return nil }
func (f *fakeSystem) StopClient(uplink.Client) error  { return nil }
func (f *fakeSystem) StartClient(argv []string) error { return f.Run(context.Background(), argv) }

const interfaces = "auto eth0\niface eth0 inet dhcp\n"

// uplinkRig is a host whose eth0 ifupdown configures, with a gateway.
func uplinkRig(t *testing.T) (*rig, *fakeSystem) {
	t.Helper()
	system := &fakeSystem{files: map[string]string{"/etc/network/interfaces": interfaces}}
	r := newRig(t)
	r.stop()
	r.host.Stock.Links[0].MAC = hoststate.MAC{0x52, 0x54, 0, 1, 2, 3}
	gateway := hoststate.HeldRoute{Dst: netip.MustParsePrefix("0.0.0.0/0"), Table: 254, Type: 1, Hops: []hoststate.Hop{{Via: netip.MustParseAddr("203.0.113.1")}}}
	r.host.HeldOf = map[string]hoststate.Held{"eth0": {
		Addresses: []hoststate.HeldAddress{{Prefix: netip.MustParsePrefix("203.0.113.2/24")}}, Routes: []hoststate.HeldRoute{gateway},
	}}
	r.options = func(o *Options) { o.System = system }
	r.start()
	return r, system
}

func (r *rig) hasUplink() bool {
	_, ok := r.host.State()[hoststate.UplinkKey("xenbr0")]
	return ok
}

var spec = UplinkSpec{Bridge: "xenbr0", NIC: "eth0"}

func TestUplinkIsRefusedWhereRootIsBehindTheCard(t *testing.T) {
	r, system := uplinkRig(t)
	r.host.Roots = []host.RemoteRoot{{Mount: "/", Kind: "nfs4", Server: netip.MustParseAddr("203.0.113.9")}}
	r.host.Way = "eth1"
	if _, err := r.CreateUplink(t.Context(), UplinkSpec{Bridge: "xenbr0", NIC: "eth0", Plan: true}); err != nil {
		t.Errorf("root behind another card: %v", err)
	}
	for _, root := range []host.RemoteRoot{r.host.Roots[0], {Mount: "/", Kind: "nbd"}} {
		r.host.Roots, r.host.Way = []host.RemoteRoot{root}, "eth0"
		if _, err := r.CreateUplink(t.Context(), spec); err == nil || !strings.Contains(err.Error(), "comes over the network") {
			t.Errorf("%v: %v", root, err)
		}
	}
	if r.hasUplink() || system.files["/etc/network/interfaces"] != interfaces {
		t.Error("something was changed")
	}
}

func TestUplinkChangesFilesAndPutsThemBack(t *testing.T) {
	r, system := uplinkRig(t)
	before := maps.Clone(system.files)
	report, err := r.CreateUplink(t.Context(), spec)
	if err != nil || report.Manager != uplink.Ifupdown || !strings.Contains(system.files["/etc/network/interfaces"], "iface xenbr0 inet dhcp") {
		t.Fatalf("%+v, %v, %q", report, err, system.files)
	}
	if want := []string{"ifup --force xenbr0"}; !slices.Equal(system.ran, want) {
		t.Errorf("ran %q, want %q", system.ran, want)
	}
	made := system.files["/etc/network/interfaces"]
	system.files["/etc/network/interfaces"] += "# by hand\n"
	if _, err := r.DeleteUplink(t.Context(), "xenbr0"); err == nil || !strings.Contains(err.Error(), "/etc/network/interfaces was changed since") {
		t.Errorf("deleted with a changed file: %v", err)
	}
	system.files["/etc/network/interfaces"] = made
	r.restart()
	if _, err := r.DeleteUplink(t.Context(), "xenbr0"); err != nil {
		t.Fatal(err)
	}
	if r.hasUplink() || !maps.Equal(system.files, before) {
		t.Errorf("not as before: %q", system.files)
	}
}

func TestUplinkFailuresPutFilesBack(t *testing.T) {
	for name, break_ := range map[string]func(*rig, *fakeSystem){
		"command fails": func(_ *rig, s *fakeSystem) { s.fail = true },
		"gateway silent": func(r *rig, _ *fakeSystem) {
			r.host.Silent = func(netip.Addr) bool { return r.uplinkMade() }
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, system := uplinkRig(t)
			break_(r, system)
			if _, err := r.CreateUplink(t.Context(), spec); err == nil || !strings.Contains(err.Error(), "was taken back") {
				t.Errorf("created: %v", err)
			}
			if records, _ := r.store.Uplinks(); r.hasUplink() || len(records) > 0 || system.files["/etc/network/interfaces"] != interfaces {
				t.Errorf("not as before: %v, %q", records, system.files)
			}
		})
	}
}

// uplinkMade reports whether the record says that a change is under way.
func (r *rig) uplinkMade() bool {
	_, known := r.uplinkOf("xenbr0")
	return known
}

// Nobody has confirmed what the host was rebooted in the midst of.
func TestUnconfirmedUplinkIsTakenBackAfterAReboot(t *testing.T) {
	r, system := uplinkRig(t)
	awaiting := spec
	awaiting.Confirm = time.Hour
	if _, err := r.CreateUplink(t.Context(), awaiting); err != nil {
		t.Fatal(err)
	}
	r.restart()
	if !r.hasUplink() {
		t.Fatal("a restart of the daemon took it back")
	}
	r.stop()
	r.bootID = "another"
	r.start()
	if r.hasUplink() || system.files["/etc/network/interfaces"] != interfaces {
		t.Errorf("it was kept: %q", system.files)
	}
}
