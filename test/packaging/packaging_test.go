// Package packaging checks what `make install` puts on a host.
package packaging

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = "../.."
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func TestInstall(t *testing.T) {
	root := t.TempDir()
	prefix := filepath.Join(root, "usr")
	run(t, "make", "install", "DESTDIR=", "PREFIX="+prefix)

	var got []string
	if err := filepath.WalkDir(prefix, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(prefix, path)
			got = append(got, rel)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"bin/viaduct", "bin/viaduct-vif", "lib/systemd/system/viaduct.service", "lib/systemd/system/viaduct.socket", "lib/systemd/system/viaduct-bridge-helper.socket",
		"lib/systemd/system/virtnetworkd.socket", "lib/systemd/system/virtnetworkd-ro.socket",
		"lib/systemd/system/virtnwfilterd.socket", "lib/systemd/system/virtnwfilterd-ro.socket", "lib/sysusers.d/viaduct.conf",
		"share/bash-completion/completions/viaduct", "share/zsh/site-functions/_viaduct", "share/fish/vendor_completions.d/viaduct.fish",
		"share/man/man1/viaduct.1", "share/man/man1/viaduct-net-list.1", "share/man/man1/viaduct-daemon.1",
	} {
		if !slices.Contains(got, want) {
			t.Errorf("not installed: %s", want)
		}
	}
	run(t, "bash", "-n", filepath.Join(prefix, "share/bash-completion/completions/viaduct"))

	units := filepath.Join(prefix, "lib/systemd/system")
	t.Run("units", func(t *testing.T) {
		if _, err := exec.LookPath("systemd-analyze"); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
		verify := []string{"verify", "--man=no"}
		for _, unit := range []string{"viaduct.service", "viaduct.socket", "viaduct-bridge-helper.socket", "virtnetworkd.socket", "virtnetworkd-ro.socket", "virtnwfilterd.socket", "virtnwfilterd-ro.socket"} {
			verify = append(verify, filepath.Join(units, unit))
		}
		if out := run(t, "systemd-analyze", verify...); out != "" {
			t.Errorf("systemd finds fault:\n%s", out)
		}
	})

	// The socket that systemd opens is the one that the daemon takes over and
	// that the commands look for.
	socket, err := os.ReadFile(filepath.Join(units, "viaduct.socket"))
	if err != nil {
		t.Fatal(err)
	}
	help := run(t, filepath.Join(prefix, "bin/viaduct"), "--help")
	const path = "/run/viaduct/viaduct.sock"
	if !strings.Contains(string(socket), "ListenStream="+path+"\n") || !strings.Contains(help, path) {
		t.Errorf("unit and program disagree on %s:\n%s\n%s", path, socket, help)
	}
	if beside := filepath.Join(filepath.Dir(path), "vif.sock"); !strings.Contains(string(socket), "ListenStream="+beside+"\n") {
		t.Errorf("the unit does not have the script's socket %s:\n%s", beside, socket)
	}

	// So are those for libvirt's clients.
	for _, name := range []string{"virtnetworkd", "virtnetworkd-ro", "virtnwfilterd", "virtnwfilterd-ro"} {
		unit, err := os.ReadFile(filepath.Join(units, name+".socket"))
		if err != nil {
			t.Fatal(err)
		}
		theirs, access, _ := strings.Cut(name, "-")
		socket := "/" + theirs + "-sock"
		if access != "" {
			socket += "-" + access
		}
		for _, line := range []string{"ListenStream=%t/libvirt" + socket, "SocketMode=0666", "Service=viaduct.service", "Conflicts=" + theirs + ".service"} {
			if !slices.Contains(strings.Split(string(unit), "\n"), line) {
				t.Errorf("%s.socket has no line %s:\n%s", name, line, unit)
			}
		}
	}
}
