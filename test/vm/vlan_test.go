package vm

import (
	"fmt"
	"strings"
	"testing"
)

// TestVLANs: where the kernel can keep VLANs apart, guests with the same tag talk
// and others do not, a trunk has all of its own, and what others change of it is
// put back. What that kernel cannot do is refused.
func TestVLANs(t *testing.T) {
	need(t)
	t.Parallel()
	m := boot(t, "", "part=vlan")
	said := map[string]string{}
	for said["DONE"] == "" {
		word, rest, ok := m.next()
		if !ok {
			t.Fatal("the machine ended")
		}
		said[word] = rest + " "
	}
	if !strings.Contains(said["REFUSED"], "does not filter by VLAN") {
		t.Errorf("a bridge that does not filter: %q", said["REFUSED"])
	}
	if !strings.Contains(said["UNLIMITED"], "needs Linux 6.5") {
		t.Errorf("a limit of what guests send: %q", said["UNLIMITED"])
	}
	// As docs/editing.md says.
	var lost int
	if _, err := fmt.Sscan(said["LOST"], &lost); err != nil || lost > 3 {
		t.Errorf("a guest without a VLAN loses %s while its bridge begins and ends to filter", said["LOST"])
	}
	for _, want := range []string{"red1 42 PVID Egress Untagged", "both1 42 PVID Egress Untagged 50 ", "br0 1 PVID Egress Untagged"} {
		if !strings.Contains(said["VLANS"], want) {
			t.Errorf("ports are in the VLANs %s, want %s", said["VLANS"], want)
		}
	}
}
