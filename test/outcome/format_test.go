package outcome

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// keptFile is a file that the daemon keeps, with its mark of version 1.
type keptFile struct {
	path, mark, newer string
}

// in makes the file look as if a later version of the program had written it,
// and returns what it was.
func (f keptFile) in(s *site) (was string) {
	s.t.Helper()
	was, err := s.host.ReadFile(f.path)
	s.must(err)
	if strings.Count(was, f.mark) != 1 {
		s.t.Fatalf("%s does not say %s once:\n%s", f.path, f.mark, was)
	}
	s.host.WriteFile(f.path, strings.Replace(was, f.mark, f.newer, 1))
	return was
}

// is fails the test unless a file has the content.
func (s *site) is(path, content string) {
	s.t.Helper()
	if now, err := s.host.ReadFile(path); err != nil || now != content {
		s.t.Errorf("%s was changed: %v\n%s", path, err, now)
	}
}

// versionSite is a site with an active persistent network and a guest, whose
// daemon has ended.
func versionSite(t *testing.T) *site {
	t.Helper()
	s := startSite(t, "--table-owner", "no")
	s.viaduct("net-define", s.file(natXML("a", 50, "")))
	s.viaduct("net-start", "a")
	s.guest("virbr50", "one")
	s.settled()
	s.must(s.daemon.Stop())
	return s
}

// With a file that a newer version wrote, and that holds what the daemon
// cannot do without, it does not start, and touches nothing.
func TestNewerFilesStopTheDaemon(t *testing.T) {
	t.Parallel()
	s := versionSite(t)
	before := s.host.Dump()
	for _, f := range []keptFile{
		{s.daemon.RunDir + "/host.json", `"format":1`, `"format":99`},
		// The checksum of a journal's line belongs to its content.
		{s.daemon.StateDir + "/leases/leases.journal", `e21dfaf2 {"viaductLeases":1}`, `07b6d0ea {"viaductLeases":99}`},
	} {
		was := f.in(s)
		newer, err := s.host.ReadFile(f.path)
		s.must(err)
		err = s.daemon.Start()
		if err == nil {
			t.Fatalf("the daemon has started with a newer %s", f.path)
		}
		if !strings.Contains(err.Error(), f.path+" has format version 99") {
			t.Errorf("the daemon does not name %s and its version: %v", f.path, err)
		}
		s.is(f.path, newer)
		if now := s.host.Dump(); now != before {
			t.Errorf("%s: the host has changed:\n%s", f.path, cmp.Diff(before, now))
		}
		s.host.WriteFile(f.path, was)
	}
	s.must(s.daemon.Start())
	if !strings.Contains(s.viaduct("net-dhcp-leases", "a"), "one") {
		t.Error("the lease is lost")
	}
	s.nothingToChange("a")
}

// A definition that a newer version wrote is left aside and never replaced;
// its network goes on as it is.
func TestNewerDefinition(t *testing.T) {
	t.Parallel()
	s := versionSite(t)
	f := keptFile{s.definitionPath("a"), "viaduct-format: 1", "viaduct-format: 99"}
	before := s.host.Dump()
	was := f.in(s)
	newer, err := s.host.ReadFile(f.path)
	s.must(err)
	named := f.path + " has format version 99"
	s.must(s.daemon.Start())
	s.logs(named)
	if now := s.host.Dump(); now != before {
		t.Errorf("the host has changed:\n%s", cmp.Diff(before, now))
	}
	s.lists("a active no yes")
	xml := s.viaduct("net-dumpxml", "a")
	s.says([]string{named}, "net-define", s.file(xml))
	s.is(f.path, newer)

	s.host.WriteFile(f.path, was)
	s.viaduct("reload")
	s.viaduct("net-destroy", "a")
	s.lists("a inactive no yes")
	f.in(s)
	s.says([]string{named}, "reload")
	s.is(f.path, newer)
	s.lists("a inactive no yes")
}

// A network whose status a newer version wrote is not understood, and so
// nothing of it is taken away.
func TestNewerStatus(t *testing.T) {
	t.Parallel()
	s := versionSite(t)
	f := keptFile{s.daemon.RunDir + "/networks/a.json", `"format":1`, `"format":99`}
	before := s.host.Dump()
	was := f.in(s)
	newer, err := s.host.ReadFile(f.path)
	s.must(err)
	s.must(s.daemon.Start())
	s.logs(f.path + " has format version 99")
	s.is(f.path, newer)
	if now := s.host.Dump(); now != before {
		t.Errorf("the host has changed:\n%s", cmp.Diff(before, now))
	}
	s.must(s.daemon.Stop())
	s.host.WriteFile(f.path, was)
	s.must(s.daemon.Start())
	s.lists("a active no yes")
	s.nothingToChange("a")
}
