package vm

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// cuts says how many ACKs guests get before each power cut: few; some more; so
// many that the journal is being written anew.
var cuts = []int{150, 500, 2000}

// TestPowerCut: every lease that a guest was told is there after a power cut,
// as new as the guest was told.
func TestPowerCut(t *testing.T) {
	need(t)
	t.Parallel()
	disk := newDisk(t)
	told := map[string]lease{}
	for i, acks := range append(cuts, 0) {
		m := boot(t, disk, "part=load")
		kept := m.kept()
		if lost := missing(told, kept); len(lost) > 0 {
			t.Fatalf("%d of %d guests lost their lease by power cut %d:\n%s", len(lost), len(told), i, strings.Join(lost, "\n"))
		}
		t.Logf("after %d power cuts: %d guests were told a lease, %d leases are kept", i, len(told), len(kept))
		if acks > 0 {
			m.give(acks, told)
		}
	}
}

// TestWithoutSyncLeasesAreLost: the test above sees what it looks for.
func TestWithoutSyncLeasesAreLost(t *testing.T) {
	need(t)
	t.Parallel()
	disk := newDisk(t)
	told := map[string]lease{}
	m := boot(t, disk, "part=load", "daemon=--unsafe-no-sync")
	m.kept()
	m.give(cuts[0], told)
	lost := missing(told, boot(t, disk, "part=load").kept())
	t.Logf("%d of %d guests lost their lease", len(lost), len(told))
	if len(lost) == 0 {
		t.Error("no lease is lost without syncing")
	}
}

// kept reads the leases that the machine knows from its former life.
func (m *machine) kept() map[string]lease {
	m.t.Helper()
	kept := map[string]lease{}
	for {
		word, rest, ok := m.next()
		switch {
		case !ok:
			m.t.Fatal("the machine ended")
		case word == "LEASE":
			l := parseLease(m.t, rest)
			kept[l.mac] = l
		case word == "READY":
			return kept
		}
	}
}

// give waits until guests got that many ACKs, pulls the plug, and notes all
// that the guests were told until then.
func (m *machine) give(acks int, told map[string]lease) {
	m.t.Helper()
	count := 0
	for cut := false; ; {
		if count >= acks && !cut {
			cut = true
			m.cut()
		}
		word, rest, ok := m.next()
		switch {
		case !ok && cut:
			m.t.Logf("the power was cut after %d ACKs", count)
			return
		case !ok:
			m.t.Fatal("the machine ended")
		case word == "ACK":
			l := parseLease(m.t, rest)
			told[l.mac] = l
			count++
		}
	}
}

// missing lists those who were told of a lease that is not kept, or only an
// older state of it.
func missing(told, kept map[string]lease) []string {
	var list []string
	for mac, l := range told {
		k, ok := kept[mac]
		if !ok || k.ip != l.ip || k.turn < l.turn {
			list = append(list, fmt.Sprintf("told %v, kept %v", l, k))
		}
	}
	return list
}

// TestOlderKernel: where the kernel cannot protect our tables in a way that
// outlives us, they are plain ones, and they do what they are for. A daemon that
// is told to protect them says why it cannot.
func TestOlderKernel(t *testing.T) {
	need(t)
	t.Parallel()
	m := boot(t, "", "part=firewall")
	facts := map[string][]string{}
	for facts["DONE"] == nil {
		word, rest, ok := m.next()
		if !ok {
			t.Fatal("the machine ended")
		}
		facts[word] = append(facts[word], rest)
	}
	host := facts["HOST"][0]
	for _, seen := range facts["SEEN"] {
		if addr, _, _ := strings.Cut(seen, " "); addr != host {
			t.Errorf("the outside sees %s, want the host's %s", seen, host)
		}
	}
	if len(facts["SEEN"]) != 2 {
		t.Errorf("the outside sees %q, want two connections", facts["SEEN"])
	}
	if guest, err := netip.ParseAddr(facts["GUEST"][0]); err != nil || !netip.MustParsePrefix("192.168.122.0/24").Contains(guest) {
		t.Errorf("the guest has %v, %v", guest, err)
	}
	rules := strings.Join(facts["RULE"], "\n")
	for _, want := range []string{"table inet viaduct {", "table bridge viaduct {", "masquerade"} {
		if !strings.Contains(rules, want) {
			t.Errorf("no %q in the rules:\n%s", want, rules)
		}
	}
	if strings.Contains(rules, "flags owner") || strings.Contains(rules, "persist") {
		t.Errorf("a table has flags that this kernel does not know:\n%s", rules)
	}
	if refusal := strings.Join(facts["REFUSED"], ""); !strings.Contains(refusal, "not supported by this kernel, needs Linux 6.9") {
		t.Errorf("a daemon that must protect its tables says %q", refusal)
	}
	if plan := strings.Join(facts["PLAN"], ""); !strings.Contains(plan, `"operations": []`) {
		t.Errorf("the plan is not empty: %s", plan)
	}
}
