package outcome

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"viaduct/internal/lab"
)

// A daemon that is killed and started again finds its networks and touches
// nothing: guests lose no packet, and the kernel has nothing to announce.
func TestRestartIsNotNoticed(t *testing.T) {
	s := newSite(t, "--table-owner", "no")
	s.must(s.daemon.Start())
	s.create(natXML("a", 50, ""))
	one, _ := s.guest("virbr0", "one")
	two, lease := s.guest("virbr50", "two")

	ping := one.StartPing(s.host.Outside.Addr, time.Millisecond)
	flow := s.StartFlow(one.Node, s.host.Outside.Node, netip.AddrPortFrom(s.host.Outside.Addr, 7001))
	s.must(ping.Await(s.context(), 200))
	s.must(flow.Await(s.context(), 1<<20))

	s.settled()
	before := s.host.Dump()
	heard := s.host.Monitor()
	for range 3 {
		s.daemon.Kill9()
		s.must(s.daemon.Start())
	}
	if lines := heard.Stop(); len(lines) > 0 {
		t.Errorf("the restart wrote to the host:\n%s", strings.Join(lines, "\n"))
	}
	if after := s.host.Dump(); after != before {
		t.Errorf("the host before:\n%s\nafter:\n%s", before, after)
	}
	for _, name := range []string{"default", "a"} {
		s.nothingToChange(name)
	}
	if loss := ping.Stop(); len(loss.Lost) > 0 {
		t.Errorf("ping over the restarts: %s", loss)
	}
	if report := flow.Stop(); report.Err != nil {
		t.Errorf("transfer over the restarts: %v", report)
	}

	// The lease is known to the new daemon, which goes on serving.
	if !strings.Contains(s.viaduct("net-dhcp-leases", "a"), lease.Addr.Addr().String()) {
		t.Errorf("lease %s is not listed after the restart", lease.Addr)
	}
	renewed, err := two.Renew(s.context())
	if err != nil || renewed.Addr != lease.Addr {
		t.Errorf("renewed to %s, %v, want %s", renewed.Addr, err, lease.Addr)
	}
}

// With tables that the kernel protects, all that a restart makes the kernel
// announce is that the tables have their owner back.
func TestRestartClaimsItsTables(t *testing.T) {
	s := startSite(t, "--table-owner", "yes")
	s.create(natXML("a", 50, ""))
	s.settled()
	heard := s.host.Monitor()
	s.daemon.Kill9()
	s.must(s.daemon.Start())
	for _, line := range heard.Stop() {
		if line != "nft table viaduct" && !strings.HasPrefix(line, "nft commit") {
			t.Errorf("the restart wrote to the host: %s", line)
		}
	}
	s.mustRun("nft", "flush", "ruleset")
	if rules := s.mustRun("nft", "list", "table", "inet", "viaduct"); !strings.Contains(rules, "masquerade") {
		t.Errorf("the rules did not survive a foreign flush:\n%s", rules)
	}
	if _, err := s.host.Run(s.context(), "nft", "add", "chain", "inet", "viaduct", "foreign"); err == nil {
		t.Error("a foreign change to our table was let through")
	}
}

// settled waits until the kernel has announced all that went before, and the
// daemon has answered to it.
func (s *site) settled() {
	s.t.Helper()
	lab.Eventually(s.t, 30*time.Second, func() error {
		// A link's link-local address takes a second or two to be confirmed, on
		// a busy machine ten.
		if s.mustRun("ip", "-6", "address", "show", "tentative") != "" {
			return errStillTalking
		}
		m := s.host.Monitor()
		time.Sleep(150 * time.Millisecond) // longer than a repair is put off
		if lines := m.Stop(); len(lines) > 0 {
			return errStillTalking
		}
		return nil
	})
}

