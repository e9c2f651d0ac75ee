package engine

import (
	"os"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"viaduct/internal/hoststate"
	"viaduct/internal/netdef"
	"viaduct/test/random"
)

// text is all that a host has, one object a line.
func (r *rig) text() string {
	var ops []hoststate.Op
	for _, o := range r.host.State() {
		ops = append(ops, hoststate.CreateOp(o))
	}
	hoststate.SortOps(ops)
	return hoststate.FormatOps(ops)
}

// end gives up what a rig holds, before its test ends.
func (r *rig) end() {
	r.close()
	r.host.Close()
	os.RemoveAll(r.dir)
}

func definition(n *netdef.Network) string { return n.Format(netdef.FormatOptions{Inactive: true}) }

// started is the drawn network, defined and started just as its plan says.
func (r *rig) started(t *rapid.T, n *netdef.Network) Info {
	i := r.define(definition(n))
	planned, err := r.Plan(i.UUID)
	r.must(err)
	before := len(r.host.Calls())
	r.must(r.Start(r.t.Context(), i.UUID))
	if done := r.doneSince(before); done != planned {
		t.Fatalf("planned and done differ:\n%s", cmp.Diff(planned, done))
	}
	r.nothingLeftToDo(t, i)
	return i
}

// doneSince is what was applied after the first n calls.
func (r *rig) doneSince(n int) string {
	text := ""
	for _, ops := range r.host.Calls()[n:] {
		text += hoststate.FormatOps(ops)
	}
	return text
}

func (r *rig) nothingLeftToDo(t *rapid.T, i Info) {
	if left, err := r.Plan(i.UUID); err != nil || left != "" {
		t.Fatalf("plan after it was applied: %v\n%s", err, left)
	}
}

// edited changes the running network by its file.
func (r *rig) edited(t *rapid.T, i Info, n *netdef.Network) {
	r.must(os.WriteFile(r.dir+"/etc/networks/"+n.Name+".xml", []byte(definition(n)), 0o600))
	report, err := r.Reload(r.t.Context())
	if err != nil || len(report.Failed) > 0 {
		t.Fatalf("reload: %v, %v", err, report.Failed)
	}
	r.nothingLeftToDo(t, i)
}

// translation is what stays so that connections go on that were begun while
// the network was in NAT mode.
var translation = regexp.MustCompile(`(?m)^\+ (map inet viaduct nat_from|chain inet viaduct (postrouting|nat_\S+)) .*\n`)

// goneOn is the text of a host without what a network has that left NAT mode.
func goneOn(text string, from, to *netdef.Network) string {
	if from.Forward.Mode == netdef.ModeNAT && to.Forward.Mode != netdef.ModeNAT {
		return translation.ReplaceAllString(text, "")
	}
	return text
}

// Start, edit and stop are one thing: whatever a network was before, the host
// ends up as if it had been started so, and as if it had never been. Only
// connections that are translated go on as they are.
func TestEditEqualsStart(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		draw := func(uplinks ...string) *netdef.Network {
			if rapid.IntRange(0, 3).Draw(rt, "pool") == 0 {
				return random.Pool(rt, uplinks...)
			}
			return random.Network(rt, uplinks...)
		}
		a, b := draw("eth0", "eth9"), draw("eth0", "eth9")
		first, second := newRig(t), newRig(t)
		defer first.end()
		defer second.end()
		empty := first.text()
		i := first.started(rt, a)
		asA := first.text()
		second.started(rt, b)
		first.edited(rt, i, b)
		if got, want := goneOn(first.text(), a, b), second.text(); got != want {
			rt.Fatalf("edited, the host differs from a fresh one:\n%s", cmp.Diff(want, got))
		}
		first.edited(rt, i, a)
		if got := goneOn(first.text(), b, a); got != asA {
			rt.Fatalf("edited there and back, the host is another:\n%s", cmp.Diff(asA, got))
		}
		first.must(first.Destroy(t.Context(), i.UUID))
		if got := first.text(); got != empty {
			rt.Fatalf("left behind:\n%s", cmp.Diff(empty, got))
		}
	})
}
