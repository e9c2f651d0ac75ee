package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"viaduct/internal/netdef"
)

// childEnv names the part that this test binary plays when a test starts it again.
const childEnv = "VIADUCT_STORE_CHILD"

var children = map[string]func(){
	"steps":    stepsChild,
	"load":     loadChild,
	"lock":     lockChild,
	"no space": noSpaceChild,
}

func TestMain(m *testing.M) {
	if play, ok := children[os.Getenv(childEnv)]; ok {
		play()
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// child starts this binary again in the given part, in a folder of its own.
func child(part, dir string, args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), childEnv+"="+part)
	cmd.Dir = dir
	return cmd
}

// childCheck ends a child that met an error.
func childCheck(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		os.Exit(1)
	}
}

func options(dir string) Options {
	return Options{
		ConfigDir: filepath.Join(dir, "config"),
		StateDir:  filepath.Join(dir, "state"),
		RunDir:    filepath.Join(dir, "run"),
	}
}

func openStore(t testing.TB, o Options) *Store {
	t.Helper()
	s, err := Open(o)
	check(t, err)
	t.Cleanup(func() { s.Close() }) // a second time for most, which does no harm
	return s
}

// memoryDir is a folder in memory where there is one: a fuzzer waits for disks
// more than for anything else.
func memoryDir(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "viaduct-store")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func writeFile(t testing.TB, path string, content []byte) {
	t.Helper()
	check(t, os.MkdirAll(filepath.Dir(path), 0o755))
	check(t, os.WriteFile(path, content, 0o644))
}

// noTemps checks that no half-written file is left anywhere below dir.
func noTemps(t *testing.T, dir string) {
	t.Helper()
	check(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if strings.HasSuffix(path, tempSuffix) {
			t.Errorf("left over: %s", path)
		}
		return err
	}))
}

// logBuffer collects a log that several goroutines write.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func (b *logBuffer) logger() *slog.Logger { return slog.New(slog.NewTextHandler(b, nil)) }

var (
	testNetwork = netdef.UUID{1, 2, 3}
	testExpiry  = time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)
)

// lease makes the i-th lease.
func lease(i int) netdef.Lease {
	return netdef.Lease{
		Network:   testNetwork,
		Addr:      netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}),
		PrefixLen: 8,
		MAC:       netdef.MAC{0x52, 0x54, 0, byte(i >> 16), byte(i >> 8), byte(i)},
		Hostname:  fmt.Sprint("guest", i),
		Expiry:    testExpiry,
	}
}

func journalPath(t testing.TB) string { return filepath.Join(t.TempDir(), "leases.journal") }

func openJournal(t testing.TB, path string, o JournalOptions) (*Journal, []netdef.Lease) {
	t.Helper()
	j, leases, err := OpenJournal(path, o)
	check(t, err)
	return j, leases
}

// appendWait adds a change and waits until it is on disk.
func appendWait(j *Journal, c LeaseChange) error {
	done := make(chan error, 1)
	j.Append(c, func(err error) { done <- err })
	return <-done
}

// journalWith makes a journal of n leases and returns its path and content.
func journalWith(t testing.TB, n int) (path string, content []byte) {
	t.Helper()
	path = journalPath(t)
	j, _ := openJournal(t, path, JournalOptions{})
	for i := range n {
		check(t, appendWait(j, LeaseChange{Lease: lease(i)}))
	}
	check(t, j.Close())
	content, err := os.ReadFile(path)
	check(t, err)
	return path, content
}

func isFormatError(err error, path string, version int) bool {
	var e *FormatError
	return errors.As(err, &e) && e.Path == path && e.Version == version && strings.Contains(err.Error(), path)
}
