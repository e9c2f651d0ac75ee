package outcome

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"viaduct/internal/lab"
)

const dnsmasqUUID = "6f1a1f3e-0c9f-4d2a-9d7e-1b2c3d4e5f60"

// dnsmasqXML is a network for dnsmasq, with options of its own and reservations.
func dnsmasqXML(options, hosts string) string {
	if options != "" {
		options = "<dnsmasq:options>" + options + "</dnsmasq:options>"
	}
	return `<network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'><name>a</name><uuid>` + dnsmasqUUID + `</uuid>
		<forward mode='nat'/><bridge name='virbr50'/><mac address='52:54:00:50:50:50'/><domain name='lab.example'/>
		<dns><host ip='192.168.50.200'><hostname>printer</hostname></host></dns>
		<ip address='192.168.50.1' netmask='255.255.255.0'><dhcp><range start='192.168.50.2' end='192.168.50.99'/>` + hosts + `</dhcp></ip>
		<ip family='ipv6' address='fd00:50::1' prefix='64'><dhcp><range start='fd00:50::100' end='fd00:50::1ff'/></dhcp></ip>` + options + `</network>`
}

func option(line string) string { return "<dnsmasq:option value='" + line + "'/>" }

// dnsmasqDir is the folder that the network's dnsmasq runs with.
func (s *site) dnsmasqDir() string { return s.daemon.RunDir + "/dnsmasq/" + dnsmasqUUID }

// dnsmasq is the process that serves the network; "" if there is none.
func (s *site) dnsmasq() string {
	s.t.Helper()
	pid, err := s.host.ReadFile(s.dnsmasqDir() + "/pid")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(pid)
}

// digs asks with dig until the answer is as wanted.
func (s *site) digs(from *lab.Node, want string, args ...string) {
	s.t.Helper()
	lab.Eventually(s.t, 20*time.Second, func() error {
		r, err := from.Run(short(s.t), append([]string{"dig", "+short", "+time=1", "+tries=1", "@192.168.50.1"}, args...)...)
		if got := strings.TrimSpace(r.Stdout); got != want {
			return fmt.Errorf("dig %v: %q, %v; want %q", args, got, err, want)
		}
		return nil
	})
}

// leased waits until the network's leases name the words, in one line.
func (s *site) leased(words ...string) {
	s.t.Helper()
	lab.Eventually(s.t, 20*time.Second, func() error {
		table := s.viaduct("net-dhcp-leases", "a")
	lines:
		for line := range strings.Lines(table) {
			for _, w := range words {
				if !strings.Contains(line, w) {
					continue lines
				}
			}
			return nil
		}
		return fmt.Errorf("no lease with %q:\n%s", words, table)
	})
}

// A network with options of dnsmasq's own is served by it, as one of ours: it
// survives us, comes back when it dies, and leaves nothing behind.
func TestDnsmasq(t *testing.T) {
	t.Parallel()
	lab.Need(t, "dnsmasq", "dig", "busybox")
	s := startSite(t)
	s.create(dnsmasqXML(option("address=/magic.example/192.0.2.77"), ""))
	one := s.PlugGuest(s.host.Node, "virbr50", "one")
	got, err := one.DHCP(s.context(), lab.Udhcpc)
	s.must(err)
	s.digs(one.Node, "192.0.2.77", "magic.example")
	s.digs(one.Node, "192.168.50.200", "printer.lab.example")
	s.digs(one.Node, got.Addr.Addr().String(), "one.lab.example")
	s.leased(one.MAC.String(), got.Addr.String(), "one")
	s.nothingToChange("a")

	// Reservations are read anew, by the same process.
	before := s.dnsmasq()
	two := s.NewGuest(lab.GuestOptions{Name: "two"})
	s.viaduct("net-update", "a", "add", "ip-dhcp-host", fmt.Sprintf("<host mac='%s' name='second' ip='192.168.50.150'/>", two.MAC), "--live")
	two.Plug(s.host.Node, "virbr50", "two")
	got, err = two.DHCP(s.context(), lab.Udhcpc)
	s.must(err)
	if got.Addr.Addr() != addr("192.168.50.150") || s.dnsmasq() != before {
		t.Errorf("the guest has %s, process %s instead of %s", got.Addr, s.dnsmasq(), before)
	}

	// Who kills it sees another one soon, which knows the leases.
	_, err = s.host.Run(s.context(), "kill", "-9", before)
	s.must(err)
	lab.Eventually(t, 20*time.Second, func() error {
		if now := s.dnsmasq(); now == "" || now == before {
			return fmt.Errorf("no other process yet: %q", now)
		}
		return nil
	})
	s.digs(one.Node, "192.0.2.77", "magic.example")
	s.digs(one.Node, "192.168.50.150", "second.lab.example")
	s.logs("dnsmasq has ended by itself")

	// It serves while the daemon is gone, and the next one takes it over as it is.
	before = s.dnsmasq()
	for _, end := range []func(){s.daemon.Kill9, func() { s.must(s.daemon.Stop()) }} {
		end()
		late := s.PlugGuest(s.host.Node, "virbr50", fmt.Sprintf("late%d", time.Now().UnixNano()%1e6))
		got, err := late.DHCP(s.context(), lab.Udhcpc)
		s.must(err)
		s.digs(late.Node, "192.0.2.77", "magic.example")
		s.must(s.daemon.Start())
		s.leased(late.MAC.String(), got.Addr.String())
		s.nothingToChange("a")
		if now := s.dnsmasq(); now != before {
			t.Errorf("process %s instead of %s", now, before)
		}
	}

	// A guest that says good-bye has no lease.
	s.must(one.Release(s.context()))
	lab.Eventually(t, 20*time.Second, func() error {
		if table := s.viaduct("net-dhcp-leases", "a"); strings.Contains(table, one.MAC.String()) {
			return fmt.Errorf("still leased:\n%s", table)
		}
		return nil
	})

	before = s.dnsmasq()
	s.viaduct("net-destroy", "a")
	if r, _ := s.host.Run(s.context(), "sh", "-c", "kill -0 "+before+" || ls -d "+s.dnsmasqDir()); r.Code == 0 || strings.Contains(r.Stdout, "dnsmasq") {
		t.Errorf("left behind: %s%s", r.Stdout, r.Stderr)
	}
}

