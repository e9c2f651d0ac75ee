package ra

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/ndp"
	"golang.org/x/net/ipv6"

	"viaduct/internal/host/sockets"
	"viaduct/internal/lab"
)

// patience is what an autonomous guest needs: it looks for duplicates of its
// link-local address before it asks, and asks each 4 s.
const patience = 15 * time.Second

// bridgedRouter is a host whose virbr0 has a server on it. No guest is plugged
// in, so the bridge has no carrier.
func bridgedRouter(t *testing.T, c Config) (*lab.Lab, *lab.Host, *Server, *sockets.NDConn) {
	t.Helper()
	lab.Need(t, "ip")
	l := lab.New(t)
	h := l.NewHost(lab.HostOptions{})
	h.AddBridge(c.Bridge)
	if _, err := h.Run(t.Context(), "ip", "link", "set", c.Bridge, "address", bridgeMAC.String()); err != nil {
		t.Fatal(err)
	}
	h.SetSysctl("net.ipv6.conf."+c.Bridge+".addr_gen_mode", "1")
	h.AddAddr(c.Bridge, netip.PrefixFrom(c.Source, 64))
	var conn *sockets.NDConn
	if err := h.Do(func() (err error) {
		conn, err = sockets.ListenND(c.Bridge)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	s, err := Start(c, Deps{Conn: conn, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Leave(); err != nil {
			t.Error(err)
		}
	})
	return l, h, s, conn
}

// sees is what "ip -6" says in a guest.
func sees(t *testing.T, g *lab.Guest, args string) string {
	t.Helper()
	r, err := g.Run(t.Context(), append([]string{"ip", "-6"}, strings.Fields(args)...)...)
	if err != nil {
		t.Fatal(err)
	}
	return r.Stdout
}

// await waits until what a guest sees contains text, or does not.
func await(t *testing.T, g *lab.Guest, args, text string, want bool) {
	t.Helper()
	lab.Eventually(t, patience, func() error {
		if out := sees(t, g, args); strings.Contains(out, text) != want {
			return fmt.Errorf("ip -6 %s: %q is there: %v, want %v:\n%s", args, text, !want, want, out)
		}
		return nil
	})
}

// TestGuestFollowsRouter has a guest with nothing but its kernel.
func TestGuestFollowsRouter(t *testing.T) {
	l, h, s, _ := bridgedRouter(t, testConfig())
	h.AddAddr("virbr0", prefix("fd00:1::1/64"), prefix("fd00:2::1/64"))
	started := time.Now()
	g := l.PlugGuest(h.Node, "virbr0", "vnet0")
	const defaultRoute = "via fe80::5054:ff:fe11:2233"
	await(t, g, "route show default", defaultRoute, true)
	await(t, g, "addr show dev eth0 scope global -tentative", "fd00:1::", true)
	t.Logf("address and default route after %v", time.Since(started))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := g.Ping(ctx, h.Addr6); err != nil {
		t.Errorf("by way of the default route: %v", err)
	}

	moved := change(func(c *Config) { c.Prefixes = []Prefix{slaac("fd00:2::/64")} })
	if err := s.Reconfigure(moved); err != nil {
		t.Fatal(err)
	}
	await(t, g, "addr show dev eth0 scope global -deprecated", "fd00:2::", true)
	await(t, g, "addr show dev eth0 scope global deprecated", "fd00:1::", true)
	await(t, g, "route show dev eth0", "fd00:1::/64", false)

	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	await(t, g, "route show default", defaultRoute, false)
	await(t, g, "addr show dev eth0 scope global deprecated", "fd00:2::", true)
}

// TestGuestReadsAdvertisement asks as a guest's program does, and reads what
// its kernel does not show.
func TestGuestReadsAdvertisement(t *testing.T) {
	c := change(func(c *Config) { c.MTU = 1400 })
	l, h, _, _ := bridgedRouter(t, c)
	g := l.PlugGuest(h.Node, c.Bridge, "vnet0")
	await(t, g, "addr show dev eth0 scope link -tentative", "fe80::", true)
	if err := g.Do(func() error { return readAdvertisement(t, c) }); err != nil {
		t.Fatal(err)
	}
}

// readAdvertisement asks from within a guest, and checks the answer.
func readAdvertisement(t *testing.T, c Config) error {
	eth0, err := net.InterfaceByName("eth0")
	if err != nil {
		return err
	}
	conn, own, err := ndp.Listen(eth0, ndp.LinkLocal)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := errors.Join(conn.SetControlMessage(ipv6.FlagDst|ipv6.FlagHopLimit, true), conn.SetReadDeadline(time.Now().Add(patience)),
		conn.WriteTo(&ndp.RouterSolicitation{}, nil, netip.IPv6LinkLocalAllRouters())); err != nil {
		return err
	}
	for {
		m, control, from, err := conn.ReadFrom()
		if err != nil {
			return err
		}
		ra, ok := m.(*ndp.RouterAdvertisement)
		if !ok {
			continue
		}
		if dst, _ := netip.AddrFromSlice(control.Dst); from.WithZone("") != routerLL || control.HopLimit != ndp.HopLimit ||
			dst != own.WithZone("") && dst != allNodes {
			t.Errorf("from %s to %s with hop limit %d", from, dst, control.HopLimit)
		}
		dns, search, mtu := find[*ndp.RecursiveDNSServer](ra), find[*ndp.DNSSearchList](ra), find[*ndp.MTU](ra)
		if len(dns) != 1 || !slices.Equal(dns[0].Servers, c.RDNSS) || len(search) != 1 || !slices.Equal(search[0].DomainNames, c.DNSSL) ||
			len(mtu) != 1 || mtu[0].MTU != 1400 || ra.RouterLifetime != DefaultRouterLifetime {
			t.Errorf("advertisement %+v", ra)
		}
		return nil
	}
}

// TestEndsWithoutLink ends servers whose link is down, or gone.
func TestEndsWithoutLink(t *testing.T) {
	for name, f := range map[string]func(*lab.Host){
		"down": func(h *lab.Host) { h.LinkDown("virbr0") },
		"gone": func(h *lab.Host) { h.DeleteLink("virbr0") },
	} {
		t.Run(name, func(t *testing.T) {
			_, h, s, conn := bridgedRouter(t, testConfig())
			f(h)
			if got, want := conn.Bound(), name == "down"; got != want {
				t.Errorf("bound: %v, want %v", got, want)
			}
			s.Wake()
			start := time.Now()
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			if d := time.Since(start); d > 100*time.Millisecond {
				t.Errorf("the end took %v", d)
			}
		})
	}
}
