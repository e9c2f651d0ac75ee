package lab_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"viaduct/internal/lab"
)

func TestMain(m *testing.M) {
	lab.Init()
	if len(os.Args) > 1 {
		if role := roles[os.Args[1]]; role != nil {
			role()
			os.Exit(0)
		}
	}
	goleak.VerifyTestMain(m)
}

// roles are what this test program does when a test starts it with that argument.
var roles = map[string]func(){
	"daemon": playDaemon,
	"doomed": playDoomed,
}

// within gives a test's operations a limit that a loaded machine still meets.
func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// The network of the tests' plain bridge.
var (
	bridgeAddr = netip.MustParsePrefix("10.77.0.1/24")
	everywhere = netip.MustParsePrefix("0.0.0.0/0")
)

// bridgedHost is a host with a bridge br0 that forwards; the outside knows
// the way back.
func bridgedHost(t *testing.T) (*lab.Lab, *lab.Host) {
	l := lab.New(t)
	h := l.NewHost(lab.HostOptions{})
	h.AddBridge("br0")
	h.AddAddr("br0", bridgeAddr)
	h.SetSysctl("net.ipv4.ip_forward", "1")
	h.Outside.AddRoute(bridgeAddr.Masked(), h.Addr)
	return l, h
}

// staticGuest is a guest on br0 with an address set by hand.
func staticGuest(l *lab.Lab, h *lab.Host, name, addr string) *lab.Guest {
	g := l.PlugGuest(h.Node, "br0", name)
	g.AddAddr("eth0", netip.MustParsePrefix(addr))
	g.AddRoute(everywhere, bridgeAddr.Addr())
	return g
}

func TestNodesHaveFilesOfTheirOwn(t *testing.T) {
	l := lab.New(t)
	n := l.Node("alpha")
	before := lab.EtcSnapshot()

	n.WriteFile("/etc/resolv.conf", "nameserver 192.0.2.1\n")
	n.WriteFile("/etc/lab-test/file", "mine\n")
	own := fmt.Sprintf("/tmp/lab-test-%d", os.Getpid())
	n.WriteFile(own, "mine\n")
	if got, err := n.ReadFile("/etc/lab-test/file"); got != "mine\n" || err != nil {
		t.Errorf("the node reads back %q, %v", got, err)
	}
	if _, err := os.Stat(own); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that the node wrote to /tmp is the machine's too: %v", err)
	}
	if diff := lab.EtcSnapshot().Diff(before); len(diff) > 0 {
		t.Errorf("the node changed the machine's /etc: %q", diff)
	}

	r, err := n.Run(within(t, 5*time.Second), "hostname")
	if err != nil || r.Stdout != "alpha\n" {
		t.Errorf("hostname says %q, %v", r.Stdout, err)
	}
}

func TestShareShowsAFileOfTheMachine(t *testing.T) {
	l := lab.New(t)
	n := l.Node("alpha")
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/hello", []byte("#!/bin/sh\necho shared\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := n.ReadFile(dir + "/hello"); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("the node sees the machine's /tmp: %v", err)
	}
	n.Share(dir + "/hello")
	r, err := n.Run(within(t, 5*time.Second), dir+"/hello")
	if err != nil || r.Stdout != "shared\n" {
		t.Errorf("the shared script says %q, %v", r.Stdout, err)
	}
}

func TestRunTellsHowAProgramEnded(t *testing.T) {
	n := lab.New(t).Node("alpha")
	ctx := within(t, 10*time.Second)
	r, err := n.Run(ctx, "sh", "-c", "echo out; echo err >&2; exit 3")
	if err == nil || r.Code != 3 || r.Stdout != "out\n" || r.Stderr != "err\n" {
		t.Errorf("got %+v, %v", r, err)
	}
	if _, err := n.Run(ctx, "/no/such/program"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing program gives %v", err)
	}
	r, err = n.RunCommand(ctx, lab.Command{Argv: []string{"cat"}, Stdin: "in"})
	if err != nil || r.Stdout != "in" {
		t.Errorf("cat says %q, %v", r.Stdout, err)
	}
}

