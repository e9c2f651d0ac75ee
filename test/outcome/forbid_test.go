package outcome

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"viaduct/internal/lab"
)

// An edit that forbids what guests do ends it at once, also where a connection
// has been established before, and undoing the edit lets new ones through at once.
func TestForbiddingEndsConnections(t *testing.T) {
	const stopped = "stopped" // in place of another mode
	for _, c := range []struct {
		name, forward, then string
		inward              bool // the connection comes from outside
	}{
		{"nat to isolated", `<forward mode='nat'/>`, ``, false},
		{"nat to another uplink", `<forward mode='nat'/>`, `<forward mode='nat' dev='eth1'/>`, false},
		{"route to isolated", `<forward mode='route'/>`, ``, false},
		{"route to nat", `<forward mode='route'/>`, `<forward mode='nat'/>`, true},
		{"stopped", `<forward mode='route'/>`, stopped, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			lab.Need(t, "conntrack")
			s := startSite(t)
			s.create(natXML("b", 51, "")) // with it the kernel tracks all connections
			s.viaduct("net-define", s.file(natXML("a", 50, c.forward)))
			s.viaduct("net-start", "a")
			g, lease := s.guest("virbr50", "one")
			s.host.Outside.AddRoute(netip.MustParsePrefix("192.168.50.0/24"), s.host.Addr)
			from, to, at := g.Node, s.host.Outside.Node, s.host.Outside.Addr
			if c.inward {
				from, to, at = to, from, lease.Addr.Addr()
			}
			flow := s.StartFlow(from, to, netip.AddrPortFrom(at, 7001))
			s.must(flow.Await(s.context(), 1<<20))

			path := s.definitionPath("a")
			before, err := s.host.ReadFile(path)
			s.must(err)
			if c.then == stopped {
				s.viaduct("net-destroy", "a")
			} else {
				s.edit("a", c.forward, c.then)
				s.viaduct("reload")
			}
			// What was on its way when the change took effect may still arrive.
			if err := arrives(t, flow, 1<<30, 100*time.Millisecond); err == nil {
				t.Fatal("a gigabyte arrived")
			}
			if err := arrives(t, flow, 1, 300*time.Millisecond); err == nil {
				t.Error("the connection goes on")
			}
			for line := range strings.Lines(s.mustRun("conntrack", "-L", "--proto", "tcp")) {
				// A sender that tries again is tracked anew, until it gives up.
				if strings.Contains(line, "192.168.50.") && strings.Contains(line, "ASSURED") {
					t.Errorf("the connection is still tracked: %s", line)
				}
			}

			if c.then == stopped {
				s.viaduct("net-start", "a")
			} else {
				s.host.WriteFile(path, before)
				s.viaduct("reload")
			}
			again := s.StartFlow(from, to, netip.AddrPortFrom(at, 7002))
			s.must(again.Await(s.context(), 1<<20))
			if report := again.Stop(); report.Err != nil {
				t.Errorf("afterwards: %v", report)
			}
		})
	}
}

// arrives tells whether so many bytes arrive in time.
func arrives(t *testing.T, flow *lab.Flow, bytes int, within time.Duration) error {
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	return flow.Await(ctx, bytes)
}
