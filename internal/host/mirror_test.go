package host

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"viaduct/internal/host/changes"
	"viaduct/internal/hoststate"
)

// await waits until the events have told of all of the keys.
func await(t testing.TB, h Host, keys ...hoststate.Key) {
	t.Helper()
	wanted := map[hoststate.Key]bool{}
	for _, k := range keys {
		wanted[k] = true
	}
	timeout := time.After(5 * time.Second)
	for len(wanted) > 0 {
		select {
		case got := <-h.Events():
			if len(got) == 0 {
				return
			}
			for _, k := range got {
				delete(wanted, k)
			}
		case <-timeout:
			t.Fatalf("no event told of %v", wanted)
		}
	}
}

func TestEventsTellOfOthersChanges(t *testing.T) {
	foreignLink(t, "tap7", "type veth peer name tap7p")
	h := openHost(t, Options{})
	n := testNetwork(1)
	b := testBridge(1)
	reach(t, h, nil, n)
	addr := hoststate.Address{Link: b.Name, Prefix: netip.MustParsePrefix("10.0.1.1/24")}
	addr6 := hoststate.Address{Link: b.Name, Prefix: netip.MustParsePrefix("fd00:1::1/64")}
	up := hoststate.LinkUp{Link: b.Name}.Key()
	member := hoststate.MemberKey("tap7", b.Name)
	for _, c := range []struct {
		args string
		keys []hoststate.Key
	}{
		{"link set vbr1 down", []hoststate.Key{up, addr6.Key()}},
		{"link set vbr1 up", []hoststate.Key{up}},
		{"addr del 10.0.1.1/24 dev vbr1", []hoststate.Key{addr.Key()}},
		{"addr add 10.0.1.1/24 dev vbr1", []hoststate.Key{addr.Key()}},
		{"link set vbr1 mtu 1400", []hoststate.Key{b.Key()}},
		{"link set vbr1 alias foreign", []hoststate.Key{b.Key()}},
		{"link set tap7 master vbr1", []hoststate.Key{member}},
		{"link set tap7 nomaster", []hoststate.Key{member}},
		{"link del vbr1", []hoststate.Key{b.Key(), up, addr.Key()}},
		{"link add vbr1 type bridge", []hoststate.Key{b.Key()}},
		{"link del vbr1", []hoststate.Key{b.Key()}},
	} {
		ip(t, c.args)
		await(t, h, c.keys...)
		checkMirror(t, h.mirror)
	}
	reach(t, h, n, n)
}

