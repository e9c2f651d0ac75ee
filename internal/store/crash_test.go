package store

import (
	"bufio"
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"viaduct/internal/netdef"
)

// kept is everything that a store holds, as a plain value.
type kept struct {
	Definitions map[string]string
	Autostart   map[string]bool
	Live        map[string]string // of the statuses
	Sysctls     map[string]SysctlRecord
	Autostarted bool
	Started     bool
	Leases      map[string]string // address to host name
	Undos       map[string]string // name of the network to what it was
}

func newKept() kept {
	return kept{
		Definitions: map[string]string{}, Autostart: map[string]bool{}, Live: map[string]string{},
		Sysctls: map[string]SysctlRecord{}, Leases: map[string]string{},
		Undos: map[string]string{},
	}
}

// step is one call and what it changes.
type step struct {
	do    func(*Store, *Journal) error
	apply func(*kept)
}

func putStep(name, xml string) step {
	return step{
		func(s *Store, _ *Journal) error { return s.PutDefinition(name, []byte(xml)) },
		func(k *kept) { k.Definitions[name] = xml },
	}
}

func deleteStep(name string) step {
	return step{
		func(s *Store, _ *Journal) error { return s.DeleteDefinition(name) },
		func(k *kept) { delete(k.Definitions, name); delete(k.Autostart, name) },
	}
}

func autostartStep(name string, on bool) step {
	return step{
		func(s *Store, _ *Journal) error { return s.SetAutostart(name, on) },
		func(k *kept) {
			if delete(k.Autostart, name); on {
				k.Autostart[name] = true
			}
		},
	}
}

func statusStep(name, live string) step {
	return step{
		func(s *Store, _ *Journal) error { return s.PutStatus(Status{Name: name, Live: live}) },
		func(k *kept) { k.Live[name] = live },
	}
}

func stopStep(name string) step {
	return step{
		func(s *Store, _ *Journal) error { return s.DeleteStatus(name) },
		func(k *kept) { delete(k.Live, name) },
	}
}

func undoStep(name, live string) step {
	return step{
		func(s *Store, _ *Journal) error {
			return s.PutUndo(Undo{ID: netdef.UUID{15: name[0]}, Networks: []Before{{Name: name, Live: live}}})
		},
		func(k *kept) { k.Undos[name] = live },
	}
}

func doneStep(name string) step {
	return step{
		func(s *Store, _ *Journal) error { return s.DeleteUndo(netdef.UUID{15: name[0]}) },
		func(k *kept) { delete(k.Undos, name) },
	}
}

func hostStep(name string, r SysctlRecord) step {
	return step{
		func(s *Store, _ *Journal) error {
			return s.UpdateHost(func(h *HostState) { h.Sysctls[name] = r })
		},
		func(k *kept) { k.Sysctls[name] = r },
	}
}

func leaseStep(i int, hostname string) step {
	l := lease(i)
	l.Hostname = hostname
	return step{
		func(_ *Store, j *Journal) error { return appendWait(j, LeaseChange{Lease: l}) },
		func(k *kept) { k.Leases[l.Addr.String()] = hostname },
	}
}

func releaseStep(i int) step {
	return step{
		func(_ *Store, j *Journal) error { return appendWait(j, LeaseChange{Lease: lease(i), Removed: true}) },
		func(k *kept) { delete(k.Leases, lease(i).Addr.String()) },
	}
}

// steps comes by every fault point, by each of them at least twice but for
// those of repairing a journal.
func steps() []step {
	list := []step{
		putStep("a", "<network>1</network>\n"),
		autostartStep("a", true),
		statusStep("a", "<network>1</network>"),
		putStep("b", "<network>b</network>\n"),
		putStep("a", "<network>2</network>\n"),
		autostartStep("b", true),
		{
			func(s *Store, _ *Journal) error { return s.MarkAutostarted() },
			func(k *kept) { k.Autostarted = true },
		},
		{
			func(s *Store, _ *Journal) error { return s.MarkStarted() },
			func(k *kept) { k.Started = true },
		},
		hostStep("net/ipv4/ip_forward", SysctlRecord{Old: "0", Set: "1"}),
		statusStep("a", "<network>2</network>"),
		statusStep("b", "<network>b</network>"),
		undoStep("a", "<network>2</network>"),
		undoStep("a", "<network>3</network>"),
		undoStep("b", "<network>b</network>"),
		doneStep("b"),
		stopStep("a"),
		stopStep("b"),
		autostartStep("a", false),
		autostartStep("a", true),
		deleteStep("a"),
		doneStep("a"),
		deleteStep("b"),
		hostStep("net/ipv4/ip_forward", SysctlRecord{Old: "1", Set: "1"}),
		putStep("a", "<network>3</network>\n"),
	}
	for i := range 40 { // more than the compactions need
		list = append(list, leaseStep(i%3, fmt.Sprint("renewed", i)))
	}
	return append(list, releaseStep(1))
}

