package libvirt

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"viaduct/internal/lab"
)

// newBoth is a host with libvirtd and, beside it, Viaduct.
func newBoth(t *testing.T) *server {
	t.Helper()
	s := newTheirs(t)
	s.daemon = s.host.NewDaemon(binary, lab.DaemonOptions{Args: []string{"--libvirt-dir", "/nowhere", "--no-default"}})
	s.must(s.daemon.Start())
	return s
}

// viaduct runs a command of ours, which must not fail.
func (s *server) viaduct(args ...string) string {
	s.t.Helper()
	r, err := s.daemon.Viaduct(s.context(), args...)
	s.must(err)
	if r.Code != 0 {
		s.t.Fatalf("viaduct %v: %s%s\n%s", args, r.Stdout, r.Stderr, s.log())
	}
	return r.Stdout
}

// define makes a network of ours, and starts it.
func (s *server) define(name, xml string) {
	s.t.Helper()
	s.host.WriteFile("/tmp/"+name+".xml", xml)
	s.viaduct("net-define", "/tmp/"+name+".xml")
	s.viaduct("net-start", name)
}

// Guests of a libvirtd that asks nobody about networks are on Viaduct's, by
// their names: they get their leases from us and reach the world, also after
// both daemons have started again. libvirtd's own networks stay its own.
func TestAttachedLibvirtd(t *testing.T) {
	s := newBoth(t)
	s.host.WriteFile("/tmp/theirs.xml", natXML("theirs", 51, ""))
	s.succeed("net-define", "/tmp/theirs.xml")
	untouched := s.succeed("net-dumpxml", "theirs")
	s.define("lan", natXML("lan", 50, "<portgroup name='staff'><bandwidth><inbound average='9000'/></bandwidth></portgroup>"))
	s.viaduct("net-autostart", "lan")
	s.define("theirs", natXML("theirs", 52, ""))

	const left = "Network theirs: leave: libvirtd has a network of its own by that name; undefine it there, or take it over with viaduct import-libvirt\n"
	steps := "Network lan: define\nNetwork lan: start\nNetwork lan: autostart\n" + left
	if said := s.viaduct("libvirt-attach", "--dry-run"); said != steps {
		t.Errorf("a dry run says:\n%swant:\n%s", said, steps)
	}
	if said := s.succeed("net-list", "--all", "--name"); strings.Contains(said, "lan") {
		t.Errorf("a dry run has changed libvirtd's networks:\n%s", said)
	}
	if said := s.viaduct("libvirt-attach"); said != steps {
		t.Errorf("it says:\n%swant:\n%s", said, steps)
	}
	if said := s.viaduct("libvirt-attach"); said != left {
		t.Errorf("once more says:\n%swant:\n%s", said, left)
	}
	if now := s.succeed("net-dumpxml", "theirs"); now != untouched {
		t.Errorf("libvirtd's own network has changed:\n%s", now)
	}
	info := s.succeed("net-info", "lan")
	for _, want := range []string{"Active:         yes", "Persistent:     yes", "Autostart:      yes", "Bridge:         virbr50"} {
		if !strings.Contains(info, want) {
			t.Errorf("the network in libvirtd has no %q:\n%s", want, info)
		}
	}

	outside := s.host.Outside.Addr.String()
	g := s.newDomain("vm", card("network='lan'", "52:54:00:50:00:01", ""), outside)
	g.says(0, "LEASE 192.168.50.")
	g.says(0, "REACHED "+outside)
	if said := s.viaduct("net-dhcp-leases", "lan"); !strings.Contains(said, "52:54:00:50:00:01") {
		t.Errorf("leases:\n%s", said)
	}
	if said := s.viaduct("port-list", "lan"); !strings.Contains(said, "vnet0") {
		t.Errorf("ports:\n%s", said)
	}

	// What comes, changes and goes here does so there, without being asked.
	becomes := func(what string, want bool) {
		t.Helper()
		lab.Eventually(t, 30*time.Second, func() error {
			if said := s.succeed("net-list", "--all"); strings.Contains(strings.Join(strings.Fields(said), " "), what) != want {
				return fmt.Errorf("want %q in libvirtd's list: %v:\n%s\n%s", what, want, said, s.log())
			}
			return nil
		})
	}
	s.define("later", natXML("later", 53, ""))
	becomes("later active", true)
	s.viaduct("net-destroy", "later")
	becomes("later inactive", true)
	s.must(s.daemon.Restart())
	s.viaduct("net-undefine", "later")
	becomes("later", false)
	s.viaduct("net-destroy", "lan")
	becomes("lan inactive", true)
	g.saysFromNow("LOST " + outside)
	s.viaduct("net-start", "lan")
	becomes("lan active", true)
	g.saysFromNow("REACHED " + outside)

	if said, want := s.viaduct("libvirt-attach", "--remove"), "Network lan: stop\nNetwork lan: undefine\n"; said != want {
		t.Errorf("removing says:\n%swant:\n%s", said, want)
	}
	if said := strings.Fields(s.succeed("net-list", "--all", "--name")); len(said) != 1 || said[0] != "theirs" {
		t.Errorf("libvirtd is left with %v", said)
	}
	g.saysFromNow("REACHED " + outside)
	s.define("last", natXML("last", 54, ""))
	if said := s.viaduct("libvirt-attach", "--remove"); said != "There is nothing to do in libvirtd\n" {
		t.Errorf("libvirtd is followed on: %s", said)
	}
}
