package engine

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"viaduct/internal/hoststate"
	"viaduct/internal/lab"
	"viaduct/internal/netdef"
	"viaduct/internal/store"
)

func (r *rig) apply(o ApplyOptions, xmls ...string) (string, error) {
	r.t.Helper()
	var files []File
	for i, x := range xmls {
		files = append(files, File{Name: fmt.Sprintf("%d.xml", i), XML: x})
	}
	report, err := r.Apply(r.t.Context(), files, o)
	var said []string
	for _, n := range report.Networks {
		said = append(said, n.Name+" "+n.Result)
	}
	return strings.Join(said, ", "), err
}

func (r *rig) applied(want string, o ApplyOptions, xmls ...string) {
	r.t.Helper()
	got, err := r.apply(o, xmls...)
	r.must(err)
	if got != want {
		r.t.Errorf("applied: %s, want %s", got, want)
	}
}

// world is all that there is to see: networks with their definitions, and the
// host. What is chosen at random is not in it.
func (r *rig) world() string {
	r.t.Helper()
	var b strings.Builder
	for _, i := range r.Networks() {
		live, err := r.XML(i.UUID, false)
		r.must(err)
		config, err := r.XML(i.UUID, true)
		r.must(err)
		fmt.Fprintln(&b, i.Name, i.Active, i.Persistent, i.Autostart, live, config)
	}
	state := hoststate.State(r.host.State())
	for _, k := range state.Keys() {
		fmt.Fprintln(&b, state[k].Text())
	}
	return b.String()
}

func bridged(name string, n int, bridge string) string {
	return fmt.Sprintf(`<network><name>%s</name><uuid>00000000-0000-4000-8000-0000000000%02x</uuid><forward mode='nat'/><bridge name='%s'/>
		<mac address='52:54:00:00:00:%02x'/><ip address='10.0.%d.1' prefix='24'/></network>`, name, name[0], bridge, name[0], n)
}

func TestApply(t *testing.T) {
	r := newRig(t)
	r.applied("a added", ApplyOptions{}, natXML("a", 1))
	a, err := r.Lookup("a")
	if err != nil || !a.Active || !a.Persistent || a.Autostart {
		t.Fatalf("unknown network: %+v, %v", a, err)
	}
	r.applied("a unchanged", ApplyOptions{}, natXML("a", 1))
	changed := strings.Replace(natXML("a", 2), "<ip", "<mtu size='1400'/><ip", 1)
	r.applied("a changed", ApplyOptions{Plan: true}, changed)
	if text, _ := r.XML(a.UUID, false); strings.Contains(text, "size='1400'") {
		t.Error("a plan was carried out")
	}
	r.applied("a changed", ApplyOptions{}, changed)
	for _, inactive := range []bool{false, true} {
		if text, _ := r.XML(a.UUID, inactive); !strings.Contains(text, "size='1400'") || !strings.Contains(text, "10.0.2.1") {
			t.Errorf("inactive=%v: %s", inactive, text)
		}
	}
	r.must(r.Destroy(t.Context(), a.UUID))
	r.applied("a changed", ApplyOptions{}, natXML("a", 3))
	if a, _ = r.Lookup("a"); a.Active {
		t.Error("a stopped network was started")
	}
	i, err := r.Create(t.Context(), []byte(natXML("t", 4)))
	r.must(err)
	r.applied("t changed", ApplyOptions{}, natXML("t", 5))
	if i, _ = r.Lookup("t"); i.Persistent || !i.Active {
		t.Errorf("transient network: %+v", i)
	}
	r.restart()
	if text, _ := r.XML(i.UUID, false); !strings.Contains(text, "10.0.5.1") {
		t.Error(text)
	}
}

