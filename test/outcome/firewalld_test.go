package outcome

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"viaduct/internal/lab"
)

// firewalld is Debian's, with a message bus of its own.
type firewalld struct {
	*site
	process *lab.Process
	args    []string
}

// withFirewalld starts a bus and firewalld on the host. With without it does not
// know the zones and policies whose names begin so.
func (s *site) withFirewalld(without string) *firewalld {
	s.t.Helper()
	lab.Need(s.t, "dbus-daemon", "firewalld", "firewall-cmd")
	s.startBus()
	f := &firewalld{site: s, args: []string{"firewalld", "--nofork", "--nopid"}}
	if without != "" {
		const own = "/tmp/firewalld"
		s.mustRun("cp", "-r", "/usr/lib/firewalld", own)
		s.must(s.host.Do(func() error {
			names, err := filepath.Glob(own + "/*/" + without + "*")
			for _, name := range names {
				if err == nil {
					err = os.Remove(name)
				}
			}
			return err
		}))
		f.args = append(f.args, "--default-config="+own)
	}
	f.start()
	return f
}

// startBus starts a message bus, unless there is one.
func (s *site) startBus() {
	s.t.Helper()
	if _, err := s.host.ReadFile("/tmp/bus.conf"); err == nil {
		return
	}
	s.host.WriteFile("/tmp/bus.conf", `<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth>
		<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/></policy></busconfig>`)
	s.mustRun("mkdir", "-p", "/run/dbus")
	s.host.Start("dbus-daemon", "--config-file=/tmp/bus.conf", "--nofork", "--nopidfile")
	lab.Eventually(s.t, 20*time.Second, func() error { return s.runs("busctl", "list") })
}

func (s *site) runs(argv ...string) error {
	_, err := s.host.Run(s.context(), argv...)
	return err
}

func (f *firewalld) start() {
	f.t.Helper()
	f.process = f.host.Start(f.args...)
	lab.Eventually(f.t, 30*time.Second, func() error {
		if err := f.runs("firewall-cmd", "--state"); err != nil {
			return fmt.Errorf("%w\n%s", err, f.process.Output())
		}
		return nil
	})
}

func (f *firewalld) stop() {
	f.t.Helper()
	_, err := f.process.Stop(f.context())
	f.must(err)
}

// zone is the zone of a link, "no zone" if firewalld has it in none.
func (f *firewalld) zone(link string) string {
	f.t.Helper()
	r, _ := f.host.Run(f.context(), "firewall-cmd", "--get-zone-of-interface="+link) // it fails if there is none
	return strings.TrimSpace(r.Stdout + r.Stderr)
}

func (f *firewalld) isIn(link, zone string) {
	f.t.Helper()
	if got := f.zone(link); got != zone {
		f.t.Errorf("%s is in %q, want %q", link, got, zone)
	}
}

func (f *firewalld) soonIn(link, zone string) {
	f.t.Helper()
	lab.Eventually(f.t, 20*time.Second, func() error {
		if got := f.zone(link); got != zone {
			return fmt.Errorf("%s is in %q, want %q", link, got, zone)
		}
		return nil
	})
}

// zoned is natXML with a zone.
func zoned(name string, n int, zone string) string {
	return strings.Replace(natXML(name, n, ""), "<bridge ", "<bridge zone='"+zone+"' ", 1)
}

func (s *site) outside() netip.AddrPort { return netip.AddrPortFrom(s.host.Outside.Addr, lab.PortEcho) }

