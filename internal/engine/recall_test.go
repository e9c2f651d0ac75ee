package engine

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"viaduct/internal/hoststate"
	"viaduct/internal/lab"
	"viaduct/internal/netdef"
)

// file is where the rig keeps a definition.
func (r *rig) file(name string) string { return r.dir + "/etc/networks/" + name + ".xml" }

// edit replaces a part of a definition file.
func (r *rig) edit(name, old, with string) {
	r.t.Helper()
	b, err := os.ReadFile(r.file(name))
	r.must(err)
	if !strings.Contains(string(b), old) {
		r.t.Fatalf("%s has no %s", name, old)
	}
	r.must(os.WriteFile(r.file(name), []byte(strings.Replace(string(b), old, with, 1)), 0o644))
}

// Whatever becomes of its definition while no daemon runs, a network that is
// active stays so, once, and under its own name and UUID.
func TestDefinitionsChangedBehindTheBack(t *testing.T) {
	for _, c := range []struct {
		name       string
		do         func(r *rig, i Info)
		persistent bool
	}{
		{"untouched", func(*rig, Info) {}, true},
		{"broken", func(r *rig, _ Info) { r.edit("a", "</network>", "") }, true},
		{"says what cannot be applied", func(r *rig, _ Info) { r.edit("a", "<range ", "<host name='x' ip='10.9.9.9'/><range ") }, true},
		{"another UUID", func(r *rig, i Info) { r.edit("a", i.UUID.String(), netdef.NewUUID().String()) }, true},
		{"no UUID", func(r *rig, i Info) { r.edit("a", "<uuid>"+i.UUID.String()+"</uuid>", "") }, true},
		{"no bridge name", func(r *rig, i Info) { r.edit("a", "name='"+i.Bridge+"' ", "") }, true},
		{"gone", func(r *rig, _ Info) { r.must(os.Remove(r.file("a"))) }, false},
		{"renamed", func(r *rig, _ Info) {
			r.edit("a", "<name>a</name>", "<name>b</name>")
			r.must(os.Rename(r.file("a"), r.file("b")))
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			i := r.define(natXML("a", 1))
			r.must(r.SetAutostart(t.Context(), i.UUID, true))
			r.must(r.Start(t.Context(), i.UUID))
			r.stop()
			c.do(r, i)
			r.start()
			for range 2 {
				list := r.Networks()
				if len(list) != 1 {
					t.Fatalf("networks: %+v", list)
				}
				want := i
				want.Active, want.Persistent, want.Autostart = true, c.persistent, c.persistent
				if list[0] != want {
					t.Errorf("got %+v, want %+v", list[0], want)
				}
				r.whole(i.UUID)
				r.restart()
			}
			r.must(r.Destroy(t.Context(), i.UUID))
			if _, err := r.Lookup("a"); (err == nil) != c.persistent {
				t.Errorf("after the stop: %v", err)
			}
			if left := r.host.State(); len(left) != 1 {
				t.Errorf("left behind: %v", left.Keys())
			}
		})
	}
}

// What was left aside is taken in once nothing stands in its way any more.
func TestDefinitionLeftAsideIsReloaded(t *testing.T) {
	r := newRig(t)
	i := r.define(natXML("a", 1))
	r.must(r.Start(t.Context(), i.UUID))
	r.stop()
	r.edit("a", "<name>a</name>", "<name>b</name>")
	r.must(os.Rename(r.file("a"), r.file("b")))
	r.start()
	r.must(r.Destroy(t.Context(), i.UUID))
	report, err := r.Reload(t.Context())
	if now, lookup := r.Lookup("b"); err != nil || lookup != nil || now.UUID != i.UUID {
		t.Errorf("%+v, %v: network b: %v", report, err, lookup)
	}
}

