package vm

import (
	"strings"
	"testing"
)

// TestOlderKernelKeepsItsRoute: where the kernel can only forward IPv6 for all
// links at once, which makes it forget what routers told it, a host keeps the
// way out that it learned, goes on to listen, and has its settings back afterwards.
func TestOlderKernelKeepsItsRoute(t *testing.T) {
	need(t)
	t.Parallel()
	m := boot(t, "", "part=uplink")
	said := map[string]string{}
	for {
		word, rest, ok := m.next()
		if !ok {
			t.Fatal("the machine ended")
		}
		said[word] = rest
		if word == "DONE" {
			break
		}
	}
	for _, when := range []string{"BEFORE", "STARTED", "HEARD", "STOPPED"} {
		if !strings.HasPrefix(said[when], "route ") {
			t.Errorf("%s: %s, want the route", when, said[when])
		}
	}
	for _, want := range []string{"all/forwarding=1", "eth1/accept_ra=2"} {
		if !strings.Contains(said["STARTED"], want) {
			t.Errorf("with the network: %s, want %s", said["STARTED"], want)
		}
	}
	if said["STOPPED"] != said["BEFORE"] {
		t.Errorf("before the network: %s\nafter it: %s", said["BEFORE"], said["STOPPED"])
	}
	if !strings.HasPrefix(said["LEFT"], "none ") {
		t.Errorf("after the router has left: %s", said["LEFT"])
	}
}
