package lab_test

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"viaduct/internal/lab"
)

// dnsmasqHost is a host whose br0 has dnsmasq, as a server that is not ours.
func dnsmasqHost(t *testing.T, options ...string) (*lab.Lab, *lab.Host, *lab.Process) {
	l, h := bridgedHost(t)
	argv := []string{"dnsmasq", "--keep-in-foreground", "--log-facility=-", "--log-dhcp", "--conf-file=/dev/null",
		"--user=root", "--interface=br0", "--bind-interfaces", "--except-interface=lo", "--no-hosts", "--no-resolv",
		"--dhcp-range=10.77.0.10,10.77.0.99,255.255.255.0,3600", "--dhcp-leasefile=/run/dnsmasq.leases",
		"--dhcp-authoritative", "--no-ping", "--domain=lab.test", "--expand-hosts"}
	p := h.Start(append(argv, options...)...)
	if _, err := p.WaitLine(within(t, 10*time.Second), "sockets bound exclusively to interface br0"); err != nil {
		t.Fatal(err)
	}
	return l, h, p
}

func TestEachClientGetsALease(t *testing.T) {
	for _, client := range append(lab.RealClients(), lab.Builtin) {
		t.Run(client.Name(), func(t *testing.T) {
			lab.Need(t, append(client.Tools(), "dnsmasq")...)
			before := lab.EtcSnapshot()
			l, h, server := dnsmasqHost(t)
			g := l.PlugGuest(h.Node, "br0", "vnet0")
			ctx := within(t, 30*time.Second)
			seen, err := g.DHCP(ctx, client)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%+v", seen)
			if !netip.MustParsePrefix("10.77.0.0/24").Contains(seen.Addr.Addr()) || seen.Addr.Bits() != 24 {
				t.Errorf("eth0 has %v", seen.Addr)
			}
			if seen.Router != bridgeAddr.Addr() {
				t.Errorf("the router is %v", seen.Router)
			}
			if !slices.Equal(seen.DNS, []netip.Addr{bridgeAddr.Addr()}) {
				t.Errorf("the name servers are %v", seen.DNS)
			}
			if seen.Domain != "lab.test" {
				t.Errorf("the domain is %q", seen.Domain)
			}
			if seen.Lease != time.Hour {
				t.Errorf("the lease lasts %v", seen.Lease)
			}
			if err := g.Ping(ctx, h.Outside.Addr); err != nil {
				t.Error(err)
			}
			again, err := g.Renew(ctx)
			switch {
			case err == nil && again.Addr != seen.Addr:
				t.Errorf("renewed, eth0 has %v", again.Addr)
			case err != nil && !errors.Is(err, lab.ErrUnsupported):
				t.Error(err)
			}
			if err := g.Release(ctx); err == nil {
				if _, err := server.WaitLine(ctx, `DHCPRELEASE\(br0\) `+seen.Addr.Addr().String()); err != nil {
					t.Error(err)
				}
				if now, err := g.Configured(); err != nil || now.Addr.IsValid() {
					t.Errorf("released, eth0 still has %v, %v", now.Addr, err)
				}
			} else if !errors.Is(err, lab.ErrUnsupported) {
				t.Error(err)
			}
			// A client comes back for the address it had.
			if back, err := g.DHCP(ctx, client); err != nil || back.Addr != seen.Addr {
				t.Errorf("started again, eth0 has %v, %v", back.Addr, err)
			}
			if diff := lab.EtcSnapshot().Diff(before); len(diff) > 0 {
				t.Errorf("the client changed the machine's /etc: %q", diff)
			}
		})
	}
}
