package outcome

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"viaduct/internal/lab"
)

// Whatever becomes of other networks, and of other ports of its own, a guest
// loses nothing of what it sends and receives, over both families.
func TestChangesOfOthersLoseNothing(t *testing.T) {
	s := startSite(t)
	s.create(xml6("a", 50, `<forward mode='nat'><nat ipv6='yes'/></forward>`))
	s.viaduct("net-define", s.file(xml6("b", 51, `<forward mode='route'/>`)))
	s.viaduct("net-start", "b")
	one, _ := s.guest("virbr50", "one")
	s.address6(one, "fd00:50::/64")
	outside := s.host.Outside
	pings := map[string]*lab.Pinger{
		"IPv4": one.StartPing(outside.Addr, time.Millisecond),
		"IPv6": one.StartPing(outside.Addr6, time.Millisecond),
	}
	flow := s.StartFlow(one.Node, outside.Node, netip.AddrPortFrom(outside.Addr, 7001))
	s.must(flow.Await(s.context(), 1<<20))

	const changes = 200
	names := func(i int) string { return fmt.Sprintf("n%d", i) }
	round := []func(i int){
		func(i int) { s.create(xml6(names(i), 60, `<forward mode='nat'/>`)) },
		func(i int) { s.viaduct("port-create", "a", "--tap", names(i)) },
		func(i int) { s.PlugGuest(s.host.Node, "virbr50", "extra") },
		func(i int) { s.create(xml6(names(i), 61, ``)) },
		func(i int) { s.viaduct("net-destroy", names(i-4)) },
		func(i int) {
			s.viaduct("net-update", "b", "add", "dns-host", fmt.Sprintf("<host ip='192.168.51.9'><hostname>h%d</hostname></host>", i), "--live")
		},
		func(i int) { s.viaduct("port-create", "b", "--tap", names(i), "--guard", "yes") },
		func(i int) { s.viaduct("port-delete", "a", names(i-6)) },
		func(i int) { s.viaduct("port-delete", "b", names(i-2)) },
		func(i int) { s.viaduct("net-destroy", names(i-6)) },
		func(i int) { s.host.DeleteLink("extra") },
		func(i int) {
			s.viaduct("net-update", "b", "delete", "dns-host", fmt.Sprintf("<host ip='192.168.51.9'><hostname>h%d</hostname></host>", i-6), "--live")
		},
		func(int) { s.viaduct("net-destroy", "b") },
		func(int) { s.viaduct("net-start", "b") },
	}
	for i := range changes {
		round[i%len(round)](i)
	}

	for family, ping := range pings {
		if loss := ping.Stop(); loss.Received != loss.Sent || loss.Duplicates > 0 {
			t.Errorf("%s over %d changes: %s, %d duplicates, lost %v", family, changes, loss, loss.Duplicates, loss.Lost)
		}
	}
	if r := flow.Stop(); r.Err != nil {
		t.Errorf("TCP over %d changes: %v", changes, r.Err)
	}
}
