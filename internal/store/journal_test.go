package store

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"viaduct/internal/netdef"
)

// TestJournalKeepsEverything: a lease comes back as it went in.
func TestJournalKeepsEverything(t *testing.T) {
	want := []netdef.Lease{
		{Network: netdef.UUID{1}, Addr: netip.MustParseAddr("192.168.122.7")},
		{
			Network: netdef.UUID{1}, Addr: netip.MustParseAddr("192.168.122.8"), PrefixLen: 24,
			MAC: netdef.MAC{0x52, 0x54, 0, 1, 2, 3}, ClientID: []byte{0, '\n', 0xff}, IAID: 1 << 31,
			Hostname: "line\nbreak \"quoted\" <é>", Expiry: testExpiry.Add(123456789),
		},
		{Network: netdef.UUID{1}, Addr: netip.MustParseAddr("fd00::7"), PrefixLen: 64, ClientID: bytes.Repeat([]byte{7}, 255), Hostname: strings.Repeat("x", 255)},
		{Network: netdef.UUID{2}, Addr: netip.MustParseAddr("192.168.122.7")},
	}
	path := journalPath(t)
	j, leases := openJournal(t, path, JournalOptions{})
	if len(leases) != 0 {
		t.Errorf("a new journal has %d leases", len(leases))
	}
	gone := LeaseChange{Lease: lease(1), Removed: true}
	check(t, appendWait(j, LeaseChange{Lease: gone.Lease}))
	for i := range want {
		check(t, appendWait(j, LeaseChange{Lease: want[len(want)-1-i]}))
	}
	check(t, appendWait(j, gone))
	check(t, j.Close())
	j, got := openJournal(t, path, JournalOptions{})
	check(t, j.Close())
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("leases (-want +got):\n%s", diff)
	}
	if r := j.Recovery(); r != (Recovery{}) {
		t.Errorf("nothing was damaged, yet %+v", r)
	}
}

// TestJournalRefusesWhatItCannotKeep: an impossible lease fails alone.
func TestJournalRefusesWhatItCannotKeep(t *testing.T) {
	j, _ := openJournal(t, journalPath(t), JournalOptions{})
	long := lease(1)
	long.Hostname = strings.Repeat("x", maxRecord)
	late := lease(2)
	late.Expiry = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, l := range []netdef.Lease{{}, long, late} {
		if err := appendWait(j, LeaseChange{Lease: l}); err == nil {
			t.Errorf("lease was accepted: %+v", l)
		}
	}
	check(t, appendWait(j, LeaseChange{Lease: lease(3)}))
	check(t, j.Close())
	if err := appendWait(j, LeaseChange{Lease: lease(4)}); !errors.Is(err, ErrJournalClosed) {
		t.Errorf("append after close: %v", err)
	}
}

// TestGroupCommit: all changes that come during a sync share the next one, and
// are answered in their order.
func TestGroupCommit(t *testing.T) {
	const n = 1000
	var queued sync.WaitGroup
	queued.Add(n)
	var syncs atomic.Int32
	j, _ := openJournal(t, journalPath(t), JournalOptions{Fault: func(p string) {
		if p == "before store lease journal sync" && syncs.Add(1) == 1 {
			queued.Wait()
		}
	}})
	var done sync.WaitGroup
	for i := range n {
		done.Add(1)
		go func() {
			j.Append(LeaseChange{Lease: lease(i)}, func(err error) {
				if err != nil {
					t.Error(err)
				}
				done.Done()
			})
			queued.Done()
		}()
	}
	done.Wait()
	if got := syncs.Load(); got > 2 {
		t.Errorf("%d changes took %d syncs, want one for the first and one for the rest", n, got)
	}
	var order []int
	for i := range 100 {
		done.Add(1)
		j.Append(LeaseChange{Lease: lease(i)}, func(error) { order = append(order, i); done.Done() })
	}
	done.Wait()
	for i, got := range order {
		if got != i {
			t.Fatalf("answers came in the order %v", order)
		}
	}
	check(t, j.Close())
}

