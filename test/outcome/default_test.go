package outcome

import (
	"net/netip"
	"strings"
	"testing"

	"viaduct/internal/lab"
)

// The first start makes the default network, persistent, marked autostart and
// active, and does so once: who undefines it does not get it back.
func TestDefaultNetwork(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.must(s.daemon.Start())
	s.lists("default active yes yes")
	xml := s.viaduct("net-dumpxml", "default", "--inactive")
	for _, part := range []string{"<forward mode='nat'", "<bridge name='virbr0'", "<ip address='192.168.122.1' netmask='255.255.255.0'>",
		"<range start='192.168.122.2' end='192.168.122.254'/>"} {
		if !strings.Contains(xml, part) {
			t.Errorf("the definition lacks %s:\n%s", part, xml)
		}
	}

	s.must(s.daemon.Restart())
	s.lists("default active yes yes")
	s.viaduct("net-destroy", "default")
	s.must(s.daemon.Restart())
	s.lists("default inactive yes yes")
	s.viaduct("net-undefine", "default")
	s.must(s.daemon.Restart())
	s.lists()
	s.reboot()
	s.lists()
}

// lists fails the test unless net-list shows exactly these lines, their
// columns separated by single spaces: name, state, autostart, persistent.
func (s *site) lists(want ...string) {
	s.t.Helper()
	var got []string
	for _, line := range strings.Split(strings.TrimSpace(s.viaduct("net-list", "--all")), "\n")[2:] {
		got = append(got, strings.Join(strings.Fields(line), " "))
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		s.t.Errorf("networks:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// reboot leaves the daemon nothing but its definitions and leases, as a host
// does that went down and came up, and starts it again.
func (s *site) reboot() {
	s.t.Helper()
	s.daemon.Kill9()
	for _, bridge := range strings.Fields(s.mustRun("sh", "-c", "ls -d /sys/class/net/*/bridge | cut -d/ -f5")) {
		s.host.DeleteLink(bridge)
	}
	s.mustRun("nft", "flush", "ruleset")
	s.host.SetSysctl("net.ipv4.ip_forward", "0")
	s.mustRun("rm", "-r", s.daemon.RunDir)
	s.must(s.daemon.Start())
}

// The default network keeps clear of what the host is part of and of what
// libvirt has defined.
func TestDefaultNetworkAvoidsWhatIsThere(t *testing.T) {
	t.Parallel()
	libvirt := func(file, subnet, bridge string) func(*site) {
		return func(s *site) {
			s.host.WriteFile("/tmp/libvirt/"+file, `<network><name>x</name><forward mode='nat'/><bridge name='`+bridge+`' stp='on' delay='0'/>
				<ip address='`+subnet+`' netmask='255.255.255.0'/></network>`)
		}
	}
	for _, c := range []struct {
		name           string
		uplink         string
		prepare        func(*site)
		subnet, bridge string
	}{
		{"a host in 192.168.122.0/24", "192.168.122.5/24", func(*site) {}, "192.168.123", "virbr0"},
		{"a host in a wider subnet", "192.168.124.5/21", func(*site) {}, "192.168.128", "virbr0"},
		{"a route to it", "203.0.113.2/24", func(s *site) {
			s.host.AddRoute(netip.MustParsePrefix("192.168.122.128/25"), s.host.Outside.Addr)
		}, "192.168.123", "virbr0"},
		{"a bridge of that name", "192.168.122.5/24", func(s *site) { s.host.AddBridge("virbr0") }, "192.168.123", "virbr1"},
		{"libvirt's default network", "203.0.113.2/24", libvirt("default.xml", "192.168.122.1", "virbr0"), "192.168.123", "virbr1"},
		{"libvirt's, and the host's own", "192.168.123.5/24", libvirt("default.xml", "192.168.122.1", "virbr0"), "192.168.124", "virbr1"},
		{"a file of libvirt's that is broken", "203.0.113.2/24", func(s *site) { s.host.WriteFile("/tmp/libvirt/default.xml", "<network>") },
			"192.168.122", "virbr0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			uplink := netip.MustParsePrefix(c.uplink)
			s := siteOn(t, lab.HostOptions{
				Uplink: []netip.Prefix{uplink}, Outside: []netip.Prefix{netip.PrefixFrom(uplink.Addr().Prev(), uplink.Bits())},
			}, "--libvirt-dir", "/tmp/libvirt")
			c.prepare(s)
			s.must(s.daemon.Start())
			s.lists("default active yes yes")
			_, lease := s.guest(c.bridge, "one")
			if !strings.HasPrefix(lease.Addr.String(), c.subnet+".") {
				t.Errorf("the guest has %s, want an address in %s.0/24", lease.Addr, c.subnet)
			}
		})
	}
}

// After a reboot the networks that are marked for it are there, and transient
// ones are not.
func TestReboot(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.must(s.daemon.Start())
	s.viaduct("net-define", s.file(natXML("marked", 50, "")))
	s.viaduct("net-autostart", "marked")
	s.viaduct("net-define", s.file(natXML("unmarked", 51, "")))
	s.viaduct("net-start", "unmarked")
	s.create(natXML("transient", 52, ""))
	s.lists("default active yes yes", "marked inactive yes yes", "transient active no no", "unmarked active no yes")
	s.reboot()
	s.lists("default active yes yes", "marked active yes yes", "unmarked inactive no yes")
	s.guest("virbr50", "one")
	if s.host.HasLink("virbr52") {
		t.Error("the transient network has left its bridge")
	}

	s.viaduct("net-autostart", "--disable", "marked")
	s.reboot()
	s.lists("default active yes yes", "marked inactive no yes", "unmarked inactive no yes")
}
