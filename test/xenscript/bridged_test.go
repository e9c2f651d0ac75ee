package xenscript

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"viaduct/internal/lab"
)

// A bridged guest comes and goes as libxl has it come and go: it gets its
// network by its bridge's or the network's name, keeps it over a crash of the
// daemon, and leaves no trace.
func TestBridgedGuest(t *testing.T) {
	x := newXenHost(t)
	n := x.nic("vif-bridge", 5, 0, keys{"bridge": "br0", "mtu": "1400", "rate": "250000,20000"})
	g := n.attach()
	x.must(x.daemon.Start())
	n.refused("bridge=br0: no network is called so, none has a bridge of that name, and neither has the host")
	x.viaduct("net-define", x.file(strings.Replace(natXML("lan", 50), "virbr50", "br0", 1)))
	n.refused("plug vif5.0 into network 'lan': Requested operation is not valid: network 'lan' is not active")
	x.viaduct("net-start", "lan")

	for _, tt := range []struct{ face, key, device, gateway string }{
		{"vif-bridge", "br0", "br0", "192.168.50.1"}, {"vif-viaduct", "lan", "br0", "192.168.50.1"}, {"vif-bridge", "xenbr0", "virbr0", "192.168.122.1"},
	} {
		n.face = tt.face
		n.set("bridge", tt.key)
		n.connected()
		n.connected() // again changes nothing
		if n.problem() != "" {
			t.Errorf("bridge=%s: connected, but hotplug-error is %q", tt.key, n.problem())
		}
		if mac := x.host.MAC(n.link()).String(); mac != "fe:ff:ff:ff:ff:ff" {
			t.Errorf("bridge=%s: the host's end has the address %s", tt.key, mac)
		}
		if mtu := x.store.Get(n.frontend() + "/mtu"); mtu != "1400" {
			t.Errorf("bridge=%s: the guest is told the MTU %q", tt.key, mtu)
		}
		if seen := x.lease(g); seen.Addr.Masked().Addr().Next() != addr(tt.gateway) {
			t.Errorf("bridge=%s: the guest got %s", tt.key, seen.Addr)
		}
		x.reaches(g.Node, x.echo())

		x.daemon.Kill9()
		x.must(x.daemon.Start())
		x.reaches(g.Node, x.echo())
		if master := x.host.Master(n.link()); master != tt.device {
			t.Errorf("bridge=%s: after a restart %s is in %q", tt.key, n.link(), master)
		}
		n.gone()
		n.gone()
		if master := x.host.Master(n.link()); master != "" {
			t.Errorf("bridge=%s: after offline %s is in %s", tt.key, n.link(), master)
		}
		x.cannotReach(g.Node, x.echo())
	}
}

// The script waits for a link that comes late, and copes with one that has
// gone, with its bridge and all the store knew.
func TestLinkComesLateAndGoesEarly(t *testing.T) {
	x := newXenHost(t)
	x.must(x.daemon.Start())
	n := x.nic("vif-viaduct", 5, 0, keys{"bridge": "default"})
	online := n.start("online")
	select {
	case <-online.Done():
		t.Fatalf("online did not wait for its link:\n%s", online.Output())
	case <-time.After(300 * time.Millisecond):
	}
	g := n.attach()
	if r, err := online.Wait(x.context()); err != nil || r.Code != 0 || n.status() != "connected" {
		t.Fatalf("online: %v, exit %d, %s\n%s", err, r.Code, n.problem(), r.Stderr)
	}
	x.lease(g)

	g.Unplug()
	x.viaduct("net-destroy", "default")
	x.store.Remove(n.backend())
	n.gone()
}

// A link that never comes is told of in time.
func TestLinkNeverComes(t *testing.T) {
	x := newXenHost(t)
	x.must(x.daemon.Start())
	n := x.nic("vif-viaduct", 5, 0, nil)
	n.refused("plug vif5.0 into network 'default': internal error: link 'vif5.0' does not exist")
}