// TestMirrorFollowsOthers lets another program change much at once. It leaves
// out what the kernel announces only of links that are up.
func TestMirrorFollowsOthers(t *testing.T) {
	h := openHost(t, Options{})
	t.Cleanup(func() {
		for n := range 4 {
			exec.Command("ip", "link", "del", fmt.Sprintf("xbr%d", n)).Run()
			exec.Command("ip", "link", "del", fmt.Sprintf("xv%d", n)).Run()
		}
	})
	commands := []string{
		"link add xbr%d type bridge forward_delay 200 stp_state 1", "link add xv%[1]d type veth peer name xp%[1]d",
		"link set xbr%d up", "link set xv%d up", "link set xp%d up", "link set xv%d up type bridge_slave isolated on", "link set xv%d up type bridge_slave isolated off learning off", "link set xv%[1]d master xbr%[1]d", "link set xv%[1]d nomaster",
		"link set xbr%[1]d up alias a%[2]d", "link set xbr%d mtu 1400", "link set xbr%d up type bridge stp_state 0",
		"addr add 10.7.%[1]d.%[2]d/24 dev xbr%[1]d", "addr del 10.7.%[1]d.%[2]d/24 dev xbr%[1]d", "addr flush dev xbr%d",
		"addr add fd07:%[1]d::%[2]d/64 dev xbr%[1]d", "addr add 10.8.%[1]d.%[2]d peer 10.8.9.%[2]d dev xv%[1]d",
		"route add 10.9.%[2]d.0/24 dev xbr%[1]d", "route replace 10.9.%[2]d.0/24 dev xbr%[1]d metric 7 proto 86",
		"route replace 10.9.%[2]d.0/24 dev xv%[1]d", "route del 10.9.%[2]d.0/24", "-6 route add fd09:%[2]d::/64 dev xbr%[1]d",
		"route add 10.10.0.0/16 dev xbr%[1]d src 10.7.%[1]d.%[2]d", "-6 route del fd09:%[2]d::/64",
		"link set xbr%d down", "link set xv%d down", "link del xbr%d", "link del xv%d", "link set xp%[1]d name xq%[1]d",
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for round := range 10 {
		var batch strings.Builder
		for range 60 {
			fmt.Fprintf(&batch, commands[r.IntN(len(commands))]+"\n%.[3]*[4]s", r.IntN(4), 1+r.IntN(3), 0, "")
		}
		cmd := exec.Command("ip", "-force", "-batch", "-")
		cmd.Stdin = strings.NewReader(batch.String())
		cmd.Run() // many of them make no sense; that is fine
		checkMirror(t, h.mirror)
		if t.Failed() {
			t.Fatalf("round %d:\n%s", round, batch.String())
		}
	}
}

// TestConcurrentNetworks starts and stops networks at the same time. Each must
// find the mirror right at once after each step of its own.
func TestConcurrentNetworks(t *testing.T) {
	h := openHost(t, Options{})
	var wg sync.WaitGroup
	for n := range 16 {
		wg.Go(func() {
			network := testNetwork(n)
			keys := network.Keys()
			for round := range 3 {
				for _, want := range []hoststate.State{network, nil} {
					if err := h.Apply(t.Context(), Diff(want, h.Observe(keys))); err != nil {
						t.Error(err)
						return
					}
					if left := Diff(want, h.Observe(keys)); len(left) > 0 {
						t.Errorf("network %d, round %d: right after Apply there is to do:\n%s", n, round, hoststate.FormatOps(left))
						return
					}
				}
			}
		})
	}
	wg.Wait()
	checkMirror(t, h.mirror)
}

// TestMirrorSurvivesLostNotifications lets the kernel's queue overflow.
func TestMirrorSurvivesLostNotifications(t *testing.T) {
	r := newRTNL()
	t.Cleanup(r.close)
	ch := changes.New()
	m, err := newMirror(r, ch)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.close() })
	if err := m.raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4096)
	}); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	// Nobody follows the mirror.
	for n := range 20 {
		foreignLink(t, fmt.Sprintf("lost%d", n), "type bridge")
	}
	if _, ok := m.link("lost19"); !ok {
		t.Error("the mirror does not know the last link")
	}
	checkMirror(t, m)
	if keys, ok := ch.Take(); !ok || len(keys) != 0 {
		t.Errorf("told of %d keys, %v; want none, which says that everything may have changed", len(keys), ok)
	}
}

// TestDumpIsWhole changes links while listing them.
func TestDumpIsWhole(t *testing.T) {
	for n := range 40 {
		foreignLink(t, fmt.Sprintf("stay%d", n), "type bridge")
	}
	h := openHost(t, Options{})
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
				exec.Command("ip", "link", "add", "come", "type", "veth", "peer", "name", "go").Run()
				exec.Command("ip", "link", "del", "come").Run()
			}
		}
	}()
	for range 30 {
		body, err := linkBody(0, 0, 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		msgs, err := h.rtnl.dump(unix.RTM_GETLINK, body)
		if err != nil {
			t.Fatal(err)
		}
		seen := 0
		for _, m := range msgs {
			if l, ok, err := decodeLink(m.Data); err == nil && ok && strings.HasPrefix(l.name, "stay") {
				seen++
			}
		}
		if seen != 40 {
			t.Fatalf("listed %d of 40 links", seen)
		}
	}
	close(stop)
	<-stopped
}

