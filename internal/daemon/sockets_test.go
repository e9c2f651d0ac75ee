package daemon

import (
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// dial fails the test unless somebody listens there, or nobody.
func dial(t *testing.T, path string, answers bool) {
	t.Helper()
	c, err := net.Dial("unix", path)
	if (err == nil) != answers {
		t.Errorf("dial %s: %v", path, err)
	}
	if err == nil {
		c.Close()
	}
}

func TestSocketReplacesAStaleOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "viaduct.sock")
	group, err := user.LookupGroupId("0")
	if err != nil {
		t.Skip("this machine knows no groups:", err)
	}
	s := Socket{Path: path, Mode: 0o640, Group: group.Name}
	for range 2 { // the second finds what is left of the first
		l, err := openSocket(s)
		if err != nil {
			t.Fatal(err)
		}
		dial(t, path, true)
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != s.Mode {
			t.Errorf("%v: mode %s, want %s", err, info.Mode(), s.Mode)
		}
		if gid := info.Sys().(*syscall.Stat_t).Gid; strconv.Itoa(int(gid)) != group.Gid {
			t.Errorf("group %d, want %s", gid, group.Gid)
		}
		l.(*net.UnixListener).SetUnlinkOnClose(false) // as if killed
		l.Close()
		dial(t, path, false)
	}
}

func TestSocketOfALivingDaemonIsLeft(t *testing.T) {
	path := filepath.Join(t.TempDir(), "viaduct.sock")
	l, err := openSocket(Socket{Path: path, Mode: 0o600})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := openSocket(Socket{Path: path, Mode: 0o600}); err == nil || !strings.Contains(err.Error(), "another daemon answers there") {
		t.Errorf("error %v", err)
	}
	dial(t, path, true)
}

// What is no socket was not left by a daemon.
func TestSocketReplacesNothingElse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notes")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openSocket(Socket{Path: path, Mode: 0o600}); err == nil || !strings.Contains(err.Error(), "notes") {
		t.Errorf("error %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "precious" {
		t.Errorf("%v: the file is %q", err, b)
	}
}

// A door that cannot be opened closes those that were.
func TestListenOpensAllOrNone(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(dir, "good")
	_, err := open([]Door{{Name: "one", Sockets: []Socket{{Path: good, Mode: 0o600}, {Path: filepath.Join(good, "bad"), Mode: 0o600}}}}, nil)
	if err == nil {
		t.Fatal("no error")
	}
	if _, err := os.Lstat(good); err == nil {
		t.Error("a socket is left")
	}
}

// A socket that systemd opened is taken over by its path, one that no door
// asks for is closed.
func TestInheritedSockets(t *testing.T) {
	dir := t.TempDir()
	ours, other := filepath.Join(dir, "ours"), filepath.Join(dir, "other")
	inherited := map[string]net.Listener{}
	for _, path := range []string{ours, other} {
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		inherited[path] = l
	}
	want := inherited[ours]
	all, err := open([]Door{{Name: "one", Sockets: []Socket{{Path: ours}}}}, inherited)
	if err != nil {
		t.Fatal(err)
	}
	defer all.close()
	if len(all.open) != 1 || all.open[0].Listener != want {
		t.Errorf("listening on %v", all.open)
	}
	dial(t, ours, true)
	dial(t, other, false)
}

// A socket that only the service manager opens is left alone where it does not.
func TestSocketIsServedOnlyIfPassed(t *testing.T) {
	dir := t.TempDir()
	doors := []Door{{Sockets: []Socket{{Path: filepath.Join(dir, "a"), Passed: true}, {Path: filepath.Join(dir, "b"), Passed: true}}}}
	passed, err := net.Listen("unix", filepath.Join(dir, "b"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := open(doors, map[string]net.Listener{passed.Addr().String(): passed})
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	if len(l.open) != 1 || l.open[0].Listener != passed {
		t.Errorf("%d sockets are served, want the one that was passed", len(l.open))
	}
	dial(t, filepath.Join(dir, "a"), false)
}
