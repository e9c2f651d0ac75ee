package lab_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"viaduct/internal/lab"
)

func TestPingerCountsLossExactly(t *testing.T) {
	lab.Need(t, "nft")
	_, h := bridgedHost(t)
	ctx := within(t, 20*time.Second)
	if _, err := h.RunCommand(ctx, lab.Command{Argv: []string{"nft", "-f", "-"}, Stdin: `
		table inet loss {
			chain input {
				type filter hook input priority 0
				icmp type echo-request icmp sequence 10-19 drop
				icmpv6 type echo-request icmpv6 sequence 30-30 drop
			}
		}`}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		to   netip.Addr
		lost []uint64
	}{
		{h.Addr, []uint64{10, 11, 12, 13, 14, 15, 16, 17, 18, 19}},
		{h.Addr6, []uint64{30}},
	} {
		p := h.Outside.StartPing(c.to, time.Millisecond)
		if err := p.Await(ctx, 50); err != nil {
			t.Fatal(err)
		}
		loss := p.Stop()
		if !slices.Equal(loss.Lost, c.lost) || loss.Received != loss.Sent-len(c.lost) || loss.Unsent != 0 || loss.Duplicates != 0 {
			t.Errorf("pinging %s: %v, lost %v", c.to, loss, loss.Lost)
		}
		if loss.Gap < time.Duration(len(c.lost))*time.Millisecond {
			t.Errorf("pinging %s: the longest gap is %v with %d lost in a row", c.to, loss.Gap, len(c.lost))
		}
	}
}

func TestPingersDoNotMixUp(t *testing.T) {
	_, h := bridgedHost(t)
	ctx := within(t, 20*time.Second)
	alive := h.StartPing(h.Outside.Addr, time.Millisecond)
	dead := h.StartPing(netip.MustParseAddr("203.0.113.77"), time.Millisecond)
	if err := alive.Await(ctx, 30); err != nil {
		t.Fatal(err)
	}
	if loss := dead.Stop(); loss.Received != 0 || loss.Sent == 0 {
		t.Errorf("a machine that does not exist: %v", loss)
	}
	if loss := alive.Stop(); len(loss.Lost) != 0 {
		t.Errorf("the other: %v", loss)
	}
}

func TestFlowAndDatagramsSurviveAGap(t *testing.T) {
	l, h := bridgedHost(t)
	g := staticGuest(l, h, "vnet0", "10.77.0.2/24")
	ctx := within(t, 30*time.Second)
	flow := l.StartFlow(g.Node, h.Outside.Node, netip.AddrPortFrom(h.Outside.Addr, 5001))
	datagrams := l.StartDatagrams(g.Node, h.Outside.Node, netip.AddrPortFrom(h.Outside.Addr, 5002), time.Millisecond)
	if err := flow.Await(ctx, 64<<10); err != nil {
		t.Fatal(err)
	}
	if err := datagrams.Await(ctx, 10); err != nil {
		t.Fatal(err)
	}

	// While the port is down another pair of nodes marks the time.
	h.LinkDown("vnet0")
	clock := h.StartPing(h.Outside.Addr, time.Millisecond)
	if err := clock.Await(ctx, 50); err != nil {
		t.Fatal(err)
	}
	clock.Stop()
	h.LinkUp("vnet0")

	if err := flow.Await(ctx, 64<<10); err != nil {
		t.Fatal(err)
	}
	if err := datagrams.Await(ctx, 10); err != nil {
		t.Fatal(err)
	}
	if loss := datagrams.Stop(); len(loss.Lost) == 0 || loss.Gap < 40*time.Millisecond {
		t.Errorf("the gap does not show in %v", loss)
	}
	report := flow.Stop()
	if report.Err != nil || report.Sent != report.Received || report.Stall < 40*time.Millisecond {
		t.Errorf("the flow reports %+v", report)
	}
}

func TestFlowReportsAReset(t *testing.T) {
	lab.Need(t, "nft")
	l, h := bridgedHost(t)
	ctx := within(t, 30*time.Second)
	flow := l.StartFlow(h.Node, h.Outside.Node, netip.AddrPortFrom(h.Outside.Addr, 5001))
	if err := flow.Await(ctx, 64<<10); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Outside.Run(ctx, "nft", "add table inet cut; add chain inet cut in { type filter hook input priority 0; }; "+
		"add rule inet cut in tcp dport 5001 reject with tcp reset"); err != nil {
		t.Fatal(err)
	}
	if report := flow.Stop(); report.Err == nil {
		t.Errorf("the flow reports %+v", report)
	}
}