// What a guest may do is as its network's zone has it, from when the definition
// names it on; without, guests have their names and their way out.
func TestZones(t *testing.T) {
	t.Parallel()
	s := newSite(t, "--no-default")
	f := s.withFirewalld("")
	s.must(s.daemon.Start())

	s.viaduct("net-define", s.file(natXML("a", 50, "")))
	s.viaduct("net-start", "a")
	g, _ := s.guest("virbr50", "one")
	for _, c := range []struct {
		zone, in    string
		names, away bool
	}{
		{"", "libvirt", true, true},
		{"trusted", "trusted", true, true},
		{"public", "public", false, false},
		{"drop", "drop", false, false},
		{"", "libvirt", true, true},
	} {
		xml := natXML("a", 50, "")
		if c.zone != "" {
			xml = zoned("a", 50, c.zone)
		}
		s.viaduct("net-apply", s.file(xml))
		f.isIn("virbr50", c.in)
		s.lease(g) // the server hears a guest before any firewall does
		if err := g.Reach(short(t), s.outside()); (err == nil) != c.away {
			t.Errorf("in zone %q: the outside: %v", c.zone, err)
		}
		if _, err := g.Resolve(short(t), g.Name); (err == nil) != c.names {
			t.Errorf("in zone %q: names: %v", c.zone, err)
		}
	}
	before := s.state()
	s.says([]string{"error from service: GDBus.Error:org.fedoraproject.FirewallD1.Exception: INVALID_ZONE: nowhere"},
		"net-apply", s.file(zoned("a", 50, "nowhere")))
	s.says([]string{"error from service: GDBus.Error:org.fedoraproject.FirewallD1.Exception: INVALID_ZONE: nowhere"},
		"net-create", s.file(zoned("b", 51, "nowhere")))
	s.unchanged("an unknown zone", before)
	f.isIn("virbr50", "libvirt")
	s.mustRun("firewall-cmd", "--permanent", "--new-zone=nowhere")
	s.mustRun("firewall-cmd", "--reload")
	s.create(zoned("b", 51, "nowhere"))
	f.isIn("virbr51", "nowhere")
	s.viaduct("net-destroy", "b")
	f.isIn("virbr51", "no zone")

	s.create(strings.Replace(natXML("r", 52, ""), "mode='nat'", "mode='route'", 1))
	f.isIn("virbr52", "libvirt-routed")
	s.create(strings.Replace(natXML("o", 53, ""), "mode='nat'", "mode='open'", 1))
	f.isIn("virbr53", "no zone")
	s.viaduct("net-destroy", "a")
	f.isIn("virbr50", "no zone")

	f.stop()
	s.says([]string{"internal error: zone trusted requested for network t but firewalld is not active"}, "net-create", s.file(zoned("t", 54, "trusted")))
}

// However firewalld, its rules or the daemon come and go, links are in their
// zones again, and guests have what they had.
func TestZonesHeal(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	s.create(natXML("a", 50, ""))
	one, _ := s.guest("virbr50", "one")
	s.reaches(one.Node, s.outside())
	f := s.withFirewalld("") // after us
	f.soonIn("virbr50", "libvirt")
	s.create(zoned("b", 51, "trusted"))
	two, _ := s.guest("virbr51", "two")
	works := func(when string) {
		t.Helper()
		f.soonIn("virbr50", "libvirt")
		f.soonIn("virbr51", "trusted")
		for _, g := range []*lab.Guest{one, two} {
			s.reaches(g.Node, s.outside())
			if _, err := g.Resolve(short(t), g.Name); err != nil {
				t.Errorf("%s: %s: %v", when, g.Name, err)
			}
		}
	}
	works("both started")
	flow := s.StartFlow(one.Node, s.host.Outside.Node, netip.AddrPortFrom(s.host.Outside.Addr, 7001))
	s.must(flow.Await(s.context(), 1<<16))
	for _, c := range []struct {
		name string
		do   func()
	}{
		{"reload", func() { s.mustRun("firewall-cmd", "--reload") }},
		{"complete reload", func() { s.mustRun("firewall-cmd", "--complete-reload") }},
		{"restart", func() { f.stop(); f.start() }},
		{"crash", func() { f.process.Kill(); <-f.process.Done(); f.start() }},
		{"daemon killed", func() { s.daemon.Kill9(); s.must(s.daemon.Start()) }},
		{"daemon killed, and firewalld reloaded meanwhile", func() {
			s.daemon.Kill9()
			s.mustRun("firewall-cmd", "--reload")
			s.must(s.daemon.Start())
		}},
		{"another zone", func() { s.mustRun("firewall-cmd", "--zone=drop", "--change-interface=virbr51") }},
		{"no zone", func() { s.mustRun("firewall-cmd", "--zone=libvirt", "--remove-interface=virbr50") }},
		{"bridge deleted", func() { s.host.DeleteLink("virbr51") }},
	} {
		c.do()
		done := time.Now()
		for _, g := range []*lab.Guest{one, two} {
			lab.Eventually(t, 20*time.Second, func() error { return g.Reach(short(t), s.outside()) })
		}
		t.Logf("%s: guests connect again after %s", c.name, time.Since(done).Round(time.Millisecond))
		works(c.name)
	}
	s.soonNothingToChange("a")
	if r := flow.Stop(); r.Err != nil {
		t.Errorf("a connection broke: %v", r.Err)
	}
	s.viaduct("net-destroy", "a")
	s.viaduct("net-destroy", "b")
	f.isIn("virbr50", "no zone")
	f.isIn("virbr51", "no zone")
	if strings.Contains(s.daemon.Output(), "offers no place for our rules") && strings.Contains(s.daemon.Output(), "inet firewalld") {
		t.Errorf("firewalld is named though the links are in zones:\n%s", s.daemon.Output())
	}
}

