package outcome

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// When a host comes up all its guests ask at once: each gets its lease, and
// the daemon knows of every one, also after a crash.
func TestACrowdBootsAtOnce(t *testing.T) {
	const networks, each = 50, 10
	s := startSite(t)
	var bridges []string
	subnets := map[string]netip.Prefix{}
	for n := range networks {
		bridge := fmt.Sprintf("virbr%d", n)
		subnet := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 90, byte(n), 0}), 24)
		gateway := subnet.Addr().Next()
		xml := fmt.Sprintf("<network><name>%s</name><forward mode='nat'/><bridge name='%s'/><ip address='%s' prefix='24'>"+
			"<dhcp><range start='10.90.%d.2' end='10.90.%d.254'/></dhcp></ip></network>", bridge, bridge, gateway, n, n)
		bridges, subnets[bridge] = append(bridges, bridge), subnet
		s.create(xml)
	}
	crowd := s.PlugCrowd("crowd", s.host.Node, bridges, each)
	got, err := crowd.Boot(s.context())
	s.must(err)
	holder := map[netip.Addr]string{}
	for _, l := range got {
		if !subnets[l.Bridge].Contains(l.Addr) {
			t.Errorf("guest %s on %s got %s, which is not in %s", l.MAC, l.Bridge, l.Addr, subnets[l.Bridge])
		}
		if other, taken := holder[l.Addr]; taken {
			t.Errorf("%s was given to %s and to %s", l.Addr, other, l.MAC)
		}
		holder[l.Addr] = l.MAC.String()
	}
	s.daemon.Kill9()
	s.must(s.daemon.Start())
	for _, bridge := range bridges {
		listed := s.viaduct("net-dhcp-leases", bridge)
		if n := strings.Count(listed, "ipv4"); n != each {
			t.Errorf("%d leases of %s are listed, want %d:\n%s", n, bridge, each, listed)
		}
		for _, l := range got {
			if l.Bridge == bridge && !strings.Contains(listed, fmt.Sprintf("%s   ipv4       %s/24", l.MAC, l.Addr)) {
				t.Errorf("the lease of %s by %s is not listed:\n%s", l.Addr, l.MAC, listed)
			}
		}
	}
}
