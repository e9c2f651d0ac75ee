package outcome

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"viaduct/internal/engine"
	"viaduct/internal/lab"
)

// monitorFor plays a VM monitor: it attaches a guest to a tap of the host. The
// function ends it.
func (s *site) monitorFor(g *lab.Guest, tap string) (detach func()) {
	s.t.Helper()
	return s.attach(g, s.host.OpenTap(tap))
}

// attach carries frames between a file of the host's and the guest's eth0.
func (s *site) attach(g *lab.Guest, port *os.File) (detach func()) {
	s.t.Helper()
	eth0 := g.OpenTap("eth0")
	s.mustIn(g, "ip", "link", "set", "eth0", "address", g.MAC.String(), "up")
	for _, ends := range [][2]*os.File{{eth0, port}, {port, eth0}} {
		go func() {
			frame := make([]byte, 1<<16)
			for {
				n, err := ends[0].Read(frame)
				if err != nil {
					return
				}
				ends[1].Write(frame[:n]) // a frame that is not taken is lost, as on any wire
			}
		}()
	}
	return func() {
		eth0.Close()
		port.Close()
	}
}

func (s *site) mustIn(g *lab.Guest, argv ...string) {
	s.t.Helper()
	if r, err := g.Run(s.context(), argv...); err != nil {
		s.t.Fatalf("%v\n%s", err, r.Stderr)
	}
}

// ports lists the ports of a network.
func (s *site) ports(network string) []engine.Port {
	s.t.Helper()
	var ports []engine.Port
	s.must(json.Unmarshal([]byte(s.viaduct("-o", "json", "port-list", network)), &ports))
	return ports
}

// A guest on a tap that port-create made lives like any other, is counted, and
// finds its way back after stops of the network and of the daemon. What it was
// plugged into is gone when the port is.
func TestGuestOnTap(t *testing.T) {
	s := startSite(t)
	s.viaduct("net-define", s.file(natXML("a", 50, "")))
	s.viaduct("net-start", "a")
	s.settled()
	before := s.host.Dump()
	g := s.NewGuest(lab.GuestOptions{Name: "one"})
	said := s.viaduct("port-create", "a", "--tap", "vm1", "--mac", g.MAC.String(), "--user", "1234")
	if !strings.Contains(said, "Port vm1 created") {
		t.Errorf("port-create said %q", said)
	}
	if shown := s.mustRun("ip", "-d", "link", "show", "vm1"); !strings.Contains(shown, "user 1234") || !strings.Contains(shown, "master virbr50") {
		t.Errorf("the tap is\n%s", shown)
	}
	detach := s.monitorFor(g, "vm1")
	lease := s.lease(g)
	outside := netip.AddrPortFrom(s.host.Outside.Addr, lab.PortEcho)
	s.reaches(g.Node, outside)

	created := s.ports("a")
	if len(created) != 1 || created[0].MAC.String() != g.MAC.String() || !created[0].Active || created[0].FromGuest.Packets == 0 {
		t.Fatalf("ports are %+v", created)
	}
	if shown := s.viaduct("port-dumpxml", "a", "vm1"); !strings.Contains(shown, fmt.Sprintf("<mac address='%s'/>", g.MAC)) {
		t.Errorf("port-dumpxml shows\n%s", shown)
	}
	for _, step := range []struct {
		name string
		do   func()
	}{
		{"daemon killed", func() { s.daemon.Kill9(); s.must(s.daemon.Start()) }},
		{"network restarted", func() { s.viaduct("net-destroy", "a"); s.viaduct("net-start", "a") }},
		{"daemon killed while the network is stopped", func() {
			s.viaduct("net-destroy", "a")
			s.daemon.Kill9()
			s.must(s.daemon.Start())
			s.viaduct("net-start", "a")
		}},
	} {
		step.do()
		lab.Eventually(t, 10*time.Second, func() error { return g.Reach(short(t), outside) })
		if again := s.ports("a"); len(again) != 1 || again[0].UUID != created[0].UUID {
			t.Errorf("%s: ports are %+v", step.name, again)
		}
	}
	counted := s.viaduct("net-info", "-v", "a")
	if !strings.Contains(counted, "From guests:") || strings.Contains(counted, "From guests:    0 bytes") {
		t.Errorf("net-info -v says\n%s", counted)
	}
	if plain := s.viaduct("net-info", "a"); strings.Contains(plain, "guests") {
		t.Errorf("net-info says more than virsh:\n%s", plain)
	}
	if renewed, err := g.Renew(s.context()); err != nil || renewed.Addr != lease.Addr {
		t.Errorf("renewed to %v, %v, want %v", renewed.Addr, err, lease.Addr)
	}

	detach()
	s.viaduct("port-delete", "a", created[0].UUID.String())
	if s.host.HasLink("vm1") {
		t.Error("the tap is left")
	}
	s.settled()
	if after := s.host.Dump(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// A guest that disappears with its link leaves nothing behind: neither in the
// list of ports, nor in the packet filter, nor in what the next daemon reads.
func TestVanishedPortLeavesNothing(t *testing.T) {
	s := startSite(t)
	s.create(natXML("a", 50, ""))
	s.settled()
	before := s.host.Dump()
	tap := s.host.OpenTap("theirs")
	s.host.SetMaster("theirs", "virbr50")
	s.host.LinkUp("theirs")
	lab.Eventually(t, 10*time.Second, func() error {
		if !strings.Contains(s.mustRun("nft", "list", "ruleset"), `"theirs"`) {
			return fmt.Errorf("the port is not guarded")
		}
		return nil
	})
	if ports := s.ports("a"); len(ports) != 1 || ports[0].Origin != engine.OriginForeign {
		t.Errorf("ports are %+v", ports)
	}
	if said := s.refused("port-delete", "a", "theirs"); !strings.Contains(said, "by another program") {
		t.Errorf("deleting a foreign port: %s", said)
	}
	tap.Close()
	lab.Eventually(t, 10*time.Second, func() error {
		if after := s.host.Dump(); after != before {
			return fmt.Errorf("before:\n%s\nafter:\n%s", before, after)
		}
		return nil
	})
	if ports := s.ports("a"); len(ports) > 0 {
		t.Errorf("ports are %+v", ports)
	}
	s.must(s.daemon.Restart())
	if ports := s.ports("a"); len(ports) > 0 {
		t.Errorf("the next daemon knows of %+v", ports)
	}
}
