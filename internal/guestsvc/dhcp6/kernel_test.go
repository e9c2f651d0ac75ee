package dhcp6

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"viaduct/internal/guestsvc/leases"
	"viaduct/internal/guestsvc/ra"
	"viaduct/internal/host/sockets"
	"viaduct/internal/lab"
	"viaduct/internal/store"
)

// routerAddr is the bridge's own address, from which it advertises itself.
var routerAddr = addr("fe80::5054:ff:feff:1")

// bridgedServer is a host whose virbr0 has a server and a router on it, with
// sockets and journal as in earnest.
func bridgedServer(t *testing.T, c Config) (*lab.Lab, *lab.Host, *leases.Table) {
	t.Helper()
	l := lab.New(t)
	h := l.NewHost(lab.HostOptions{})
	h.AddBridge(c.Bridge)
	h.AddAddr(c.Bridge, c.Address, netip.PrefixFrom(routerAddr, 64))
	var conn *sockets.DHCP6Conn
	var nd *sockets.NDConn
	if err := h.Do(func() (err error) {
		if conn, err = sockets.ListenDHCP6(c.Bridge); err != nil {
			return err
		}
		nd, err = sockets.ListenND(c.Bridge)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	router, err := ra.Start(ra.Config{
		Network: c.Network, Name: c.Name, Bridge: c.Bridge, Source: routerAddr, Managed: true, Other: true,
		RouterLifetime: ra.DefaultRouterLifetime, Prefixes: []ra.Prefix{{Prefix: c.Address.Masked(), OnLink: true}},
	}, ra.Deps{Conn: nd, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	journal, known, err := store.OpenJournal(filepath.Join(t.TempDir(), "leases.journal"), store.JournalOptions{})
	if err != nil {
		t.Fatal(err)
	}
	table := leases.New(journal, known, time.Now).Table(c.Network)
	s, err := Start(c, Deps{Conn: conn, Leases: table, DUID: ourDUID, Now: time.Now, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, err := range []error{s.Close(), router.Close(), journal.Close()} {
			if err != nil {
				t.Error(err)
			}
		}
	})
	return l, h, table
}

// settleTime is what a guest needs at most on a busy machine.
const settleTime = 30 * time.Second

// client is a DHCPv6 client as a system ships it.
type client struct {
	name  string
	tools []string
	files map[string]string
	// prepare is run in the guest before the first start.
	prepare []string
	argv    []string
	// resolver is the file that tells the name servers; %d is eth0's index.
	resolver string
	// release ends the client and gives the address back: by a signal to it or
	// by a command; neither for one that keeps it.
	signal  syscall.Signal
	command []string
}

var clients = []client{
	{
		name:  "dhclient",
		tools: []string{"dhclient", "/sbin/dhclient-script"},
		files: map[string]string{"/etc/dhcp/dhclient.conf": "send fqdn.fqdn = gethostname();\nsend fqdn.server-update on;\n" +
			"request dhcp6.name-servers, dhcp6.domain-search, dhcp6.fqdn;\n"},
		prepare:  []string{"mkdir", "-p", "/var/lib/dhcp"},
		argv:     []string{"dhclient", "-6", "-d", "-pf", "/run/dhclient6.pid", "eth0"},
		resolver: "/etc/resolv.conf",
		command:  []string{"dhclient", "-6", "-r", "-pf", "/run/dhclient6.pid", "eth0"},
	},
	{
		name:  "dhcpcd",
		tools: []string{"dhcpcd"},
		files: map[string]string{"/tmp/dhcpcd.conf": "hostname\nduid\npersistent\nipv6only\nipv6rs\nia_na 1\n" +
			"option domain_name_servers, domain_search\nfqdn both\n"},
		prepare:  []string{"mkdir", "-p", "/var/lib/dhcpcd"},
		argv:     []string{"dhcpcd", "-6", "-B", "-f", "/tmp/dhcpcd.conf", "eth0"},
		resolver: "/etc/resolv.conf",
		signal:   syscall.SIGALRM,
	},
	{
		name:  "systemd-networkd",
		tools: []string{"/lib/systemd/systemd-networkd"},
		files: map[string]string{"/run/systemd/network/eth0.network": "[Match]\nName=eth0\n[Network]\nDHCP=ipv6\nIPv6AcceptRA=yes\n" +
			"[DHCPv6]\nUseDomains=yes\n"},
		prepare: []string{"sh", "-c", "mkdir -p /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp && " +
			"chown -R systemd-network: /run/systemd/netif"},
		argv:     []string{"/lib/systemd/systemd-networkd"},
		resolver: "/run/systemd/netif/links/%d",
	},
}

// leasedTo awaits the address that a guest has from the range, and returns it.
func leasedTo(t *testing.T, g *lab.Guest, p *lab.Process, c Config) netip.Addr {
	t.Helper()
	var found netip.Addr
	lab.Eventually(t, settleTime, func() error {
		for _, a := range g.Addrs("eth0") {
			if c.Address.Contains(a.Addr()) {
				found = a.Addr()
				return nil
			}
		}
		return fmt.Errorf("no address in %v; the client said:\n%s", g.Addrs("eth0"), p.Output())
	})
	return found
}

func TestRealClients(t *testing.T) {
	for _, client := range clients {
		t.Run(client.name, func(t *testing.T) {
			lab.Need(t, append([]string{"ip"}, client.tools...)...)
			before := lab.EtcSnapshot()
			c := testConfig()
			l, h, table := bridgedServer(t, c)
			g := l.PlugGuest(h.Node, c.Bridge, "vnet0")
			ctx, cancel := context.WithTimeout(t.Context(), 4*settleTime)
			defer cancel()
			for path, text := range client.files {
				g.WriteFile(path, text)
			}
			if _, err := g.Run(ctx, client.prepare...); err != nil {
				t.Fatal(err)
			}

			lab.Eventually(t, settleTime, func() error { // the kernel looks for duplicates of the link's own address
				r, err := g.Run(ctx, "ip", "-6", "-o", "addr", "show", "dev", "eth0", "scope", "link", "-tentative")
				if err == nil && r.Stdout == "" {
					err = errors.New("no link-local address yet")
				}
				return err
			})

			began := time.Now()
			p := g.Start(client.argv...)
			a := leasedTo(t, g, p, c)
			t.Logf("%v after %v", a, time.Since(began))
			lease, ok := table.ByAddr(a)
			if !ok || lease.MAC.String() != g.MAC.String() || len(lease.ClientID) == 0 {
				t.Errorf("the server has %+v, %v", lease, ok)
			}
			if got := table.LookupName(g.Name); client.files["/run/systemd/network/eth0.network"] == "" && !slices.Contains(got, a) {
				t.Errorf("%s = %v, want %v", g.Name, got, a)
			}
			resolver := strings.ReplaceAll(client.resolver, "%d", index(t, g))
			lab.Eventually(t, settleTime, func() error {
				text, err := g.ReadFile(resolver)
				if err == nil && (!strings.Contains(text, c.DNS[0].String()) || !strings.Contains(text, c.Search[0])) {
					err = fmt.Errorf("the guest resolves by:\n%s", text)
				}
				return err
			})
			lab.Eventually(t, settleTime, func() error { return g.Ping(ctx, c.Address.Addr()) }) // once DAD is over

			switch {
			case client.signal != 0:
				if _, err := p.SignalUntilEnd(ctx, client.signal); err != nil {
					t.Error(err)
				}
			case client.command != nil:
				if _, err := g.Run(ctx, client.command...); err != nil {
					t.Error(err)
				}
			default:
				p.Kill()
			}
			if client.signal != 0 || client.command != nil {
				lab.Eventually(t, settleTime, func() error {
					if len(table.All()) > 0 {
						return errors.New("the lease was not released")
					}
					return nil
				})
			}
			p.Kill()
			for _, left := range g.Addrs("eth0") {
				if left.Addr() == a {
					g.DeleteAddr("eth0", left)
				}
			}
			p = g.Start(client.argv...)
			if again := leasedTo(t, g, p, c); again != a {
				t.Errorf("started again, the guest has %v, before %v", again, a)
			}
			if diff := lab.EtcSnapshot().Diff(before); len(diff) > 0 {
				t.Errorf("the machine's /etc changed: %q", diff)
			}
		})
	}
}

// index is the number of a guest's eth0.
func index(t *testing.T, g *lab.Guest) string {
	t.Helper()
	var link *net.Interface
	if err := g.Do(func() (err error) {
		link, err = net.InterfaceByName("eth0")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return strconv.Itoa(link.Index)
}

// TestUnicastIsToldApart asks a real socket by both sorts of address.
func TestUnicastIsToldApart(t *testing.T) {
	c := testConfig()
	l, h, _ := bridgedServer(t, c)
	g := l.PlugGuest(h.Node, c.Bridge, "vnet0")
	own := addr("2001:db8:7::99")
	g.AddAddr("eth0", netip.PrefixFrom(own, 64))
	conn, err := g.ListenPacket(netip.AddrPortFrom(own, 546))
	if err != nil {
		t.Fatal(err)
	}
	for _, ask := range []struct {
		to   string
		want iana.StatusCode
	}{{"2001:db8:7::1", iana.StatusUseMulticast}, {"ff02::1:2%" + index(t, g), iana.StatusSuccess}} {
		p := packet(t, release, 1, server(ourDUID))
		var r *dhcpv6.Message
		lab.Eventually(t, settleTime, func() error { // until the bridge forwards
			if err := g.Do(func() error {
				_, err := conn.WriteToUDPAddrPort(p.ToBytes(), netip.AddrPortFrom(addr(ask.to), 547))
				return err
			}); err != nil {
				return err
			}
			conn.SetReadDeadline(time.Now().Add(time.Second))
			buf := make([]byte, maxMessage)
			for {
				n, _, err := conn.ReadFrom(buf)
				if err != nil {
					return err
				}
				if r, err = dhcpv6.MessageFromBytes(buf[:n]); err != nil || r.TransactionID == p.TransactionID {
					return err
				}
			}
		})
		if s := r.Options.Status(); s == nil || s.StatusCode != ask.want {
			t.Errorf("to %s: %v, want status %v", ask.to, r, ask.want)
		}
	}
}
