// Package scenario plays what administrators have virtual networks for: a DMZ,
// a hosting company, a provider that is particular about MAC addresses, a
// desktop, a malware lab. Each is a small world of several machines, in which
// the host is set up by definition files and commands alone.
package scenario

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"viaduct/internal/lab"
)

// binary is the program under test.
var binary string

func TestMain(m *testing.M) { lab.Main("scenario", &binary, m.Run) }

// patience bounds what is let through, which ends when it has come.
const patience = time.Minute

// forbiddenPatience is waited for in full where packets vanish.
const forbiddenPatience = time.Second

// world is a lab in which one machine runs Viaduct.
type world struct {
	*lab.Lab
	t      *testing.T
	host   *lab.Node
	daemon *lab.Daemon
}

// newWorld is a world with nothing but the host, whose daemon is not started.
// Its guests use a DHCP client that systems ship.
func newWorld(t *testing.T, args ...string) *world {
	t.Helper()
	t.Parallel()
	lab.Need(t, client.Tools()...)
	w := &world{Lab: lab.New(t), t: t}
	w.host = w.Node("host")
	w.daemon = w.host.NewDaemon(binary, lab.DaemonOptions{Args: append([]string{"--libvirt-dir", "/nowhere"}, args...)})
	return w
}

var client = lab.Udhcpc

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) context() context.Context {
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	w.t.Cleanup(cancel)
	return ctx
}

// lan is a switch; machines with a cable to it are in one LAN.
func (w *world) lan(name string) *lab.Node {
	w.t.Helper()
	n := w.Node(name)
	n.AddBridge("br0")
	return n
}

// machine is a node with a NIC, eth0, in a LAN. It serves echo and who, and its
// default routes lead to the gateways via.
func (w *world) machine(name string, lan *lab.Node, at string, via ...string) *lab.Node {
	w.t.Helper()
	n := w.Node(name)
	w.nic(n, "eth0", lan, at)
	for _, v := range via {
		n.AddRoute(anywhere(addr(v)), addr(v))
	}
	serve(n)
	return n
}

// nic gives a machine a NIC in a LAN. The switch calls its port by the
// machine's name, with a digit behind for other NICs than the first.
func (w *world) nic(n *lab.Node, name string, lan *lab.Node, at string) {
	w.t.Helper()
	port := n.Name + strings.TrimPrefix(strings.TrimPrefix(name, "eth"), "0")
	w.Connect(n, name, lan, port, lab.WireOptions{})
	lan.SetMaster(port, "br0")
	n.AddAddr(name, prefixes(at)...)
}

func serve(n *lab.Node) {
	n.ServeEcho(lab.PortEcho)
	n.ServeWho(lab.PortWho)
}

// forwards makes a node a router.
func forwards(n *lab.Node) {
	n.SetSysctl("net.ipv4.ip_forward", "1")
	n.SetSysctl("net.ipv6.conf.all.forwarding", "1")
}

// run runs a program on a machine, which must succeed, and returns what it printed.
func (w *world) run(n *lab.Node, argv ...string) string {
	w.t.Helper()
	r, err := n.Run(w.context(), argv...)
	if err != nil || r.Code != 0 {
		w.t.Fatalf("%s on %s: %v, exit code %d\n%s%s", strings.Join(argv, " "), n.Name, err, r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// viaduct runs a command that must succeed and returns what it printed on
// standard output and on standard error.
func (w *world) viaduct(args ...string) (stdout, stderr string) {
	w.t.Helper()
	r, err := w.daemon.Viaduct(w.context(), args...)
	if err != nil || r.Code != 0 {
		w.t.Fatalf("viaduct %s: %v, exit code %d\n%s%s", strings.Join(args, " "), err, r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout, r.Stderr
}

// guest plugs a guest in, has it ask for an address by DHCP and returns that.
func (w *world) guest(bridge, name string) (*lab.Guest, netip.Addr) {
	w.t.Helper()
	g := w.NewGuest(lab.GuestOptions{Name: name})
	serve(g.Node)
	return g, w.plug(g, bridge)
}

// plug is guest for one that exists.
func (w *world) plug(g *lab.Guest, bridge string) netip.Addr {
	w.t.Helper()
	g.Plug(w.host, bridge, g.Name)
	seen, err := g.DHCP(w.context(), client)
	w.must(err)
	return seen.Addr.Addr()
}

// address6 waits until a machine has an IPv6 address in the prefix that it may
// use.
func (w *world) address6(n *lab.Node, prefix string) netip.Addr {
	w.t.Helper()
	p := netip.MustParsePrefix(prefix)
	var found netip.Addr
	lab.Eventually(w.t, patience, func() error {
		if r, _ := n.Run(w.context(), "ip", "-6", "address", "show", "tentative"); r.Stdout != "" {
			return fmt.Errorf("%s still looks for duplicates of its address", n.Name)
		}
		for _, a := range n.Addrs("eth0") {
			if p.Contains(a.Addr()) {
				found = a.Addr()
				return nil
			}
		}
		return fmt.Errorf("%s has no address in %s", n.Name, p)
	})
	return found
}

// reaches fails the test unless the machine has a connection to each address,
// under which it is known there by the address as.
func (w *world) reaches(from *lab.Node, as netip.Addr, to ...netip.Addr) {
	w.t.Helper()
	for _, a := range to {
		var seen netip.AddrPort
		lab.Eventually(w.t, patience, func() (err error) {
			seen, err = from.Who(w.context(), "tcp", a)
			return err
		})
		if seen.Addr() != as {
			w.t.Errorf("%s is known as %s to %s, want %s", from.Name, seen.Addr(), a, as)
		}
	}
}

// cannotReach fails the test if the machine gets through to one of the addresses.
func (w *world) cannotReach(from *lab.Node, to ...netip.Addr) {
	w.t.Helper()
	reached := make(chan netip.Addr, len(to))
	for _, a := range to {
		go func() {
			ctx, cancel := context.WithTimeout(w.t.Context(), forbiddenPatience)
			defer cancel()
			ping := make(chan error, 1)
			go func() { ping <- from.Ping(ctx, a) }()
			err := from.Reach(ctx, netip.AddrPortFrom(a, lab.PortEcho))
			if err == nil || <-ping == nil {
				reached <- a
				return
			}
			reached <- netip.Addr{}
		}()
	}
	for range to {
		if a := <-reached; a.IsValid() {
			w.t.Errorf("%s reaches %s", from.Name, a)
		}
	}
}

// containsLine reports whether a line of the text begins with the one and has
// the other in it.
func containsLine(text, begin, has string) bool {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, begin) && strings.Contains(line, has) {
			return true
		}
	}
	return false
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// prefixes reads addresses with lengths, separated by blanks.
func prefixes(s string) []netip.Prefix {
	var list []netip.Prefix
	for _, p := range strings.Fields(s) {
		list = append(list, netip.MustParsePrefix(p))
	}
	return list
}

// anywhere is the destination of a default route by that gateway.
func anywhere(via netip.Addr) netip.Prefix {
	if via.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}
