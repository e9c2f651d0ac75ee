package spike

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"viaduct/internal/lab"
)

// server is something that virsh talks to.
type server struct {
	*site
	uri string
}

const libvirtSocket = "/run/libvirt/virtnetworkd-sock"

// ourServer is Viaduct's daemon with libvirt's door open.
func ourServer(t *testing.T) *server {
	t.Helper()
	s := newSite(t, "--no-default", "--libvirt-sockets", "/run/libvirt")
	s.must(s.daemon.Start())
	return &server{s, "network:///system?mode=direct&socket=" + libvirtSocket}
}

// libvirtServer is libvirt's own daemon on a host of its own.
func libvirtServer(t *testing.T) *server {
	t.Helper()
	lab.Need(t, "libvirtd", "dnsmasq")
	s := newSite(t)
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
		return os.MkdirAll("/etc/libvirt/qemu/networks/autostart", 0o755)
	}))
	daemon := s.host.Start("libvirtd")
	l := &server{s, "network:///system?mode=direct&socket=/run/libvirt/libvirt-sock"}
	lab.Eventually(t, 20*time.Second, func() error {
		if r := l.virsh("net-list"); r.Code != 0 {
			return fmt.Errorf("libvirtd is not ready: %s%s", r.Stderr, daemon.Output())
		}
		return nil
	})
	return l
}

// virsh runs virsh, which may fail.
func (s *server) virsh(args ...string) lab.Result {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 30*time.Second)
	defer cancel()
	r, err := s.host.Run(ctx, append([]string{"virsh", "-c", s.uri}, args...)...)
	if errors.Is(err, context.DeadlineExceeded) {
		s.t.Fatalf("virsh %v hangs:\n%s%s", args, r.Stdout, r.Stderr)
	}
	return r
}

// prepare gives the server two persistent networks, one of which is marked
// autostart, and a transient one, by its own means.
func (s *server) prepare(run func(args ...string)) {
	s.t.Helper()
	run("net-define", s.file(natXML("lan", 50)))
	run("net-define", s.file(natXML("Backup", 51)))
	run("net-autostart", "Backup")
	run("net-create", s.file(natXML("passing", 52)))
	// Another program has the addresses of a third.
	run("net-define", s.file(natXML("taken", 53)))
	s.host.AddAddr("eth0", netip.MustParsePrefix("192.168.53.1/24"))
}

// steps are what virsh is told on both hosts, one after the other. A step that
// comes out differently says why.
var steps = []struct {
	command string
	differs string
}{
	{command: "uri"},
	{command: "version"},
	{command: "hostname"},
	{command: "nodeinfo"},
	{command: "capabilities"},
	{command: "list"},
	{command: "iface-list"},
	{command: "nwfilter-list"},
	{command: "sysinfo"},
	{command: "net-list"},
	{command: "net-list --all"},
	{command: "net-list --inactive"},
	{command: "net-list --all --name"},
	{command: "net-list --all --uuid"},
	{command: "net-list --all --table"},
	{command: "net-list --all --autostart"},
	{command: "net-list --all --no-autostart"},
	{command: "net-list --all --persistent"},
	{command: "net-list --all --transient"},
	{command: "net-list --inactive --autostart --name"},
	{command: "net-start lan"},
	{command: "net-start lan"},
	{command: "net-list"},
	{command: "net-info lan"},
	{command: "net-uuid lan"},
	{command: "net-start Backup"},
	{command: "net-list --all"},
	{command: "net-start passing"},
	{command: "net-start taken"},
	{command: "net-start nope"},
	{command: "net-destroy nope"},
	{command: "net-start 11111111-1111-1111-1111-111111111111"},
	{command: "net-name 11111111-1111-1111-1111-111111111111"},
	{command: "-r net-list --all"},
	{command: "-r net-destroy lan"},
	{command: "net-destroy lan"},
	{command: "net-destroy lan"},
	{command: "net-destroy passing"},
	{command: "net-destroy passing"},
	{command: "net-list --all"},
	{command: "net-dumpxml lan"},
	{command: "net-dhcp-leases lan"},
	{command: "net-event --event lifecycle --timeout 1"},
}

// said is what virsh said, without what is different on any two hosts.
func (s *server) said(r lab.Result) lab.Result {
	for _, text := range []*string{&r.Stdout, &r.Stderr} {
		*text = strings.ReplaceAll(*text, s.uri, "URI")
		*text = uuidPattern.ReplaceAllString(*text, "UUID")
	}
	return r
}

var uuidPattern = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)

// virsh says the same about Viaduct's networks as about libvirt's.
func TestVirshSaysTheSame(t *testing.T) {
	lab.Need(t, "virsh")
	theirs, ours := libvirtServer(t), ourServer(t)
	theirs.prepare(func(args ...string) {
		if r := theirs.virsh(args...); r.Code != 0 {
			t.Fatalf("virsh %v: %s", args, r.Stderr)
		}
	})
	ours.prepare(ours.viaduct)
	for _, step := range steps {
		args := strings.Fields(step.command)
		want, got := theirs.said(theirs.virsh(args...)), ours.said(ours.virsh(args...))
		diff := cmp.Diff(want, got)
		switch {
		case step.differs == "" && diff != "":
			t.Errorf("virsh %s (-libvirt +viaduct):\n%s", step.command, diff)
		case step.differs != "" && diff == "":
			t.Errorf("virsh %s is the same by now; it was said that it differs: %s", step.command, step.differs)
		}
	}
}

// What virsh starts and stops is what guests get and lose.
func TestVirshGivesGuestsTheirNetwork(t *testing.T) {
	lab.Need(t, "virsh")
	s := ourServer(t)
	s.viaduct("net-define", s.file(natXML("lan", 50)))
	must := func(args ...string) {
		t.Helper()
		if r := s.virsh(args...); r.Code != 0 {
			t.Fatalf("virsh %v: %s%s", args, r.Stderr, s.daemon.Output())
		}
	}
	must("net-start", "lan")
	g := s.PlugGuest(s.host.Node, "virbr50", "one")
	if seen := s.lease(g); seen.Router != addr("192.168.50.1") {
		t.Errorf("the guest got %+v", seen)
	}
	s.reaches(g.Node, s.echo())
	must("net-destroy", "lan")
	s.cannotReach(g.Node, s.echo())
	if s.host.HasLink("virbr50") {
		t.Error("the bridge is still there")
	}
	must("net-start", "lan")
	lab.Eventually(t, 10*time.Second, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		return g.Reach(ctx, s.echo())
	})
}

// A client that sends keepalives stays connected while it does nothing else.
func TestVirshStaysConnected(t *testing.T) {
	lab.Need(t, "virsh")
	s := ourServer(t)
	// virsh gives up after a second without an answer.
	script := fmt.Sprintf("(echo net-list; sleep 3; echo net-list) | virsh -k 1 -K 1 -c '%s'", s.uri)
	r, err := s.host.Run(s.context(), "sh", "-c", script)
	if err != nil || r.Stderr != "" || strings.Count(r.Stdout, "Persistent") != 2 {
		t.Errorf("%v\n%s%s", err, r.Stdout, r.Stderr)
	}
}
