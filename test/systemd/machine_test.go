package systemd

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"viaduct/internal/lab"
	"viaduct/test/kernel"
)

//go:embed machine.sh
var bootScript string

// enterScript runs a program in the machine as its root would.
const enterScript = `pid=$(pgrep -P "$(cat /run/machine.pid)") || { echo "the machine is off" >&2; exit 1; }
exec nsenter --target "$pid" --mount --uts --ipc --pid --cgroup --root --wd env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C HOME=/root "$@"
`

// packages are those that the machine has beside what this one has.
var packages = []string{
	"netplan.io", "libnetplan0", "python3-yaml", "python3-netifaces", "python3-dbus", "python3-rich", "python3-pygments", "python3-markdown-it", "python3-mdurl",
	"systemd-resolved",
}

// installed has what `make install` installs where it is told nothing.
var installed = sync.OnceValues(func() (string, error) {
	dir := in("installed")
	cmd := exec.Command("make", "install", "DESTDIR="+dir)
	cmd.Dir = "../.."
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("make install: %w\n%s", err, out)
	}
	return dir, nil
})

// machine is a host with systemd.
type machine struct {
	*lab.Lab
	t    *testing.T
	host *lab.Host
	name string
	init *lab.Process
}

// newMachine makes a machine that is switched off.
func newMachine(t *testing.T, name string) *machine {
	t.Helper()
	const systemd = "/lib/systemd/systemd"
	lab.Need(t, "make", "unshare", "nsenter", "pgrep", "tar", "apt-get", "dpkg-deb", "systemctl", "ldconfig", systemd, "/lib/systemd/system/dbus.service")
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	files, err := installed()
	if err != nil {
		t.Fatal(err)
	}
	unpacked, err := kernel.Packages(packages...)
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{Lab: lab.New(t), t: t, name: fmt.Sprintf("%s-%d", name, os.Getpid())}
	m.host = m.NewHost(lab.HostOptions{Name: name})
	if _, err := m.host.Run(t.Context(), "sh", "-ec", "mkdir /run/cgroups; mount -t cgroup2 cgroup2 /run/cgroups; umount /run/cgroups"); err != nil {
		if lab.Strict() {
			t.Fatal(err)
		}
		t.Skipf("needs control groups of its own: %v", err)
	}
	for from, to := range map[string]string{files: "/run/installed", unpacked: "/run/unpacked"} {
		m.host.Share(from)
		if _, err := m.host.Run(t.Context(), "ln", "-s", from, to); err != nil {
			t.Fatal(err)
		}
	}
	m.host.WriteScript("/run/boot", bootScript)
	m.host.WriteScript("/run/enter", enterScript)
	t.Cleanup(m.clear)
	return m
}

// limit bounds whatever the machine is asked to do.
const limit = 2 * time.Minute

// boot switches the machine on and waits until it has started all it starts.
func (m *machine) boot() {
	m.t.Helper()
	began := time.Now()
	m.init = m.host.Start("sh", "/run/boot", "/run/state", "/run/installed", "/run/unpacked", m.name)
	lab.Eventually(m.t, limit, func() error {
		select {
		case <-m.init.Done():
			m.t.Fatalf("systemd ended:\n%s", m.init.Output())
		default:
		}
		r, err := m.try("systemctl", "is-system-running", "--wait")
		if r.Stdout == "degraded\n" {
			// A unit of the machine's other packages may want more than a container has.
			m.t.Logf("did not start:\n%s", m.run("systemctl", "--failed"))
			return nil
		}
		return err
	})
	m.t.Logf("booted in %v", time.Since(began).Round(100*time.Millisecond))
}

