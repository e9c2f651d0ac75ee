package uplink

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// generators are where netplan's own reader may be: test/deps.sh only unpacks it.
var generators = []string{"/usr/local/lib/viaduct-test/netplan.io/usr/libexec/netplan/generate", "/usr/libexec/netplan/generate", "/lib/netplan/generate"}

const netplanLibrary = "/usr/local/lib/viaduct-test/libnetplan0/usr/lib/x86_64-linux-gnu"

// Netplan itself accepts what is written, and makes of it a bridge with the card
// as its port.
func TestNetplanReadsWhatIsWritten(t *testing.T) {
	generate := ""
	for _, path := range generators {
		if _, err := os.Stat(path); err == nil && generate == "" {
			generate = path
		}
	}
	if generate == "" {
		if os.Getenv("CI") == "true" {
			t.Fatal("netplan is not installed")
		}
		t.Skip("netplan is not installed")
	}
	cases, _ := filepath.Glob("testdata/netplan*.host")
	read := 0
	for _, c := range cases {
		root := host(t, c)
		edits, err := Plan(Netplan, root, eth0, "xenbr0")
		if err != nil {
			continue // TestPlans knows why
		}
		dir := t.TempDir()
		path := filepath.Join(dir, edits[0].Path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(*edits[0].New), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(generate, "--root-dir", dir)
		cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+netplanLibrary)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", c, err, out)
			continue
		}
		made, _ := filepath.Glob(dir + "/run/systemd/network/*")
		all := ""
		for _, f := range made {
			b, _ := os.ReadFile(f)
			all += "# " + filepath.Base(f) + "\n" + string(b)
		}
		for _, want := range []string{"10-netplan-xenbr0.netdev", "Kind=bridge", "MACAddress=52:54:00:aa:bb:cc", "Bridge=xenbr0", "LinkLocalAddressing=no"} {
			if !strings.Contains(all, want) {
				t.Errorf("%s: no %q in\n%s", c, want, all)
			}
		}
		read++
	}
	if read < 4 {
		t.Errorf("only %d files were read", read)
	}
}
