package outcome

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"viaduct/internal/lab"
)

// Where a bridge is told where its guests are, what is meant for nobody that it
// knows goes to no guest, and no guest can take another's frames, as it can
// where bridges learn.
func TestBridgeThatIsTold(t *testing.T) {
	for _, c := range []struct{ manager, floods, steals string }{{"kernel", "yes", "yes"}, {"libvirt", "no", "no"}} {
		t.Run(c.manager, func(t *testing.T) {
			t.Parallel()
			s := startSite(t)
			s.viaduct("net-define", s.file(strings.Replace(natXML("a", 50, ""), "<bridge ", "<bridge macTableManager='"+c.manager+"' ", 1)))
			s.viaduct("net-start", "a")
			taps := map[string]*os.File{}
			for i, name := range []string{"vm1", "vm2"} {
				s.viaduct("port-create", "a", "--tap", name, "--mac", fmt.Sprintf("52:54:00:00:77:%02x", i+1))
				taps[name] = s.host.OpenTap(name)
			}
			guest, _ := s.guest("virbr50", "undeclared")
			s.reaches(guest.Node, netip.AddrPortFrom(s.host.Outside.Addr, lab.PortEcho))
			s.soonNothingToChange("a")
			frame := func(to, from byte, kind byte) []byte {
				f := []byte{0x52, 0x54, 0, 0, 0x77, to, 0x52, 0x54, 0, 0, 0x77, from, 0x88, kind}
				if to == 0xff {
					copy(f, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
				}
				return append(f, make([]byte, 50)...)
			}
			const plain, another, last = 0xb6, 0xb7, 0xb5
			send := func(port string, frames ...[]byte) {
				for _, f := range frames {
					if _, err := taps[port].Write(f); err != nil {
						t.Fatal(err)
					}
				}
			}
			hears := func(to byte) string {
				send("vm2", frame(to, 2, plain), frame(0xff, 2, last))
				for _, f := range s.framesUntil(taps["vm1"], []byte{0x88, last}) {
					if f[12] == 0x88 && f[13] == plain {
						return "yes"
					}
				}
				return "no"
			}
			check := func(when string) {
				t.Helper()
				// The other guest is heard first, since a bridge that learns knows it then.
				send("vm1", frame(0xff, 1, plain))
				s.framesUntil(taps["vm2"], []byte{0x88, plain})
				if got := hears(1); got != "yes" {
					t.Errorf("%s: a guest is reached: %s", when, got)
				}
				if got := hears(9); got != c.floods {
					t.Errorf("%s: a guest hears what is meant for nobody: %s, want %s", when, got, c.floods)
				}
				send("vm2", frame(0xff, 1, another))
				if got := hears(1); (got == "no") != (c.steals == "yes") {
					t.Errorf("%s: after another has used its address a guest is reached: %s", when, got)
				}
			}
			check("as made")
			if c.manager == "kernel" {
				return
			}
			for _, change := range []string{
				"bridge fdb del 52:54:00:00:77:01 dev vm1 master",
				"ip link set vm1 type bridge_slave learning on", "bridge link set dev vm1 flood on",
			} {
				before := s.bridgeView()
				s.mustRun(strings.Fields(change)...)
				lab.Eventually(t, 10*time.Second, func() error {
					if now := s.bridgeView(); now != before {
						return fmt.Errorf("after %s:\n%s\nbefore:\n%s", change, now, before)
					}
					return nil
				})
			}
			s.daemon.Kill9()
			s.mustRun("bridge", "fdb", "del", "52:54:00:00:77:01", "dev", "vm1", "master")
			s.must(s.daemon.Start())
			check("after a restart")
		})
	}
}

// bridgeView is what a bridge knows for good, and how it treats its ports.
func (s *site) bridgeView() string {
	s.t.Helper()
	var view strings.Builder
	for _, argv := range [][]string{{"bridge", "fdb", "show", "br", "virbr50", "brport", "vm1"}, {"bridge", "-d", "link", "show", "dev", "vm1"}} {
		view.WriteString(s.mustRun(argv...))
	}
	return view.String()
}
