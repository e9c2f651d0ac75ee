package libvirt

import (
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"viaduct/internal/lab"
)

// libvirtd starts libvirt's daemon once more, and waits until it answers.
func (s *server) startLibvirtd() {
	s.t.Helper()
	daemon := s.host.Start("libvirtd")
	lab.Eventually(s.t, 30*time.Second, func() error {
		if r := s.virsh("net-list"); r.Code != 0 {
			return errText(r.Stderr + daemon.Output())
		}
		return nil
	})
}

type errText string

func (e errText) Error() string { return string(e) }

// programs are the names of the programs that run on the host.
func (s *server) programs() string {
	s.t.Helper()
	var names []string
	s.must(s.host.Do(func() error {
		entries, err := os.ReadDir("/proc")
		for _, e := range entries {
			if name, err := os.ReadFile("/proc/" + e.Name() + "/comm"); err == nil {
				names = append(names, strings.TrimSpace(string(name)))
			}
		}
		return err
	}))
	return strings.Join(names, " ")
}

// What libvirtd runs becomes Viaduct's while guests go on, and can become
// libvirtd's again: neither costs a guest a packet, or its address.
func TestImport(t *testing.T) {
	s := newBoth(t)
	s.host.WriteFile("/tmp/lan.xml", natXML("lan", 50, ""))
	s.succeed("net-define", "/tmp/lan.xml")
	s.succeed("net-autostart", "lan")
	s.succeed("net-start", "lan")
	s.host.WriteFile("/tmp/off.xml", natXML("off", 51, ""))
	s.succeed("net-define", "/tmp/off.xml")
	s.host.WriteFile("/tmp/passing.xml", `<network><name>passing</name><bridge name='virbr52'/><ip address='192.168.52.1' prefix='24'/></network>`)
	s.succeed("net-create", "/tmp/passing.xml")
	s.host.WriteFile("/tmp/clash.xml", natXML("clash", 53, ""))
	s.succeed("net-define", "/tmp/clash.xml")
	s.host.WriteFile("/tmp/ours.xml", natXML("clash", 54, ""))
	s.viaduct("net-define", "/tmp/ours.xml")

	g := s.PlugGuest(s.host.Node, "virbr50", "vnet0")
	lease := s.lease(g)
	const portXML = `<networkport><uuid>d54df46f-1ab5-4a22-8618-4560ef5fac2c</uuid><owner><name>vm</name><uuid>d54df46f-1ab5-4a22-8618-4560ef5fac2d</uuid></owner><mac address='%s'/></networkport>`
	s.host.WriteFile("/tmp/port.xml", strings.Replace(portXML, "%s", g.MAC.String(), 1))
	s.succeed("net-port-create", "lan", "/tmp/port.xml")
	definition := s.succeed("net-dumpxml", "--inactive", "lan")

	steady := s.guestGoesOn(g, 7001)

	before := s.host.Dump()
	plan, _ := s.daemon.Viaduct(s.context(), "import-libvirt", "--dry-run") // fails because of clash
	for _, want := range []string{
		"Network lan: would be taken over, active on virbr50, with 1 leases and 1 ports\n  + take over bridge virbr50\n", "Network off: would be taken over, inactive\n",
		"Network passing: would be", "Network clash: left as it is: operation failed: network 'clash' already exists with uuid",
	} {
		if !strings.Contains(plan.Stdout, want) {
			t.Errorf("a dry run does not say %q:\n%s%s", want, plan.Stdout, plan.Stderr)
		}
	}
	if strings.Contains(plan.Stdout, "+ bridge") || strings.Contains(plan.Stdout, "+ address") {
		t.Errorf("a dry run would make what is there:\n%s", plan.Stdout)
	}
	if after := s.host.Dump(); after != before {
		t.Errorf("the host before a dry run:\n%s\nafter:\n%s", before, after)
	}

	said, _ := s.daemon.Viaduct(s.context(), "import-libvirt")
	if said.Code != 1 || !strings.Contains(said.Stdout, "libvirtd has ended; start it again") {
		t.Errorf("import: %+v\n%s", said, s.log())
	}
	steady("the import")
	if names := s.programs(); strings.Contains(names, "dnsmasq") || strings.Contains(names, "libvirtd") {
		t.Errorf("libvirt's programs run on: %s", names)
	}
	if now := s.viaduct("net-dumpxml", "--inactive", "lan"); strings.TrimSpace(now) != strings.TrimSpace(definition) {
		t.Errorf("the definition was:\n%s\nand is:\n%s", definition, now)
	}
	list := strings.Join(strings.Fields(s.viaduct("net-list", "--all")), " ")
	if !strings.Contains(list, "lan active yes yes off inactive no yes passing active no no") {
		t.Errorf("networks: %s", list)
	}
	if said := s.viaduct("net-dhcp-leases", "lan"); !strings.Contains(said, g.MAC.String()) || !strings.Contains(said, lease.Addr.String()) {
		t.Errorf("leases:\n%s", said)
	}
	if said := s.viaduct("net-port-dumpxml", "lan", "vnet0"); !strings.Contains(said, "<name>vm</name>") || !strings.Contains(said, "d54df46f-1ab5-4a22-8618-4560ef5fac2c") {
		t.Errorf("port:\n%s", said)
	}
	s.renews(g, lease)

	// It is a network like any other: the next daemon finds it as it is.
	s.daemon.Kill9()
	s.must(s.daemon.Start())
	if said := s.viaduct("plan", "lan"); said != "Network lan: nothing to change\n" {
		t.Errorf("to be changed:\n%s", said)
	}
	if n := strings.Count(s.viaduct("net-list", "--all", "--name"), "lan"); n != 1 {
		t.Errorf("the network is gone:\n%s", s.log())
	}

	// And back.
	steady = s.guestGoesOn(g, 7002)
	back := s.viaduct("import-libvirt", "--undo")
	if !strings.Contains(back, "Network lan: given back to libvirt, active on virbr50\n") || !strings.Contains(back, "Network off: given back to libvirt, inactive\n") {
		t.Errorf("undo says:\n%s", back)
	}
	steady("the way back")
	s.startLibvirtd() // which writes its rules anew, and refuses packets meanwhile
	list = strings.Join(strings.Fields(s.succeed("net-list", "--all")), " ")
	if !strings.Contains(list, "lan active yes yes off inactive no yes passing active no no") {
		t.Errorf("libvirtd's networks: %s", list)
	}
	if names := s.viaduct("net-list", "--all", "--name"); strings.TrimSpace(names) != "clash" {
		t.Errorf("Viaduct is left with:\n%s", names)
	}
	s.renews(g, lease)
	if said := s.succeed("net-dhcp-leases", "lan"); !strings.Contains(said, g.MAC.String()) {
		t.Errorf("leases:\n%s", said)
	}
	if again := s.viaduct("import-libvirt", "--undo"); again != "There is no network to hand over\n" {
		t.Errorf("undo once more says:\n%s", again)
	}
}

