package scenario

import (
	"net/netip"
	"strings"
	"testing"

	"viaduct/internal/lab"
)

// A laptop: its owner installs Viaduct, configures nothing, and has two guests
// that find each other and the Internet, at the desk as well as in the café.
//
//	at home:     laptop (eth0) -- home router -- Internet
//	in the café: laptop (wlan0) -- access point -- Internet
func TestDesktop(t *testing.T) {
	lab.Need(t, "nft")
	w := newWorld(t)
	home, cafe, internet := w.lan("home"), w.lan("cafe"), w.lan("internet")
	website := w.machine("website", internet, "198.51.100.80/24")
	website.ServeDNS("www.example.com. 60 IN A 198.51.100.80")
	for i, place := range []*lab.Node{home, cafe} {
		// Both translate addresses, as such routers do; the website sees theirs.
		r := w.machine("router-"+place.Name, place, []string{"192.168.1.1/24", "10.20.0.1/16"}[i])
		w.nic(r, "eth1", internet, []string{"198.51.100.1/24", "198.51.100.2/24"}[i])
		forwards(r)
		w.run(r, "nft", "table ip nat { chain out { type nat hook postrouting priority 100; oifname eth1 masquerade; }; }")
	}
	printer := w.machine("printer", home, "192.168.1.50/24", "192.168.1.1")
	stranger := w.machine("stranger", cafe, "10.20.3.3/16", "10.20.0.1")
	w.nic(w.host, "eth0", home, "192.168.1.23/24")
	w.host.AddRoute(anywhere(addr("192.168.1.1")), addr("192.168.1.1"))
	w.host.WriteFile("/etc/resolv.conf", "nameserver 198.51.100.80\n")
	serve(w.host)

	w.must(w.daemon.Start())
	if list, _ := w.viaduct("net-list"); !strings.Contains(list, "default   active   yes         yes") {
		t.Fatalf("there is no default network:\n%s", list)
	}
	build, build4 := w.guest("virbr0", "build")
	test, test4 := w.guest("virbr0", "test")
	gateway := addr("192.168.122.1")
	finds := func(n *lab.Node, name string, want netip.Addr) {
		t.Helper()
		found, err := n.Resolve(w.context(), name)
		if err != nil || len(found) != 1 || found[0] != want {
			t.Errorf("%s resolves %s to %v, %v, want %s", n.Name, name, found, err, want)
		}
	}
	finds(build.Node, "test", test4)
	finds(test.Node, "build", build4)
	finds(build.Node, "www.example.com", addr("198.51.100.80"))
	w.reaches(build.Node, build4, test4)
	w.reaches(w.host, gateway, build4, test4)
	w.reaches(build.Node, addr("192.168.1.23"), addr("192.168.1.50"))
	w.reaches(build.Node, addr("198.51.100.1"), addr("198.51.100.80"))
	printer.AddRoute(netip.MustParsePrefix("192.168.122.0/24"), addr("192.168.1.23"))
	w.cannotReach(printer, build4)

	// Lid closed, lid opened: another network, another NIC. Nobody tells Viaduct.
	w.host.DeleteLink("eth0")
	w.nic(w.host, "wlan0", cafe, "10.20.7.7/16")
	w.host.AddRoute(anywhere(addr("10.20.0.1")), addr("10.20.0.1"))
	finds(test.Node, "build", build4)
	finds(test.Node, "www.example.com", addr("198.51.100.80"))
	w.reaches(test.Node, addr("198.51.100.2"), addr("198.51.100.80"))
	w.reaches(test.Node, addr("10.20.7.7"), addr("10.20.3.3"))
	stranger.AddRoute(netip.MustParsePrefix("192.168.122.0/24"), addr("10.20.7.7"))
	w.cannotReach(stranger, build4, test4)
}
