package main

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// frame is an Ethernet frame by which a guest speaks as somebody.
type frame struct {
	what     string
	from, to net.HardwareAddr
	kind     uint16
	payload  []byte
}

const (
	kindIPv4 = 0x0800
	kindARP  = 0x0806
	kindIPv6 = 0x86dd

	experiment = 253 // an IP protocol for experiments (RFC 3692)
)

// hex is the frame with its mark, by which it can be told from all others.
func (f frame) hex(mark string) string {
	b := append(append([]byte{}, f.to...), f.from...)
	b = binary.BigEndian.AppendUint16(b, f.kind)
	b = append(append(b, f.payload...), mark...)
	for len(b) < 64 {
		b = append(b, 0)
	}
	return hex.EncodeToString(b)
}

const markFormat = "viaduct frame no. %02d"

// markLength is that of all marks.
const markLength = 20

// ip4 is a header of IPv4 (RFC 791) before a mark.
func ip4(from, to string) []byte {
	b := []byte{0x45, 0, 0, 20 + markLength, 0, 0, 0, 0, 64, experiment, 0, 0}
	b = append(append(b, netip.MustParseAddr(from).AsSlice()...), netip.MustParseAddr(to).AsSlice()...)
	sum := uint32(0)
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(b[10:], ^uint16(sum+sum>>16))
	return b
}

// ip6 is a header of IPv6 (RFC 8200) before a mark.
func ip6(from, to string) []byte {
	b := []byte{0x60, 0, 0, 0, 0, markLength, experiment, 255}
	return append(append(b, netip.MustParseAddr(from).AsSlice()...), netip.MustParseAddr(to).AsSlice()...)
}

// arp asks who has an address (RFC 826), and says who asks.
func arp(mac net.HardwareAddr, addr string, to net.HardwareAddr, toAddr string) []byte {
	b := []byte{0, 1, 8, 0, 6, 4, 0, 1}
	b = append(append(b, mac...), netip.MustParseAddr(addr).AsSlice()...)
	return append(append(b, to...), netip.MustParseAddr(toAddr).AsSlice()...)
}

// mac is the address of a guest's card.
func (g *guest) mac() net.HardwareAddr {
	a, err := net.ParseMAC(strings.TrimSpace(g.run("cat /sys/class/net/eth0/address")))
	g.w.must(err)
	return a
}

// lies has a guest send frames, of which the last alone is true, and fails the
// step unless of a guest that is guarded only this one is heard. What is heard
// a listener says line by line.
func (g *guest) lies(guarded bool, frames []frame, hear func(marks string) (heard func() string)) {
	var marks, all []string
	for i, f := range frames {
		mark := fmt.Sprintf(markFormat, i)
		marks, all = append(marks, hex.EncodeToString([]byte(mark))), append(all, f.hex(mark))
	}
	heard := hear(strings.Join(marks, " "))
	g.run("agent frame eth0 " + strings.Join(all, " "))
	said := heard()
	for i, f := range frames {
		want := !guarded || i == len(frames)-1
		if strings.Contains(said, "HEARD "+marks[i]) != want {
			g.w.Errorf("%s: %s: heard: %v", g.name, f.what, !want)
		}
	}
}

// stranger is a MAC address that no guest has.
var stranger = net.HardwareAddr{0, 0x16, 0x3e, 0, 0, 0x77}

