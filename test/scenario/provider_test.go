package scenario

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"viaduct/internal/lab"
)

// A provider whose switch takes frames from nobody but the machine that it has
// rented out, by its MAC address, while the guests' addresses belong to the
// same subnet as the host's: no guest can be bridged. So they are routed, and
// the host answers for them.
//
//	visitor -- Internet -- router --.
//	                       rival ---- the provider's switch -- host -- web, db
func TestProviderKnowsOneMAC(t *testing.T) {
	lab.Need(t, "nft", "dhclient", "/sbin/dhclient-script")
	w := newWorld(t, "--no-default")
	internet, provider := w.lan("internet"), w.lan("provider")
	router := w.machine("router", provider, "203.0.113.1/24 2001:db8:113::1/64")
	w.nic(router, "eth1", internet, "192.0.2.1/24 2001:db8:2::1/64")
	forwards(router)
	visitor := w.machine("visitor", internet, "192.0.2.9/24 2001:db8:2::9/64", "192.0.2.1", "2001:db8:2::1")
	rival := w.machine("rival", provider, "203.0.113.77/24 2001:db8:113::77/64", "203.0.113.1", "2001:db8:113::1")
	w.nic(w.host, "eth0", provider, "203.0.113.20/24 2001:db8:113::20/64")
	for _, gateway := range []string{"203.0.113.1", "2001:db8:113::1"} {
		w.host.AddRoute(anywhere(addr(gateway)), addr(gateway))
	}
	particular := fmt.Sprintf("table bridge port { chain in { type filter hook prerouting priority -300; "+
		"iifname host ether saddr != %s counter drop ; }; }", w.host.MAC("eth0"))
	w.run(provider, "nft", particular)
	w.must(w.daemon.Start())

	const definition = `<network>
  <name>public</name>
  <metadata>
    <viaduct:settings xmlns:viaduct='urn:viaduct:settings:1'>
      <viaduct:answer dev='eth0'/>
    </viaduct:settings>
  </metadata>
  <forward mode='route' dev='eth0'/>
  <bridge name='virbr-pub'/>
  <ip address='203.0.113.33' prefix='29'>
    <dhcp><range start='203.0.113.34' end='203.0.113.38'/></dhcp>
  </ip>
  <ip family='ipv6' address='2001:db8:113:0:1::1' prefix='80'>
    <dhcp><range start='2001:db8:113:0:1::100' end='2001:db8:113:0:1::1ff'/></dhcp>
  </ip>
</network>`
	before := w.settings()
	w.host.WriteFile("/tmp/public.xml", definition)
	w.viaduct("net-define", "/tmp/public.xml")
	if _, notes := w.viaduct("net-start", "public"); notes != "" {
		t.Errorf("the start says %q, but nobody has anything to do", notes)
	}
	web, web4 := w.guest("virbr-pub", "web")
	db, db4 := w.guest("virbr-pub", "db")
	web6, db6 := w.dhcp6(web), w.dhcp6(db)

	everybody := func(when string) {
		t.Helper()
		t.Log(when)
		w.reaches(visitor, addr("192.0.2.9"), web4, db4)
		w.reaches(visitor, addr("2001:db8:2::9"), web6, db6)
		w.reaches(rival, addr("203.0.113.77"), web4)
		w.reaches(rival, addr("2001:db8:113::77"), web6)
		w.reaches(web.Node, web4, addr("192.0.2.9"), addr("203.0.113.77"), addr("203.0.113.1"), db4)
		w.reaches(web.Node, web6, addr("2001:db8:2::9"), addr("2001:db8:113::77"), db6)
	}
	everybody("started")

	// The NIC is switched off and on, which makes the kernel forget.
	w.host.LinkDown("eth0")
	w.host.LinkUp("eth0")
	w.host.AddAddr("eth0", prefixes("2001:db8:113::20/64")...)
	for _, gateway := range []string{"203.0.113.1", "2001:db8:113::1"} {
		w.host.AddRoute(anywhere(addr(gateway)), addr(gateway))
	}
	forgetNeighbours(w, router, rival)
	everybody("the uplink was off")
	w.daemon.Kill9()
	w.must(w.daemon.Start())
	forgetNeighbours(w, router, rival)
	everybody("the daemon crashed")

	if shown := w.run(provider, "nft", "list", "chain", "bridge", "port", "in"); !strings.Contains(shown, "counter packets 0 ") {
		t.Errorf("the provider saw another MAC address than the host's:\n%s", shown)
	}

	w.viaduct("net-destroy", "public")
	w.viaduct("net-undefine", "public")
	if after := w.settings(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}

	// What would take addresses from the host or its way out is refused.
	for _, subnet := range []string{"203.0.113.17/29", "203.0.113.6/29", "203.0.113.129/24", "203.0.112.1/22"} {
		a, length, _ := strings.Cut(subnet, "/")
		w.host.WriteFile("/tmp/wrong.xml", strings.Replace(strings.Split(definition, "  <ip ")[0], "public", "wrong", 1)+
			fmt.Sprintf("<ip address='%s' prefix='%s'/></network>", a, length))
		r, _ := w.daemon.Viaduct(w.context(), "net-create", "/tmp/wrong.xml")
		if r.Code == 0 || !strings.Contains(r.Stderr, "already in use by interface eth0") {
			t.Errorf("%s: %s%s", subnet, r.Stdout, r.Stderr)
		}
	}
}

// dhcp6 has a guest ask for an address by DHCPv6.
func (w *world) dhcp6(g *lab.Guest) netip.Addr {
	w.t.Helper()
	w.run(g.Node, "mkdir", "-p", "/var/lib/dhcp")
	w.address6(g.Node, "fe80::/10")
	g.Start("dhclient", "-6", "-d", "-pf", "/run/dhclient6.pid", "eth0")
	return w.address6(g.Node, "2001:db8:113:0:1::/80")
}

// settings are what the host has to do with answering for others.
func (w *world) settings() string {
	w.t.Helper()
	return w.run(w.host, "sh", "-c", `ip -4 neigh show proxy; ip -6 neigh show proxy
		cd /proc/sys/net; grep -r . ipv4/ip_forward ipv4/conf/eth0/proxy_arp ipv4/neigh/eth0/proxy_delay ipv6/conf/eth0/proxy_ndp \
			ipv6/neigh/eth0/proxy_delay ipv6/conf/eth0/forwarding ipv6/conf/all/forwarding`)
}

// forgetNeighbours makes machines look for their neighbours again.
func forgetNeighbours(w *world, nodes ...*lab.Node) {
	w.t.Helper()
	for _, n := range nodes {
		w.run(n, "ip", "neigh", "flush", "dev", "eth0")
	}
}
