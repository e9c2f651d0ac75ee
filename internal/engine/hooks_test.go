package engine

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"viaduct/internal/hook"
	"viaduct/internal/host"
	"viaduct/internal/hoststate"
	"viaduct/internal/lab"
	"viaduct/internal/netdef"
)

// hooked gives the rig a hook that notes each call and fails those it is told to.
func hooked(t *testing.T) (r *rig, calls func() string, refuse func(op string)) {
	dir := t.TempDir()
	script := "#!/bin/sh\necho \"$2 $3 $(tr -d '\\n' | sed 's/.*<name>\\(.*\\)<.name>.*<networkport>.*<mac address=.\\([^ ]*\\)./with port of \\2/; s/<hook.*//')\" >>" + dir +
		"/calls\n[ \"$2\" != \"$(cat " + dir + "/refuse 2>/dev/null)\" ] || { echo no >&2; exit 1; }\n"
	if err := os.WriteFile(filepath.Join(dir, "network"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	calls = func() string {
		text, _ := os.ReadFile(dir + "/calls")
		os.Remove(dir + "/calls")
		var ops []string
		for line := range strings.Lines(string(text)) {
			ops = append(ops, strings.Fields(line)[0])
		}
		return strings.Join(ops, " ")
	}
	refuse = func(op string) {
		if err := os.WriteFile(dir+"/refuse", []byte(op), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r = newRig(t)
	r.stop()
	r.options = func(o *Options) {
		o.Hooks = &hook.Runner{Dir: dir, Limit: time.Minute, Log: slog.New(slog.DiscardHandler)}
	}
	r.start()
	return r, calls, refuse
}

// Hooks hear of a network's life, and of nothing else.
func TestHooks(t *testing.T) {
	r, calls, _ := hooked(t)
	expect := func(what, want string) {
		t.Helper()
		if got := calls(); got != want {
			t.Errorf("%s: hooks heard %q, want %q", what, got, want)
		}
	}
	i := r.define(natXML("a", 1))
	expect("define", "")
	r.must(r.Start(t.Context(), i.UUID))
	expect("start", "start started")
	r.must(r.Update(t.Context(), i.UUID, netdef.UpdateAddLast, netdef.SectionIPDHCPHost, -1, reservation, true, true))
	expect("update", "updated")
	r.must(r.Update(t.Context(), i.UUID, netdef.UpdateDelete, netdef.SectionIPDHCPHost, -1, reservation, false, true))
	expect("update of what is kept", "")
	r.must(r.SetMetadata(t.Context(), i.UUID, netdef.MetadataTitle, "x", "", "", true, true))
	expect("metadata", "")
	r.applied("a changed", ApplyOptions{}, natXML("a", 2))
	expect("apply", "updated")
	r.host.Stock.Links = append(r.host.Stock.Links, host.Link{Index: 9, Name: "vif1.0", Up: true})
	r.must(r.Plug(t.Context(), i.UUID, "vif1.0", time.Second))
	expect("plug", "port-created")
	r.must(r.Unplug(t.Context(), "vif1.0"))
	expect("unplug", "port-deleted")
	p, err := r.CreatePort(t.Context(), i.UUID, PortSpec{Tap: &TapSpec{Name: "vm1"}})
	r.must(err)
	expect("port", "port-created")
	bridge, _ := r.Lookup("a")
	r.host.Remove(hoststate.BridgeKey(bridge.Bridge))
	r.host.Emit(hoststate.BridgeKey(bridge.Bridge))
	lab.Await(t, "the bridge is made again", func() bool { return r.host.State()[hoststate.BridgeKey(bridge.Bridge)] != nil })
	expect("healing", "")
	r.restart()
	expect("adoption", "")
	r.must(r.DeletePort(t.Context(), i.UUID, p.UUID.String()))
	expect("port", "port-deleted")
	r.must(r.Destroy(t.Context(), i.UUID))
	expect("stop", "stopped")
}

// What a hook refuses does not happen, and leaves nothing.
func TestHooksRefuse(t *testing.T) {
	r, calls, refuse := hooked(t)
	i := r.define(natXML("a", 1))
	before := r.world()
	for op, heard := range map[string]string{hook.Start: "start", hook.Started: "start started"} {
		refuse(op)
		err := r.Start(t.Context(), i.UUID)
		if netdef.CodeOf(err) != netdef.ErrHookScriptFailed || !strings.HasSuffix(err.Error(), "network a "+op+" begin -) unexpected exit status 1: no") {
			t.Errorf("%s: %v", op, err)
		}
		if got := calls(); got != heard {
			t.Errorf("%s: hooks heard %q, want %q", op, got, heard)
		}
		if after := r.world(); after != before {
			t.Errorf("%s: before:\n%s\nafter:\n%s", op, before, after)
		}
	}
	refuse(hook.PortCreated)
	r.must(r.Start(t.Context(), i.UUID))
	before = r.world()
	if _, err := r.CreatePort(t.Context(), i.UUID, PortSpec{Tap: &TapSpec{Name: "vm1"}}); netdef.CodeOf(err) != netdef.ErrHookScriptFailed {
		t.Errorf("port: %v", err)
	}
	if after := r.world(); after != before {
		t.Errorf("port: before:\n%s\nafter:\n%s", before, after)
	}
	for _, op := range []string{hook.Updated, hook.Stopped} { // too late to refuse
		refuse(op)
		r.must(r.Update(t.Context(), i.UUID, netdef.UpdateAddLast, netdef.SectionDNSTXT, -1, "<txt name='"+op+"' value='x'/>", true, false))
	}
	r.must(r.Destroy(t.Context(), i.UUID))
}

// While a hook of one network runs, others go on.
func TestHooksDelayNobodyElse(t *testing.T) {
	r, _, _ := hooked(t)
	i, j := r.define(natXML("a", 1)), r.define(natXML("b", 2))
	wait := filepath.Join(r.dir, "wait")
	path := filepath.Join(r.Hooks.Dir, "network")
	r.must(os.WriteFile(path, []byte("#!/bin/sh\n[ $1 = b ] || { touch "+wait+"; while [ -e "+wait+" ]; do sleep 0.01; done; }\n"), 0o755))
	started := make(chan error, 1)
	go func() { started <- r.Start(t.Context(), i.UUID) }()
	lab.Await(t, "the hook runs", func() bool { _, err := os.Stat(wait); return err == nil })
	r.must(r.Start(t.Context(), j.UUID))
	r.must(r.Destroy(t.Context(), j.UUID))
	if _, err := r.XML(i.UUID, true); err != nil {
		t.Error(err)
	}
	for range 2 { // start and started
		lab.Await(t, "the hook waits", func() bool { return os.Remove(wait) == nil })
	}
	r.must(<-started)
}
