package scenario

import (
	"net/netip"
	"strings"
	"testing"

	"viaduct/internal/lab"
)

// A DMZ: servers in a subnet of their own are reached from the LAN and from the
// Internet, and cannot reach what stands behind them on the same host.
//
//	client -- Internet -- gateway -- LAN -- host -- dmz: www, mail
//	                                  |       `---- backoffice: database
//	                             workstation
func TestDMZ(t *testing.T) {
	w := newWorld(t, "--no-default")
	internet, lan := w.lan("internet"), w.lan("lan")
	gateway := w.machine("gateway", internet, "203.0.113.1/24 2001:db8:113::1/64")
	w.nic(gateway, "eth1", lan, "192.168.1.1/24 2001:db8:1::1/64")
	forwards(gateway)
	outside := w.machine("client", internet, "203.0.113.9/24 2001:db8:113::9/64", "203.0.113.1", "2001:db8:113::1")
	workstation := w.machine("workstation", lan, "192.168.1.9/24 2001:db8:1::9/64", "192.168.1.1", "2001:db8:1::1")
	w.nic(w.host, "eth0", lan, "192.168.1.2/24 2001:db8:1::2/64")
	w.host.AddRoute(anywhere(addr("192.168.1.1")), addr("192.168.1.1"))
	w.host.AddRoute(anywhere(addr("2001:db8:1::1")), addr("2001:db8:1::1"))
	w.must(w.daemon.Start())

	w.host.WriteFile("/tmp/dmz.xml", `<network>
  <name>dmz</name>
  <forward mode='route'/>
  <bridge name='virbr-dmz'/>
  <ip address='198.51.100.1' prefix='28'>
    <dhcp>
      <range start='198.51.100.8' end='198.51.100.14'/>
      <host name='www' ip='198.51.100.2'/>
    </dhcp>
  </ip>
  <ip family='ipv6' address='2001:db8:d::1' prefix='64'/>
</network>`)
	w.host.WriteFile("/tmp/backoffice.xml", `<network>
  <name>backoffice</name>
  <forward mode='nat'/>
  <bridge name='virbr-back'/>
  <ip address='10.99.0.1' prefix='24'>
    <dhcp><range start='10.99.0.2' end='10.99.0.99'/></dhcp>
  </ip>
</network>`)
	for _, name := range []string{"dmz", "backoffice"} {
		w.viaduct("net-define", "/tmp/"+name+".xml")
		w.viaduct("net-autostart", name)
	}
	w.viaduct("net-start", "backoffice")
	// The gateway learns the way to the DMZ from what the start says is to be done.
	_, notes := w.viaduct("net-start", "dmz")
	for note := range strings.Lines(notes) {
		_, route, _ := strings.Cut(strings.TrimSpace(note), "needs a route: ")
		to, via, _ := strings.Cut(route, " via ")
		gateway.AddRoute(netip.MustParsePrefix(to), addr(via))
	}

	www, www4 := w.guest("virbr-dmz", "www")
	mail, mail4 := w.guest("virbr-dmz", "mail")
	database, database4 := w.guest("virbr-back", "database")
	if www4 != addr("198.51.100.2") {
		t.Errorf("www has %s, want the address that is reserved for it", www4)
	}
	www6, mail6 := w.address6(www.Node, "2001:db8:d::/64"), w.address6(mail.Node, "2001:db8:d::/64")

	w.reaches(outside, addr("203.0.113.9"), www4, mail4)
	w.reaches(outside, addr("2001:db8:113::9"), www6, mail6)
	w.reaches(workstation, addr("192.168.1.9"), www4, mail4)
	w.reaches(workstation, addr("2001:db8:1::9"), www6, mail6)
	w.reaches(mail.Node, mail4, addr("203.0.113.9"), www4)
	w.reaches(mail.Node, mail6, addr("2001:db8:113::9"), www6)
	w.reaches(database.Node, addr("198.51.100.1"), www4)
	w.reaches(database.Node, addr("192.168.1.2"), addr("203.0.113.9"))

	// Everybody knows the way to the database, and nobody gets there.
	for _, n := range []*lab.Node{gateway, outside, workstation} {
		n.AddRoute(netip.MustParsePrefix("10.99.0.0/24"), map[bool]netip.Addr{true: addr("203.0.113.1"), false: addr("192.168.1.2")}[n == outside])
	}
	w.cannotReach(outside, database4)
	w.cannotReach(workstation, database4)
	w.cannotReach(www.Node, database4)

	// The host reboots, which ends with all networks as they were.
	w.must(w.daemon.Stop())
	for _, bridge := range []string{"virbr-dmz", "virbr-back"} {
		w.host.DeleteLink(bridge)
	}
	w.must(w.daemon.Start())
	www.Unplug()
	if again := w.plug(www, "virbr-dmz"); again != www4 {
		t.Errorf("www has %s after the reboot, and had %s", again, www4)
	}
	w.reaches(outside, addr("203.0.113.9"), www4)
}