// Where firewalld has no zone for networks it gets one, which is made for
// networks of all modes, and has it no more after the last of them.
func TestZoneOfOurOwn(t *testing.T) {
	t.Parallel()
	s := newSite(t, "--no-default")
	f := s.withFirewalld("libvirt")
	s.must(s.daemon.Start())
	s.create(natXML("a", 50, ""))
	s.create(strings.Replace(natXML("r", 51, ""), "mode='nat'", "mode='route'", 1))
	one, _ := s.guest("virbr50", "one")
	two, lease := s.guest("virbr51", "two")
	two.ServeEcho(lab.PortEcho)
	s.host.Outside.AddRoute(netip.MustParsePrefix("192.168.51.0/24"), s.host.Addr)
	works := func() {
		t.Helper()
		f.soonIn("virbr50", "viaduct")
		f.soonIn("virbr51", "viaduct")
		for _, g := range []*lab.Guest{one, two} {
			s.reaches(g.Node, s.outside())
			if _, err := g.Resolve(short(t), g.Name); err != nil {
				t.Error(err)
			}
		}
		s.reaches(s.host.Outside.Node, netip.AddrPortFrom(lease.Addr.Addr(), lab.PortEcho))
		s.cannotReach(s.host.Outside.Node, netip.AddrPortFrom(addr("192.168.51.1"), 53))
	}
	works()
	f.stop()
	f.start()
	works()
	s.viaduct("net-destroy", "a")
	s.reaches(two.Node, s.outside())
	s.viaduct("net-destroy", "r")
	// firewalld keeps what it removes as files that it does not read.
	made := func() string {
		return strings.TrimSpace(s.mustRun("sh", "-c", "ls /etc/firewalld/zones /etc/firewalld/policies | grep 'viaduct.*xml$' || true"))
	}
	if left := made(); left != "" {
		t.Errorf("left: %s", left)
	}
	// It is loaded still, so this needs no reload; and what an admin adds stays.
	s.mustRun("firewall-cmd", "--zone=public", "--add-port=4242/tcp")
	s.viaduct("net-create", s.file(natXML("a", 50, "")))
	f.isIn("virbr50", "viaduct")
	if ports := s.mustRun("firewall-cmd", "--zone=public", "--list-ports"); strings.TrimSpace(ports) != "4242/tcp" {
		t.Errorf("ports of the host that are open: %q", ports)
	}
	s.mustRun("firewall-cmd", "--permanent", "--zone=viaduct", "--add-port=8080/tcp")
	s.viaduct("net-destroy", "a")
	if left := made(); left != "viaduct.xml" {
		t.Errorf("left: %q, want what the admin has changed", left)
	}
	s.logs("somebody has changed its ports")
}