// TestBackPressure: while the disk is busy no more than maxQueue changes wait.
func TestBackPressure(t *testing.T) {
	const n = 3 * maxQueue
	path := journalPath(t)
	busy := make(chan struct{})
	j, _ := openJournal(t, path, JournalOptions{Fault: func(p string) {
		if p == "before store lease journal sync" {
			<-busy
		}
	}})
	var done sync.WaitGroup
	done.Add(n)
	most := make(chan int)
	go func() {
		seen := 0
		for i := range n {
			j.Append(LeaseChange{Lease: lease(i)}, func(error) { done.Done() })
			j.mu.Lock()
			waiting := len(j.queue)
			j.mu.Unlock()
			if waiting == maxQueue && seen < maxQueue {
				close(busy) // the next Append has to wait for what this sets going
			}
			seen = max(seen, waiting)
		}
		most <- seen
	}()
	if got := <-most; got != maxQueue {
		t.Errorf("%d changes waited at once, want %d", got, maxQueue)
	}
	done.Wait()
	check(t, j.Close())
}

// TestCloseFlushes: what was appended before Close is answered and on disk.
func TestCloseFlushes(t *testing.T) {
	path := journalPath(t)
	j, _ := openJournal(t, path, JournalOptions{})
	answered := 0
	for i := range 500 {
		j.Append(LeaseChange{Lease: lease(i)}, func(err error) {
			if err == nil {
				answered++
			}
		})
	}
	check(t, j.Close())
	if answered != 500 {
		t.Errorf("%d of 500 changes were answered", answered)
	}
	j, leases := openJournal(t, path, JournalOptions{})
	check(t, j.Close())
	if len(leases) != 500 {
		t.Errorf("%d of 500 leases are there", len(leases))
	}
}

// TestTornAtEveryByte: wherever the file ends, the whole records before that
// are there, the rest is cut, and the journal goes on.
func TestTornAtEveryByte(t *testing.T) {
	_, content := journalWith(t, 4)
	for size := range content {
		path := journalPath(t)
		writeFile(t, path, content[:size])
		var log logBuffer
		j, leases := openJournal(t, path, JournalOptions{Log: log.logger()})
		whole := content[:bytes.LastIndexByte(content[:size], '\n')+1]
		records := max(bytes.Count(whole, []byte("\n"))-1, 0)
		cut := size - len(whole)
		if len(leases) != records || j.Recovery() != (Recovery{Cut: int64(cut)}) {
			t.Fatalf("%d bytes: %d leases, %+v; want %d leases, %d bytes cut", size, len(leases), j.Recovery(), records, cut)
		}
		if logged := strings.Contains(log.String(), fmt.Sprintf("bytes=%d", cut)); logged != (cut > 0) {
			t.Errorf("%d bytes: log %q", size, &log)
		}
		check(t, appendWait(j, LeaseChange{Lease: lease(50)}))
		check(t, j.Close())
		j, leases = openJournal(t, path, JournalOptions{})
		check(t, j.Close())
		if len(leases) != records+1 || j.Recovery() != (Recovery{}) {
			t.Fatalf("%d bytes, second time: %d leases, %+v; want %d leases", size, len(leases), j.Recovery(), records+1)
		}
	}
}

// TestDamageAtEveryByte: a wrong byte anywhere costs the records of the line
// that it is in, or of both if it was the end of a line, and no others.
func TestDamageAtEveryByte(t *testing.T) {
	_, content := journalWith(t, 4)
	for at := range len(content) - 1 { // without the last line feed it is torn, not damaged
		bad := bytes.Clone(content)
		bad[at] ^= 0x15
		path := journalPath(t)
		writeFile(t, path, bad)
		j, leases := openJournal(t, path, JournalOptions{Now: func() time.Time { return testExpiry }})
		check(t, j.Close())
		line := bytes.Count(content[:at], []byte("\n")) // 0 is the header
		var want []netdef.Lease
		for i := range 4 {
			if hit := i+1 == line || content[at] == '\n' && i == line; !hit {
				want = append(want, lease(i))
			}
		}
		if diff := cmp.Diff(want, leases, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Fatalf("byte %d is wrong: leases (-want +got):\n%s", at, diff)
		}
		r := j.Recovery()
		if r.Lost == 0 || r.Copy != path+".damaged-20261121T100000.000000000" {
			t.Fatalf("byte %d is wrong: %+v", at, r)
		}
		if copied, err := os.ReadFile(r.Copy); err != nil || !bytes.Equal(copied, bad) {
			t.Fatalf("byte %d is wrong: the copy is not the damaged file (%v)", at, err)
		}
		j, leases = openJournal(t, path, JournalOptions{})
		check(t, j.Close())
		if len(leases) != len(want) || j.Recovery() != (Recovery{}) {
			t.Fatalf("byte %d is wrong, second time: %d leases, %+v", at, len(leases), j.Recovery())
		}
	}
}