// A network goes from one backend to the other and back, and its guests keep
// their addresses.
func TestDnsmasqAndBack(t *testing.T) {
	t.Parallel()
	lab.Need(t, "dnsmasq", "dig", "busybox")
	s := startSite(t)
	s.viaduct("net-define", s.file(dnsmasqXML("", "")))
	s.viaduct("net-start", "a")
	guest := s.PlugGuest(s.host.Node, "virbr50", "guest")
	first, err := guest.DHCP(s.context(), lab.Udhcpc)
	s.must(err)
	if s.dnsmasq() != "" {
		t.Fatal("dnsmasq runs for a network that does not ask for it")
	}
	for _, options := range []string{option("address=/magic.example/192.0.2.77"), option("address=/magic.example/192.0.2.78"), ""} {
		s.viaduct("net-apply", s.file(dnsmasqXML(options, "")))
		if runs := s.dnsmasq() != ""; runs != (options != "") {
			t.Errorf("%q: dnsmasq runs: %v", options, runs)
		}
		s.nothingToChange("a")
		s.leased(guest.MAC.String(), first.Addr.String(), "guest")
		s.digs(guest.Node, first.Addr.Addr().String(), "guest.lab.example")
		if options != "" {
			s.digs(guest.Node, options[len(options)-len("192.0.2.77'/>"):len(options)-len("'/>")], "magic.example")
		}
		// One that has forgotten all is still known.
		s.must(guest.StopDHCP(s.context()))
		again, err := guest.DHCP(s.context(), lab.Udhcpc)
		s.must(err)
		if again.Addr != first.Addr {
			t.Errorf("%q: the guest has %s, and had %s", options, again.Addr, first.Addr)
		}
	}
}

// The host's admin can have dnsmasq for all networks that do not say
// otherwise. It serves IPv6 as well.
func TestDnsmasqForAll(t *testing.T) {
	t.Parallel()
	lab.Need(t, "dnsmasq", "busybox", "dhclient")
	s := startSite(t, "--dns-dhcp-backend", "dnsmasq")
	s.create(dnsmasqXML("", ""))
	own := strings.Replace(natXML("own", 51, ""), "</name>",
		"</name><metadata><v:settings xmlns:v='urn:viaduct:settings:1'><v:services backend='viaduct'/></v:settings></metadata>", 1)
	s.create(own)
	if s.dnsmasq() == "" {
		t.Error("dnsmasq does not run")
	}
	if folders, _ := s.host.Run(s.context(), "ls", s.daemon.RunDir+"/dnsmasq"); strings.TrimSpace(folders.Stdout) != dnsmasqUUID {
		t.Errorf("it runs for %q", folders.Stdout)
	}
	guest := s.PlugGuest(s.host.Node, "virbr50", "guest")
	_, err := guest.DHCP(s.context(), lab.Udhcpc)
	s.must(err)
	lab.Eventually(t, 30*time.Second, func() error { // its own address takes a while
		_, err := guest.Run(s.context(), "dhclient", "-6", "-1", "-sf", "/bin/true", "-lf", "/tmp/leases6", "-pf", "/tmp/pid6", "eth0")
		return err
	})
	s.leased(guest.MAC.String(), "ipv4", "192.168.50.")
	s.leased("ipv6", "fd00:50::1", guest.MAC.String())
}

// What cannot be is said in words that help, and nothing is left of it.
func TestDnsmasqRefuses(t *testing.T) {
	t.Parallel()
	lab.Need(t, "dnsmasq")
	s := startSite(t)
	said := s.refused("net-create", s.file(dnsmasqXML(option("no-such-option"), "")))
	if !strings.Contains(said, "no-such-option") && !strings.Contains(said, "bad option") {
		t.Errorf("a wrong option: %s", said)
	}
	s.create(dnsmasqXML(option("log-dhcp"), ""))
	before := s.dnsmasq()
	s.refused("net-apply", s.file(dnsmasqXML(option("no-such-option"), "")))
	if s.dnsmasq() != before {
		t.Error("a change that was refused replaced the process")
	}
	s.viaduct("net-destroy", "a")
	// Without the program.
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s.host.WriteFile("/tmp/none", "")
	for _, path := range []string{"/usr/sbin/dnsmasq"} {
		if _, err := os.Stat(path); err == nil {
			_, err := s.host.Run(ctx, "mount", "--bind", "/tmp/none", path)
			s.must(err)
		}
	}
	if said := s.refused("net-create", s.file(dnsmasqXML(option("log-dhcp"), ""))); !strings.Contains(said, "dnsmasq is not installed") {
		t.Errorf("without the program: %s", said)
	}
	if r, _ := s.host.Run(ctx, "ls", s.daemon.RunDir+"/dnsmasq"); strings.TrimSpace(r.Stdout) != "" {
		t.Errorf("left behind: %s", r.Stdout)
	}
}
