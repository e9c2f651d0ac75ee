package outcome

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"viaduct/internal/lab"
)

// Who may begin connections to a guest from outside is said for each guest, and
// said anew while guests run: a connection that has been forbidden ends, those
// that the guest begins and those to other guests go on.
func TestInbound(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	s.create(natXML("b", 51, "")) // with it the kernel tracks all connections
	const head = `<network><name>a</name>`
	xml := func(settings string) string {
		return head + `<metadata><viaduct:settings xmlns:viaduct='urn:viaduct:settings:1'>` + settings + `</viaduct:settings></metadata>
			<forward mode='route'/><bridge name='virbr50'/><ip address='192.168.50.1' prefix='24'><dhcp><range start='192.168.50.100' end='192.168.50.200'/></dhcp></ip></network>`
	}
	apply := func(settings string) {
		t.Helper()
		s.viaduct("net-apply", s.file(xml(settings)))
	}
	apply("")
	s.host.Outside.AddRoute(netip.MustParsePrefix("192.168.50.0/24"), s.host.Addr)
	// A second host of the LAN.
	friend := netip.MustParseAddr("203.0.113.77")
	s.host.Outside.AddAddr("eth0", netip.PrefixFrom(friend, 24))
	one, lease := s.guest("virbr50", "one")
	two, other := s.guest("virbr50", "two")
	oneAddr, twoAddr := lease.Addr.Addr(), other.Addr.Addr()
	for _, g := range []*lab.Guest{one, two} {
		g.ServeEcho(lab.PortEcho)
		g.ServeEcho(lab.PortEcho + 1)
	}
	outside := s.host.Outside.Node
	at := func(a netip.Addr, offset uint16) netip.AddrPort { return netip.AddrPortFrom(a, lab.PortEcho+offset) }
	s.reaches(outside, at(oneAddr, 0))
	inward := s.StartFlow(outside, one.Node, netip.AddrPortFrom(oneAddr, 7001))
	s.must(inward.Await(s.context(), 1<<20))
	outward := s.StartFlow(one.Node, outside, netip.AddrPortFrom(s.host.Outside.Addr, 7002))
	s.must(outward.Await(s.context(), 1<<20))
	bystander := s.StartFlow(outside, two.Node, netip.AddrPortFrom(twoAddr, 7003))
	s.must(bystander.Await(s.context(), 1<<20))

	apply(fmt.Sprintf(`<viaduct:inbound to='%s' protocol='tcp' port='%d'/>`, oneAddr, lab.PortEcho))
	// What was on its way when the change took effect may still arrive.
	arrives(t, inward, 1<<30, 100*time.Millisecond)
	if err := arrives(t, inward, 1, 300*time.Millisecond); err == nil {
		t.Error("a connection that is forbidden goes on")
	}
	s.reaches(outside, at(oneAddr, 0))
	s.cannotReach(outside, at(oneAddr, 1))
	s.reaches(two.Node, at(oneAddr, 1)) // is of the same network
	s.reaches(outside, at(twoAddr, 1))

	apply(`<viaduct:inbound to='` + oneAddr.String() + `' from='` + friend.String() + `' protocol='tcp'/>`)
	s.cannotReach(outside, at(oneAddr, 0))
	apply(`<viaduct:inbound to='` + oneAddr.String() + `' from='203.0.113.0/24' protocol='tcp'/>`)
	s.reaches(outside, at(oneAddr, 1))
	apply(`<viaduct:inbound to='` + oneAddr.String() + `' allow='no'/>`)
	s.cannotReach(outside, at(oneAddr, 0))
	for name, flow := range map[string]*lab.Flow{"from the guest": outward, "to another guest": bystander} {
		if err := arrives(t, flow, 1<<20, 30*time.Second); err != nil {
			t.Errorf("the connection %s: %v", name, err)
		}
		if report := flow.Stop(); report.Err != nil {
			t.Errorf("the connection %s: %v", name, report)
		}
	}
	apply("")
	s.reaches(outside, at(oneAddr, 0))
}