// TestFewCopiesAreKept: a disk that damages files all the time is not filled by us.
func TestFewCopiesAreKept(t *testing.T) {
	path, content := journalWith(t, 1)
	for range keptCopies + 2 {
		writeFile(t, path, append([]byte("rubbish\n"), content...))
		j, _ := openJournal(t, path, JournalOptions{})
		check(t, j.Close())
	}
	copies, err := filepath.Glob(path + ".damaged-*")
	check(t, err)
	if len(copies) != keptCopies {
		t.Errorf("%d copies are kept, want %d", len(copies), keptCopies)
	}
}

// TestNewerJournalIsRefused: by name, and without touching it.
func TestNewerJournalIsRefused(t *testing.T) {
	line, err := encodeLine(header{journalFormat + 1})
	check(t, err)
	content := append(line, "whatever\nit may "...)
	path := journalPath(t)
	writeFile(t, path, content)
	if _, _, err := OpenJournal(path, JournalOptions{}); !isFormatError(err, path, journalFormat+1) {
		t.Errorf("open a newer journal: %v", err)
	}
	if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, content) {
		t.Errorf("the newer journal was changed (%v)", err)
	}
}

// TestCompaction: replaced records leave the file, while it is written anew
// changes are acknowledged, and none is lost.
func TestCompaction(t *testing.T) {
	path := journalPath(t)
	begun, release := make(chan struct{}), make(chan struct{})
	var opened atomic.Bool
	var once sync.Once
	j, _ := openJournal(t, path, JournalOptions{CompactMin: 100, Fault: func(p string) {
		if p == "after store lease journal compact" && opened.Load() {
			once.Do(func() { close(begun); <-release })
		}
	}})
	opened.Store(true)
	turn := 0
	renew := func() {
		turn++
		l := lease(turn % 10)
		l.Hostname = fmt.Sprint("turn", turn)
		check(t, appendWait(j, LeaseChange{Lease: l}))
	}
	for compacting := false; !compacting; {
		renew()
		select {
		case <-begun:
			compacting = true
		default:
		}
	}
	for range 50 {
		renew() // acknowledged while the compaction stands still
	}
	check(t, appendWait(j, LeaseChange{Lease: lease(3), Removed: true}))
	close(release)
	check(t, j.Close())

	content, err := os.ReadFile(path)
	check(t, err)
	if lines := bytes.Count(content, []byte("\n")); lines > turn-50 {
		t.Errorf("%d lines are left of %d", lines, turn)
	}
	j, leases := openJournal(t, path, JournalOptions{})
	check(t, j.Close())
	if len(leases) != 9 || j.Recovery() != (Recovery{}) {
		t.Errorf("%d leases, want 9; %+v", len(leases), j.Recovery())
	}
	for _, l := range leases {
		i := int(l.MAC[5])
		want := turn - (turn-i)%10
		if l.Hostname != fmt.Sprint("turn", want) {
			t.Errorf("lease %d is of %s, want turn%d", i, l.Hostname, want)
		}
	}
}

