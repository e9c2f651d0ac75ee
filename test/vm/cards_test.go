package vm

import (
	"strings"
	"testing"
)

// TestUplinksOfBondsAndVLANs: a bond and a VLAN device are cards like others. The bridge of
// the VLAN has less room, as cards need that know no VLANs.
func TestUplinksOfBondsAndVLANs(t *testing.T) {
	need(t)
	t.Parallel()
	m := boot(t, "", "part=cards")
	said := map[string]string{}
	for said["DONE"] == "" {
		word, rest, ok := m.next()
		if !ok {
			t.Fatal("the machine ended")
		}
		said[word] = rest + " "
	}
	for _, want := range []string{"xenbr0=10.7.0.2/24/mtu=1500", "xenbr10=10.8.0.2/24/mtu=1496"} {
		if !strings.Contains(said["TAKEN"], want) {
			t.Errorf("has %s, want %s", said["TAKEN"], want)
		}
	}
}