// A network that cannot be adopted whole keeps what it has, and is repaired.
func TestAdoptionThatFailsCutsNobodyOff(t *testing.T) {
	r := newRig(t)
	i := r.define(natXML("a", 1))
	r.must(r.Start(t.Context(), i.UUID))
	r.stop()
	left := r.host.State()
	r.host.FailOn = func(op hoststate.Op) error {
		if op.Key().Kind == hoststate.KindService {
			return errors.New("address already in use")
		}
		return nil
	}
	r.start()
	for k, o := range left {
		if !hoststate.Equal(r.host.State()[k], o) {
			t.Errorf("gone: %s", o.Text())
		}
	}
	if now, _ := r.Lookup("a"); !now.Active {
		t.Error("the network counts as inactive")
	}
	r.must(r.Destroy(t.Context(), i.UUID))
	if left := r.host.State(); len(left) != 1 {
		t.Errorf("left behind: %v", left.Keys())
	}
}

// An engine whose start fails ends nevertheless.
func TestRunThatFailsEnds(t *testing.T) {
	r := newRig(t)
	r.must(r.Start(t.Context(), r.define(natXML("a", 1)).UUID))
	r.stop()
	r.host.FailOn = func(hoststate.Op) error { return errors.New("no room") }
	host := r.dir + "/run/host.json"
	r.fault = func(point string) {
		if point == "before store host state rename" {
			_ = os.Remove(host)
			_ = os.MkdirAll(host+"/in the way", 0o755)
		}
	}
	r.must(os.Remove(host)) // as if nothing had been started since the host came up
	if err := r.tryStart(t.Context()); err == nil {
		t.Error("the engine runs although it cannot remember that it did")
	}
	soon(t, "Close", r.close)
}

// Networks that the daemon did not get to start are started by the next one.
func TestAutostartCutShort(t *testing.T) {
	r := newRig(t)
	i := r.define(natXML("a", 1))
	r.must(r.SetAutostart(t.Context(), i.UUID, true))
	r.stop()
	r.must(os.RemoveAll(r.dir + "/run"))
	ctx, cancel := context.WithCancel(t.Context())
	r.host.FailOn = func(hoststate.Op) error {
		cancel()
		return context.Canceled
	}
	if err := r.tryStart(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Run: %v", err)
	}
	r.host.FailOn = nil
	r.restart()
	if now, _ := r.Lookup("a"); !now.Active {
		t.Error("the network was forgotten")
	}
}

// Who had networks before Viaduct does not get another when they are gone.
func TestDefaultNetworkIsForEmptyHosts(t *testing.T) {
	r := newRig(t)
	i := r.define(natXML("a", 1))
	r.options = func(o *Options) { o.Default = true }
	r.restart()
	r.must(r.Undefine(t.Context(), i.UUID))
	r.restart()
	if list := r.Networks(); len(list) != 0 {
		t.Errorf("networks: %+v", list)
	}
}

// The port of the last daemon may be another program's by now.
func TestDNSPortIsChosenAnew(t *testing.T) {
	r := newRig(t)
	i := r.define(natXML("a", 1))
	r.must(r.Start(t.Context(), i.UUID))
	r.options = func(o *Options) {
		o.DNSPort = func(netip.Addr) (uint16, error) { return 5354, nil }
	}
	r.restart()
	r.servesDNSOn(i, ":5354")
}

// servesDNSOn fails the test unless the network's DNS is served at that address.
func (r *rig) servesDNSOn(i Info, part string) {
	r.t.Helper()
	for _, o := range r.host.State() {
		if s, ok := o.(hoststate.Service); ok && s.Network == i.UUID.String() && s.Type == "dns" {
			if !strings.Contains(s.Text(), part) {
				r.t.Errorf("%s, want %s", s.Text(), part)
			}
			return
		}
	}
	r.t.Error("there is no DNS")
}

// A change that takes DNS up finds its port as a start does.
func TestChangeChoosesADNSPort(t *testing.T) {
	r := newRig(t)
	r.options = func(o *Options) {
		o.DNSPort = func(netip.Addr) (uint16, error) { return 5354, nil }
	}
	r.restart()
	i := r.define(withElements(natXML("a", 1), "<dns enable='no'/>"))
	r.must(r.Start(t.Context(), i.UUID))
	r.edit("a", "<dns enable='no'/>", "")
	if report, err := r.Reload(t.Context()); err != nil || len(report.Changed) != 1 {
		t.Fatalf("%+v, %v", report, err)
	}
	r.servesDNSOn(i, ":5354")
	r.restart()
	r.servesDNSOn(i, ":5354")
	r.whole(i.UUID)
}