// prepare makes a store whose journal has an unfinished record.
func prepare(t *testing.T, dir string) {
	t.Helper()
	s := openStore(t, options(dir))
	j, _, err := s.OpenLeases(JournalOptions{})
	check(t, err)
	check(t, appendWait(j, LeaseChange{Lease: lease(99)}))
	check(t, j.Close())
	check(t, s.Close())
	f, err := os.OpenFile(filepath.Join(dir, "state/leases/leases.journal"), os.O_APPEND|os.O_WRONLY, 0)
	check(t, err)
	_, err = f.WriteString(`0123abcd {"net`)
	check(t, err)
	check(t, f.Close())
}

// killAt is a fault function that kills this process when a point is come by
// for the nth time.
func killAt(point string, nth int) func(string) {
	var mu sync.Mutex
	return func(p string) {
		mu.Lock()
		defer mu.Unlock()
		if p != point {
			return
		}
		if nth--; nth == 0 {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // the signal is on its way
		}
	}
}

// faultFromArgs reads what crash passes to the child.
func faultFromArgs() func(string) {
	nth, err := strconv.Atoi(os.Args[2])
	childCheck(err)
	return killAt(os.Args[1], nth)
}

// stepsChild carries out all steps and says how many are acknowledged.
func stepsChild() {
	o := options(".")
	o.Fault = faultFromArgs()
	s, err := Open(o)
	childCheck(err)
	j, _, err := s.OpenLeases(JournalOptions{CompactMin: 8})
	childCheck(err)
	for _, st := range steps() {
		childCheck(st.do(s, j))
		fmt.Println("ok")
	}
	childCheck(j.Close())
	childCheck(s.Close())
}

// crash runs a child that dies at a fault point and returns what it said;
// killed is false if it never came by.
func crash(t *testing.T, part, dir, point string, nth int) (said []string, killed bool) {
	t.Helper()
	cmd := child(part, dir, point, strconv.Itoa(nth))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		status := err.(*exec.ExitError).Sys().(syscall.WaitStatus)
		if killed = status.Signaled() && status.Signal() == syscall.SIGKILL; !killed {
			t.Fatalf("child: %v\n%s", err, &stderr)
		}
	}
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		said = append(said, lines.Text())
	}
	return said, killed
}

// reopen reads everything from a store as a new engine would.
func reopen(t *testing.T, dir string) kept {
	t.Helper()
	s := openStore(t, options(dir))
	k := newKept()
	defs, bad := s.Definitions()
	for _, e := range bad {
		t.Error(e)
	}
	for _, d := range defs {
		_, xml, ok := strings.Cut(string(d.XML), "-->\n")
		if !ok {
			t.Errorf("definition of %s without header: %q", d.Name, d.XML)
		}
		k.Definitions[d.Name] = xml
	}
	names, err := s.Autostarted()
	check(t, err)
	for _, name := range names {
		k.Autostart[name] = true
	}
	statuses, bad := s.Statuses()
	for _, e := range bad {
		t.Error(e)
	}
	for _, st := range statuses {
		k.Live[st.Name] = st.Live
	}
	undos, errs := s.Undos()
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	for _, u := range undos {
		k.Undos[u.Networks[0].Name] = u.Networks[0].Live
	}
	k.Sysctls, k.Autostarted, k.Started = s.Host().Sysctls, s.AutostartedThisBoot(), !s.FirstStart()
	j, leases, err := s.OpenLeases(JournalOptions{})
	check(t, err)
	for _, l := range leases {
		k.Leases[l.Addr.String()] = l.Hostname
	}
	if r := j.Recovery(); r.Lost != 0 || r.Copy != "" {
		t.Errorf("damage after a kill: %+v", r)
	}
	check(t, j.Close())
	check(t, s.Close())
	noTemps(t, dir)
	return k
}

