package dhcp4

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"time"

	"viaduct/internal/netdef"
)

// Prober finds out whether somebody uses an address.
type Prober interface {
	// Probe asks who has the address. It calls answer once, at once or from
	// another goroutine: with the MAC of who answered, or with the zero MAC if
	// nobody did in a time that a guest does not notice.
	Probe(addr netip.Addr, answer func(netdef.MAC))
}

const (
	// ProbeWait is how long a server waits: long enough for a guest on the
	// same host, too short to be felt when a machine starts.
	ProbeWait = 30 * time.Millisecond
	// maxProbes bounds the questions under way. Above that there is a flood, in
	// which addresses are offered unasked.
	maxProbes = 1024
)

// ARPProber asks by ARP probes (RFC 5227 section 2.1.1), which leave no trace in
// the neighbour tables of guests.
type ARPProber struct {
	conn FrameConn
	wait time.Duration

	mu      sync.Mutex
	closed  bool
	pending map[netip.Addr]*question
	read    chan struct{} // closed when the reader has ended
}

// question is a probe under way, with all who wait for it.
type question struct {
	timer   *time.Timer
	answers []func(netdef.MAC)
}

// NewARPProber makes a prober that sends and receives ARP frames by conn, of
// which it takes possession. It waits so long for an answer.
func NewARPProber(conn FrameConn, wait time.Duration) *ARPProber {
	p := &ARPProber{conn: conn, wait: wait, pending: map[netip.Addr]*question{}, read: make(chan struct{})}
	go p.listen()
	return p
}

// Probe implements Prober.
func (p *ARPProber) Probe(addr netip.Addr, answer func(netdef.MAC)) {
	p.mu.Lock()
	if q := p.pending[addr]; q != nil {
		q.answers = append(q.answers, answer)
		p.mu.Unlock()
		return
	}
	if p.closed || len(p.pending) >= maxProbes {
		p.mu.Unlock()
		answer(netdef.MAC{})
		return
	}
	q := &question{answers: []func(netdef.MAC){answer}}
	p.pending[addr] = q
	q.timer = time.AfterFunc(p.wait, func() { p.finish(addr, netdef.MAC{}) })
	p.mu.Unlock()
	// If it cannot be sent, nobody answers.
	_ = p.conn.WriteFrame(arpProbe(netdef.MAC(p.conn.HardwareAddr()), addr))
}

func (p *ARPProber) finish(addr netip.Addr, mac netdef.MAC) {
	p.mu.Lock()
	q := p.pending[addr]
	delete(p.pending, addr)
	p.mu.Unlock()
	if q == nil {
		return
	}
	q.timer.Stop()
	for _, answer := range q.answers {
		answer(mac)
	}
}

func (p *ARPProber) listen() {
	defer close(p.read)
	// If it fails for good, nobody answers any more.
	_ = readFrames(p.conn, make([]byte, 128), func(frame []byte) {
		if addr, mac, ok := parseARP(frame); ok {
			p.finish(addr, mac)
		}
	})
}

// Close ends the prober; questions under way are answered with the zero MAC.
func (p *ARPProber) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil
	}
	p.closed = true
	waiting := make([]netip.Addr, 0, len(p.pending))
	for addr := range p.pending {
		waiting = append(waiting, addr)
	}
	p.mu.Unlock()
	err := p.conn.Close()
	<-p.read
	for _, addr := range waiting {
		p.finish(addr, netdef.MAC{})
	}
	return err
}

// The layout of ARP for IPv4 over Ethernet (RFC 826).
const (
	typeARP    = 0x0806
	arpLength  = 28
	arpRequest = 1
)

// arpIPv4 is how all such packets begin: hardware and protocol, with the lengths of their addresses.
var arpIPv4 = [6]byte{0, 1, 0x08, 0x00, 6, 4}

// arpProbe is the frame that asks who has addr, and says nothing of the asker.
func arpProbe(src netdef.MAC, addr netip.Addr) []byte {
	b := make([]byte, 0, ethernetHeader+arpLength)
	b = append(b, broadcastMAC[:]...)
	b = append(b, src[:]...)
	b = binary.BigEndian.AppendUint16(b, typeARP)
	b = append(b, arpIPv4[:]...)
	b = binary.BigEndian.AppendUint16(b, arpRequest)
	b = append(b, src[:]...)
	b = append(b, 0, 0, 0, 0) // sender address: none
	b = append(b, 0, 0, 0, 0, 0, 0)
	return append(b, addr.AsSlice()...)
}

// parseARP returns the sender of an ARP frame. Whoever says that an address is
// its own uses it, be it in a request or in a reply.
func parseARP(frame []byte) (netip.Addr, netdef.MAC, bool) {
	if len(frame) < ethernetHeader+arpLength || binary.BigEndian.Uint16(frame[12:]) != typeARP {
		return netip.Addr{}, netdef.MAC{}, false
	}
	arp := frame[ethernetHeader:]
	if [6]byte(arp) != arpIPv4 {
		return netip.Addr{}, netdef.MAC{}, false
	}
	return netip.AddrFrom4([4]byte(arp[14:])), netdef.MAC(arp[8:]), true
}