func TestResolveUsesTheNodesResolvers(t *testing.T) {
	_, h := bridgedHost(t)
	server := h.Outside.ServeDNS("www.lab.test. 60 IN A 198.51.100.7", "www.lab.test. 60 IN AAAA 2001:db8::7",
		"7.100.51.198.in-addr.arpa. 60 IN PTR www.lab.test.")
	h.WriteFile("/etc/resolv.conf", "search other.test lab.test\nnameserver "+h.Outside.Addr.String()+"\n")
	ctx := within(t, 10*time.Second)
	want := []netip.Addr{netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("2001:db8::7")}
	for _, name := range []string{"www", "www.lab.test"} {
		if got, err := h.Resolve(ctx, name); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s is %v, %v", name, got, err)
		}
	}
	if got, err := h.ResolveAddr(ctx, want[0]); err != nil || !slices.Equal(got, []string{"www.lab.test."}) {
		t.Errorf("the address is %q, %v", got, err)
	}
	if _, err := h.Resolve(ctx, "nobody"); err == nil || !strings.Contains(err.Error(), "NXDOMAIN") {
		t.Errorf("an unknown name gives %v", err)
	}
	asked := server.Queries()
	if first := asked[0]; first.Name != "www.other.test." || first.Qtype != dns.TypeA {
		t.Errorf("the first question was %v", first)
	}
}

func TestMonitorHearsEveryChangeAndOnlyChanges(t *testing.T) {
	lab.Need(t, "nft")
	l, h := bridgedHost(t)
	g := staticGuest(l, h, "vnet0", "10.77.0.2/24")
	ctx := within(t, 20*time.Second)
	settle(t, h.Node)

	quiet := h.Monitor()
	p := g.StartPing(h.Outside.Addr, time.Millisecond)
	if err := p.Await(ctx, 20); err != nil {
		t.Fatal(err)
	}
	p.Stop()
	if heard := quiet.Stop(); len(heard) > 0 {
		t.Errorf("traffic alone makes the kernel announce %q", heard)
	}

	m := h.Monitor()
	h.AddAddr("br0", netip.MustParsePrefix("10.88.0.1/24"))
	h.AddBridge("br1")
	h.SetSysctl("net.ipv4.conf.br0.forwarding", "0")
	if _, err := h.Run(ctx, "nft", "add table inet heard"); err != nil {
		t.Fatal(err)
	}
	heard := strings.Join(m.Stop(), "\n")
	for _, want := range []string{"address 10.88.0.1/24 on br0", "route 10.88.0.0/24 table 254", "link br1", "forwarding setting", "nft table heard", "nft commit"} {
		if !strings.Contains(heard, want) {
			t.Errorf("%q was not heard among\n%s", want, heard)
		}
	}
}

// settle waits until the links of a node have announced all that follows
// from switching them on: a monitor started now hears only what comes next.
func settle(t *testing.T, n *lab.Node) {
	lab.Eventually(t, 10*time.Second, func() error {
		m := n.Monitor()
		p := n.StartPing(netip.MustParseAddr("127.0.0.1"), 10*time.Millisecond)
		err := p.Await(within(t, 10*time.Second), 20)
		p.Stop()
		if heard := m.Stop(); len(heard) > 0 {
			return fmt.Errorf("announced %q", heard)
		}
		return err
	})
}

func TestDumpIsTheSameForTheSameState(t *testing.T) {
	lab.Need(t, "nft")
	l := lab.New(t)
	ctx := within(t, 20*time.Second)
	build := func(name string, chains ...string) *lab.Node {
		n := l.Node(name)
		for i, chain := range chains {
			n.AddBridge(fmt.Sprintf("spare%d", i))
			if _, err := n.Run(ctx, "nft", "add table inet x; add chain inet x "+chain+"; add rule inet x "+chain+" counter accept"); err != nil {
				t.Fatal(err)
			}
			n.DeleteLink(fmt.Sprintf("spare%d", i)) // moves the indexes on
		}
		return n
	}
	a, b := build("a", "one", "two"), build("b", "two", "one")
	if diff := cmp.Diff(a.Dump(), b.Dump()); diff != "" {
		t.Errorf("equal nodes differ:\n%s", diff)
	}

	before := a.Dump()
	for _, section := range []string{"links", "addresses", "routes", "rules", "settings", "firewall"} {
		if !strings.Contains(before, "== "+section+"\n") {
			t.Errorf("the dump has no %s:\n%s", section, before)
		}
	}
	for _, change := range []func(){
		func() { a.SetSysctl("net.ipv4.ip_forward", "1") },
		func() { a.AddAddr("lo", netip.MustParsePrefix("10.9.9.9/32")) },
		func() { a.AddBridge("br9") },
		func() { a.Run(ctx, "nft", "add rule inet x one drop") },
	} {
		change()
		after := a.Dump()
		if after == before {
			t.Errorf("a change does not show in\n%s", after)
		}
		before = after
	}
}

func TestEventuallyReturnsWhenItIsSo(t *testing.T) {
	calls := 0
	lab.Eventually(t, 10*time.Second, func() error {
		if calls++; calls < 3 {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	if calls != 3 {
		t.Errorf("looked %d times", calls)
	}
}