// off ends the machine, and what its kernel had of the network, if it were one of its own.
func (m *machine) off() {
	m.t.Helper()
	m.run("systemctl", "poweroff")
	ctx, cancel := context.WithTimeout(m.t.Context(), limit)
	defer cancel()
	if _, err := m.init.Wait(ctx); err != nil {
		m.t.Fatal(err)
	}
	m.removeGroups()
	_, err := m.host.Run(ctx, "sh", "-ec", `nft flush ruleset
		for link in $(ls /sys/class/net); do case $link in lo | eth0) ;; *) ip link del $link ;; esac; done
		ip link set eth0 nomaster
		echo 0 >/proc/sys/net/ipv4/ip_forward`)
	if err != nil {
		m.t.Fatal(err)
	}
}

// removeGroups removes the machine's control groups, which end with nobody. The
// last processes may take a moment to be gone.
func (m *machine) removeGroups() {
	lab.Eventually(m.t, limit, func() error {
		_, err := m.host.Run(context.Background(), "find", "/run/cgroups/"+m.name, "-depth", "-type", "d", "-exec", "rmdir", "{}", "+")
		return err
	})
	m.host.Run(context.Background(), "umount", "/run/cgroups")
}

// clear switches the machine off at the end of its test.
func (m *machine) clear() {
	if m.init == nil {
		return
	}
	if m.t.Failed() {
		r, _ := m.host.Run(context.Background(), "sh", "/run/enter", "journalctl", "--no-pager", "-b", "-n", "200")
		m.t.Logf("the journal:\n%s", r.Stdout)
	}
	m.init.Kill()
	m.removeGroups()
}

// try runs a program in the machine.
func (m *machine) try(argv ...string) (lab.Result, error) {
	ctx, cancel := context.WithTimeout(m.t.Context(), limit)
	defer cancel()
	return m.host.Run(ctx, append([]string{"sh", "/run/enter"}, argv...)...)
}

// run is try of a program that must succeed; it returns what it printed.
func (m *machine) run(argv ...string) string {
	m.t.Helper()
	r, err := m.try(argv...)
	if err != nil {
		m.t.Fatalf("%v\n%s", err, r.Stdout)
	}
	return r.Stdout
}

// viaduct runs a command of the one that is installed.
func (m *machine) viaduct(args ...string) string {
	m.t.Helper()
	return m.run(append([]string{"viaduct"}, args...)...)
}

// write writes a file of the machine's.
func (m *machine) write(path, content, mode string) {
	m.t.Helper()
	m.run("mkdir", "-p", filepath.Dir(path))
	_, err := m.host.RunCommand(m.t.Context(), lab.Command{Argv: []string{"sh", "/run/enter", "tee", path}, Stdin: content})
	if err != nil {
		m.t.Fatal(err)
	}
	m.run("chmod", mode, path)
}

// install makes the machine a host of ours, as README.md says.
func (m *machine) install() {
	m.t.Helper()
	m.run("systemd-sysusers")
	m.run("systemctl", "daemon-reload")
	m.run("systemctl", "enable", "--now", "viaduct.socket", "viaduct.service")
}

// lease gives a guest its address.
func (m *machine) lease(g *lab.Guest) lab.LeaseSeen {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), limit)
	defer cancel()
	seen, err := g.DHCP(ctx, lab.Builtin)
	if err != nil {
		m.t.Fatal(err)
	}
	return seen
}

// journal is what a unit has said since the machine's last start.
func (m *machine) journal(unit string) string {
	m.t.Helper()
	m.run("journalctl", "--sync")
	return m.run("journalctl", "--no-pager", "-b", "-o", "cat", "-u", unit)
}

// denials are how programs say that they were not let.
var denials = []string{"not permitted", "ermission denied", "read-only file system", "Read-only file system", "status=31/SYS", "EPERM", "EROFS"}

// undenied fails the test if our service, or what it runs, was denied something.
func (m *machine) undenied() {
	m.t.Helper()
	for line := range strings.Lines(m.journal("viaduct.service")) {
		for _, d := range denials {
			if strings.Contains(line, d) {
				m.t.Errorf("denied: %s", strings.TrimSpace(line))
			}
		}
	}
}
