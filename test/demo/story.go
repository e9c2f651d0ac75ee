package main

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"viaduct/internal/lab"
)

// limit is how long the whole demo may take.
const limit = 30 * time.Second

// guestNetwork is the default network's IPv4 subnet on a host that has no
// other use for it.
var guestNetwork = netip.MustParsePrefix("192.168.122.0/24")

// story is the demo from beginning to end.
func story(t *teller, binary string) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	links, etc := linkNames(), lab.EtcSnapshot()

	t.step("A small world")
	l := lab.New(t)
	host := l.NewHost(lab.HostOptions{})
	t.say("Everything here lives in private namespaces: this machine is not touched.")
	t.say("host      %s   where Viaduct runs", host.Addr)
	t.say("outside   %s   a machine in the host's LAN", host.Outside.Addr)

	t.step("Start the daemon; on its first start it makes the network \"default\"")
	t.say("$ viaduct daemon &")
	daemon := host.StartDaemon(binary, "--libvirt-dir", "/nonexistent")
	viaduct := func(args ...string) string {
		t.say("$ viaduct %s", strings.Join(args, " "))
		r, err := daemon.Viaduct(ctx, args...)
		if err != nil {
			t.Fatalf("%v\nthe daemon said:\n%s", err, daemon.Output())
		}
		t.say("%s", r.Stdout)
		return r.Stdout
	}
	t.held(hasLine(viaduct("net-list"), "default", "active"), "the network default is active")

	t.step("Plug two guests into its bridge, virbr0; they ask for addresses by DHCP")
	clients := dhcpClients()
	alice := join(ctx, t, l, host, "alice", clients[0])
	bob := join(ctx, t, l, host, "bob", clients[len(clients)-1])
	leases := viaduct("net-dhcp-leases", "default")
	for _, g := range []guest{alice, bob} {
		t.held(hasLine(leases, g.MAC.String(), g.lease.Addr.Addr().String(), g.Name), "the lease of %s is on record", g.Name)
	}

	t.step("Guests know each other by name")
	for _, pair := range [][2]guest{{alice, bob}, {bob, alice}} {
		asking, other := pair[0], pair[1]
		found, err := asking.Resolve(ctx, other.Name)
		if err != nil {
			t.Fatalf("%v", err)
		}
		t.held(slices.Contains(found, other.lease.Addr.Addr()), "%s finds %s at %s", asking.Name, other.Name, other.lease.Addr.Addr())
	}

	t.step("Guests reach the world, which sees the host and not them")
	for _, g := range []guest{alice, bob} {
		for _, network := range []string{"tcp", "udp"} {
			seen, err := g.Who(ctx, network, host.Outside.Addr)
			if err != nil {
				t.Fatalf("%s does not reach the outside by %s: %v", g.Name, network, err)
			}
			t.held(seen.Addr() == host.Addr, "outside takes %s, %s, for %s (%s)", g.Name, g.lease.Addr.Addr(), seen.Addr(), network)
		}
	}

	t.step("The world does not reach the guests")
	alice.ServeEcho(lab.PortEcho)
	door := netip.AddrPortFrom(alice.lease.Addr.Addr(), lab.PortEcho)
	err := bob.Reach(ctx, door)
	t.held(err == nil, "%s listens on port %d: bob, in the same network, gets through", alice.Name, door.Port())
	host.Outside.AddRoute(guestNetwork, host.Addr)
	attempt, done := context.WithTimeout(ctx, time.Second)
	err = host.Outside.Reach(attempt, door)
	done()
	if err == nil {
		t.Fatalf("outside opened a connection to %s", door)
	}
	t.say("ok: outside does not, though it was told the way (%s)", briefly(err))

	t.step("Leave")
	if err := daemon.Stop(); err != nil {
		t.Fatalf("%v", err)
	}
	l.Close()
	t.held(slices.Equal(links, linkNames()), "this machine has the links it had before")
	t.held(len(lab.EtcSnapshot().Diff(etc)) == 0, "and its /etc is as it was")
	t.end("All of it held, in %.1f s.", time.Since(began).Seconds())
}

// guest is a guest that has its lease.
type guest struct {
	*lab.Guest
	lease lab.LeaseSeen
}

// join plugs a guest in and waits for its lease.
func join(ctx context.Context, t *teller, l *lab.Lab, host *lab.Host, name string, client lab.DHCPClient) guest {
	g := l.NewGuest(lab.GuestOptions{Name: name})
	g.Plug(host.Node, "virbr0", "vnet-"+name)
	lease, err := g.DHCP(ctx, client)
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.say("%-5s asks with %s and has %s after %.2f s", name, client.Name(), lease.Addr, lease.Elapsed.Seconds())
	t.held(guestNetwork.Contains(lease.Addr.Addr()) && lease.Addr.Bits() == guestNetwork.Bits(),
		"%s's address is in %s, its router is %s", name, guestNetwork, lease.Router)
	return guest{g, lease}
}

// dhcpClients are the real clients that are installed, or else the lab's own.
// Those that need a user of their own do not work in a user namespace, so
// they are not for the demo.
func dhcpClients() []lab.DHCPClient {
	var installed []lab.DHCPClient
	for _, client := range []lab.DHCPClient{lab.Udhcpc, lab.Dhclient} {
		if len(lab.Missing(client.Tools()...)) == 0 {
			installed = append(installed, client)
		}
	}
	if len(installed) == 0 {
		return []lab.DHCPClient{lab.Builtin}
	}
	return installed
}

// hasLine tells whether one line of the text has all the words.
func hasLine(text string, words ...string) bool {
	for line := range strings.Lines(text) {
		if !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(line, word) }) {
			return true
		}
	}
	return false
}

// linkNames are the network devices of the machine itself.
func linkNames() []string {
	links, err := net.Interfaces()
	if err != nil {
		return []string{err.Error()}
	}
	var names []string
	for _, l := range links {
		names = append(names, l.Name)
	}
	slices.Sort(names)
	return names
}

// briefly is the cause of a failed connection.
func briefly(err error) string {
	text := err.Error()
	return strings.TrimSpace(text[strings.LastIndex(text, ":")+1:])
}
