package outcome

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"viaduct/internal/lab"
)

// lanRouter is a router in the LAN at the host's eth1 that advertises itself.
func (s *site) lanRouter() *lab.Node {
	r := s.Node("router")
	s.Connect(s.host.Node, "eth1", r, "eth0", lab.WireOptions{})
	return r
}

var advertised = netip.MustParsePrefix("2001:db8:77::/64")

// A host that has its own way out from router advertisements keeps it while a
// network makes it forward IPv6, and afterwards; its settings are put back.
func TestHostKeepsItsOwnIPv6Route(t *testing.T) {
	s := startSite(t)
	router := s.lanRouter()
	learned := func() error {
		routes := s.mustRun("ip", "-6", "route", "show", "default", "dev", "eth1", "proto", "ra")
		addresses := s.mustRun("ip", "-6", "address", "show", "dev", "eth1", "scope", "global")
		if !strings.Contains(routes, "via fe80:") || !strings.Contains(addresses, "2001:db8:77:") {
			return fmt.Errorf("routes %q, addresses %q", routes, addresses)
		}
		return nil
	}
	router.Advertise("eth0", advertised, 30*time.Second)
	lab.Eventually(t, 10*time.Second, learned)
	settings := func() string {
		return s.mustRun("sh", "-c", "grep -r . /proc/sys/net/ipv6/conf/eth*/*forwarding /proc/sys/net/ipv6/conf/*/accept_ra /proc/sys/net/ipv6/conf/all/forwarding")
	}
	before := settings()
	s.create(xml6("a", 50, `<forward mode='route'/>`))
	if err := learned(); err != nil {
		t.Fatalf("after the start: %v", err)
	}
	for i := range 3 {
		lifetime := time.Duration(40+10*i) * time.Second
		router.Advertise("eth0", advertised, lifetime)
		lab.Eventually(t, 10*time.Second, func() error {
			if err := learned(); err != nil {
				return err
			}
			routes := s.mustRun("ip", "-6", "route", "show", "default", "dev", "eth1")
			if !strings.Contains(routes, fmt.Sprintf("expires %d", int(lifetime.Seconds())-1)) && !strings.Contains(routes, fmt.Sprintf("expires %d", int(lifetime.Seconds()))) {
				return fmt.Errorf("advertisement %d is not heard: %s", i+1, routes)
			}
			return nil
		})
	}
	s.viaduct("net-destroy", "a")
	if err := learned(); err != nil {
		t.Errorf("after the stop: %v", err)
	}
	if after := settings(); after != before {
		t.Errorf("settings before:\n%s\nafter:\n%s", before, after)
	}
}

// A guest that asks whether its router is still there, as all do every now and
// then, hears that it is, and that it is a router.
func TestGuestsKeepTheirRouter(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	s.create(xml6("a", 50, `<forward mode='route'/>`))
	g := s.PlugGuest(s.host.Node, "virbr50", "one")
	s.address6(g, "fd00:50::/64")
	run := func(args ...string) string {
		t.Helper()
		r, err := g.Run(s.context(), append([]string{"ip", "-6"}, args...)...)
		s.must(err)
		return r.Stdout
	}
	_, router, _ := strings.Cut(run("route", "show", "default", "proto", "ra"), "via ")
	router, _, _ = strings.Cut(router, " ")
	run("neighbour", "change", router, "dev", "eth0", "router", "nud", "probe")
	lab.Eventually(t, 10*time.Second, func() error {
		if n := run("neighbour", "show", router, "nud", "reachable"); n == "" {
			return fmt.Errorf("the router has not answered: %s", run("neighbour", "show"))
		}
		return nil
	})
	if routes := run("route", "show", "default", "proto", "ra"); !strings.Contains(routes, router) {
		t.Errorf("the guest has dropped its route: %q", routes)
	}
}
