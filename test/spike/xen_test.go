package spike

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"viaduct/internal/lab"
	"viaduct/internal/xenvif/xenstore/xenstoretest"
)

// corpus is a file of Xen's vectors, from the folder that VIADUCT_CORPUS names.
func corpus(t *testing.T, name string) []byte {
	t.Helper()
	dir := os.Getenv("VIADUCT_CORPUS")
	if dir == "" {
		t.Skip("needs the corpus: set VIADUCT_CORPUS to its folder")
	}
	data, err := os.ReadFile(filepath.Join(dir, "xen", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// invocation is how libxl runs a hotplug script.
type invocation struct {
	Case string            `json:"case"`
	Argv []string          `json:"argv"`
	Env  map[string]string `json:"env"`
}

// exampleKeys are what libxl writes for a guest's interface.
func exampleKeys(t *testing.T) map[string]string {
	t.Helper()
	keys := map[string]string{}
	for line := range strings.Lines(string(corpus(t, "libxl-xenstore-example.txt"))) {
		if key, value, found := strings.Cut(strings.TrimSpace(line), " = "); found && strings.HasPrefix(key, "/") {
			keys[key] = strings.Trim(value, `"`)
		}
	}
	if len(keys) < 20 {
		t.Fatalf("the corpus has only %d keys", len(keys))
	}
	return keys
}

const (
	// backend is the folder of the example's interface.
	backend = "/local/domain/0/backend/vif/5/0"
	vifLink = "vif5.0"
)

// xenHost is a site whose host has a store, and the script under Xen's name.
type xenHost struct {
	*site
	store  *xenstoretest.Server
	script string
	calls  map[string]invocation // by command
}

const storeSocket = "/run/xenstored/socket"

func newXenHost(t *testing.T) *xenHost {
	x := &xenHost{calls: map[string]invocation{}, script: "/etc/xen/scripts/vif-viaduct"}
	var all []invocation
	if err := json.Unmarshal(corpus(t, "libxl-hotplug-invocations.json"), &all); err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		if strings.HasPrefix(c.Case, "PV/PVH") {
			x.calls[c.Argv[1]] = c
		}
	}
	if len(x.calls) != 2 {
		t.Fatalf("the corpus has %d of 2 invocations", len(x.calls))
	}
	keys := exampleKeys(t)

	x.site = newSite(t)
	var l net.Listener
	x.must(x.host.Do(func() (err error) {
		if err = os.MkdirAll(filepath.Dir(x.script), 0o755); err != nil {
			return err
		}
		if err = os.Symlink(binary, x.script); err != nil {
			return err
		}
		if err = os.MkdirAll(filepath.Dir(storeSocket), 0o755); err != nil {
			return err
		}
		l, err = net.Listen("unix", storeSocket)
		return err
	}))
	x.store = xenstoretest.Serve(l)
	t.Cleanup(x.store.Close)
	for key, value := range keys {
		x.store.Set(key, value)
	}
	return x
}

// start runs the script as libxl does, for the interface of the example.
func (x *xenHost) start(command string) *lab.Process {
	x.t.Helper()
	call := x.calls[command]
	env := []string{"VIADUCT_SOCKET=" + x.daemon.Socket, "XENSTORED_PATH=" + storeSocket}
	for name, value := range call.Env {
		switch name {
		case "XENBUS_PATH":
			value = strings.TrimPrefix(backend, "/local/domain/0/")
		case "vif":
			value = vifLink
		case "script":
			value = x.script
		}
		env = append(env, name+"="+value)
	}
	p, err := x.host.StartCommand(lab.Command{Argv: append([]string{x.script}, call.Argv[1:]...), Env: env})
	x.must(err)
	return p
}

// run is start, to the end.
func (x *xenHost) run(command string) lab.Result {
	x.t.Helper()
	r, err := x.start(command).Wait(x.context())
	x.must(err)
	return r
}

// connected runs the script for a guest that must get its network.
func (x *xenHost) connected() {
	x.t.Helper()
	if r := x.run("online"); r.Code != 0 || x.status() != "connected" {
		x.t.Fatalf("online: exit %d, hotplug-status %q, hotplug-error %q\n%s%s", r.Code, x.status(), x.problem(), r.Stderr, x.daemon.Output())
	}
}

// refused runs the script for a guest that must not, and wants to be told why.
func (x *xenHost) refused(say string) {
	x.t.Helper()
	began := time.Now()
	r := x.run("online")
	if r.Code != 1 || x.status() != "error" || !strings.Contains(x.problem(), say) {
		x.t.Errorf("online: exit %d, hotplug-status %q, hotplug-error %q, want %q\n%s", r.Code, x.status(), x.problem(), say, r.Stderr)
	}
	if took := time.Since(began); took > 30*time.Second {
		x.t.Errorf("it took %s to say so, and libxl kills scripts after 40 s", took)
	}
	if x.host.HasLink(vifLink) && x.host.Master(vifLink) != "" {
		x.t.Errorf("%s is in %s", vifLink, x.host.Master(vifLink))
	}
}

func (x *xenHost) status() string  { return x.store.Get(backend + "/hotplug-status") }
func (x *xenHost) problem() string { return x.store.Get(backend + "/hotplug-error") }

// attach makes the link between host and guest as netback does: down, without
// a bridge.
func (x *xenHost) attach() *lab.Guest {
	x.t.Helper()
	g := x.NewGuest(lab.GuestOptions{Name: "alice", MAC: net.HardwareAddr{0, 0x16, 0x3e, 0x4f, 0x94, 0xa9}})
	g.Plug(x.host.Node, "", vifLink)
	x.host.LinkDown(vifLink)
	return g
}

// A Xen guest comes and goes as libxl has it come and go: it is refused what
// cannot be applied yet, gets its network by its bridge's or the network's
// name, keeps it over a crash of the daemon, and leaves no trace.
func TestXenGuest(t *testing.T) {
	x := newXenHost(t)
	g := x.attach()
	for _, key := range []string{"vifname=alice0", "ip=10.0.0.1 10.0.0.2", "mtu=9000", "vlan=10p/20"} {
		x.refused(key + " is not supported yet")
		name, _, _ := strings.Cut(key, "=")
		x.store.Remove(backend + "/" + name)
	}
	x.refused("ask the viaduct daemon for its networks: connect to " + x.daemon.Socket + ": no such file or directory")
	if r := x.run("offline"); r.Code != 0 {
		t.Errorf("offline without a daemon: exit %d\n%s", r.Code, r.Stderr)
	}
	x.must(x.daemon.Start())

	x.refused("bridge=br0: no network is called so, and none has a bridge of that name")
	x.viaduct("net-define", x.file(strings.Replace(natXML("lan", 50), "virbr50", "br0", 1)))
	x.refused("plug vif5.0 into network 'lan': Requested operation is not valid: network 'lan' is not active")
	x.viaduct("net-start", "lan")

	for _, bridge := range []struct{ key, device, gateway string }{
		{"br0", "br0", "192.168.50.1"}, {"lan", "br0", "192.168.50.1"}, {"xenbr0", "virbr0", "192.168.122.1"},
	} {
		x.store.Set(backend+"/bridge", bridge.key)
		x.store.Set(backend+"/hotplug-status", "")
		x.connected()
		x.connected() // again changes nothing
		if x.problem() != "" {
			t.Errorf("bridge=%s: connected, but hotplug-error is %q", bridge.key, x.problem())
		}
		if mac := x.host.MAC(vifLink).String(); mac != "fe:ff:ff:ff:ff:ff" {
			t.Errorf("bridge=%s: the host's end has the address %s", bridge.key, mac)
		}
		if seen := x.lease(g); seen.Addr.Masked().Addr().Next() != addr(bridge.gateway) {
			t.Errorf("bridge=%s: the guest got %s", bridge.key, seen.Addr)
		}
		x.reaches(g.Node, x.echo())

		x.daemon.Kill9()
		x.must(x.daemon.Start())
		x.reaches(g.Node, x.echo())
		if master := x.host.Master(vifLink); master != bridge.device {
			t.Errorf("bridge=%s: after a restart %s is in %q", bridge.key, vifLink, master)
		}
		for range 2 {
			if r := x.run("offline"); r.Code != 0 {
				t.Errorf("bridge=%s: offline: exit %d\n%s", bridge.key, r.Code, r.Stderr)
			}
		}
		if master := x.host.Master(vifLink); master != "" {
			t.Errorf("bridge=%s: after offline %s is in %s", bridge.key, vifLink, master)
		}
		x.cannotReach(g.Node, x.echo())
	}
}

// The script waits for a link that comes late, and copes with one that has
// gone, with its bridge and all the store knew.
func TestXenLinkComesLateAndGoesEarly(t *testing.T) {
	x := newXenHost(t)
	x.must(x.daemon.Start())
	for _, key := range []string{"vifname", "ip", "mtu", "vlan"} {
		x.store.Remove(backend + "/" + key)
	}
	x.store.Set(backend+"/bridge", "default")

	online := x.start("online")
	select {
	case <-online.Done():
		t.Fatalf("online did not wait for its link:\n%s", online.Output())
	case <-time.After(300 * time.Millisecond):
	}
	g := x.attach()
	if r, err := online.Wait(x.context()); err != nil || r.Code != 0 || x.status() != "connected" {
		t.Fatalf("online: %v, exit %d, %s\n%s", err, r.Code, x.problem(), r.Stderr)
	}
	x.lease(g)

	g.Unplug()
	x.viaduct("net-destroy", "default")
	x.store.Remove(backend)
	if r := x.run("offline"); r.Code != 0 {
		t.Errorf("offline: exit %d\n%s", r.Code, r.Stderr)
	}
}

// A link that never comes is told of in time.
func TestXenLinkNeverComes(t *testing.T) {
	x := newXenHost(t)
	x.must(x.daemon.Start())
	for _, key := range []string{"vifname", "ip", "mtu", "vlan"} {
		x.store.Remove(backend + "/" + key)
	}
	x.store.Set(backend+"/bridge", "default")
	x.refused("plug vif5.0 into network 'default': internal error: link 'vif5.0' does not exist")
}
