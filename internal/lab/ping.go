package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// icmpFamily is how echo works in one address family.
type icmpFamily struct {
	network        string
	protocol       int
	request, reply icmp.Type
}

var (
	icmp4 = icmpFamily{"ip4:icmp", 1, ipv4.ICMPTypeEcho, ipv4.ICMPTypeEchoReply}
	icmp6 = icmpFamily{"ip6:ipv6-icmp", 58, ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply}
)

func familyOf(addr netip.Addr) icmpFamily {
	if addr.Is4() {
		return icmp4
	}
	return icmp6
}

// pinging is one conversation of echo requests. Raw sockets hear the replies of
// all; each conversation knows its own by a key.
type pinging struct {
	icmpFamily
	conn   net.PacketConn
	target *net.IPAddr
	key    uint64
}

// pingKeys counts conversations.
var pingKeys atomic.Uint64

// pingSize is the payload: the conversation's key and the packet's number.
const pingSize = 16

func (n *Node) startPinging(to netip.Addr) (*pinging, error) {
	p := &pinging{icmpFamily: familyOf(to), key: pingKeys.Add(1),
		target: &net.IPAddr{IP: to.AsSlice(), Zone: to.Zone()}}
	return p, n.Do(func() (err error) {
		p.conn, err = net.ListenPacket(p.network, "")
		return err
	})
}

// send sends one request.
func (p *pinging) send(number uint64) error {
	payload := make([]byte, pingSize)
	binary.BigEndian.PutUint64(payload, p.key)
	binary.BigEndian.PutUint64(payload[8:], number)
	message := icmp.Message{Type: p.request, Body: &icmp.Echo{ID: p.id(), Seq: int(number & 0xffff), Data: payload}}
	// The kernel fills in ICMPv6's checksum, for which it knows the addresses.
	packet, err := message.Marshal(nil)
	if err == nil {
		_, err = p.conn.WriteTo(packet, p.target)
	}
	return err
}

// receive returns the number of the next reply.
func (p *pinging) receive(buf []byte) (uint64, error) {
	for {
		size, _, err := p.conn.ReadFrom(buf)
		if err != nil {
			return 0, err
		}
		message, err := icmp.ParseMessage(p.protocol, buf[:size])
		if err != nil || message.Type != p.reply {
			continue
		}
		echo, ok := message.Body.(*icmp.Echo)
		if ok && echo.ID == p.id() && len(echo.Data) == pingSize && binary.BigEndian.Uint64(echo.Data) == p.key {
			return binary.BigEndian.Uint64(echo.Data[8:]), nil
		}
	}
}

func (p *pinging) id() int { return int(p.key & 0xffff) }

// Pinger sends ICMP echo requests at a steady pace and counts what comes back.
type Pinger struct {
	*stream
	pinging *pinging
	forget  func()
}

// StartPing starts a Pinger from the node to an address, one request per
// interval (a millisecond is fine).
func (n *Node) StartPing(to netip.Addr, interval time.Duration) *Pinger {
	n.lab.t.Helper()
	pinging, err := n.startPinging(to)
	n.lab.check(err)
	p := &Pinger{pinging: pinging}
	p.forget = n.atEnd(func() { pinging.conn.Close() })
	p.stream = n.newStream(interval, pinging.send)
	n.goUntilEnd(func() {
		buf := make([]byte, 2048)
		for {
			number, err := pinging.receive(buf)
			switch {
			case errors.Is(err, net.ErrClosed):
				return
			case err == nil:
				p.came(number)
			}
		}
	})
	return p
}

// Stop ends pinging, waits up to half a second for late replies, and returns the account.
func (p *Pinger) Stop() Loss {
	loss := p.account()
	p.forget()
	p.pinging.conn.Close()
	return loss
}

// pingAgain is how long Ping waits before it asks again.
const pingAgain = 100 * time.Millisecond

// Ping sends one echo request after another until one is answered.
func (n *Node) Ping(ctx context.Context, to netip.Addr) error {
	p, err := n.startPinging(to)
	if err != nil {
		return err
	}
	defer p.conn.Close()
	buf := make([]byte, 2048)
	var last error
	for number := uint64(0); ctx.Err() == nil; number++ {
		again := time.NewTimer(pingAgain)
		if last = p.send(number); last == nil {
			p.conn.SetReadDeadline(time.Now().Add(pingAgain))
			if _, last = p.receive(buf); last == nil {
				return nil
			}
		}
		select {
		case <-again.C:
		case <-ctx.Done():
		}
	}
	return fmt.Errorf("ping %s from node %s: no answer: %w", to, n.Name, errors.Join(ctx.Err(), last))
}
