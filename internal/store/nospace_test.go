package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// lanesRequired is set where a test that cannot run is a failure.
func lanesRequired() bool {
	return os.Getenv("CI") == "true" || os.Getenv("VIADUCT_REQUIRE_LANES") == "1"
}

// TestNoSpace: on a full disk changes fail and leave nothing behind; when
// there is space again they succeed.
func TestNoSpace(t *testing.T) {
	if os.Getuid() != 0 {
		if lanesRequired() {
			t.Fatal("needs root for a mount namespace")
		}
		t.Skip("needs root for a mount namespace")
	}
	cmd := child("no space", t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// noSpaceChild is TestNoSpace in a mount namespace of its own.
func noSpaceChild() {
	childCheck(syscall.Mount("tmpfs", ".", "tmpfs", 0, "size=256k"))
	dir, err := os.Getwd() // the folder that the mount covers
	childCheck(err)
	dir, err = filepath.EvalSymlinks(dir)
	childCheck(err)
	childCheck(os.Chdir(dir)) // and now the mount itself
	s, err := Open(options(dir))
	childCheck(err)
	childCheck(s.PutDefinition("a", []byte("<network>old</network>")))
	childCheck(s.PutStatus(Status{Name: "a", Live: "old"}))
	j, _, err := s.OpenLeases(JournalOptions{})
	childCheck(err)

	// A page more than what is there now fits in, so that a write may be short.
	filler, err := os.Create("filler")
	childCheck(err)
	for err == nil {
		_, err = filler.Write(make([]byte, 4096))
	}
	want(errors.Is(err, syscall.ENOSPC), "filling the disk: %v", err)

	acknowledged := map[string]bool{}
	fill := func(from, to int) (failed int) {
		errs := make(chan error, to-from)
		for i := from; i < to; i++ {
			j.Append(LeaseChange{Lease: lease(i)}, func(err error) {
				if err == nil {
					acknowledged[lease(i).Addr.String()] = true
				}
				errs <- err
			})
		}
		for range to - from {
			if err := <-errs; err != nil {
				want(errors.Is(err, syscall.ENOSPC) && strings.Contains(err.Error(), "write lease journal"), "append: %v", err)
				failed++
			}
		}
		return failed
	}
	failed := fill(0, 100)
	want(failed > 0, "nothing failed on a full disk")
	want(fill(100, 200) > 0, "nothing failed on a full disk the second time")
	file, err := os.Open("state/leases/leases.journal")
	childCheck(err)
	found, err := scan(file)
	childCheck(err)
	want(found.torn == 0 && found.lost == 0 && len(found.leases) == len(acknowledged),
		"after the failures %d leases are in the file, %d lines lost, %d bytes torn; %d acknowledged",
		len(found.leases), found.lost, found.torn, len(acknowledged))
	err = s.PutDefinition("a", []byte("<network>"+strings.Repeat("new", 10000)+"</network>"))
	want(errors.Is(err, syscall.ENOSPC), "put definition: %v", err)
	err = s.PutStatus(Status{Name: "a", Live: strings.Repeat("new", 10000)})
	want(errors.Is(err, syscall.ENOSPC), "put status: %v", err)

	childCheck(os.Remove("filler"))
	childCheck(filler.Close())
	want(fill(200, 300) == 0, "appends still fail with space on the disk")
	childCheck(j.Close())
	childCheck(s.Close())

	s, err = Open(options(dir))
	childCheck(err)
	j, leases, err := s.OpenLeases(JournalOptions{})
	childCheck(err)
	want(j.Recovery() == Recovery{}, "the journal had to be repaired: %+v", j.Recovery())
	want(len(leases) == len(acknowledged), "%d leases, %d acknowledged", len(leases), len(acknowledged))
	for _, l := range leases {
		want(acknowledged[l.Addr.String()], "lease of %s was never acknowledged", l.Addr)
	}
	defs, bad := s.Definitions()
	want(len(defs) == 1 && len(bad) == 0 && strings.HasSuffix(string(defs[0].XML), "<network>old</network>"), "definitions %s, %v", defs, bad)
	statuses, bad := s.Statuses()
	want(len(statuses) == 1 && len(bad) == 0 && statuses[0].Live == "old", "statuses %v, %v", statuses, bad)
	childCheck(j.Close())
	childCheck(s.Close())
}

// want ends a child in which something does not hold.
func want(ok bool, format string, args ...any) {
	if !ok {
		childCheck(fmt.Errorf(format, args...))
	}
}