// TestPartialMessages feeds the mirror what does not describe a whole link.
func TestPartialMessages(t *testing.T) {
	m := &mirror{
		changes: changes.New(), links: map[int]link{}, names: map[string]int{}, ports: map[int]map[int]struct{}{},
	}
	l := link{index: 7, name: "tap0", alias: "viaduct", mtu: 1400, up: true}
	m.setLink(l)
	m.changes.Take()
	attrs := func(e *netlink.AttributeEncoder) { e.String(unix.IFLA_IFNAME, "tap0") }
	port, _ := linkBody(7, unix.IFF_UP, 0, attrs)
	port[0] = unix.AF_BRIDGE
	wireless, _ := linkBody(7, unix.IFF_UP, 0, func(e *netlink.AttributeEncoder) {
		attrs(e)
		e.Bytes(unix.IFLA_WIRELESS, []byte{1, 2, 3, 4})
	})
	for name, body := range map[string][]byte{"bridge port": port, "wireless": wireless, "short": port[:9]} {
		for _, typ := range []uint16{unix.RTM_NEWLINK, unix.RTM_DELLINK} {
			m.handle(typ, 0, body)
			if m.links[7] != l {
				t.Errorf("%s message %d changed the link to %+v", name, typ, m.links[7])
			}
		}
	}
	if keys, ok := m.changes.Take(); ok {
		t.Errorf("told of %v", keys)
	}
}

// FuzzMessages looks for messages that make the mirror panic or contradict itself.
func FuzzMessages(f *testing.F) {
	linkMsg, _ := linkBody(3, unix.IFF_UP, 0, func(e *netlink.AttributeEncoder) {
		e.String(unix.IFLA_IFNAME, "virbr0")
		e.Uint32(unix.IFLA_MASTER, 4)
		bridgeInfo(e, func(e *netlink.AttributeEncoder) { e.Uint32(brSTPState, 1) })
	})
	addrMsg, _ := addressBody(3, netip.MustParsePrefix("10.0.0.1/24"))
	addr6Msg, _ := addressBody(3, netip.MustParsePrefix("fd00::1/64"))
	routeMsg, _ := routeBody(3, hoststate.Route{Dst: netip.MustParsePrefix("10.0.0.0/8"), Via: netip.MustParseAddr("10.0.0.2")})
	hops := binary.NativeEndian.AppendUint16(nil, 8)
	hops = append(hops, 0, 0, 3, 0, 0, 0, 8, 0, 0, 0, 4, 0, 0, 0)
	multipath := append(append([]byte{}, routeMsg[:rtmsgLen]...), byte(4+len(hops)), 0, unix.RTA_MULTIPATH, 0)
	multipath = append(multipath, hops...)
	for _, s := range []struct {
		typ  uint16
		body []byte
	}{
		{unix.RTM_NEWLINK, linkMsg}, {unix.RTM_DELLINK, linkMsg}, {unix.RTM_NEWADDR, addrMsg}, {unix.RTM_DELADDR, addr6Msg},
		{unix.RTM_NEWROUTE, routeMsg}, {unix.RTM_DELROUTE, routeMsg}, {unix.RTM_NEWROUTE, multipath},
	} {
		f.Add(s.typ, uint16(0), s.body)
		f.Add(s.typ, uint16(unix.NLM_F_REPLACE), s.body)
	}
	f.Fuzz(func(t *testing.T, typ, flags uint16, body []byte) {
		m := &mirror{
			changes: changes.New(), links: map[int]link{}, names: map[string]int{}, ports: map[int]map[int]struct{}{},
			addrs: map[address]struct{}{}, routes: map[routeID]routeInfo{},
		}
		m.handle(unix.RTM_NEWLINK, 0, linkMsg)
		m.handle(unix.RTM_NEWADDR, 0, addrMsg)
		m.handle(unix.RTM_NEWROUTE, 0, routeMsg)
		m.handle(typ, flags, body)
		for name, index := range m.names {
			if m.links[index].name != name {
				t.Errorf("link %d is %q and %q", index, name, m.links[index].name)
			}
		}
		for a := range m.addrs {
			if !a.prefix.IsValid() {
				t.Errorf("invalid address %+v", a)
			}
		}
		for id := range m.routes {
			if !id.dst.IsValid() {
				t.Errorf("invalid route %+v", id)
			}
		}
	})
}

func TestCloseEndsEvents(t *testing.T) {
	h, err := Open(Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if err := h.Close(); err != nil {
		t.Errorf("a second Close: %v", err)
	}
	if _, open := <-h.Events(); open {
		t.Error("events are still open")
	}
	// What was known last is still told.
	if _, ok := h.Link("lo"); !ok {
		t.Error("link lo is forgotten")
	}
}
