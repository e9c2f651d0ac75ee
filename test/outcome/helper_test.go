package outcome

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"viaduct/internal/engine"
	"viaduct/internal/lab"
)

// unprivileged runs a program as a user who may do nothing.
var unprivileged = []string{"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs", "--bounding-set=-all"}

// A user without privileges starts a real QEMU with a guest in a network, by
// the helper and where the list allows it. The machine's firmware boots from
// the network, so there is a guest that gets a lease. The port is gone with it.
func TestQEMUOfUnprivilegedUser(t *testing.T) {
	lab.Need(t, "qemu-system-x86_64", "setpriv")
	s := startSite(t)
	s.create(natXML("a", 50, ""))
	s.create(natXML("b", 51, ""))
	s.settled()
	before := s.host.Dump()
	const helper = "/tmp/helper/viaduct-bridge-helper"
	s.mustRun("install", "-D", "-m755", binary, helper)
	s.mustRun("chmod", "755", "/tmp")
	qemu := func(bridge string) *lab.Process {
		p, err := s.host.StartCommand(lab.Command{
			Argv: append(unprivileged, "qemu-system-x86_64", "-accel", "tcg", "-m", "64", "-nodefaults", "-display", "none", "-boot", "n",
				"-netdev", fmt.Sprintf("bridge,id=net0,br=%s,helper=%s", bridge, helper), "-device", "virtio-net-pci,netdev=net0,mac=52:54:00:00:0a:01"),
			Env: []string{"VIADUCT_SOCKET=" + s.daemon.Socket},
		})
		s.must(err)
		return p
	}
	refused := func(bridge, why string) {
		t.Helper()
		r, err := qemu(bridge).Wait(s.context())
		if r.Code == 0 || !strings.Contains(r.Stderr, why) {
			t.Errorf("a guest in %s was to be refused: %v\n%s", bridge, err, r.Stderr)
		}
	}

	refused("virbr50", "no bridge is allowed to anybody")
	list := s.daemon.ConfigDir + "/bridge.conf"
	s.host.WriteFile(list, "allow virbr50\n")
	refused("virbr51", "does not allow bridge 'virbr51' to user 65534")
	s.mustRun("chown", "65534", list)
	refused("virbr50", "others than root may write it")
	s.mustRun("chown", "0", list)

	guest := qemu("virbr50")
	lab.Eventually(t, 20*time.Second, func() error {
		if ports := s.ports("a"); len(ports) != 1 || ports[0].Origin != engine.OriginPlugged || !ports[0].Active {
			return fmt.Errorf("ports are %+v; QEMU said\n%s", ports, guest.Output())
		}
		return nil
	})
	lab.Eventually(t, time.Minute, func() error {
		if leases := s.viaduct("net-dhcp-leases", "a"); !strings.Contains(leases, "52:54:00:00:0a:01") {
			return fmt.Errorf("the guest has no lease; QEMU said\n%s", guest.Output())
		}
		return nil
	})
	// The daemon may come and go meanwhile.
	s.daemon.Kill9()
	s.must(s.daemon.Start())
	if ports := s.ports("a"); len(ports) != 1 || !ports[0].Active {
		t.Errorf("after a restart of the daemon, ports are %+v", ports)
	}
	guest.Kill()
	lab.Eventually(t, 10*time.Second, func() error {
		if ports := s.ports("a"); len(ports) > 0 {
			return fmt.Errorf("ports are %+v", ports)
		}
		if after := s.host.Dump(); after != before {
			return fmt.Errorf("before:\n%s\nafter:\n%s", before, after)
		}
		return nil
	})
}