// mustRun runs a program on the host.
func (s *site) mustRun(argv ...string) string {
	s.t.Helper()
	r, err := s.host.Run(s.context(), argv...)
	if err != nil || r.Code != 0 {
		s.t.Fatalf("%s: %v, exit code %d\n%s%s", strings.Join(argv, " "), err, r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// soonNothingToChange waits until the daemon has answered to a guest that was
// plugged in just now.
func (s *site) soonNothingToChange(name string) {
	s.t.Helper()
	lab.Eventually(s.t, 5*time.Second, func() error {
		if plan := s.viaduct("plan", name); !strings.Contains(plan, "nothing to change") {
			return fmt.Errorf("plan of %s:\n%s", name, plan)
		}
		return nil
	})
}

// heals runs a program that changes the host behind the daemon's back, and waits
// until what is looked at is as it was before.
func (s *site) heals(look func() string, change ...string) {
	s.t.Helper()
	before := look()
	s.mustRun(change...)
	lab.Eventually(s.t, 10*time.Second, func() error {
		if after := look(); after != before {
			return fmt.Errorf("before:\n%s\nafter:\n%s", before, after)
		}
		return nil
	})
}

// nothingToChange fails the test unless the plan of the network is empty.
func (s *site) nothingToChange(name string) {
	s.t.Helper()
	if plan := s.viaduct("plan", name); !strings.Contains(plan, "nothing to change") {
		s.t.Errorf("plan of %s:\n%s", name, plan)
	}
}

// A transient network outlives the daemon.
func TestTransientNetworkOutlivesTheDaemon(t *testing.T) {
	s := startSite(t)
	s.create(natXML("a", 50, ""))
	s.daemon.Kill9()
	s.must(s.daemon.Start())
	list := s.viaduct("net-list", "--transient")
	if !strings.Contains(list, " a ") {
		t.Errorf("transient networks after the restart:\n%s", list)
	}
	s.viaduct("net-destroy", "a")
	if list := s.viaduct("net-list", "--all"); strings.Contains(list, " a ") {
		t.Errorf("networks after destroy:\n%s", list)
	}
}

// A guest that was plugged in stays plugged in when somebody deletes the
// bridge or stops and starts the network, without being asked.
func TestGuestsArePluggedInAgain(t *testing.T) {
	s := startSite(t)
	s.viaduct("net-define", s.file(natXML("a", 50, "")))
	s.viaduct("net-start", "a")
	g, _ := s.guest("virbr50", "one")
	back := func(how string) {
		t.Helper()
		defer func() {
			if t.Failed() {
				t.Logf("%s: the daemon said:\n%s\nthe host:\n%s", how, s.daemon.Output(), s.host.Dump())
			}
		}()
		lab.Eventually(t, 15*time.Second, func() error {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			return g.Ping(ctx, s.host.Outside.Addr)
		})
		if m := s.host.Master("one"); m != "virbr50" {
			t.Errorf("%s: the guest's port is in %q", how, m)
		}
	}
	s.settled()
	s.host.DeleteLink("virbr50")
	back("bridge deleted")
	s.viaduct("net-destroy", "a")
	s.viaduct("net-start", "a")
	back("network restarted")
	s.settled()
	s.daemon.Kill9()
	s.host.DeleteLink("virbr50")
	s.must(s.daemon.Start())
	back("bridge deleted while the daemon was away")
}

// A link that its owner takes out of the bridge is left alone.
func TestForeignPortMayLeave(t *testing.T) {
	s := startSite(t)
	s.create(natXML("a", 50, ""))
	s.guest("virbr50", "one")
	s.settled()
	s.host.SetMaster("one", "")
	s.settled()
	if m := s.host.Master("one"); m != "" {
		t.Errorf("the port was taken back into %s", m)
	}
}

// Rules that somebody flushes come back by themselves.
func TestFlushedRulesComeBack(t *testing.T) {
	s := startSite(t, "--table-owner", "no")
	s.create(natXML("a", 50, ""))
	g, _ := s.guest("virbr50", "one")
	s.settled()
	s.mustRun("nft", "flush", "ruleset")
	lab.Eventually(t, 15*time.Second, func() error {
		seen, err := g.Who(s.context(), "tcp", s.host.Outside.Addr)
		if err == nil && seen.Addr() != s.host.Addr {
			err = errNotTranslated
		}
		return err
	})
	s.nothingToChange("a")
}
