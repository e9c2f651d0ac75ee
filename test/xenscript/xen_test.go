package xenscript

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"viaduct/internal/lab"
	"viaduct/internal/xenvif/hotplug"
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

const storeSocket = "/run/xenstored/socket"

const scripts = "/etc/xen/scripts/"

// xenHost is a site whose host has a store, and the script under all its names.
type xenHost struct {
	*site
	store *xenstoretest.Server
	calls map[string]invocation // by command
}

func newXenHost(t *testing.T) *xenHost {
	x := &xenHost{calls: map[string]invocation{}}
	var all []invocation
	if err := json.Unmarshal(corpus(t, "libxl-hotplug-invocations.json"), &all); err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		if strings.HasPrefix(c.Case, "PV/PVH") || strings.Contains(c.Case, "second run") {
			x.calls[c.Argv[1]] = c
		}
	}
	if len(x.calls) != 4 {
		t.Fatalf("the corpus has %d of 4 invocations", len(x.calls))
	}
	x.site = newSite(t)
	x.host.Share(script)
	var l net.Listener
	x.must(x.host.Do(func() (err error) {
		if err = os.MkdirAll(filepath.Dir(storeSocket), 0o755); err != nil {
			return err
		}
		l, err = net.Listen("unix", storeSocket)
		return err
	}))
	x.store = xenstoretest.Serve(l)
	t.Cleanup(x.store.Close)
	x.linkScripts(script)
	return x
}

// linkScripts makes a program the script under all its names.
func (x *xenHost) linkScripts(program string) {
	x.t.Helper()
	x.must(x.host.Do(func() error {
		if err := os.RemoveAll(scripts); err != nil {
			return err
		}
		if err := os.MkdirAll(scripts, 0o755); err != nil {
			return err
		}
		for _, face := range hotplug.Faces {
			if err := os.Symlink(program, scripts+face); err != nil {
				return err
			}
		}
		return nil
	}))
}

// nic is an interface of a guest as libxl knows it.
type nic struct {
	x              *xenHost
	face           string
	domain, device int
	netdev         string
	hvm            bool // it has an emulated NIC beside the vif
	env            []string
	debian         bool // it is Debian's script that runs
}

// keys are what libxl writes for an interface beside what all have.
type keys map[string]string

// nic writes into the store what libxl does, for a guest called guestN.
func (x *xenHost) nic(face string, domain, device int, more keys) *nic {
	n := &nic{x: x, face: face, domain: domain, device: device}
	x.store.Remove(n.backend())
	for name, value := range exampleKeys(x.t) {
		name, isBackend := strings.CutPrefix(name, "/local/domain/0/backend/vif/5/0/")
		switch name {
		case "vifname", "ip", "rate", "mtu", "vlan":
			continue
		case "frontend":
			value = n.frontend()
		case "frontend-id":
			value = strconv.Itoa(domain)
		case "handle":
			value = strconv.Itoa(device)
		case "script":
			value = scripts + face
		case "bridge":
			value = "xenbr0"
		case "mac":
			value = n.mac().String()
		}
		if isBackend {
			n.set(name, value)
		}
	}
	for name, value := range more {
		n.set(name, value)
	}
	x.store.Set(n.frontend()+"/mac", n.mac().String())
	vm := fmt.Sprintf("/vm/00000000-0000-0000-0000-%012d", domain)
	x.store.Set(fmt.Sprintf("/local/domain/%d/vm", domain), vm)
	x.store.Set(vm+"/name", fmt.Sprintf("guest%d", domain))
	x.store.Set(vm+"/uuid", strings.TrimPrefix(vm, "/vm/"))
	return n
}

func (n *nic) backend() string {
	return fmt.Sprintf("/local/domain/0/backend/vif/%d/%d", n.domain, n.device)
}
func (n *nic) frontend() string {
	return fmt.Sprintf("/local/domain/%d/device/vif/%d", n.domain, n.device)
}
func (n *nic) link() string { return fmt.Sprintf("vif%d.%d", n.domain, n.device) }
func (n *nic) mac() net.HardwareAddr {
	return net.HardwareAddr{0, 0x16, 0x3e, 0, byte(n.domain), byte(n.device)}
}

