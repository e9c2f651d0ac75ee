package hostdns

import (
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"go.uber.org/goleak"

	"viaduct/internal/guestsvc/resolved"
	"viaduct/internal/uplink"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a host with nothing but a file. What real programs make of it is tested in
// test/outcome.
type rig struct {
	t     *testing.T
	path  string
	state uplink.Resolving
	saves int
	fail  bool // the next save does
	*Host
	client *resolved.Client
}

func newRig(t *testing.T, before string) *rig {
	t.Setenv("PATH", "/nowhere") // no resolvconf of this machine's
	r := &rig{t: t, path: filepath.Join(t.TempDir(), "resolv.conf")}
	if err := os.WriteFile(r.path, []byte(before), 0o640); err != nil {
		t.Fatal(err)
	}
	r.open()
	t.Cleanup(r.close)
	return r
}

func (r *rig) open() {
	log := slog.New(slog.DiscardHandler)
	r.client = resolved.NewClient(resolved.Deps{
		Connect: func() (*dbus.Conn, error) { return nil, fs.ErrNotExist }, Index: func(string) (int, error) { return 7, nil }, Log: log,
	})
	r.Host = Open(Deps{Resolved: r.client, Path: r.path, Log: log,
		Load: func() (uplink.Resolving, bool, error) { return r.state, true, nil },
		Save: func(s uplink.Resolving) error {
			if r.fail {
				return errors.New("no space")
			}
			r.state, r.saves = s, r.saves+1
			return nil
		}})
}

func (r *rig) close() {
	r.Host.Close()
	r.client.Close()
}

func (r *rig) text() string {
	b, err := os.ReadFile(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return "missing"
	}
	return string(b)
}

func (r *rig) expect(want string) {
	r.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for r.text() != want {
		if time.Now().After(deadline) {
			r.t.Fatalf("the file says %q, want %q", r.text(), want)
		}
		time.Sleep(time.Millisecond)
	}
}

func names(link string, servers ...string) uplink.Names {
	n := uplink.Names{Link: link, Index: 7}
	for _, s := range servers {
		n.Servers = append(n.Servers, netip.MustParseAddr(s))
	}
	return n
}

func TestTwoLinksShareTheFile(t *testing.T) {
	const before = "nameserver 9.9.9.9 # by hand\n"
	const head = "; uplink-delete puts back what was here\n"
	r := newRig(t, before)
	if err := r.Set(names("br0", "192.0.2.1")); err != nil {
		t.Fatal(err)
	}
	r.expect("# From viaduct, for br0" + head + "nameserver 192.0.2.1\n")
	if err := r.Set(names("br1", "198.51.100.1")); err != nil {
		t.Fatal(err)
	}
	both := "# From viaduct, for br0 br1" + head + "nameserver 192.0.2.1\nnameserver 198.51.100.1\n"
	r.expect(both)

	// Another daemon finds all as it is to be.
	r.close()
	saves := r.saves
	r.open()
	for _, n := range r.Links() {
		if err := r.Set(n); err != nil {
			t.Fatal(err)
		}
	}
	if r.expect(both); r.saves != saves {
		t.Error("the next daemon has written something")
	}

	// It comes back, and keeps its mode.
	if err := os.WriteFile(r.path, nil, 0); err != nil {
		t.Fatal(err)
	}
	r.expect(both)
	if info, err := os.Stat(r.path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if err := os.Remove(r.path); err != nil {
		t.Fatal(err)
	}
	r.expect(both)

	if err := r.Remove("br0"); err != nil {
		t.Fatal(err)
	}
	r.expect("# From viaduct, for br1" + head + "nameserver 198.51.100.1\n")
	if err := r.Remove("br1"); err != nil {
		t.Fatal(err)
	}
	r.expect(before)
	if r.state.File.Written != nil || len(r.state.Links) > 0 {
		t.Errorf("remembered is %+v", r.state)
	}
}

// What cannot be remembered is not written, and what somebody else has written is his.
func TestNothingIsLost(t *testing.T) {
	r := newRig(t, "options rotate\n")
	r.fail = true
	if err := r.Set(names("br0", "192.0.2.1")); err == nil {
		t.Error("no error")
	}
	r.expect("options rotate\n")
	r.fail = false
	if err := r.Set(names("br0", "192.0.2.1")); err != nil {
		t.Fatal(err)
	}
	r.expect("# From viaduct, for br0; uplink-delete puts back what was here\noptions rotate\nnameserver 192.0.2.1\n")
	const others = "nameserver 9.9.9.9\n"
	if err := os.WriteFile(r.path, []byte(others), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := r.Set(names("br0", "192.0.2.2")); err != nil {
		t.Fatal(err)
	}
	r.expect(others)
	if err := r.Remove("br0"); err != nil {
		t.Fatal(err)
	}
	r.expect(others)
}

// A link to another file is somebody else's, and so is what it leads to.
func TestSymbolicLinkIsLeftAlone(t *testing.T) {
	r := newRig(t, "")
	if err := errors.Join(os.Remove(r.path), os.Symlink("elsewhere", r.path)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(r.Set(names("br0", "192.0.2.1")), r.Remove("br0")); err != nil {
		t.Fatal(err)
	}
	if to, err := os.Readlink(r.path); err != nil || to != "elsewhere" {
		t.Errorf("%q, %v", to, err)
	}
}