// TestOvertakenCompaction: a compaction that still runs when the journal had to
// be written anew for another reason must not bring back the older state.
func TestOvertakenCompaction(t *testing.T) {
	path, _ := journalWith(t, 1)
	begun, release := make(chan struct{}), make(chan struct{})
	var compactions atomic.Int32
	var fail atomic.Bool
	j, _ := openJournal(t, path, JournalOptions{
		CompactMin: 100,
		Fault: func(p string) {
			if p == "after store lease journal compact" && compactions.Add(1) == 1 {
				close(begun)
				<-release
			}
		},
		sync: func(f *os.File) error {
			if fail.Load() && !strings.HasSuffix(f.Name(), tempSuffix) {
				return errors.New("no luck")
			}
			return nil
		},
	})
	for range 101 {
		check(t, appendWait(j, LeaseChange{Lease: lease(1)}))
	}
	<-begun
	fail.Store(true)
	if err := appendWait(j, LeaseChange{Lease: lease(2)}); err == nil {
		t.Error("a change is acknowledged whose sync failed")
	}
	fail.Store(false)
	check(t, appendWait(j, LeaseChange{Lease: lease(3)}))
	close(release)
	check(t, j.Close())
	j, leases := openJournal(t, path, JournalOptions{})
	check(t, j.Close())
	if len(leases) != 3 || leases[2].Addr != lease(3).Addr {
		t.Errorf("leases are %v, want those of 0, 1 and 3", leases)
	}
	noTemps(t, filepath.Dir(path))
}

// TestFailedCompaction: the journal goes on in the old file.
func TestFailedCompaction(t *testing.T) {
	path, _ := journalWith(t, 1)
	var log logBuffer
	j, _ := openJournal(t, path, JournalOptions{CompactMin: 10, Log: log.logger(), sync: func(f *os.File) error {
		if strings.HasSuffix(f.Name(), tempSuffix) {
			return errors.New("no luck")
		}
		return nil
	}})
	for range 100 {
		check(t, appendWait(j, LeaseChange{Lease: lease(1)}))
	}
	check(t, j.Close())
	if got := strings.Count(log.String(), "no luck"); got == 0 || got > 10 {
		t.Errorf("%d compactions were tried in 100 changes, want one in ten at most", got)
	}
	j, leases := openJournal(t, path, JournalOptions{})
	check(t, j.Close())
	if len(leases) != 2 {
		t.Errorf("%d leases, want 2", len(leases))
	}
	noTemps(t, filepath.Dir(path))
}

// TestFailedSync: a change whose sync failed is not made, and what is
// acknowledged next is in a file that never saw the failure.
func TestFailedSync(t *testing.T) {
	path := journalPath(t)
	var fail atomic.Bool
	broken := errors.New("disk on fire")
	j, _ := openJournal(t, path, JournalOptions{sync: func(f *os.File) error {
		if fail.Load() {
			return broken
		}
		return datasync(f)
	}})
	before, err := os.Stat(path)
	check(t, err)
	check(t, appendWait(j, LeaseChange{Lease: lease(1)}))
	fail.Store(true)
	for i := range 3 {
		if err := appendWait(j, LeaseChange{Lease: lease(2 + i)}); !errors.Is(err, broken) {
			t.Errorf("append while syncs fail: %v", err)
		}
	}
	fail.Store(false)
	check(t, appendWait(j, LeaseChange{Lease: lease(9)}))
	check(t, j.Close())
	after, err := os.Stat(path)
	check(t, err)
	if os.SameFile(before, after) {
		t.Error("the file whose sync failed is still in use")
	}
	j, got := openJournal(t, path, JournalOptions{})
	check(t, j.Close())
	if len(got) != 2 || got[0].Addr != lease(1).Addr || got[1].Addr != lease(9).Addr {
		t.Errorf("leases are %v, want those of 1 and 9", got)
	}
	noTemps(t, filepath.Dir(path))
}

func BenchmarkAppend(b *testing.B) {
	for _, writers := range []int{1, 10, 100} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			var syncs atomic.Int64
			j, _ := openJournal(b, journalPath(b), JournalOptions{sync: func(f *os.File) error {
				syncs.Add(1)
				return datasync(f)
			}})
			var turn atomic.Int64
			var wg sync.WaitGroup
			b.ResetTimer()
			for range writers {
				wg.Go(func() {
					for i := turn.Add(1); i <= int64(b.N); i = turn.Add(1) {
						if err := appendWait(j, LeaseChange{Lease: lease(int(i % 1000))}); err != nil {
							b.Error(err)
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "appends/s")
			b.ReportMetric(float64(b.N)/float64(syncs.Load()), "appends/sync")
			check(b, j.Close())
		})
	}
}
