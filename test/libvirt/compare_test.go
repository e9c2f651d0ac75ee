package libvirt

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"viaduct/internal/lab"
)

// comparison counts steps whose results on libvirt's host and on ours are equal.
type comparison struct{ total, equal int }

func (c comparison) String() string { return fmt.Sprintf("%d of %d steps are equal", c.equal, c.total) }

// add compares what virsh did in a step, on libvirt's host and then on ours, but
// for what differs from run to run. A step differs if and only if differs says
// why.
func (c *comparison) add(t *testing.T, command, differs string, got [2]lab.Result) {
	t.Helper()
	for i := range got {
		got[i].Stdout, got[i].Stderr = hide(got[i].Stdout), hide(got[i].Stderr)
	}
	c.total++
	diff := cmp.Diff(got[0], got[1])
	if diff == "" {
		c.equal++
	}
	switch {
	case differs == "" && diff != "":
		t.Errorf("virsh %s (-libvirt +viaduct):\n%s", command, diff)
	case differs != "" && diff == "":
		t.Errorf("virsh %s is the same by now; it was said that it differs: %s", command, differs)
	}
}