// TestKillAtEveryPoint: whatever was acknowledged before a kill is there after
// it, what was under way is there wholly or not at all, and nothing else is.
func TestKillAtEveryPoint(t *testing.T) {
	for _, point := range FaultPoints() {
		for nth := 1; nth <= 2; nth++ {
			t.Run(fmt.Sprint(point, nth), func(t *testing.T) {
				dir := t.TempDir()
				prepare(t, dir)
				said, killed := crash(t, "steps", dir, point, nth)
				if !killed && nth == 1 {
					t.Fatal("never came by this point")
				}
				acknowledged := newKept()
				acknowledged.Leases[lease(99).Addr.String()] = lease(99).Hostname
				for _, st := range steps()[:len(said)] {
					st.apply(&acknowledged)
				}
				got := reopen(t, dir)
				diff := cmp.Diff(acknowledged, got)
				if diff != "" && killed && len(said) < len(steps()) {
					steps()[len(said)].apply(&acknowledged)
					if cmp.Diff(acknowledged, got) == "" {
						return
					}
				}
				if diff != "" {
					t.Errorf("after %d acknowledged steps (-want +got):\n%s", len(said), diff)
				}
			})
		}
	}
}

// TestFaultPointsAreListed: code and table name the same points.
func TestFaultPointsAreListed(t *testing.T) {
	dir := t.TempDir()
	prepare(t, dir)
	var mu sync.Mutex
	met := map[string]bool{}
	o := options(dir)
	o.Fault = func(p string) {
		mu.Lock()
		defer mu.Unlock()
		met[p] = true
	}
	s := openStore(t, o)
	j, _, err := s.OpenLeases(JournalOptions{CompactMin: 8})
	check(t, err)
	for _, st := range steps() {
		check(t, st.do(s, j))
	}
	check(t, j.Close())
	check(t, s.Close())
	want := FaultPoints()
	slices.Sort(want)
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(met))); diff != "" {
		t.Errorf("fault points (-listed +met):\n%s", diff)
	}
}

const loadWriters = 16

// loadChild renews and removes leases from many goroutines for ever and says
// each change that is acknowledged.
func loadChild() {
	j, _, err := OpenJournal("leases.journal", JournalOptions{Fault: faultFromArgs(), CompactMin: 64})
	childCheck(err)
	for w := range loadWriters {
		go func() {
			for turn := 0; ; turn++ {
				l := lease(w)
				l.Hostname = fmt.Sprint(turn)
				childCheck(appendWait(j, LeaseChange{Lease: l, Removed: turn%5 == 4}))
				fmt.Println(w, turn)
			}
		}()
	}
	select {}
}

// TestKillUnderLoad: with many writers and compactions all the time, no
// writer finds anything older than what it was told.
func TestKillUnderLoad(t *testing.T) {
	points := []string{
		"after store lease journal write", "before store lease journal sync", "after store lease journal sync",
		"before store lease journal compact", "after store lease journal compact", "after store lease journal compact finish",
		"before store lease journal rename", "after store lease journal rename", "after store lease journal directory sync",
	}
	for _, point := range points {
		t.Run(point, func(t *testing.T) {
			dir := t.TempDir()
			said, _ := crash(t, "load", dir, point, 5)
			told := map[int]int{}
			for _, line := range said {
				var w, turn int
				if _, err := fmt.Sscan(line, &w, &turn); err != nil {
					t.Fatalf("child said %q", line)
				}
				told[w] = turn
			}
			j, leases := openJournal(t, filepath.Join(dir, "leases.journal"), JournalOptions{})
			check(t, j.Close())
			found := map[int]int{}
			for _, l := range leases {
				turn, err := strconv.Atoi(l.Hostname)
				check(t, err)
				found[int(l.MAC[5])] = turn
			}
			for w, turn := range told {
				// The next change may have been under way.
				got, ok := found[w]
				switch {
				case ok && (got == turn || got == turn+1):
				case !ok && (turn%5 == 4 || (turn+1)%5 == 4):
				default:
					t.Errorf("writer %d was told turn %d, found %d (%t)", w, turn, got, ok)
				}
			}
			noTemps(t, dir)
		})
	}
}
