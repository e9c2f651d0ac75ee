package outcome

import (
	"strings"
	"testing"

	"viaduct/internal/lab"
)

// With a service manager that keeps what the daemon leaves with it, tables that
// the kernel protects are protected through a crash too, and the next daemon
// has nothing to write.
func TestCrashLeavesTablesOwned(t *testing.T) {
	t.Parallel()
	s := siteWith(t, lab.HostOptions{}, lab.DaemonOptions{Args: []string{"--no-default", "--table-owner", "yes"}, KeepFiles: true})
	s.must(s.daemon.Start())
	s.create(natXML("a", 50, ""))
	s.guest("virbr50", "one")
	s.settled()
	before := s.host.Dump()
	heard := s.host.Monitor()
	for range 3 {
		s.daemon.Kill9()
		if _, err := s.host.Run(s.context(), "nft", "add", "chain", "inet", "viaduct", "foreign"); err == nil {
			t.Error("a foreign change was let through while no daemon ran")
		}
		s.must(s.daemon.Start())
		s.nothingToChange("a")
	}
	if lines := heard.Stop(); len(lines) > 0 {
		t.Errorf("the restarts wrote to the host:\n%s", strings.Join(lines, "\n"))
	}
	if now := s.host.Dump(); now != before {
		t.Errorf("the host before:\n%s\nafter:\n%s", before, now)
	}
	// The daemon is the owner still, and can change what is its own.
	s.create(natXML("b", 51, ""))
	s.guest("virbr51", "two")
	s.viaduct("net-destroy", "a")
}
