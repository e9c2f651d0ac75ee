package libvirt

import (
	"context"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"viaduct/internal/lab"
)

// words splits a command, and puts the paths of files in place.
func words(command string) []string {
	var list []string
	for i, quoted := range strings.Split(command, `"`) {
		if i%2 == 1 {
			list = append(list, quoted)
			continue
		}
		for _, w := range strings.Fields(quoted) {
			if name, ok := strings.CutPrefix(w, "@"); ok {
				w = "/tmp/" + name + ".xml"
			}
			list = append(list, w)
		}
	}
	return list
}

// random are the parts of an output that are different on any two hosts.
var random = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|52:54:00(:[0-9a-f]{2}){3}|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[.\d]*(\+0000)?|/tmp/virsh[A-Z0-9]{6}\.xml`)

// hide replaces what is random. What the script's files say is not.
func hide(text string) string {
	return random.ReplaceAllStringFunc(text, func(s string) string {
		switch {
		case strings.Contains(s, " "):
			return "TIME"
		case strings.HasPrefix(s, "/"):
			return "FILE"
		case !strings.Contains(said, s):
			return strings.Repeat("X", len(s))
		}
		return s
	})
}

// said is all that the script says.
var said = func() string {
	var b strings.Builder
	for _, xml := range files {
		b.WriteString(xml)
	}
	for _, group := range steps {
		for _, step := range group {
			b.WriteString(step.command)
		}
	}
	return b.String()
}()

// prepare puts the script's files in place, gives a host of a third party one
// of the networks' addresses, and a guest its lease.
func (s *server) prepare() {
	s.t.Helper()
	for name, xml := range files {
		s.host.WriteFile("/tmp/"+name+".xml", xml)
	}
	s.host.WriteScript("/tmp/editor", "#!/bin/sh\nsed -i \"s/end='192.168.50.150'/end='192.168.50.160'/\" \"$1\"\n")
	s.host.AddBridge("br-host")
	s.host.AddAddr("eth0", netip.MustParsePrefix("192.168.53.1/24"))
}

// watchers are virshs that watch events all along.
var watchers = map[string]string{
	"all networks": "virsh -c network:///system net-event --event lifecycle --loop",
}

// virsh says the same about Viaduct's networks as about libvirt's.
func TestVirshSaysTheSame(t *testing.T) {
	theirs, ours := newTheirs(t), newOurs(t)
	var watching [2][]*lab.Process
	for i, s := range []*server{theirs, ours} {
		s.prepare()
		watching[i] = append(watching[i], s.host.Start("sh", "-c", "exec "+watchers["all networks"]))
	}
	var compared comparison
	for _, group := range steps {
		for _, step := range group {
			var got [2]lab.Result
			var both sync.WaitGroup
			for i, s := range []*server{theirs, ours} {
				both.Go(func() {
					got[i] = s.virsh(words(step.command)...)
				})
			}
			both.Wait()
			if step.command == "net-start guest" {
				theirs.visitor()
				ours.visitor()
			}
			compared.add(t, step.command, step.differs, got)
		}
	}
	t.Log(compared)
	for w := range watching[0] {
		var got [2]string
		for i := range got {
			p := watching[i][w]
			p.Signal(syscall.SIGINT)
			select {
			case <-p.Done():
			case <-time.After(20 * time.Second):
				t.Fatal("virsh does not end")
			}
			got[i] = hide(p.Output())
		}
		if diff := cmp.Diff(got[0], got[1]); diff != "" {
			t.Errorf("events (-libvirt +viaduct):\n%s", diff)
		}
	}
}

// visitor is a guest with the address that is kept for it.
func (s *server) visitor() {
	s.t.Helper()
	g := s.NewGuest(lab.GuestOptions{Name: "visitor", MAC: net.HardwareAddr{0x52, 0x54, 0, 0x60, 0, 1}})
	g.Plug(s.host.Node, "virbr60", "visitor")
	if seen := s.lease(g); seen.Addr.Addr() != addr("192.168.60.7") {
		s.t.Errorf("the visitor got %+v", seen)
	}
}

// What virsh starts and stops is what guests get and lose, and have again.
func TestVirshGivesGuestsTheirNetwork(t *testing.T) {
	lab.Need(t, "virsh")
	s := newOurs(t)
	s.host.WriteFile("/tmp/lan.xml", natXML("lan", 50, ""))
	s.succeed("net-define", "/tmp/lan.xml")
	s.succeed("net-start", "lan")
	g := s.PlugGuest(s.host.Node, "virbr50", "one")
	if seen := s.lease(g); seen.Router != addr("192.168.50.1") {
		t.Errorf("the guest got %+v", seen)
	}
	s.must(g.Reach(s.context(), s.echo()))
	s.succeed("net-destroy", "lan")
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if g.Reach(ctx, s.echo()) == nil {
		t.Error("the guest still gets out")
	}
	if s.host.HasLink("virbr50") {
		t.Error("the bridge is still there")
	}
	s.succeed("net-start", "lan")
	lab.Eventually(t, 10*time.Second, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		return g.Reach(ctx, s.echo())
	})
}

// A client that sends keepalives stays connected while it does nothing else.
func TestVirshStaysConnected(t *testing.T) {
	lab.Need(t, "virsh")
	s := newOurs(t)
	// virsh gives up after a second without an answer.
	r := s.run("sh", "-c", "(echo net-list; sleep 3; echo net-list) | virsh -k 1 -K 1 -c "+uri)
	if r.Code != 0 || r.Stderr != "" || strings.Count(r.Stdout, "Persistent") != 2 {
		t.Errorf("%+v", r)
	}
}
