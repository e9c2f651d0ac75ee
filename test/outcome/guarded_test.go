package outcome

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"viaduct/internal/lab"
)

// guarded is a network of both families whose ports are guarded.
func guarded(network string) string {
	return strings.Replace(network, "</name>",
		"</name><metadata><v:settings xmlns:v='urn:viaduct:settings:1'><v:guard/></v:settings></metadata>", 1)
}

// An honest guest does not notice that it is guarded: it makes itself an
// address, has its lease pass at once, and keeps all that while the daemon is
// killed and somebody flushes the rules. When its lease ends, so does what it may.
func TestGuardIsNotNoticed(t *testing.T) {
	s := startSite(t, "--table-owner", "no")
	s.create(guarded(xml6("a", 50, "<forward mode='nat'/>")))
	g, other := s.NewGuest(lab.GuestOptions{Name: "one"}), s.PlugGuest(s.host.Node, "virbr50", "two")
	s.viaduct("port-create", "a", "--tap", "vm1", "--mac", g.MAC.String())
	s.monitorFor(g, "vm1")
	lease := s.lease(g)
	ping := g.StartPing(s.host.Outside.Addr, 5*time.Millisecond)
	s.must(ping.Await(s.context(), 50))
	if loss := ping.Stop(); len(loss.Lost) > 0 {
		t.Errorf("right after the lease: %s", loss)
	}
	outside := netip.AddrPortFrom(s.host.Outside.Addr, lab.PortEcho)
	s.reaches(g.Node, outside)
	s.must(g.Ping(s.context(), s.address6(other, "fd00:50::/64")))
	s.address6(g, "fd00:50::/64")
	s.lease(other)
	s.must(other.Ping(s.context(), lease.Addr.Addr()))

	s.settled()
	before := s.host.Dump()
	heard := s.host.Monitor()
	steady := g.StartPing(s.host.Outside.Addr, 5*time.Millisecond)
	s.must(steady.Await(s.context(), 20))
	s.daemon.Kill9()
	s.must(s.daemon.Start())
	if lines := heard.Stop(); len(lines) > 0 {
		t.Errorf("the restart wrote to the host:\n%s", strings.Join(lines, "\n"))
	}
	s.mustRun("nft", "delete", "table", "bridge", "viaduct")
	s.soonNothingToChange("a")
	if rules := s.mustRun("nft", "list", "table", "bridge", "viaduct"); !strings.Contains(rules, lease.Addr.Addr().String()) {
		t.Errorf("healed without the lease:\n%s", rules)
	}
	if loss := steady.Stop(); len(loss.Lost) > 0 {
		t.Errorf("while the daemon was killed and the rules were healed: %s", loss)
	}
	s.settled()
	if after := s.host.Dump(); counters.ReplaceAllString(after, "") != counters.ReplaceAllString(before, "") {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	if _, err := g.Renew(s.context()); err != nil {
		t.Error(err)
	}

	s.must(g.Release(s.context()))
	lab.Eventually(t, 10*time.Second, func() error {
		if rules := s.mustRun("nft", "list", "set", "bridge", "viaduct", "uses4"); strings.Contains(rules, lease.Addr.Addr().String()) {
			return fmt.Errorf("the guest may use its address still:\n%s", rules)
		}
		return nil
	})
	again := s.lease(g)
	s.must(other.Ping(s.context(), again.Addr.Addr()))
	s.viaduct("port-delete", "a", "vm1")
	s.viaduct("net-destroy", "a")
}

// counters are what rules counted.
var counters = regexp.MustCompile(`packets \d+ bytes \d+`)