func TestWaitLineAwaitsOutput(t *testing.T) {
	n := lab.New(t).Node("alpha")
	ctx := within(t, 10*time.Second)
	p := n.Start("sh", "-c", "echo one; echo two; read x; echo three; echo one; printf last")
	for _, want := range []string{"one", "two"} {
		if line, err := p.WaitLine(ctx, "^"+want); err != nil || line != want {
			t.Fatalf("waiting for %q: %q, %v", want, line, err)
		}
	}
	// Both "one"s are found, the second only because the first is used up.
	if line, err := p.WaitLine(ctx, "^one"); err != nil || line != "one" {
		t.Fatalf("waiting for the second one: %q, %v", line, err)
	}
	if line, err := p.WaitLine(ctx, "last"); err != nil || line != "last" {
		t.Errorf("waiting for an unfinished line: %q, %v", line, err)
	}
	if _, err := p.WaitLine(ctx, "four"); err == nil {
		t.Error("a line that never came was found")
	}
}

func TestGuestReachesHostAndOutside(t *testing.T) {
	l, h := bridgedHost(t)
	g := staticGuest(l, h, "vnet0", "10.77.0.2/24")
	ctx := within(t, 10*time.Second)
	for _, to := range []netip.Addr{bridgeAddr.Addr(), h.Addr, h.Outside.Addr} {
		if err := g.Ping(ctx, to); err != nil {
			t.Error(err)
		}
	}
	for _, network := range []string{"tcp", "udp"} {
		as, err := g.Who(ctx, network, h.Outside.Addr)
		if err != nil || as.Addr() != netip.MustParseAddr("10.77.0.2") {
			t.Errorf("by %s the outside sees the guest as %v, %v", network, as, err)
		}
		as, err = h.Who(ctx, network, h.Outside.Addr6)
		if err != nil || as.Addr() != h.Addr6 {
			t.Errorf("by %s the outside sees the host as %v, %v", network, as, err)
		}
	}

	g.Unplug()
	if h.HasLink("vnet0") {
		t.Error("the port is still there after unplugging")
	}
	g.Plug(h.Node, "br0", "vnet1")
	if got := h.Master("vnet1"); got != "br0" {
		t.Errorf("the port's bridge is %q", got)
	}
	if got := g.Node.MAC("eth0").String(); got != g.MAC.String() {
		t.Errorf("plugged in again, eth0 has MAC %s instead of %s", got, g.MAC)
	}
}

func TestReachTellsWhoListens(t *testing.T) {
	l, h := bridgedHost(t)
	g := staticGuest(l, h, "vnet0", "10.77.0.2/24")
	g.ServeEcho(lab.PortEcho)
	ctx := within(t, 10*time.Second)
	inside := netip.MustParseAddr("10.77.0.2")
	if err := h.Outside.Reach(ctx, netip.AddrPortFrom(inside, lab.PortEcho)); err != nil {
		t.Errorf("the outside does not reach the guest: %v", err)
	}
	if err := h.Outside.Reach(ctx, netip.AddrPortFrom(inside, 9)); err == nil {
		t.Error("the outside reaches a port where nobody listens")
	}
}

func TestTapCarriesFrames(t *testing.T) {
	n := lab.New(t).Node("alpha")
	tap := n.OpenTap("tap0")
	n.LinkUp("tap0")
	frame := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, n.MAC("tap0")...)
	frame = append(frame, 0x88, 0xb5)
	if _, err := tap.Write(append(frame, make([]byte, 46)...)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 2048)
	// A fresh IPv6 link announces itself: the first frame read is that.
	if size, err := tap.Read(buf); err != nil || size < 14 {
		t.Errorf("read %d bytes, %v", size, err)
	}
}
