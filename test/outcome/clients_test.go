package outcome

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"viaduct/internal/lab"
)

// The network that a first start makes serves every client that systems ship.
func TestClients(t *testing.T) {
	etc := lab.EtcSnapshot()
	t.Run("on the default network", func(t *testing.T) {
		for _, client := range lab.RealClients() {
			t.Run(client.Name(), func(t *testing.T) {
				t.Parallel()
				lab.Need(t, client.Tools()...)
				testClient(t, client)
			})
		}
	})
	if changed := lab.EtcSnapshot().Diff(etc); len(changed) > 0 {
		t.Errorf("the machine's /etc has changed: %s", strings.Join(changed, " "))
	}
}

func testClient(t *testing.T, client lab.DHCPClient) {
	s := newSite(t)
	s.must(s.daemon.Start())
	gateway := addr("192.168.122.1")

	one := s.PlugGuest(s.host.Node, "virbr0", "one")
	lease, err := one.DHCP(s.context(), client)
	s.must(err)
	if !netip.MustParsePrefix("192.168.122.0/24").Contains(lease.Addr.Addr()) || lease.Addr.Addr() == gateway || lease.Addr.Bits() != 24 {
		t.Errorf("address %s is not in 192.168.122.2-254/24", lease.Addr)
	}
	if lease.Router != gateway {
		t.Errorf("router %s, want %s", lease.Router, gateway)
	}
	if !slices.Equal(lease.DNS, []netip.Addr{gateway}) {
		t.Errorf("name servers %s, want %s", lease.DNS, gateway)
	}
	if lease.Lease != time.Hour {
		t.Errorf("lease of %s, want one hour", lease.Lease)
	}

	two, twoLease := s.guest("virbr0", "two")
	for _, asker := range []*lab.Guest{one, two} {
		s.resolves(asker, "one", lease.Addr.Addr())
		s.resolves(asker, "two", twoLease.Addr.Addr())
	}
	s.seenAsTheHost(one)

	renewed, err := s.renew(one, client)
	if err != nil || renewed.Addr != lease.Addr {
		t.Errorf("renewed to %s, %v, want %s", renewed.Addr, err, lease.Addr)
	}

	// A guest whose lease is lost with the daemon's memory keeps its address.
	s.must(s.daemon.Stop())
	s.mustRun("rm", "-r", s.daemon.StateDir+"/leases")
	s.must(s.daemon.Start())
	if list := s.viaduct("net-dhcp-leases", "default"); strings.Contains(list, one.MAC.String()) {
		t.Fatalf("the lease was not lost:\n%s", list)
	}
	renewed, err = s.renew(one, client)
	if err != nil || renewed.Addr != lease.Addr {
		t.Errorf("renewed the lost lease to %s, %v, want %s", renewed.Addr, err, lease.Addr)
	}
	s.isListed(one, lease.Addr)

	switch err := one.Release(s.context()); {
	case errors.Is(err, lab.ErrUnsupported):
	case err != nil:
		t.Errorf("release: %v", err)
	default:
		// Nobody answers a release, so the guest cannot tell when it has arrived.
		lab.Eventually(t, 5*time.Second, func() error {
			if list := s.viaduct("net-dhcp-leases", "default"); strings.Contains(list, one.MAC.String()) {
				return fmt.Errorf("the released lease is still there:\n%s", list)
			}
			return nil
		})
	}
}

// renew has a client ask for its lease again: at once, or, where it cannot be
// told to, when it starts anew with what it remembers.
func (s *site) renew(g *lab.Guest, client lab.DHCPClient) (lab.LeaseSeen, error) {
	s.t.Helper()
	seen, err := g.Renew(s.context())
	if errors.Is(err, lab.ErrUnsupported) {
		return g.DHCP(s.context(), client)
	}
	return seen, err
}

// resolves fails the test unless the guest finds the address by the name and
// the name by the address.
func (s *site) resolves(from *lab.Guest, name string, want netip.Addr) {
	s.t.Helper()
	addrs, err := from.Resolve(s.context(), name)
	if err != nil || !slices.Equal(addrs, []netip.Addr{want}) {
		s.t.Errorf("%s resolves %s to %s, %v, want %s", from.Name, name, addrs, err, want)
	}
	names, err := from.ResolveAddr(s.context(), want)
	if err != nil || !slices.Contains(names, name+".") {
		s.t.Errorf("%s resolves %s to %s, %v, want %s", from.Name, want, names, err, name)
	}
}

// seenAsTheHost fails the test unless the outside sees the guest under the
// host's address.
func (s *site) seenAsTheHost(g *lab.Guest) {
	s.t.Helper()
	for _, network := range []string{"tcp", "udp"} {
		seen, err := g.Who(s.context(), network, s.host.Outside.Addr)
		if err != nil || seen.Addr() != s.host.Addr {
			s.t.Errorf("the outside sees %s as %s by %s, %v, want %s", g.Name, seen, network, err, s.host.Addr)
		}
	}
}

// isListed fails the test unless a network lists the guest's lease.
func (s *site) isListed(g *lab.Guest, a netip.Prefix) {
	s.t.Helper()
	for line := range strings.Lines(s.viaduct("net-dhcp-leases", "default")) {
		if strings.Contains(line, g.MAC.String()) && strings.Contains(line, a.String()) {
			return
		}
	}
	s.t.Errorf("the lease of %s for %s is not listed", a, g.Name)
}