// spoofing: a bridged guest whose address is known is heard by another guest as
// itself, and not as anybody else; one of whom nothing is known may be anybody.
// No daemon is needed for that. A guest that needs one while it hangs is told so
// in time: libxl kills scripts after 40 s.
func spoofing(w *world) {
	before := w.trace()
	w.must(w.daemon.Process.Signal(syscall.SIGSTOP))
	w.Cleanup(func() { w.must(w.daemon.Process.Signal(syscall.SIGCONT)) })
	began := time.Now()
	attached := make(chan string)
	go func() {
		out, err := try("xl", "network-attach", "alice", "mac=00:16:3e:00:00:25", "bridge=lan")
		attached <- fmt.Sprint(err, out)
	}()
	w.dave.liesTo(w.bob, true)
	w.carol.liesTo(w.bob, false)
	w.eventually(func() error {
		if problem := w.read(w.alice.vif(2) + "/hotplug-error"); !strings.Contains(problem, noAnswer) {
			return fmt.Errorf("hotplug-error is %q", problem)
		}
		return nil
	})
	took := time.Since(began)
	w.must(w.daemon.Process.Signal(syscall.SIGCONT))
	if took > 40*time.Second {
		w.Errorf("the script says so after %s only, when libxl had killed it", took)
	}
	if said := <-attached; !strings.Contains(said, noAnswer) {
		w.Errorf("xl says %s", said)
	}
	w.run("xl", "network-detach", "alice", "2") // xl leaves what it could not attach
	w.leavesNothing(before)
}

// noAnswer is what a script says if the daemon hangs.
const noAnswer = "the viaduct daemon does not answer"

// liesTo is lies to another guest.
func (g *guest) liesTo(to *guest, guarded bool) {
	w := g.w
	own, victim := g.mac(), to.mac()
	g.lies(guarded, []frame{
		{"another MAC", stranger, victim, kindIPv4, ip4(g.addr, to.addr)},
		{"another IP", own, victim, kindIPv4, ip4(w.alice.addr, to.addr)},
		{"another IPv6", own, victim, kindIPv6, ip6("fd00::77", "fd00::1")},
		{"ARP of another IP", own, victim, kindARP, arp(own, "192.168.50.111", victim, to.addr)},
		{"ARP of another MAC", own, victim, kindARP, arp(stranger, g.addr, victim, to.addr)},
		{"itself", own, victim, kindIPv4, ip4(g.addr, to.addr)},
	}, func(marks string) func() string {
		c := to.start("agent hear eth0 " + marks)
		c.until("HEARING")
		return func() string {
			said, err := c.wait()
			w.must(err)
			return said
		}
	})
}

// liesOutside is lies for a guest with a link of its own to the host, whose
// packets are heard outside. Its router is the host under this address.
func (g *guest) liesOutside(router string) {
	w := g.w
	own, host := g.mac(), net.HardwareAddr{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff}
	const stolen = "198.51.100.99"
	g.lies(true, []frame{
		{"another MAC", stranger, host, kindIPv4, ip4(g.addr, outsideAddr)},
		{"another IP", own, host, kindIPv4, ip4(stolen, outsideAddr)},
		{"ARP of another IP", own, host, kindARP, arp(own, stolen, host, router)},
		{"ARP of another MAC", own, host, kindARP, arp(stranger, g.addr, host, router)},
		{"itself", own, host, kindIPv4, ip4(g.addr, outsideAddr)},
	}, w.hearOutside)
	if known := w.run("ip", "neigh", "show", g.addr); strings.Contains(known, stranger.String()) {
		w.Errorf("%s: the host believes: %s", g.name, known)
	}
	if known := w.run("ip", "neigh", "show", stolen); strings.TrimSpace(known) != "" {
		w.Errorf("%s: the host believes: %s", g.name, known)
	}
}

// hearOutside listens beyond the host's uplink.
func (w *world) hearOutside(marks string) func() string {
	listener := exec.Command("nsenter", append([]string{"-t", fmt.Sprint(w.outside), "-n", "agent", "hear", "eth0"}, strings.Fields(marks)...)...)
	out, err := listener.StdoutPipe()
	w.must(err)
	w.must(listener.Start())
	lines := bufio.NewScanner(out)
	lines.Scan() // HEARING
	return func() string {
		var said []string
		for lines.Scan() {
			said = append(said, lines.Text())
		}
		w.must(listener.Wait())
		return strings.Join(said, "\n")
	}
}