// A port that the network's own DNS holds is not another program's.
func TestChangeKeepsItsOwnDNSPort(t *testing.T) {
	r := newRig(t)
	second := "<ip address='10.0.2.1' prefix='24'/>"
	i := r.define(strings.Replace(natXML("a", 1), "</network>", second+"</network>", 1))
	r.must(r.Start(t.Context(), i.UUID))
	r.DNSPort = func(netip.Addr) (uint16, error) { return 5354, nil } // as 53 is held by the service itself
	b, err := os.ReadFile(r.file("a"))
	r.must(err)
	first, _, _ := strings.Cut(string(b), "<ip ")
	r.must(os.WriteFile(r.file("a"), []byte(first+second+"</network>"), 0o644))
	r.reloads("added [] changed [a] removed [] failed 0")
	r.servesDNSOn(i, "10.0.2.1:53")
}

// The setting that the host had is recorded before it is changed, even if the
// first try of that fails.
func TestSettingIsRecordedFirst(t *testing.T) {
	r := newRig(t)
	host := r.dir + "/run/host.json"
	i := r.define(natXML("a", 1))
	r.must(os.Remove(host))
	r.must(os.MkdirAll(host+"/in the way", 0o755))
	if err := r.Start(t.Context(), i.UUID); err == nil {
		t.Fatal("the start did not fail")
	}
	r.must(os.RemoveAll(host))
	r.must(r.Start(t.Context(), i.UUID))
	if got := r.store.Host().Sysctls["net/ipv4/ip_forward"].Old; got != "0" {
		t.Errorf("recorded %q, want 0", got)
	}
}

// A network whose state cannot be kept is not started: the next daemon would
// take it away.
func TestStartThatCannotBeKept(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(r *rig) error
	}{
		{"start", func(r *rig) error { i, _ := r.Lookup("a"); return r.Start(t.Context(), i.UUID) }},
		{"create", func(r *rig) error { _, err := r.Create(t.Context(), []byte(natXML("b", 2))); return err }},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			r.define(natXML("a", 1))
			before := len(r.Networks())
			r.stop()
			writes := 0
			r.fault = func(point string) {
				if point == "after store status rename" {
					if writes++; writes == 1 { // the second write will find it in its way
						for _, name := range []string{"a", "b"} {
							path := r.dir + "/run/networks/" + name + ".json"
							_ = os.Remove(path)
							_ = os.MkdirAll(path+"/in the way", 0o755)
						}
					}
				}
			}
			r.start()
			if err := c.do(r); err == nil {
				t.Fatal("no error")
			}
			if left := r.host.State(); len(left) != 1 {
				t.Errorf("left behind: %v", left.Keys())
			}
			list := r.Networks()
			if len(list) != before || list[0].Active {
				t.Errorf("networks: %+v", list)
			}
		})
	}
}

// After a quiet time the first repair is quick again, however many there were.
func TestFirstRepairAfterAWhileIsQuick(t *testing.T) {
	r := newRig(t)
	i := r.define(natXML("a", 1))
	r.must(r.Start(t.Context(), i.UUID))
	r.mu.Lock()
	n := r.networks[i.UUID]
	r.mu.Unlock()
	r.healing.mu.Lock()
	r.healing.pending = map[*network]*healing{n: {delay: healDelayMax, last: time.Now().Add(-2 * healCalm)}}
	r.healing.mu.Unlock()
	bridge := hoststate.BridgeKey(i.Bridge)
	r.host.Remove(bridge)
	r.host.Emit(bridge)
	lab.Await(t, "the bridge is made again", func() bool { return len(r.host.Observe([]hoststate.Key{bridge})) > 0 })
}