// A plan says what is then done.
func TestApplyDoesWhatItPlans(t *testing.T) {
	r := newRig(t)
	r.applied("a added, b added", ApplyOptions{}, natXML("a", 1), natXML("b", 9)) // b keeps what NAT networks share
	earlier := len(r.host.Calls())
	next := File{XML: strings.Replace(natXML("a", 2), "mode='nat'", "mode='route'", 1)}
	planned, err := r.Apply(t.Context(), []File{next}, ApplyOptions{Plan: true})
	r.must(err)
	r.must(errOf(r.Apply(t.Context(), []File{next}, ApplyOptions{})))
	var done []string
	for _, ops := range r.host.Calls()[earlier:] {
		for _, op := range ops {
			done = append(done, op.String())
		}
	}
	if want := planned.Networks[0].Operations; len(want) == 0 || !slices.Equal(done, want) {
		t.Errorf("planned:\n%s\ndone:\n%s", strings.Join(want, "\n"), strings.Join(done, "\n"))
	}
}

func errOf[T any](_ T, err error) error { return err }

// Networks that take over each other's bridges and subnets, and one that goes.
func TestApplySeveral(t *testing.T) {
	r := newRig(t)
	empty := r.world()
	first := []string{bridged("a", 1, "br1"), bridged("b", 2, "br2"), bridged("c", 3, "br3")}
	r.applied("a added, b added, c added", ApplyOptions{Prune: true}, first...)
	before := r.world()
	next := []string{bridged("d", 1, "br4"), bridged("a", 2, "br2"), bridged("b", 3, "br1")}
	want := "a changed, b changed, c removed, d added"
	r.applied(want, ApplyOptions{Prune: true, Plan: true}, next...)
	if r.world() != before {
		t.Error("a plan was carried out")
	}
	r.applied(want, ApplyOptions{Prune: true}, next...)
	r.restart()
	r.applied("a unchanged, b unchanged, d unchanged", ApplyOptions{Prune: true}, next...)
	r.applied("a changed, b changed, c added, d removed", ApplyOptions{Prune: true}, first...)
	if after := r.world(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	r.applied("a removed, b removed, c removed", ApplyOptions{Prune: true})
	if after := r.world(); after != empty {
		t.Errorf("left behind:\n%s", after)
	}
}

// Whatever fails, all is as before.
func TestApplyIsAllOrNothing(t *testing.T) {
	r := newRig(t)
	r.applied("a added, b added, c added", ApplyOptions{}, bridged("a", 1, "br1"), bridged("b", 2, "br2"), bridged("c", 3, "br3"))
	i, _ := r.Lookup("c")
	r.must(r.SetAutostart(t.Context(), i.UUID, true))
	before := r.world()
	next := []string{bridged("d", 1, "br4"), bridged("a", 2, "br2"), bridged("b", 3, "br1")}
	for nth := 1; ; nth++ {
		count := 0
		r.host.FailOn = func(op hoststate.Op) error {
			if count++; count == nth {
				return errors.New("no room")
			}
			return nil
		}
		_, err := r.apply(ApplyOptions{Prune: true}, next...)
		r.host.FailOn = nil
		if err == nil {
			if nth < 20 {
				t.Errorf("only %d operations", nth)
			}
			break
		}
		if after := r.world(); after != before {
			t.Fatalf("operation %d failed with %v, before:\n%s\nafter:\n%s", nth, err, before, after)
		}
		if left, _ := r.store.Undos(); len(left) > 0 {
			t.Fatalf("operation %d: a record is left", nth)
		}
	}
}

// A daemon that dies in the midst of a change leaves it to the next to take it back.
func TestApplyCutShort(t *testing.T) {
	r := newRig(t)
	first := []string{bridged("a", 1, "br1"), bridged("b", 2, "br2"), bridged("c", 3, "br3")}
	r.applied("a added, b added, c added", ApplyOptions{}, first...)
	before := r.world()
	// What the record says while the change is under way.
	undo := store.Undo{ID: netdef.NewUUID()}
	for _, i := range r.Networks() {
		n, err := r.seize(i.UUID)
		r.must(err)
		undo.Networks = append(undo.Networks, beforeOf(r, n))
		n.busy.Unlock()
	}
	undo.Networks = append(undo.Networks, store.Before{Name: "d", UUID: netdef.UUID{0, 0, 0, 0, 0, 0, 0x40, 0, 0x80, 15: 'd'}})
	r.applied("a changed, b changed, c removed, d added", ApplyOptions{Prune: true}, bridged("d", 1, "br4"), bridged("a", 2, "br2"), bridged("b", 3, "br1"))
	r.must(r.store.PutUndo(undo))
	r.restart()
	if after := r.world(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	if left, _ := r.store.Undos(); len(left) > 0 {
		t.Error("the record is left")
	}
}

func beforeOf(r *rig, n *network) store.Before { return before(move{n, r.present(n)}) }

// due puts the deadline of a change that awaits confirmation to now.
func (r *rig) due(id netdef.UUID) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.awaited[id]
	if w == nil || !w.timer.Reset(0) {
		r.t.Fatal("no change awaits confirmation")
	}
}

func TestConfirm(t *testing.T) {
	r := newRig(t)
	r.applied("a added", ApplyOptions{}, bridged("a", 1, "br1"))
	a, _ := r.Lookup("a")
	before := r.world()
	taken := func() bool { return r.world() == before }
	await := func() {
		t.Helper()
		lab.Await(t, "the change is taken back", taken)
	}
	next := bridged("a", 2, "br2")

	r.applied("a changed", ApplyOptions{Confirm: 50 * time.Millisecond}, next)
	await()

	r.applied("a changed", ApplyOptions{Confirm: time.Hour}, next)
	if _, err := r.apply(ApplyOptions{}, bridged("a", 3, "br3")); netdef.CodeOf(err) != netdef.ErrOperationInvalid {
		t.Errorf("second change: %v", err)
	}
	r.must(r.Confirm(t.Context(), a.UUID, true))
	if !taken() {
		t.Error("not taken back when asked to")
	}
	if err := r.Confirm(t.Context(), a.UUID, false); netdef.CodeOf(err) != netdef.ErrOperationInvalid {
		t.Errorf("nothing to confirm: %v", err)
	}

	// Across a restart, with time left and without.
	r.applied("a changed", ApplyOptions{Confirm: time.Hour}, next)
	r.restart()
	if taken() {
		t.Error("taken back before its time")
	}
	r.due(a.UUID)
	await()
	r.applied("a changed", ApplyOptions{Confirm: time.Hour}, next)
	r.stop()
	undos, _ := func() ([]store.Undo, []*store.FileError) {
		st, err := store.Open(store.Options{ConfigDir: r.dir + "/etc", StateDir: r.dir + "/var", RunDir: r.dir + "/run"})
		r.must(err)
		defer st.Close()
		undos, errs := st.Undos()
		undos[0].Deadline = time.Now().Add(-time.Second)
		r.must(st.PutUndo(undos[0]))
		return undos, errs
	}()
	if len(undos) != 1 {
		t.Fatalf("%d records", len(undos))
	}
	r.start()
	if !taken() {
		t.Error("not taken back by the next daemon")
	}

	// What is confirmed stays.
	r.applied("a changed", ApplyOptions{Confirm: time.Hour}, next)
	timer := r.awaited[a.UUID].timer
	r.must(r.Confirm(t.Context(), a.UUID, false))
	if timer.Stop() {
		t.Error("the deadline of a confirmed change goes on")
	}
	confirmed := r.world()
	r.restart()
	if r.world() != confirmed {
		t.Error("a confirmed change was taken back")
	}

	// A network that was not there before is gone again.
	r.applied("n added", ApplyOptions{Confirm: 50 * time.Millisecond}, bridged("n", 7, "br7"))
	before = confirmed
	await()
}

// The host went down: what was active then is not so again by itself.
func TestConfirmAcrossBoots(t *testing.T) {
	r := newRig(t)
	r.applied("a added", ApplyOptions{}, bridged("a", 1, "br1"))
	a, _ := r.Lookup("a")
	r.applied("a changed", ApplyOptions{Confirm: time.Hour}, bridged("a", 2, "br2"))
	r.stop()
	r.bootID = "another"
	r.start()
	r.due(a.UUID)
	lab.Await(t, "the definition is as it was", func() bool {
		text, err := r.XML(a.UUID, true)
		r.must(err)
		return strings.Contains(text, "br1")
	})
	if a, _ = r.Lookup("a"); a.Active {
		t.Error("a network is active that nobody started")
	}
}
