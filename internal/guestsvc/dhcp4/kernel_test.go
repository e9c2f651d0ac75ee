package dhcp4

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"viaduct/internal/guestsvc/leases"
	"viaduct/internal/host/sockets"
	"viaduct/internal/lab"
	"viaduct/internal/netdef"
	"viaduct/internal/store"
)

// bridgedServer is a host whose virbr0 has a server on it, with sockets and
// journal as in earnest.
func bridgedServer(t *testing.T, c Config) (*lab.Lab, *lab.Host, *leases.Table) {
	t.Helper()
	l := lab.New(t)
	h := l.NewHost(lab.HostOptions{})
	h.AddBridge(c.Bridge)
	h.AddAddr(c.Bridge, c.Address)
	var frames, arp *sockets.FrameConn
	if err := h.Do(func() (err error) {
		if frames, err = sockets.OpenFrames(c.Bridge, sockets.DHCP4Server); err != nil {
			return err
		}
		arp, err = sockets.OpenFrames(c.Bridge, sockets.ARPReplies)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	journal, known, err := store.OpenJournal(filepath.Join(t.TempDir(), "leases.journal"), store.JournalOptions{})
	if err != nil {
		t.Fatal(err)
	}
	table := leases.New(journal, known, time.Now).Table(c.Network)
	prober := NewARPProber(arp, ProbeWait)
	s, err := Start(c, Deps{Frames: frames, Prober: prober, Leases: table, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, err := range []error{s.Close(), prober.Close(), journal.Close()} {
			if err != nil {
				t.Error(err)
			}
		}
	})
	return l, h, table
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func kernelConfig() Config {
	c := testConfig()
	c.MTU = 1400
	c.Hosts = nil
	return c
}

func TestRealClients(t *testing.T) {
	for _, client := range lab.RealClients() {
		t.Run(client.Name(), func(t *testing.T) {
			lab.Need(t, client.Tools()...)
			before := lab.EtcSnapshot()
			c := kernelConfig()
			l, h, table := bridgedServer(t, c)
			g := l.PlugGuest(h.Node, c.Bridge, "vnet0")
			ctx := within(t, 30*time.Second)
			seen, err := g.DHCP(ctx, client)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("after %v: %+v", seen.Elapsed, seen)
			if !c.Address.Contains(seen.Addr.Addr()) || seen.Addr.Bits() != 24 || seen.Addr.Addr() == c.Address.Addr() {
				t.Errorf("address %v", seen.Addr)
			}
			if seen.Router != c.Router[0] || !slices.Equal(seen.DNS, c.DNS) || seen.Domain != c.Domain {
				t.Errorf("router %v, dns %v, domain %q", seen.Router, seen.DNS, seen.Domain)
			}
			if seen.Lease != time.Hour {
				t.Errorf("lease time %v", seen.Lease)
			}
			if l, ok := table.ByAddr(seen.Addr.Addr()); !ok || l.MAC != netdef.MAC(g.MAC) {
				t.Errorf("the server has %+v, %v", l, ok)
			}
			if err := g.Ping(ctx, c.Address.Addr()); err != nil {
				t.Error(err)
			}
			switch again, err := g.Renew(ctx); {
			case err == nil && again.Addr != seen.Addr:
				t.Errorf("renewed, the guest has %v", again.Addr)
			case err != nil && !errors.Is(err, lab.ErrUnsupported):
				t.Error(err)
			}
			if err := g.Release(ctx); err == nil {
				lab.Eventually(t, 10*time.Second, func() error {
					if len(table.All()) > 0 {
						return errors.New("the lease was not released")
					}
					return nil
				})
			} else if !errors.Is(err, lab.ErrUnsupported) {
				t.Error(err)
			}
			if back, err := g.DHCP(ctx, client); err != nil || back.Addr != seen.Addr {
				t.Errorf("started again, the guest has %v, %v", back.Addr, err)
			}
			if diff := lab.EtcSnapshot().Diff(before); len(diff) > 0 {
				t.Errorf("the machine's /etc changed: %q", diff)
			}
		})
	}
}

// TestSquatterIsFoundByARP has a guest that uses, without asking, the address
// that the next guest would get.
func TestSquatterIsFoundByARP(t *testing.T) {
	lab.Need(t, lab.Udhcpc.Tools()...)
	c := kernelConfig()
	c.Ranges = []Range{{First: addr("192.168.122.5"), Last: addr("192.168.122.6")}}
	l, h, _ := bridgedServer(t, c)
	squatter := l.PlugGuest(h.Node, c.Bridge, "vnet0")
	guests := []*lab.Guest{l.PlugGuest(h.Node, c.Bridge, "vnet1"), l.PlugGuest(h.Node, c.Bridge, "vnet2")}
	squatter.AddAddr("eth0", netip.MustParsePrefix("192.168.122.5/24"))
	ctx := within(t, 30*time.Second)
	seen, err := guests[0].DHCP(ctx, lab.Udhcpc)
	if err != nil {
		t.Fatal(err)
	}
	if seen.Addr.Addr() != addr("192.168.122.6") {
		t.Errorf("got %v, which another guest uses", seen.Addr)
	}
	if seen.Elapsed > time.Second {
		t.Errorf("the lease took %v", seen.Elapsed)
	}
}
