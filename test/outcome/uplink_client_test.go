package outcome

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"viaduct/internal/lab"
)

// bootByHand starts a DHCP client that no configuration knows, as an
// administrator would, and after the first boot nobody.
func bootByHand(s *leasedSite) {
	s.t.Helper()
	s.host.LinkUp("eth0")
	if s.boots == 1 {
		s.mustRun("mkdir", "-p", "/var/lib/dhcp")
		s.mustRun("dhclient", "-4", "eth0")
	}
}

// clients are the processes of the host that are DHCP clients beside the daemon.
func (s *leasedSite) clients() string {
	r, _ := s.host.Run(s.context(), "sh", "-c", "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline; echo; done | grep '^dhclient'")
	return strings.TrimSpace(r.Stdout)
}

var bootID = regexp.MustCompile(`"bootId": "[^"]*"`)

// Where nobody configures the card Viaduct is the DHCP client of the bridge: it
// goes on with the lease that somebody else's client had, and gives it back.
func TestUplinkWithOurOwnDHCPClient(t *testing.T) {
	t.Parallel()
	lab.Need(t, "dhclient")
	s := newLeasedSite(t, nil, bootByHand)
	before := s.configured("eth0")
	s.must(s.daemon.Start())
	ping := s.host.Outside.StartPing(s.host.Addr, 10*time.Millisecond)
	if said := s.viaduct("uplink-create", "xenbr0", "--nic", "eth0", "--confirm", "1h"); !strings.Contains(said, "kept by viaduct, which is its DHCP client") {
		t.Errorf("says %s", said)
	}
	s.same("after the take-over", before, s.configured("xenbr0"))
	loss := ping.Stop()
	t.Logf("take-over: %s", loss)
	if loss.Gap > 5*time.Second {
		t.Errorf("out of reach for %v", loss.Gap)
	}
	if left := s.host.Addrs("eth0"); len(left) > 0 {
		t.Errorf("eth0 still has %v", left)
	}
	if left := s.clients(); left != "" {
		t.Errorf("still there: %s", left)
	}
	s.viaduct("uplink-confirm", "xenbr0")
	s.renewed()
	s.same("after a renewal", before, s.configured("xenbr0"))

	s.daemon.Kill9()
	if err := s.host.Outside.Ping(s.context(), s.host.Addr); err != nil {
		t.Errorf("without the daemon: %v", err)
	}
	s.must(s.daemon.Start())
	s.same("after the daemon's death", before, s.configured("xenbr0"))
	s.renewed()

	s.viaduct("uplink-delete", "xenbr0")
	s.same("after all", before, s.configured("eth0"))
	if s.clients() == "" {
		t.Error("the host's own client is not there again")
	}
	s.renewed()
	s.same("after all and a renewal", before, s.configured("eth0"))

	s.viaduct("uplink-create", "xenbr0", "--nic", "eth0", "--dhcp")
	s.start()
	files := map[string]string{}
	for path, text := range s.files { // another boot
		files[path] = bootID.ReplaceAllString(text, `"bootId": "another"`)
		s.host.WriteFile(path, files[path])
	}
	s.boot(s)
	discovers := strings.Count(s.dnsmasq.Output(), "DHCPDISCOVER")
	s.must(s.daemon.Start())
	s.same("after a reboot", before, s.configured("xenbr0"))
	if strings.Count(s.dnsmasq.Output(), "DHCPDISCOVER") != discovers {
		t.Error("asked for any address, not for its own")
	}

	// Its server has another mind, and gives what somebody else has.
	if _, err := s.dnsmasq.Stop(s.context()); err != nil {
		t.Fatal(err)
	}
	taken := netip.MustParsePrefix("203.0.113.150/24")
	neighbour := s.Node("neighbour")
	s.Connect(neighbour, "eth0", s.host.Outside.Node, "port0", lab.WireOptions{})
	s.host.Outside.SetMaster("port0", "lan0")
	neighbour.AddAddr("eth0", taken)
	s.dnsmasq = s.serve("203.0.113.150,203.0.113.199", "--no-ping", "--dhcp-host="+s.mac.String()+","+taken.Addr().String())
	lab.Eventually(t, 60*time.Second, func() error {
		if got := fmt.Sprint(s.host.Addrs("xenbr0")); !strings.Contains(got, "203.0.113.1") || strings.Contains(got, before[1].String()) {
			return fmt.Errorf("has %v", got)
		}
		return nil
	})
	after := s.configured("xenbr0")
	if slices.Contains(after, taken) || !strings.Contains(s.dnsmasq.Output(), "DHCPDECLINE(lan0) "+taken.Addr().String()) {
		t.Errorf("has %v, which a neighbour has", after)
	}
	// After a reboot too the client of before is the card's again.
	s.viaduct("uplink-delete", "xenbr0")
	s.configured("eth0")
	if s.clients() == "" {
		t.Error("after a reboot the host's own client is not there again")
	}
	s.renewed()
}
