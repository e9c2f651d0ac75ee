package outcome

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"viaduct/internal/lab"
)

func (s *site) definitionPath(name string) string {
	return s.daemon.ConfigDir + "/networks/" + name + ".xml"
}

// edit replaces text in a definition file, as somebody with an editor would.
func (s *site) edit(name, old, text string) {
	s.t.Helper()
	path := s.definitionPath(name)
	xml, err := s.host.ReadFile(path)
	s.must(err)
	if strings.Count(xml, old) != 1 {
		s.t.Fatalf("%s is not once in:\n%s", old, xml)
	}
	s.host.WriteFile(path, strings.Replace(xml, old, text, 1))
}

// hangup sends SIGHUP and waits until the daemon has answered it.
func (s *site) hangup() {
	s.t.Helper()
	s.daemon.Signal(syscall.SIGHUP)
	_, err := s.daemon.Process().WaitLine(s.context(), "msg=reloaded")
	s.must(err)
}

// Each edit of a definition takes effect on the running network, and guests
// that it does not concern notice nothing.
func TestEditsApplyInPlace(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	s.viaduct("net-define", s.file(natXML("a", 50, "")))
	s.viaduct("net-start", "a")
	one, lease := s.guest("virbr50", "one")
	ping := one.StartPing(s.host.Outside.Addr, time.Millisecond)
	flow := s.StartFlow(one.Node, s.host.Outside.Node, netip.AddrPortFrom(s.host.Outside.Addr, 7001))
	s.must(ping.Await(s.context(), 100))
	s.must(flow.Await(s.context(), 1<<20))

	reserved := net.HardwareAddr{0x52, 0x54, 0, 0xaa, 0xbb, 0xcc}
	plug := func(o lab.GuestOptions) lab.LeaseSeen {
		g := s.NewGuest(o)
		g.Plug(s.host.Node, "virbr50", g.Name)
		return s.lease(g)
	}
	// The range shrinks to a part that has the first guest's address still.
	first, last := lease.Addr.Addr(), lease.Addr.Addr()
	for range 5 {
		if p := first.Prev(); p != addr("192.168.50.1") {
			first = p
		}
		if n := last.Next(); n != addr("192.168.50.255") {
			last = n
		}
	}
	for i, c := range []struct {
		name, old, text string
		check           func() string // says what is wrong
	}{
		{"range", "<range start='192.168.50.2' end='192.168.50.254'/>", fmt.Sprintf("<range start='%s' end='%s'/>", first, last), func() string {
			if a := plug(lab.GuestOptions{Name: "ranged"}).Addr.Addr(); a.Less(first) || last.Less(a) {
				return fmt.Sprintf("a new guest has %s, the range is %s to %s", a, first, last)
			}
			return ""
		}},
		{"reservation", "</dhcp>", "<host mac='" + reserved.String() + "' name='kept' ip='192.168.50.77'/></dhcp>", func() string {
			seen := plug(lab.GuestOptions{Name: "reserved", MAC: reserved})
			if seen.Addr.Addr() != addr("192.168.50.77") || seen.Hostname != "kept" {
				return fmt.Sprintf("the guest has %s and the name %q", seen.Addr, seen.Hostname)
			}
			return ""
		}},
		{"domain", "<ip ", "<domain name='lab.example'/><ip ", func() string {
			seen, err := one.Renew(s.context())
			if err != nil || seen.Domain != "lab.example" {
				return fmt.Sprintf("the guest has domain %q, %v", seen.Domain, err)
			}
			addrs, err := one.Resolve(s.context(), "kept.lab.example")
			if !slices.Equal(addrs, []netip.Addr{addr("192.168.50.77")}) {
				return fmt.Sprintf("kept.lab.example is %s, %v", addrs, err)
			}
			return ""
		}},
		{"DNS host", "<ip ", "<dns><host ip='192.168.50.1'><hostname>gate</hostname></host></dns><ip ", func() string {
			addrs, err := one.Resolve(s.context(), "gate.lab.example")
			if !slices.Equal(addrs, []netip.Addr{addr("192.168.50.1")}) {
				return fmt.Sprintf("gate.lab.example is %s, %v", addrs, err)
			}
			return ""
		}},
		{"second ip", "</ip>", "</ip><ip address='192.168.61.1' netmask='255.255.255.0'/>", func() string {
			return text(one.Ping(s.context(), addr("192.168.61.1")))
		}},
		{"MTU", "<bridge ", "<mtu size='1400'/><bridge ", func() string {
			if seen := plug(lab.GuestOptions{Name: "narrow"}); seen.MTU != 1400 {
				return fmt.Sprintf("a new guest has MTU %d", seen.MTU)
			}
			return ""
		}},
		{"NAT ports", "<forward mode='nat'/>", "<forward mode='nat'><nat><port start='40000' end='40099'/></nat></forward>", func() string {
			seen, err := one.Who(s.context(), "tcp", s.host.Outside.Addr)
			if err != nil || seen.Port() < 40000 || seen.Port() > 40099 {
				return fmt.Sprintf("the outside sees %s, %v", seen, err)
			}
			return ""
		}},
		{"without the second ip", "<ip address='192.168.61.1' netmask='255.255.255.0'/>", "", func() string {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			if one.Ping(ctx, addr("192.168.61.1")) == nil {
				return "it still answers"
			}
			return ""
		}},
	} {
		s.edit("a", c.old, c.text)
		if i%2 == 0 {
			if out := s.viaduct("reload"); !strings.Contains(out, "Network a changed") {
				t.Errorf("%s: reload says:\n%s", c.name, out)
			}
		} else {
			s.hangup()
		}
		if wrong := c.check(); wrong != "" {
			t.Errorf("%s: %s\nthe daemon says:\n%s", c.name, wrong, s.daemon.Output())
		}
		s.soonNothingToChange("a")
	}
	if out := s.viaduct("reload"); !strings.Contains(out, "No definition file has changed") {
		t.Errorf("reload without an edit says:\n%s", out)
	}

	if loss := ping.Stop(); len(loss.Lost) > 0 {
		t.Errorf("ping over the edits: %s", loss)
	}
	if report := flow.Stop(); report.Err != nil {
		t.Errorf("transfer over the edits: %v", report)
	}
	if seen, err := one.Configured(); err != nil || seen.Addr != lease.Addr {
		t.Errorf("the guest ended up with %s, %v, want %s", seen.Addr, err, lease.Addr)
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// A file that cannot be taken in is named, and its network goes on as it was;
// others are not held up by it.
func TestBrokenFilesChangeNothing(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	for i, name := range []string{"a", "b"} {
		s.viaduct("net-define", s.file(natXML(name, 50+i, "")))
		s.viaduct("net-start", name)
	}
	one, lease := s.guest("virbr50", "one")
	path := s.definitionPath("a")
	good, err := s.host.ReadFile(path)
	s.must(err)
	s.settled()
	before, live := s.host.Dump(), s.viaduct("net-dumpxml", "a")
	for _, broken := range []struct{ xml, names string }{
		{"<network><name>a</name>", "line 1"},
		{"", "network_definition"},
		{strings.Replace(good, "end='192.168.50.254'", "end='192.168.51.254'", 1), "192.168.50.2 - 192.168.51.254"},
		{strings.Replace(good, "<ip ", "<vlan><tag id='7'/></vlan><ip ", 1), "<vlan>"},
		{strings.Replace(good, "virbr50", "virbr51", 1), "'virbr51'"},
		{strings.Replace(good, "192.168.50.1'", "203.0.113.77'", 1), "192.168.50.2"},
		{strings.Replace(good, "<name>a</name>", "<name>c</name>", 1), "a.xml"},
		{strings.ReplaceAll(good, "192.168.50.", "203.0.113."), "eth0"},
	} {
		s.host.WriteFile(path, broken.xml)
		s.says([]string{path, broken.names}, "reload")
		s.hangup()
		if out := s.daemon.Output(); !strings.Contains(out, "left as it was") || !strings.Contains(out, path) {
			t.Errorf("the log does not name %s:\n%s", path, out)
		}
		if now := s.host.Dump(); now != before {
			t.Errorf("%s: the host before:\n%s\nafter:\n%s", broken.names, before, now)
		}
		if now := s.viaduct("net-dumpxml", "a"); now != live {
			t.Errorf("%s: the definition before:\n%s\nafter:\n%s", broken.names, live, now)
		}
		if renewed, err := one.Renew(s.context()); err != nil || renewed.Addr != lease.Addr {
			t.Errorf("renewed to %s, %v, want %s", renewed.Addr, err, lease.Addr)
		}
	}

	// Beside the broken file a good one is taken in.
	s.edit("b", "<ip ", "<domain name='b.example'/><ip ")
	s.says([]string{path}, "reload")
	if xml := s.viaduct("net-dumpxml", "b"); !strings.Contains(xml, "b.example") {
		t.Errorf("the good file was not taken in:\n%s", xml)
	}
	s.host.WriteFile(path, good)
	s.viaduct("reload")
}

// Files that appear are defined; those that vanish are undefined, and an
// active network then ends with its last stop.
func TestFilesComeAndGo(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	for i, name := range []string{"active", "idle"} {
		s.viaduct("net-define", s.file(natXML(name, 50+i, "")))
	}
	s.viaduct("net-start", "active")
	s.host.WriteFile(s.definitionPath("added"), natXML("added", 60, ""))
	if out := s.viaduct("reload"); !strings.Contains(out, "Network added added") {
		t.Errorf("reload says:\n%s", out)
	}
	s.lists("active active no yes", "added inactive no yes", "idle inactive no yes")
	s.viaduct("net-start", "added")
	s.guest("virbr60", "one")

	s.mustRun("rm", s.definitionPath("active"), s.definitionPath("idle"))
	out := s.viaduct("reload")
	for _, name := range []string{"active", "idle"} {
		if !strings.Contains(out, "Network "+name+" removed") {
			t.Errorf("reload says:\n%s", out)
		}
	}
	s.lists("active active no no", "added active no yes")
	s.guest("virbr50", "two")
	s.viaduct("net-destroy", "active")
	s.lists("added active no yes")
}

// net-edit replaces a definition by what the editor leaves, if it is one.
func TestNetEdit(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	s.viaduct("net-define", s.file(natXML("a", 50, "")))
	edit := func(editor string) lab.Result {
		t.Helper()
		s.host.WriteScript("/tmp/editor", "#!/bin/sh\n"+editor+"\n")
		r, _ := s.host.RunCommand(s.context(), lab.Command{
			Argv: []string{binary, "--socket", s.daemon.Socket, "net-edit", "a"}, Env: []string{"EDITOR=/tmp/editor"},
		})
		return r
	}
	if r := edit("true"); r.Code != 0 || !strings.Contains(r.Stdout, "not changed") {
		t.Errorf("edit that changes nothing: exit code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	if r := edit("sed -i s/192.168.50.254/192.168.50.99/ $1"); r.Code != 0 || !strings.Contains(r.Stdout, "Network a XML configuration edited.") {
		t.Errorf("edit: exit code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	edited := s.viaduct("net-dumpxml", "a")
	if !strings.Contains(edited, "end='192.168.50.99'") {
		t.Errorf("the edit was not taken over:\n%s", edited)
	}
	for _, c := range []struct{ editor, names string }{
		{"echo garbage > $1", "network_definition"},
		{": > $1", "network_definition"},
		{"sed -i s/192.168.50.99/192.168.51.99/ $1", "192.168.51.99"},
		{"sed -i s/\\<name\\>a/\\<name\\>b/ $1", "'a'"},
		{"sed -i 's,</network>,<vlan><tag id=\"3\"/></vlan></network>,' $1", "<vlan>"},
		{"exit 3", "/tmp/editor"},
	} {
		r := edit(c.editor)
		if r.Code != 1 || !strings.Contains(r.Stderr, c.names) {
			t.Errorf("%s: exit code %d\n%s%s", c.editor, r.Code, r.Stdout, r.Stderr)
		}
		if now := s.viaduct("net-dumpxml", "a"); now != edited {
			t.Errorf("%s: the definition was replaced by:\n%s", c.editor, now)
		}
	}
	s.lists("a inactive no yes")
}
