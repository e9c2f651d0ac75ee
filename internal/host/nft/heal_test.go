package nft

import (
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"viaduct/internal/hoststate"
)

// event waits for the next report of changes.
func event(t testing.TB, a *Applier) []hoststate.Key {
	t.Helper()
	select {
	case keys := <-a.Events():
		return keys
	case <-time.After(5 * time.Second):
		t.Fatal("nobody told of the change")
		return nil
	}
}

// eventsUntil collects reports until one names the key.
func eventsUntil(t testing.TB, a *Applier, last hoststate.Key) []hoststate.Key {
	t.Helper()
	var all []hoststate.Key
	for !slices.Contains(all, last) {
		all = append(all, event(t, a)...)
	}
	return all
}

func TestHealsAfterFlush(t *testing.T) {
	clean(t)
	a := openTest(t, Options{Owner: OwnerNo})
	want := everything()
	reach(t, a, want)
	for range 3 {
		nft(t, "flush ruleset")
		start := time.Now()
		keys := event(t, a)
		if took := time.Since(start); took > 100*time.Millisecond {
			t.Errorf("it took %v to notice", took)
		}
		for len(a.Owned()) > 0 { // one table's loss may be told before the other's
			keys = append(keys, event(t, a)...)
		}
		for k := range want {
			if !slices.Contains(keys, k) {
				t.Errorf("the loss of %s was not told", k)
			}
		}
		apply(t, a, difference(want, a.Observe(want.Keys()))...)
		checkNFT(t, a, want)
	}
}

// Whatever others do to our tables is noticed, told by name, and put right.
func TestHealsForeignEdits(t *testing.T) {
	clean(t)
	a := openTest(t, Options{Owner: OwnerNo})
	want := everything()
	reach(t, a, want)
	input := hoststate.ChainKey(inetTable, "input")
	for _, c := range []struct {
		edit string
		key  hoststate.Key
	}{
		{"insert rule inet viaduct input drop", input},
		{"add rule inet viaduct input tcp flags syn limit rate 3/second accept", input},
		{"add rule inet viaduct input tcp dport { 22, 80 } accept", input},
		{"add rule inet viaduct input ip ttl 1 drop", input},
		{"add rule inet viaduct input ip saddr & 255.0.255.0 == 10.0.1.0 drop", input},
		{"add rule inet viaduct input meta iiftype ether drop", input},
		{"add rule inet viaduct input udp dport != 53 drop", input},
		{"add rule inet viaduct input reject with tcp reset", input},
		{"add rule inet viaduct input meta mark set 7", input},
		{"add rule inet viaduct input meta l4proto != tcp drop", input},
		{"add rule inet viaduct input ct direction original drop", input},
		{"add rule inet viaduct input update @seen { ip saddr timeout 5s }", input},
		{"add rule inet viaduct input log prefix \"x\"", input},
		{"add rule inet viaduct postrouting masquerade random", hoststate.ChainKey(inetTable, "postrouting")},
		{"add rule inet viaduct postrouting meta l4proto tcp snat ip to 192.0.2.1:1-2 random", hoststate.ChainKey(inetTable, "postrouting")},
		{"add rule inet viaduct prerouting dnat ip to 192.0.2.1", hoststate.ChainKey(inetTable, "prerouting")},
		{"flush chain inet viaduct input", input},
		{"add chain inet viaduct input { policy drop; }", input},
		{"add chain inet viaduct stranger { type filter hook output priority 5; }", hoststate.ChainKey(inetTable, "stranger")},
		{"add set inet viaduct strange { type mark; flags interval; elements = { 1-5 }; }", hoststate.SetKey(inetTable, "strange")},
		{"add map inet viaduct strange { type ifname : ipv4_addr; elements = { lo : 1.2.3.4 }; }", hoststate.SetKey(inetTable, "strange")},
		{"delete element inet viaduct in { virbr0 }", element("in", nil, hoststate.IfName("virbr0")).Key()},
		{"add element inet viaduct in { virbr7 : continue }", element("in", nil, hoststate.IfName("virbr7")).Key()},
		{"add element inet viaduct services { 1.2.3.4 . 80 }",
			element("services", nil, hoststate.Value{Type: "ipv4_addr", Addr: addr4(1, 2, 3, 4)}, hoststate.Port(80)).Key()},
		{"add table inet viaduct { flags dormant; }", hoststate.Table{Ref: inetTable}.Key()},
		{"flush table bridge viaduct", hoststate.ChainKey(bridgeTable, "guard")},
	} {
		nft(t, c.edit)
		if keys := eventsUntil(t, a, c.key); len(keys) != 1 {
			t.Errorf("%s: told of %v", c.edit, keys)
		}
		ops := difference(want, a.Owned())
		if len(ops) != 1 || ops[0].Key() != c.key {
			t.Errorf("%s: to do:\n%s", c.edit, hoststate.FormatOps(ops))
		}
		apply(t, a, ops...)
		checkNFT(t, a, want)
		if t.Failed() {
			t.FailNow()
		}
	}
}

func TestForeignTablesAreNotOurs(t *testing.T) {
	clean(t)
	a := openTest(t, Options{Owner: OwnerNo})
	want := firewallBase()
	reach(t, a, want)
	nft(t, "add table inet other; add chain inet other input { type filter hook input priority 0; }; add table ip viaduct; add chain ip viaduct input;")
	nft(t, "add chain inet viaduct stranger") // an end to wait for
	stranger := hoststate.ChainKey(inetTable, "stranger")
	if keys := eventsUntil(t, a, stranger); len(keys) != 1 {
		t.Errorf("told of %v", keys)
	}
	// A table of ours is replaced without a word about foreign ones.
	if owned := a.Owned(); len(owned) != len(want)+1 {
		t.Errorf("holds for ours: %v", owned.Keys())
	}
}

// Of our own transactions we are not even told.
func TestMonitorIgnoresOwn(t *testing.T) {
	clean(t)
	var sockets [2]*socket
	for i := range sockets {
		var err error
		if sockets[i], err = openSocket(nil); err != nil {
			t.Fatal(err)
		}
		defer sockets[i].close()
	}
	m, err := openMonitor(sockets[0].port)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for i, s := range sockets {
		table := hoststate.TableRef{Family: hoststate.Inet, Name: fmt.Sprint("by", i)}
		if refused, err := s.commit([]message{addTable(table, 0)}); err != nil || len(refused) > 0 {
			t.Fatal(refused, err)
		}
	}
	buf := make([]byte, 8192)
	n, err := m.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	for msg := range nlMessages(buf[:n]) {
		if name, _, _ := decodeTable(msg.body[nfHeaderLen:]); name != "by1" {
			t.Errorf("told first of table %q by port %d", name, msg.port)
		}
	}
}

// When more changes at once than can be followed, all tables are read again.
func TestSurvivesOverflow(t *testing.T) {
	clean(t)
	monitor, err := openMonitor(0)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := monitor.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 1)
	}); err != nil {
		t.Fatal(err)
	}
	for range 10 { // while nobody reads
		nft(t, "add table ip foreign; delete table ip foreign")
	}
	a := &Applier{names: testTables, log: slog.New(slog.DiscardHandler), monitor: monitor, dirty: newDirtyTables()}
	a.tasks.Go(a.watch)
	select {
	case <-a.dirty.wake:
	case <-time.After(5 * time.Second):
		t.Error("the loss was not noticed")
	}
	if got := a.dirty.take(); len(got) != len(testTables) {
		t.Errorf("to be read again: %v", got)
	}
	if err := monitor.Close(); err != nil {
		t.Fatal(err)
	}
	a.tasks.Wait()
}
