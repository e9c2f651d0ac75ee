package scenario

import (
	"net/netip"
	"testing"

	"viaduct/internal/lab"
)

// A hosting company: the host is managed by one NIC and its guests, which have
// public addresses, use another. The host itself has private addresses only.
//
//	admin -- management LAN -- (eth0) host (eth1) -- edge -- Internet -- visitor
//	                                   `-- shop, blog
func TestHosting(t *testing.T) {
	w := newWorld(t, "--no-default")
	management, transit, internet := w.lan("management"), w.lan("transit"), w.lan("internet")
	admin := w.machine("admin", management, "10.0.0.9/24 fd00:a::9/64")
	w.nic(w.host, "eth0", management, "10.0.0.2/24 fd00:a::2/64")
	w.nic(w.host, "eth1", transit, "10.255.0.2/30 fd00:ffff::2/64")
	edge := w.machine("edge", transit, "10.255.0.1/30 fd00:ffff::1/64")
	w.nic(edge, "eth1", internet, "203.0.113.1/24 2001:db8:113::1/64")
	forwards(edge)
	visitor := w.machine("visitor", internet, "203.0.113.9/24 2001:db8:113::9/64", "203.0.113.1", "2001:db8:113::1")
	for _, gateway := range []string{"10.255.0.1", "fd00:ffff::1"} {
		w.host.AddRoute(anywhere(addr(gateway)), addr(gateway))
	}
	serve(w.host)
	edge.AddRoute(netip.MustParsePrefix("198.51.100.0/28"), addr("10.255.0.2"))
	edge.AddRoute(netip.MustParsePrefix("2001:db8:2::/64"), addr("fd00:ffff::2"))
	w.must(w.daemon.Start())

	w.host.WriteFile("/tmp/networks/customers.xml", `<network>
  <name>customers</name>
  <forward mode='route' dev='eth1'/>
  <bridge name='virbr-cust'/>
  <ip address='198.51.100.1' prefix='28'>
    <dhcp>
      <host mac='52:54:00:00:0a:01' name='shop' ip='198.51.100.2'/>
      <host mac='52:54:00:00:0a:02' name='blog' ip='198.51.100.3'/>
    </dhcp>
  </ip>
  <ip family='ipv6' address='2001:db8:2::1' prefix='64'/>
</network>`)
	w.viaduct("apply", "/tmp/networks")
	shop := w.NewGuest(lab.GuestOptions{Name: "shop", MAC: []byte{0x52, 0x54, 0, 0, 0xa, 1}})
	blog := w.NewGuest(lab.GuestOptions{Name: "blog", MAC: []byte{0x52, 0x54, 0, 0, 0xa, 2}})
	serve(shop.Node)
	serve(blog.Node)
	shop4, blog4 := w.plug(shop, "virbr-cust"), w.plug(blog, "virbr-cust")
	if shop4 != addr("198.51.100.2") || blog4 != addr("198.51.100.3") {
		t.Errorf("shop has %s and blog %s", shop4, blog4)
	}
	shop6, blog6 := w.address6(shop.Node, "2001:db8:2::/64"), w.address6(blog.Node, "2001:db8:2::/64")

	w.reaches(visitor, addr("203.0.113.9"), shop4, blog4)
	w.reaches(visitor, addr("2001:db8:113::9"), shop6, blog6)
	w.reaches(shop.Node, shop4, addr("203.0.113.9"), blog4)
	w.reaches(shop.Node, shop6, addr("2001:db8:113::9"), blog6)
	w.reaches(admin, addr("10.0.0.9"), addr("10.0.0.2"))
	w.reaches(admin, addr("fd00:a::9"), addr("fd00:a::2"))

	// No way leads from the one NIC to the other, whoever knows it.
	admin.AddRoute(netip.MustParsePrefix("198.51.100.0/28"), addr("10.0.0.2"))
	admin.AddRoute(netip.MustParsePrefix("2001:db8:2::/64"), addr("fd00:a::2"))
	w.cannotReach(shop.Node, addr("10.0.0.9"), addr("fd00:a::9"))
	w.cannotReach(admin, shop4, blog4, shop6)
}