// A guest on a bridge of the host's own is plugged in there, and neither the
// bridge nor what else is in it is touched: by the script alone, and by the whole
// program under the script's name.
func TestHostBridge(t *testing.T) {
	x := newXenHost(t)
	x.must(x.daemon.Start())
	x.host.AddBridge("eth7")
	x.host.LinkUp("eth7")
	neighbour := x.PlugGuest(x.host.Node, "eth7", "old")
	neighbour.AddAddr("eth0", prefix("10.7.0.9/24"))
	before := x.settledDump()
	for _, of := range []struct{ bridge, program string }{{"eth7", script}, {"xenbr7", binary}} {
		x.linkScripts(of.program)
		n := x.nic("vif-bridge", 5, 0, keys{"bridge": of.bridge, "ip": "10.7.0.5"})
		g := n.attach()
		g.AddAddr("eth0", prefix("10.7.0.5/24"))
		n.connected()
		if master := x.host.Master(n.link()); master != "eth7" {
			t.Errorf("bridge=%s: %s is in %q", of.bridge, n.link(), master)
		}
		x.must(g.Ping(x.context(), addr("10.7.0.9")))
		x.must(x.daemon.Restart())
		x.must(g.Ping(x.context(), addr("10.7.0.9")))
		g.Unplug()
		n.gone()
		x.asBefore(before)
	}
}

// A guest on a network with DHCP is offered the address that it is to have, and
// one that the network knows is guarded without a word.
func TestAddressOfDHCP(t *testing.T) {
	x := newXenHost(t)
	x.must(x.daemon.Start())
	n := x.nic("vif-bridge", 5, 0, keys{"ip": "192.168.122.200"})
	g := n.attach()
	n.connected()
	if seen := x.lease(g); seen.Addr.Addr() != addr("192.168.122.200") {
		t.Errorf("the guest got %s", seen.Addr)
	}
	x.reaches(g.Node, x.echo())

	known := x.nic("vif-bridge", 6, 0, nil)
	x.viaduct("net-update", "default", "add-last", "ip-dhcp-host", "<host mac='"+known.mac().String()+"' ip='192.168.122.77'/>", "--live")
	k := known.attach()
	known.connected()
	if seen := x.lease(k); seen.Addr.Addr() != addr("192.168.122.77") {
		t.Errorf("the guest that is known got %s", seen.Addr)
	}
	x.reaches(k.Node, x.echo())
	for _, guest := range []*lab.Guest{g, k} {
		x.in(guest.Node, "ip addr add 192.168.122.99/24 dev eth0")
		if r, err := guest.Run(x.context(), "ping", "-n", "-c", "1", "-W", "1", "-I", "192.168.122.99", "192.168.122.1"); err == nil {
			t.Errorf("%s is heard under another address:\n%s", guest.Name, r.Stdout)
		}
	}
}

// Where no daemon runs and nothing starts one, the script does its work itself,
// and the daemon that comes later goes on from there.
func TestWithoutDaemon(t *testing.T) {
	x := newXenHost(t)
	x.must(x.daemon.Start())
	x.must(x.daemon.Stop())
	before := x.settledDump()
	n, routed := x.nic("vif-bridge", 5, 0, nil), x.nic("vif-route", 6, 0, keys{"ip": "203.0.113.60"})
	g, r := n.attach(), routed.attach()
	// Both at once: one of them is the daemon first, then the other.
	both := []*lab.Process{n.start("online"), routed.start("online")}
	for i, p := range both {
		if got, err := p.Wait(x.context()); err != nil || got.Code != 0 {
			t.Fatalf("%d: %v, exit %d, %s%s\n%s", i, err, got.Code, n.problem(), routed.problem(), got.Stderr)
		}
	}
	x.in(g.Node, "ip addr add 192.168.122.50/24 dev eth0")
	x.in(g.Node, "ping -n -c 1 -W 5 192.168.122.1")
	x.static(r, "eth0", "203.0.113.2", "", "203.0.113.60/32")
	x.reaches(r.Node, x.echo())
	x.must(x.daemon.Start())
	x.in(g.Node, "ip addr flush dev eth0")
	x.lease(g)
	x.reaches(g.Node, x.echo())
	x.must(x.daemon.Stop())
	g.Unplug()
	r.Unplug()
	n.gone()
	routed.gone()
	x.must(x.daemon.Start())
	x.must(x.daemon.Stop())
	x.asBefore(before)

	x.host.WriteFile("/run/systemd/system/here", "")
	n.attach()
	n.refused("connect to " + filepath.Dir(x.daemon.Socket) + "/vif.sock: ")
}

// settledDump is what the host has once nothing changes any more.
func (x *xenHost) settledDump() string {
	x.t.Helper()
	var last string
	lab.Eventually(x.t, 10*time.Second, func() error {
		now := x.host.Dump()
		if now != last {
			last = now
			return errors.New("the host changes still")
		}
		return nil
	})
	return last
}

// asBefore fails the test unless the host comes to have what it had.
func (x *xenHost) asBefore(before string) {
	x.t.Helper()
	if after := x.settledDump(); after != before {
		x.t.Errorf("the host is not as before:\n%s\nbefore:\n%s", after, before)
	}
}