// A daemon that dies while it takes a network over goes on when it comes back,
// and the same command finishes what is left to do.
func TestImportCutShort(t *testing.T) {
	s := newBoth(t)
	s.host.WriteFile("/tmp/lan.xml", natXML("lan", 50, ""))
	s.succeed("net-define", "/tmp/lan.xml")
	s.succeed("net-start", "lan")
	g := s.PlugGuest(s.host.Node, "virbr50", "vnet0")
	lease := s.lease(g)
	s.daemon.SetEnv("VIADUCT_FAULT=after claim create")
	s.must(s.daemon.Restart())

	steady := s.guestGoesOn(g, 7001)
	if said, _ := s.daemon.Viaduct(s.context(), "import-libvirt"); said.Code == 0 {
		t.Fatalf("the daemon was to die: %+v", said)
	}
	select {
	case <-s.daemon.Process().Done():
	case <-s.context().Done():
		t.Fatal("the daemon has not died")
	}
	s.daemon.SetEnv()
	s.must(s.daemon.Start())
	if said := s.viaduct("import-libvirt"); said != "Network lan: taken over before; libvirt forgets it\n" {
		t.Errorf("once more says:\n%s", said)
	}
	steady("an import that was cut short")
	s.renews(g, lease)
	s.startLibvirtd()
	if left := strings.TrimSpace(s.succeed("net-list", "--all", "--name")); left != "" {
		t.Errorf("libvirtd has %s still", left)
	}
	if said := s.viaduct("plan", "lan"); said != "Network lan: nothing to change\n" {
		t.Errorf("to be changed:\n%s", said)
	}
}

// guestGoesOn lets a guest ping and send to the outside. The function that
// comes back ends that and complains if anything got lost.
func (s *server) guestGoesOn(g *lab.Guest, port uint16) func(over string) {
	s.t.Helper()
	outside := s.host.Outside.Addr
	ping := g.StartPing(outside, 5*time.Millisecond)
	flow := s.StartFlow(g.Node, s.host.Outside.Node, netip.AddrPortFrom(outside, port))
	s.must(ping.Await(s.context(), 50))
	s.must(flow.Await(s.context(), 1<<20))
	return func(over string) {
		s.t.Helper()
		s.must(ping.Await(s.context(), 50))
		if loss := ping.Stop(); len(loss.Lost) > 0 {
			s.t.Errorf("ping over %s: %s", over, loss)
		}
		if report := flow.Stop(); report.Err != nil {
			s.t.Errorf("transfer over %s: %v", over, report)
		}
	}
}

// renews lets a guest renew its lease, by which it keeps its address.
func (s *server) renews(g *lab.Guest, lease lab.LeaseSeen) {
	s.t.Helper()
	renewed, err := g.Renew(s.context())
	if err != nil || renewed.Addr != lease.Addr {
		s.t.Errorf("renewed to %s, %v, want %s\n%s", renewed.Addr, err, lease.Addr, s.log())
	}
}
