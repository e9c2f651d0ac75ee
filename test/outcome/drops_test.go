package outcome

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"viaduct/internal/engine"
	"viaduct/internal/lab"
)

// Whoever asks why packets do not arrive is told what our rules have dropped,
// by reason, for networks and for ports. A daemon that came back knows it too.
func TestDropsByReason(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	s.create(natXML("a", 50, ""))
	s.create(strings.Replace(natXML("b", 51, ""), "<bridge ", "<bridge stp='on' delay='0' ", 1))
	s.create(natXML("c", 52, " "))
	one, oneLease := s.guest("virbr50", "one")
	other, _ := s.guest("virbr51", "other")
	alone, _ := s.guest("virbr52", "alone")
	one.ServeEcho(lab.PortEcho)
	s.must(other.Ping(s.context(), s.host.Outside.Addr))
	s.cannotReach(other.Node, netip.AddrPortFrom(oneLease.Addr.Addr(), lab.PortEcho))
	s.cannotReach(other.Node, netip.AddrPortFrom(addr("192.168.50.1"), 53))
	s.mustIn(alone, "ip", "route", "add", "default", "via", "192.168.52.1")
	s.cannotReach(alone.Node, netip.AddrPortFrom(s.host.Outside.Addr, lab.PortEcho))

	tap := s.host.OpenTap("tap0")
	s.host.LinkUp("tap0")
	s.host.SetMaster("tap0", "virbr51")
	s.soonNothingToChange("b")
	bpdu := append([]byte{0x01, 0x80, 0xc2, 0, 0, 0, 0x52, 0x54, 0, 0, 0, 1, 0, 38, 0x42, 0x42, 3}, make([]byte, 43)...)
	const sent = 3
	for range sent {
		if _, err := tap.Write(bpdu); err != nil {
			t.Fatal(err)
		}
	}

	look := func() {
		t.Helper()
		for network, reasons := range map[string][]string{
			"a": {"not allowed in", "DNS of this network only"}, "b": nil, "c": {"not allowed out"},
		} {
			var info struct{ Counters engine.NetworkCounters }
			s.must(json.Unmarshal([]byte(s.viaduct("-o", "json", "net-info", "-v", network)), &info))
			said := s.viaduct("net-info", "-v", network)
			for _, reason := range reasons {
				if info.Counters.Refused[reason] == 0 || !strings.Contains(said, reason) {
					t.Errorf("network %s: nothing %q in %v or in\n%s", network, reason, info.Counters.Refused, said)
				}
			}
			if len(info.Counters.Refused) != len(reasons) {
				t.Errorf("network %s refused %v, want %v", network, info.Counters.Refused, reasons)
			}
		}
		for _, p := range s.ports("b") {
			want := uint64(0)
			if p.Link == "tap0" {
				want = sent
			}
			if p.FromGuest.Drops["spanning tree"] != want {
				t.Errorf("port %s: %v, want %d of spanning tree", p.Link, p.FromGuest.Drops, want)
			}
		}
		if said := s.viaduct("port-list", "-v", "b"); !strings.Contains(said, "3 spanning tree") {
			t.Errorf("port-list says\n%s", said)
		}
	}
	look()
	s.daemon.Kill9()
	s.must(s.daemon.Start())
	look()
}