func (n *nic) set(key, value string) { n.x.store.Set(n.backend()+"/"+key, value) }
func (n *nic) unset(key string)      { n.x.store.Remove(n.backend() + "/" + key) }
func (n *nic) status() string        { return n.x.store.Get(n.backend() + "/hotplug-status") }
func (n *nic) problem() string       { return n.x.store.Get(n.backend() + "/hotplug-error") }

// start runs the script as libxl does.
func (n *nic) start(command string) *lab.Process {
	n.x.t.Helper()
	call := n.x.calls[command]
	d := n.x.daemon
	env := append([]string{"VIADUCT_SOCKET=" + d.Socket, "XENSTORED_PATH=" + storeSocket, "VIADUCT_CONFIG_DIR=" + d.ConfigDir,
		"VIADUCT_STATE_DIR=" + d.StateDir, "VIADUCT_RUN_DIR=" + d.RunDir}, n.env...)
	folder := scripts
	if n.debian {
		folder = debianFolder
	}
	values := map[string]string{
		"XENBUS_PATH": strings.TrimPrefix(n.backend(), "/local/domain/0/"), "vif": n.link(), "script": folder + n.face, "netdev": n.netdev,
		"INTERFACE": n.link() + "-emu",
	}
	if n.hvm {
		env = append(env, "INTERFACE="+values["INTERFACE"])
	}
	for name, value := range call.Env {
		if given, ours := values[name]; ours {
			value = given
		}
		env = append(env, name+"="+value)
	}
	p, err := n.x.host.StartCommand(lab.Command{Argv: append([]string{folder + n.face}, call.Argv[1:]...), Env: env})
	n.x.must(err)
	return p
}

// run is start, to the end.
func (n *nic) run(command string) lab.Result {
	n.x.t.Helper()
	r, err := n.start(command).Wait(n.x.context())
	n.x.must(err)
	return r
}

// connected runs the script for a guest that must get its network.
func (n *nic) connected() {
	n.x.t.Helper()
	n.set("hotplug-status", "")
	if r := n.run("online"); r.Code != 0 || n.status() != "connected" {
		n.x.t.Fatalf("%s online: exit %d, hotplug-status %q, hotplug-error %q\n%s%s", n.link(), r.Code, n.status(), n.problem(), r.Stderr, n.x.daemon.Output())
	}
}

// gone runs the script for a guest that ends.
func (n *nic) gone() {
	n.x.t.Helper()
	if r := n.run("offline"); r.Code != 0 {
		n.x.t.Errorf("%s offline: exit %d\n%s", n.link(), r.Code, r.Stderr)
	}
}

// refused runs the script for a guest that must not, and wants to be told why.
func (n *nic) refused(say string) {
	n.x.t.Helper()
	began := time.Now()
	r := n.run("online")
	if r.Code != 1 || n.status() != "error" || !strings.Contains(n.problem(), say) || !strings.Contains(r.Stderr, say) {
		n.x.t.Errorf("%s online: exit %d, hotplug-status %q, hotplug-error %q, want %q\n%s", n.link(), r.Code, n.status(), n.problem(), say, r.Stderr)
	}
	if took := time.Since(began); took > 30*time.Second {
		n.x.t.Errorf("it took %s to say so, and libxl kills scripts after 40 s", took)
	}
	if n.x.host.HasLink(n.link()) && n.x.host.Master(n.link()) != "" {
		n.x.t.Errorf("%s is in %s", n.link(), n.x.host.Master(n.link()))
	}
}

// attach makes the link between host and guest as netback does: down, without
// a bridge.
func (n *nic) attach() *lab.Guest {
	n.x.t.Helper()
	g := n.x.NewGuest(lab.GuestOptions{Name: fmt.Sprintf("guest%d", n.domain), MAC: n.mac()})
	g.Plug(n.x.host.Node, "", n.link())
	n.x.host.LinkDown(n.link())
	return g
}
