package engine

import (
	"fmt"
	"os"
	"testing"
)

// reloads fails the test unless a reload has this outcome.
func (r *rig) reloads(want string) {
	r.t.Helper()
	report, err := r.Reload(r.t.Context())
	r.must(err)
	got := fmt.Sprintf("added %v changed %v removed %v failed %d", report.Added, report.Changed, report.Removed, len(report.Failed))
	if got != want {
		r.t.Errorf("got  %s\nwant %s\n%v", got, want, report.Failed)
	}
}

// A file without UUID is about the network of its name, now and after the next
// start of the daemon.
func TestReloadedFileWithoutUUID(t *testing.T) {
	r := newRig(t)
	i := r.define(natXML("a", 1))
	r.edit("a", "<uuid>"+i.UUID.String()+"</uuid>", "")
	r.reloads("added [] changed [a] removed [] failed 0")
	r.reloads("added [] changed [] removed [] failed 0")
	r.restart()
	if now, err := r.Lookup("a"); err != nil || now != i {
		t.Errorf("got %+v, %v, want %+v", now, err, i)
	}
}

func TestReloadOfARenamedFile(t *testing.T) {
	r := newRig(t)
	i := r.define(natXML("b", 1))
	r.edit("b", "<name>b</name>", "<name>a</name>")
	r.must(os.Rename(r.file("b"), r.file("a")))
	r.reloads("added [a] changed [] removed [b] failed 0")
	if now, err := r.Lookup("a"); err != nil || now.UUID != i.UUID {
		t.Errorf("%+v, %v", now, err)
	}
}

// A file that is gone takes its autostart mark along.
func TestReloadWithoutTheFile(t *testing.T) {
	r := newRig(t)
	i := r.define(natXML("a", 1))
	r.must(r.SetAutostart(t.Context(), i.UUID, true))
	r.must(r.Start(t.Context(), i.UUID))
	r.must(os.Remove(r.file("a")))
	r.reloads("added [] changed [] removed [a] failed 0")
	if now, _ := r.Lookup("a"); !now.Active || now.Persistent || now.Autostart {
		t.Errorf("%+v, want it active and transient", now)
	}
	r.must(r.Destroy(t.Context(), i.UUID))
	r.define(natXML("a", 1))
	r.restart()
	if now, _ := r.Lookup("a"); now.Autostart {
		t.Error("the new network has inherited the mark")
	}
}

// Two files of one UUID: the one that is not known is refused until it is resolved.
func TestReloadOfATwin(t *testing.T) {
	r := newRig(t)
	i := r.define(natXML("a", 1))
	r.must(r.Start(t.Context(), i.UUID))
	b, err := os.ReadFile(r.file("a"))
	r.must(err)
	r.must(os.WriteFile(r.file("b"), b, 0o644))
	r.edit("b", "<name>a</name>", "<name>b</name>")
	r.edit("b", i.Bridge, "br7")
	for range 2 {
		r.reloads("added [] changed [] removed [] failed 1")
	}
	r.whole(i.UUID)
}

// What cannot be applied leaves the network, active or not, as it was.
func TestReloadOfWhatCannotBeApplied(t *testing.T) {
	r := newRig(t)
	i := r.define(natXML("a", 1))
	r.must(r.Start(t.Context(), i.UUID))
	before, err := r.XML(i.UUID, false)
	r.must(err)
	r.edit("a", "<range ", "<host name='x' ip='10.9.9.9'/><range ")
	r.reloads("added [] changed [] removed [] failed 1")
	if after, err := r.XML(i.UUID, false); err != nil || after != before {
		t.Errorf("%v: now it is\n%s", err, after)
	}
	r.must(r.Destroy(t.Context(), i.UUID))
	r.must(r.Start(t.Context(), i.UUID))
}

// An active network moves to another bridge and subnet in place, and back.
func TestReloadMovesAnActiveNetwork(t *testing.T) {
	r := newRig(t)
	i := r.define(natXML("a", 1))
	r.must(r.Start(t.Context(), i.UUID))
	size := len(r.host.State())
	r.edit("a", "name='"+i.Bridge+"'", "name='br7'")
	r.reloads("added [] changed [a] removed [] failed 0")
	now, err := r.Lookup("a")
	if err != nil || now.Bridge != "br7" || len(r.host.State()) != size {
		t.Errorf("%+v, %v, %d objects, want %d", now, err, len(r.host.State()), size)
	}
	r.whole(i.UUID)
	r.edit("a", "10.0.1.1", "10.0.1.9")
	r.edit("a", "start='10.0.1.2'", "start='10.0.1.100'")
	r.reloads("added [] changed [a] removed [] failed 0")
	r.restart()
	r.whole(i.UUID)
	// The old bridge and subnet are free for others.
	j := r.define(withElements(natXML("b", 2), "<bridge name='"+i.Bridge+"'/>"))
	r.must(r.Start(t.Context(), j.UUID))
}

// A link that was unplugged from a network that is not active does not come back.
func TestUnpluggedWhileInactive(t *testing.T) {
	r := newRig(t)
	i := r.define(natXML("a", 1))
	r.must(r.Start(t.Context(), i.UUID))
	r.must(r.Plug(t.Context(), i.UUID, "eth0", 0))
	r.must(r.Destroy(t.Context(), i.UUID))
	r.must(r.Unplug(t.Context(), "eth0"))
	r.restart()
	r.must(r.Start(t.Context(), i.UUID))
	if ports := r.host.Ports(i.Bridge); len(ports) != 0 {
		t.Errorf("ports: %v", ports)
	}
}
