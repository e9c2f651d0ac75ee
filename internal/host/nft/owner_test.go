package nft

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"

	"viaduct/internal/hoststate"
)

// readNFTTable is what the kernel says of a table.
func readNFTTable(t testing.TB, ref hoststate.TableRef) table {
	t.Helper()
	s, err := openSocket(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	tables, err := (&Applier{names: testTables, socket: s}).listTables()
	if err != nil {
		t.Fatal(err)
	}
	info, ok := tables[ref]
	if !ok {
		t.Fatalf("there is no table %s", ref)
	}
	return info
}

func TestOwnedTableIsSafe(t *testing.T) {
	clean(t)
	a := openTest(t, Options{Owner: OwnerYes})
	want := union(firewallBase(), firewallOf(1))
	reach(t, a, want)
	if got := readNFTTable(t, inetTable); got != (table{owned, a.socket.port}) {
		t.Errorf("the table is %+v, want it owned by port %d", got, a.socket.port)
	}
	nft(t, "flush ruleset")
	for _, edit := range []string{"add rule inet viaduct forward drop", "delete table inet viaduct", "flush chain inet viaduct forward"} {
		if out, err := tryNft(edit); err == nil || !strings.Contains(out, "Operation not permitted") {
			t.Errorf("nft %s: %v\n%s", edit, err, out)
		}
	}
	checkNFT(t, a, want)
}

func TestSecondProcess(t *testing.T) {
	clean(t)
	a := openTest(t, Options{})
	reach(t, a, firewallBase())
	_, err := tryOpen(t, Options{})
	want := fmt.Sprintf("table inet viaduct is owned by process %d (", os.Getpid())
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("a second process: %v, want an error with %q", err, want)
	}
}

// A table that another process took meanwhile.
func TestTableTaken(t *testing.T) {
	clean(t)
	a := openTest(t, Options{})
	b := openTest(t, Options{})
	reach(t, a, firewallBase())
	err := b.Apply(t.Context(), difference(firewallOf(1), nil))
	want := fmt.Sprintf("table inet viaduct is owned by process %d (", os.Getpid())
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("writing to another's table: %v, want an error with %q", err, want)
	}
}

func TestOwnerModes(t *testing.T) {
	plain, orphan := nftables.TableFlags(0), nftables.TableFlagPersist
	for _, c := range []struct {
		found        string // how the table is found
		mode         OwnerMode
		atStart      nftables.TableFlags
		afterRebirth nftables.TableFlags // after the table was emptied and made again
	}{
		{"plain", OwnerAuto, plain, owned},
		{"plain", OwnerYes, owned, owned},
		{"plain", OwnerNo, plain, plain},
		{"orphan", OwnerAuto, owned, owned},
		{"orphan", "", owned, owned},
		{"orphan", OwnerYes, owned, owned},
		{"orphan", OwnerNo, orphan, plain},
	} {
		t.Run(c.found+" "+string(c.mode), func(t *testing.T) {
			clean(t)
			want := everything()
			before := map[string]OwnerMode{"plain": OwnerNo, "orphan": OwnerYes}[c.found]
			first, err := tryOpen(t, Options{Owner: before})
			if err != nil {
				t.Fatal(err)
			}
			reach(t, first, want)
			if err := first.Close(); err != nil {
				t.Fatal(err)
			}
			a := openTest(t, Options{Owner: c.mode})
			checkNFT(t, a, want)
			if got := readNFTTable(t, inetTable).flags; got != c.atStart {
				t.Errorf("after the start the flags are %v, want %v", got, c.atStart)
			}
			reach(t, a, nil)
			reach(t, a, want)
			if got := readNFTTable(t, inetTable).flags; got != c.afterRebirth {
				t.Errorf("made again the flags are %v, want %v", got, c.afterRebirth)
			}
		})
	}
}

// monitor is the real nft monitor.
type monitor struct {
	lines *bufio.Scanner
	n     int
}

func startNFTMonitor(t testing.TB) *monitor {
	t.Helper()
	cmd := exec.Command("stdbuf", "-oL", "nft", "monitor")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	m := &monitor{lines: bufio.NewScanner(out)}
	// It listens once it tells of a change, so make changes until it does.
	heard := make(chan struct{})
	go func() { m.lines.Scan(); close(heard) }()
	for {
		select {
		case <-heard:
			m.until(t)
			return m
		default:
			nft(t, "add table ip marker; delete table ip marker")
		}
	}
}

// until makes a change of its own and returns what was told before it.
func (m *monitor) until(t testing.TB) []string {
	t.Helper()
	m.n++
	marker := fmt.Sprintf("marker_%d", m.n)
	nft(t, "add table ip "+marker)
	var lines []string
	for m.lines.Scan() {
		line := m.lines.Text()
		if strings.Contains(line, marker) {
			m.lines.Scan() // its generation
			return lines
		}
		lines = append(lines, line)
	}
	t.Fatalf("nft monitor ended: %v", m.lines.Err())
	return nil
}

// A successor with the predecessor's socket writes nothing. One without it
// claims what it finds, which the kernel announces.
func TestRestartIsSilent(t *testing.T) {
	for name, c := range map[string]struct {
		mode    OwnerMode
		inherit bool
		want    []string
	}{
		"plain":     {mode: OwnerNo},
		"inherited": {mode: OwnerYes, inherit: true},
		"orphaned":  {mode: OwnerYes, want: []string{"add table bridge viaduct", "add table inet viaduct"}},
	} {
		t.Run(name, func(t *testing.T) {
			clean(t)
			want := everything()
			first := openTest(t, Options{Owner: c.mode})
			reach(t, first, want)
			o := Options{Owner: c.mode}
			if c.inherit {
				var err error
				if o.Socket, err = first.socket.file(); err != nil {
					t.Fatal(err)
				}
				defer o.Socket.Close()
			}
			m := startNFTMonitor(t)
			if err := first.Close(); err != nil {
				t.Fatal(err)
			}
			if c.inherit { // not for a moment is the table anybody's
				if out, err := tryNft("delete table inet viaduct"); err == nil {
					t.Errorf("between the processes the table could be deleted\n%s", out)
				}
			}
			a := openTest(t, o)
			if left := difference(want, a.Owned()); len(left) > 0 {
				t.Errorf("after the restart there is to do:\n%s", hoststate.FormatOps(left))
			}
			said := slices.DeleteFunc(m.until(t), func(s string) bool { return strings.HasPrefix(s, "#") })
			slices.Sort(said)
			if !slices.Equal(said, c.want) {
				t.Errorf("nft monitor said:\n%s", strings.Join(said, "\n"))
			}
			drop := verdict(hoststate.Drop)
			want.Add(element("in", &drop, hoststate.IfName("virbr9")))
			reach(t, a, want) // it can still write
		})
	}
}

func TestProbeIsSilent(t *testing.T) {
	clean(t)
	s, err := openSocket(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	m := startNFTMonitor(t)
	if ok, err := s.ownerSupported(); err != nil || !ok {
		t.Logf("owned tables: %v, %v", ok, err)
	}
	if said := m.until(t); len(said) > 0 {
		t.Errorf("nft monitor said:\n%s", strings.Join(said, "\n"))
	}
}
