package outcome

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"viaduct/internal/lab"
)

// nmRoot is where test/deps.sh has put Debian's NetworkManager.
const nmRoot = "/usr/local/lib/viaduct-test/network-manager"

// bootNetworkManager starts NetworkManager and the bus that nmcli needs.
func bootNetworkManager(s *leasedSite) {
	s.t.Helper()
	s.startBus()
	s.mustRun("mkdir", "-p", "/run/NetworkManager", "/var/lib/NetworkManager")
	// NetworkManager reads no profile that others can read.
	s.mustRun("sh", "-c", "chmod 600 /etc/NetworkManager/system-connections/*")
	// It takes a card that has an address already, as from a router's first advertisement,
	// for somebody else's, and asks for no lease. At boot no card is up yet.
	s.mustRun("ip", "link", "set", "eth0", "down")
	nm := s.host.Start(nmRoot+"/usr/sbin/NetworkManager", "--debug")
	s.t.Cleanup(func() {
		if s.t.Failed() {
			s.t.Logf("NetworkManager:\n%s", nm.Output())
		}
	})
	lab.Eventually(s.t, 30*time.Second, func() error {
		r, err := s.host.Run(s.context(), nmRoot+"/usr/bin/nmcli", "-t", "-f", "RUNNING", "general")
		if err == nil && !strings.HasPrefix(r.Stdout, "running") {
			err = fmt.Errorf("says %s", r.Stdout)
		}
		return err
	})
}

func TestUplinkOfNetworkManager(t *testing.T) {
	t.Parallel()
	lab.Need(t, "dbus-daemon", "busctl", nmRoot+"/usr/sbin/NetworkManager")
	s := newLeasedSite(t, map[string]string{
		"/etc/NetworkManager/NetworkManager.conf": "[main]\nplugins=keyfile\nauth-polkit=false\ndns=none\n\n[logging]\nlevel=INFO\n",
		"/etc/NetworkManager/system-connections/lan.nmconnection": "[connection]\nid=lan\nuuid=5f1d4d44-7a4f-4c6e-8f1c-3a8e2d7d0c11\ntype=ethernet\ninterface-name=eth0\n\n" +
			"[ipv4]\nmethod=auto\n\n[ipv6]\nmethod=auto\naddr-gen-mode=eui64\n",
	}, bootNetworkManager)
	s.wholeLife("NetworkManager")
}
