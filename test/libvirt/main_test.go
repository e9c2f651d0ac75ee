// Package libvirt tests Viaduct with libvirt's own clients, on hosts in
// namespaces: virsh beside Debian's libvirtd, to the letter; the bindings for
// Go, Perl and Python; and QEMU guests.
package libvirt

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"viaduct/internal/lab"
)

// binary is the program under test, in a folder that lasts as long as the tests.
var binary string

func TestMain(m *testing.M) {
	lab.Main("libvirt", &binary, func() (code int) {
		goleak.VerifyTestMain(m, goleak.Cleanup(func(c int) { code = c }))
		return code
	})
}

// uri is what clients are given: they look for virtnetworkd's socket first, and
// for libvirtd's if there is none.
const uri = "network:///system"

// socket is where a client that does not look finds Viaduct.
const socket = "/run/libvirt/virtnetworkd-sock"

// server is a host with something that libvirt's clients talk to.
type server struct {
	*lab.Lab
	t      *testing.T
	host   *lab.Host
	daemon *lab.Daemon // Viaduct's; nil on libvirt's host
}

// newOurs is a host with Viaduct's daemon on libvirt's sockets.
func newOurs(t *testing.T, args ...string) *server {
	t.Helper()
	s := &server{Lab: lab.New(t), t: t}
	s.host = s.NewHost(lab.HostOptions{})
	s.daemon = s.host.NewDaemon(binary, lab.DaemonOptions{Args: append([]string{
		"--libvirt-dir", "/nowhere", "--no-default", "--libvirt-sockets", filepath.Dir(socket)}, args...)})
	s.must(s.daemon.Start())
	return s
}

// newTheirs is a host with libvirt's own daemon.
func newTheirs(t *testing.T) *server {
	t.Helper()
	return newTheirsWith(t, func(*server) {})
}

// newTheirsWith is newTheirs with something that happens before the daemon starts.
func newTheirsWith(t *testing.T, prepare func(*server)) *server {
	t.Helper()
	lab.Need(t, "virsh", "libvirtd", "dnsmasq")
	s := &server{Lab: lab.New(t), t: t}
	s.host = s.NewHost(lab.HostOptions{})
	s.must(s.host.Do(func() error {
		for _, dir := range []string{
			"/run/libvirt/network", "/run/libvirt/qemu", "/var/lib/libvirt/dnsmasq", "/var/lib/libvirt/network", "/var/lib/libvirt/qemu",
			"/var/lib/misc", "/etc/libvirt/hooks",
		} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
		}
		// The machine's own networks are not this host's.
		if err := os.RemoveAll("/etc/libvirt/qemu"); err != nil {
			return err
		}
		return errors.Join(os.MkdirAll("/etc/libvirt/qemu/networks/autostart", 0o755), os.WriteFile("/etc/libvirt/qemu.conf", []byte(qemuConfig), 0o600))
	}))
	prepare(s)
	daemon := s.host.Start("libvirtd")
	lab.Eventually(t, 30*time.Second, func() error {
		if r := s.virsh("net-list"); r.Code != 0 {
			return fmt.Errorf("libvirtd is not ready: %s%s", r.Stderr, daemon.Output())
		}
		return nil
	})
	return s
}

func (s *server) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *server) context() context.Context {
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*time.Minute)
	s.t.Cleanup(cancel)
	return ctx
}

// virsh runs virsh, which may fail.
func (s *server) virsh(args ...string) lab.Result {
	s.t.Helper()
	return s.run(append([]string{"virsh", "-c", uri}, args...)...)
}

// run runs a program, which may fail.
func (s *server) run(argv ...string) lab.Result {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	r, err := s.host.RunCommand(ctx, lab.Command{Argv: argv, Env: []string{"EDITOR=/tmp/editor", "VIRSH_HISTSIZE=0"}})
	if errors.Is(err, context.DeadlineExceeded) {
		s.t.Fatalf("%v hangs:\n%s%s", argv, r.Stdout, r.Stderr)
	}
	return r
}

// succeed runs virsh, which must not fail.
func (s *server) succeed(args ...string) string {
	s.t.Helper()
	r := s.virsh(args...)
	if r.Code != 0 {
		s.t.Fatalf("virsh %v: %s\n%s", args, r.Stderr, s.log())
	}
	return r.Stdout
}

// log is what Viaduct's daemon has said.
func (s *server) log() string {
	if s.daemon == nil {
		return ""
	}
	return s.daemon.Output()
}

// natXML is a NAT network on 192.168.N.0/24 with the bridge virbrN, and inner
// inside its <network>.
func natXML(name string, n int, inner string) string {
	return fmt.Sprintf(`<network><name>%s</name><forward mode='nat'/><bridge name='virbr%d'/>%s<ip address='192.168.%d.1' netmask='255.255.255.0'>
		<dhcp><range start='192.168.%d.2' end='192.168.%d.254'/></dhcp></ip></network>`, name, n, inner, n, n, n)
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// lease gives a guest its address by the lab's own client, once its link is up,
// which may take its kernel a second.
func (s *server) lease(g *lab.Guest) lab.LeaseSeen {
	s.t.Helper()
	lab.Eventually(s.t, 20*time.Second, func() error {
		state, err := g.ReadFile("/sys/class/net/eth0/operstate")
		if err == nil && state != "up\n" {
			err = fmt.Errorf("the guest's link is %s", strings.TrimSpace(state))
		}
		return err
	})
	seen, err := g.DHCP(s.context(), lab.Builtin)
	s.must(err)
	return seen
}

// echo is a service on the outside.
func (s *server) echo() netip.AddrPort {
	return netip.AddrPortFrom(s.host.Outside.Addr, lab.PortEcho)
}
