package bridgehelper

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"viaduct/internal/peer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// list writes a file of the allow list.
func list(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func TestAllowList(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("the files have to be root's")
	}
	alice, bob := peer.Peer{UID: 1001, Groups: []uint32{1001, 50}}, peer.Peer{UID: 1002, Groups: []uint32{1002}}
	for _, c := range []struct {
		text   string
		mode   os.FileMode
		who    peer.Peer
		bridge string
		refuse string // "" if it is allowed
	}{
		{"allow virbr0", 0o600, alice, "virbr0", ""},
		{"allow virbr0", 0o600, alice, "virbr1", "does not allow bridge 'virbr1' to user 1001"},
		{"", 0o600, alice, "virbr0", "does not allow"},
		{"# all of them\n\tallow   all # yes\n", 0o600, alice, "virbr7", ""},
		{"allow all\ndeny virbr0", 0o600, alice, "virbr0", "does not allow"},
		{"deny all\nallow virbr0", 0o600, alice, "virbr0", "does not allow"},
		{"deny virbr1\nallow virbr0", 0o600, alice, "virbr0", ""},
		{"include DIR/group", 0o600, alice, "virbr0", ""},
		{"include DIR/group", 0o600, bob, "virbr0", "does not allow"},
		{"include DIR/absent", 0o600, bob, "virbr0", ":1: open DIR/absent: no such file"},
		{"include DIR/loop", 0o600, bob, "virbr0", "more than 64 files include one another"},
		{"allow", 0o600, alice, "virbr0", ":1: a line is a keyword and one value"},
		{"\nallow a b", 0o600, alice, "virbr0", ":2: a line is a keyword and one value"},
		{"permit virbr0", 0o600, alice, "virbr0", ":1: unknown keyword 'permit'"},
		{"allow virbr0", 0o620, alice, "virbr0", "others than root may write it"},
		{"allow virbr0", 0o606, alice, "virbr0", "others than root may write it"},
		{strings.Repeat("#", maxList+1), 0o600, alice, "virbr0", "it is larger than"},
	} {
		dir := t.TempDir()
		main := filepath.Join(dir, "bridge.conf")
		here := func(text string) string { return strings.ReplaceAll(text, "DIR", dir) }
		list(t, filepath.Join(dir, "group"), "allow virbr0", 0o640)
		list(t, filepath.Join(dir, "loop"), here("include DIR/loop"), 0o644)
		if err := os.Chown(filepath.Join(dir, "group"), 0, 50); err != nil {
			t.Fatal(err)
		}
		list(t, main, here(c.text), c.mode)
		err := check(main, c.who, c.bridge)
		if (err == nil) != (c.refuse == "") || err != nil && !strings.Contains(err.Error(), here(c.refuse)) {
			t.Errorf("%q for user %d and %s: %v, want %q", c.text, c.who.UID, c.bridge, err, c.refuse)
		}
	}
	if err := check("/nowhere/bridge.conf", alice, "virbr0"); err == nil || !strings.Contains(err.Error(), "no bridge is allowed to anybody") {
		t.Errorf("without a list: %v", err)
	}
	if err := check("/dev/null", alice, "virbr0"); err == nil {
		t.Error("a device passes for a list")
	}
}

// The file that the daemon opened comes out at the socket that QEMU waits at;
// what is refused leaves it alone and is told.
func TestHandOver(t *testing.T) {
	dir := t.TempDir()
	allow, socket := filepath.Join(dir, "bridge.conf"), filepath.Join(dir, "helper.sock")
	list(t, allow, "allow virbr0\nallow virbr1", 0o644)
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Allow: allow, Log: slog.New(slog.DiscardHandler), OpenTap: func(_ context.Context, bridge string, vnet bool) (*os.File, error) {
		if bridge == "virbr1" {
			return nil, errors.New("network 'b' is not active")
		}
		path := filepath.Join(dir, bridge+" "+strconv.FormatBool(vnet))
		return os.Create(path)
	}}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()

	for _, c := range []struct {
		args []string
		file string
		says string
	}{
		{[]string{"--use-vnet", "--br=virbr0"}, "virbr0 true", ""},
		{[]string{"--br=virbr0"}, "virbr0 false", ""},
		{[]string{"--br=virbr9"}, "", "helper: get a tap in bridge 'virbr9': " + allow + " does not allow bridge 'virbr9' to user"},
		{[]string{"--br=virbr1"}, "", "get a tap in bridge 'virbr1': network 'b' is not active"},
		{[]string{"--br=all"}, "", "names no bridge"},
		{[]string{"--use-vnet"}, "", "usage: "},
		{[]string{"--br=virbr0", "--other"}, "", "usage: "},
	} {
		pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		var said strings.Builder
		code := Helper{Args: append([]string{"helper", "--fd=" + strconv.Itoa(pair[1])}, c.args...), Socket: socket, Errs: &said}.Run()
		syscall.Close(pair[1])
		got := received(t, pair[0])
		syscall.Close(pair[0])
		if (code == 0) != (c.file != "") || got != c.file || !strings.Contains(said.String(), c.says) {
			t.Errorf("%v: exit status %d, handed over %q, said %q", c.args, code, got, said.String())
		}
	}
	if code := (Helper{Args: []string{"helper", "--fd=1", "--br=virbr0"}, Socket: "/nowhere", Errs: &strings.Builder{}}).Run(); code != 1 {
		t.Error("a tap without a daemon")
	}
}

// received is the name of the file that came, "" if none did.
func received(t *testing.T, socket int) string {
	t.Helper()
	data, rights := make([]byte, 8), make([]byte, syscall.CmsgSpace(4))
	n, oob, _, _, err := syscall.Recvmsg(socket, data, rights, 0)
	if err != nil || n == 0 {
		return ""
	}
	messages, err := syscall.ParseSocketControlMessage(rights[:oob])
	if err != nil || len(messages) != 1 || n != 1 || data[0] != 0 {
		t.Fatalf("received %d octets %v and %d messages, %v", n, data[:n], len(messages), err)
	}
	fds, err := syscall.ParseUnixRights(&messages[0])
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fds[0])
	name, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fds[0]))
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Base(name)
}

func FuzzRequest(f *testing.F) {
	for _, seed := range []string{"virbr0\n", "virbr0 vnet\n", "\n", " vnet\n", "all\n", "virbr0"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		bridge, _, err := readRequest(strings.NewReader(text))
		if err == nil && (bridge == "" || bridge == "all" || strings.ContainsAny(bridge, " \n") || len(bridge) > maxRequest) {
			t.Errorf("%q names bridge %q", text, bridge)
		}
	})
}

func FuzzList(f *testing.F) {
	for _, seed := range []string{"allow virbr0\n", "deny all\nallow virbr0", "# x\nallow all # y", "include /nowhere"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "include") {
			t.Skip("other files are not for a fuzzer to read")
		}
		r := reader{bridge: "virbr0"}
		if err := r.lines("list", text); err == nil && r.allowed && !strings.Contains(text, "allow") {
			t.Errorf("%q allows", text)
		}
	})
}
