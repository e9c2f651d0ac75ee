package outcome

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"viaduct/internal/lab"
)

// stpXML is a network whose definition wants a spanning tree.
func stpXML(delay string) string {
	return strings.Replace(natXML("a", 50, ""), "<bridge name='virbr50'/>", "<bridge name='virbr50' stp='on' delay='"+delay+"'/>", 1)
}

// With libvirt's default, stp='on' delay='0', a guest does not wait for a
// spanning tree: the kernel's would keep its port silent for four seconds.
func TestGuestsDoNotWaitForSTP(t *testing.T) {
	t.Parallel()
	lab.Need(t, lab.Udhcpc.Tools()...)
	s := startSite(t)
	s.create(stpXML("0"))
	g := s.PlugGuest(s.host.Node, "virbr50", "one")
	lease, err := g.DHCP(s.context(), lab.Udhcpc)
	s.must(err)
	if lease.Elapsed > time.Second {
		t.Errorf("the lease took %s", lease.Elapsed)
	}
}

// A delay from two seconds on, or a port that is no guest's, means the
// kernel's own spanning tree, and neither disturbs a guest that is there.
func TestRealSTP(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	stp := func() string { return strings.TrimSpace(s.mustRun("cat", "/sys/class/net/virbr50/bridge/stp_state")) }
	s.create(stpXML("2"))
	if stp() != "1" {
		t.Error("delay='2' does not switch the spanning tree on")
	}
	s.viaduct("net-destroy", "a")
	s.create(stpXML("0"))
	if stp() != "0" {
		t.Error("delay='0' switches the spanning tree on")
	}
	s.guest("virbr50", "one")
	s.mustRun("ip", "link", "add", "wire", "type", "ifb")
	s.host.SetMaster("wire", "virbr50")
	s.soonNothingToChange("a")
	if stp() != "1" {
		t.Error("a port that may lead to another switch does not switch the spanning tree on")
	}
	s.host.SetMaster("wire", "")
	s.soonNothingToChange("a")
	if stp() != "0" {
		t.Error("the spanning tree stays on without the port")
	}
}

// Guests do not get at each other's spanning tree, or at the host's.
func TestGuestsCannotSpeakSTP(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	s.create(stpXML("0"))
	sender, receiver := s.host.OpenTap("tap0"), s.host.OpenTap("tap1")
	for _, tap := range []string{"tap0", "tap1"} {
		s.host.LinkUp(tap)
		s.host.SetMaster(tap, "virbr50")
	}
	s.soonNothingToChange("a")
	frame := func(to byte) []byte {
		f := append([]byte{0x01, 0x80, 0xc2, 0, 0, to, 0x52, 0x54, 0, 0, 0, 1, 0, 38, 0x42, 0x42, 3}, make([]byte, 43)...)
		if to == 0xff { // to everybody, and no spanning tree
			copy(f, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
			copy(f[12:], []byte{0x88, 0xb5})
		}
		return f
	}
	bpdu, marker := frame(0), frame(0xff)
	for _, f := range [][]byte{bpdu, marker} {
		if _, err := sender.Write(f); err != nil {
			t.Fatal(err)
		}
	}
	// Frames keep their order: once the marker is there, the BPDU is not coming.
	for _, f := range s.framesUntil(receiver, marker[12:14]) {
		if bytes.Equal(f[:6], bpdu[:6]) {
			t.Error("a guest received another's BPDU")
		}
	}
}

// framesUntil reads frames up to the one of the given type.
func (s *site) framesUntil(tap *os.File, etherType []byte) [][]byte {
	s.t.Helper()
	s.must(tap.SetReadDeadline(time.Now().Add(5 * time.Second)))
	var frames [][]byte
	for {
		buf := make([]byte, 2048)
		n, err := tap.Read(buf)
		s.must(err)
		frames = append(frames, buf[:n])
		if n >= 14 && bytes.Equal(buf[12:14], etherType) {
			return frames
		}
	}
}

// Two ports that are connected to each other are cut off and told of, and the
// other guests live on.
func TestLoopIsCut(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	s.create(stpXML("0"))
	one, _ := s.guest("virbr50", "one")
	two, twoLease := s.guest("virbr50", "two")
	s.settled()
	toHost := one.StartPing(addr("192.168.50.1"), 5*time.Millisecond)
	toGuest := one.StartPing(twoLease.Addr.Addr(), 5*time.Millisecond)
	s.must(toHost.Await(s.context(), 100))
	s.must(toGuest.Await(s.context(), 100))

	s.Connect(s.host.Node, "loop0", s.host.Node, "loop1", lab.WireOptions{})
	s.host.SetMaster("loop0", "virbr50")
	s.host.SetMaster("loop1", "virbr50")
	// Something for the loop to multiply, from a guest and from the host.
	s.must(two.Ping(s.context(), s.host.Outside.Addr))
	s.mustRun("ip", "neigh", "flush", "dev", "virbr50")
	var warnings []string
	lab.Eventually(t, 10*time.Second, func() error {
		warnings = s.warnings("a")
		if len(warnings) == 0 {
			return errNoWarning
		}
		return nil
	})
	if !strings.Contains(warnings[0], "port loop") || !strings.Contains(s.viaduct("net-info", "a"), "Warning:        "+warnings[0]) {
		t.Errorf("net-info does not name the port:\n%s", s.viaduct("net-info", "a"))
	}

	// With the loop closed still, guests have the network to themselves.
	_, err := two.Renew(s.context())
	s.must(err)
	s.guest("virbr50", "three")
	s.must(toHost.Await(s.context(), 400))
	s.must(toGuest.Await(s.context(), 400))
	for name, ping := range map[string]*lab.Pinger{"the host": toHost, "the other guest": toGuest} {
		if loss := ping.Stop(); len(loss.Lost) > loss.Sent/10 {
			t.Errorf("ping to %s over the loop: %s", name, loss)
		}
	}
	s.reaches(two.Node, netip.AddrPortFrom(s.host.Outside.Addr, lab.PortEcho))
}

// warnings are what net-info warns of.
func (s *site) warnings(name string) []string {
	s.t.Helper()
	var info struct{ Warnings []string }
	s.must(json.Unmarshal([]byte(s.viaduct("net-info", name, "-o", "json")), &info))
	return info.Warnings
}
