package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"
)

// Flow is a TCP connection between two nodes that carries data at a steady
// pace, a few megabytes per second, until it is stopped.
type Flow struct {
	halt    func()
	forget  func()
	in      net.Conn // the receiving end
	sending chan flowEnd
	arrival chan flowEnd
	bytes   progress // that have arrived
}

// flowEnd is what one side of a flow has to say at its end.
type flowEnd struct {
	bytes int64
	stall time.Duration
	err   error
}

// FlowReport is what became of a flow.
type FlowReport struct {
	Sent, Received int64         // bytes
	Stall          time.Duration // the longest time in which nothing arrived
	// Err tells that the connection broke (reset, timed out) or that a
	// wrong byte arrived; nil says that everything sent has arrived.
	Err error
}

const (
	flowChunk = 4 << 10 // bytes per write
	flowPace  = time.Millisecond
	// flowPatience is how long nothing may arrive before the flow counts as broken.
	flowPatience = 10 * time.Second
)

// StartFlow starts a flow from one node to another: to listens on the port,
// on all its addresses, and from connects to at, which must lead there.
func (l *Lab) StartFlow(from, to *Node, at netip.AddrPort) *Flow {
	l.t.Helper()
	f, err := startFlow(from, to, at)
	l.check(err)
	return f
}

func startFlow(from, to *Node, at netip.AddrPort) (*Flow, error) {
	listener, err := to.Listen(netip.AddrPortFrom(netip.Addr{}, at.Port()))
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	ctx, cancel := context.WithTimeout(context.Background(), ioTimeout)
	defer cancel()
	out, err := from.Dial(ctx, "tcp", at)
	if err != nil {
		return nil, fmt.Errorf("start a flow from node %s: %w", from.Name, err)
	}
	in, err := listener.Accept()
	if err != nil {
		out.Close()
		return nil, err
	}
	halting, halt := context.WithCancel(context.Background())
	f := &Flow{halt: halt, in: in, sending: make(chan flowEnd, 1), arrival: make(chan flowEnd, 1)}
	forgetOut, forgetIn := from.atEnd(func() { halt(); out.Close() }), to.atEnd(func() { in.Close() })
	f.forget = func() { forgetOut(); forgetIn() }
	from.goUntilEnd(func() { f.sending <- flowSend(halting, out.(*net.TCPConn)) })
	to.goUntilEnd(func() { f.arrival <- f.receive(in) })
	return f, nil
}

// Await waits until that many more bytes have arrived.
func (f *Flow) Await(ctx context.Context, bytes int) error { return f.bytes.await(ctx, int64(bytes)) }

// Stop ends the flow, waits until what was sent has arrived, and reports.
func (f *Flow) Stop() FlowReport {
	f.halt()
	sent := <-f.sending
	if sent.err != nil {
		f.in.Close() // nothing more will come
	}
	received := <-f.arrival
	f.forget()
	r := FlowReport{Sent: sent.bytes, Received: received.bytes, Stall: received.stall, Err: errors.Join(sent.err, received.err)}
	if r.Err == nil && r.Sent != r.Received {
		r.Err = fmt.Errorf("%d bytes sent, %d arrived", r.Sent, r.Received)
	}
	return r
}

// flowSend writes until halted, then says so to the other side.
func flowSend(halting context.Context, conn *net.TCPConn) (end flowEnd) {
	ticker := time.NewTicker(flowPace)
	defer ticker.Stop()
	chunk := make([]byte, flowChunk)
	for {
		select {
		case <-halting.Done():
			// The receiver closes for good, having read all.
			end.err = conn.CloseWrite()
			if end.err == nil {
				conn.SetReadDeadline(time.Now().Add(flowPatience))
				_, end.err = io.Copy(io.Discard, conn)
			}
			conn.Close()
			return end
		case <-ticker.C:
		}
		flowFill(chunk, end.bytes)
		conn.SetWriteDeadline(time.Now().Add(flowPatience))
		n, err := conn.Write(chunk)
		end.bytes += int64(n)
		if err != nil {
			conn.Close()
			end.err = fmt.Errorf("send at byte %d: %w", end.bytes, err)
			return end
		}
	}
}

// flowReceive reads to the end and compares each byte.
func (f *Flow) receive(conn net.Conn) (end flowEnd) {
	defer conn.Close()
	chunk, want := make([]byte, flowChunk), make([]byte, flowChunk)
	for last := time.Now(); ; {
		if err := conn.SetReadDeadline(time.Now().Add(flowPatience)); err != nil {
			return end // closed by Stop
		}
		n, err := io.ReadFull(conn, chunk)
		now := time.Now()
		end.stall, last = max(end.stall, now.Sub(last)), now
		flowFill(want, end.bytes)
		if string(chunk[:n]) != string(want[:n]) {
			end.err = fmt.Errorf("a wrong byte after byte %d", end.bytes)
			return end
		}
		end.bytes += int64(n)
		f.bytes.add(int64(n))
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return end
		case err != nil:
			end.err = fmt.Errorf("receive at byte %d: %w", end.bytes, err)
			return end
		}
	}
}

// flowFill writes the stream's content from an offset, a multiple of 8: each
// word is its own offset, scattered so that a lost or repeated one shows.
func flowFill(chunk []byte, offset int64) {
	const odd = 0x9e3779b97f4a7c15
	for at := 0; at < len(chunk); at += 8 {
		binary.LittleEndian.PutUint64(chunk[at:], uint64(offset+int64(at))*odd)
	}
}

// Datagrams is a one-way stream of numbered UDP datagrams between two nodes.
type Datagrams struct {
	*stream
	close func()
}

// datagramSize is the payload in bytes: a number, and room to look like traffic.
const datagramSize = 64

// StartDatagrams sends a datagram per interval from one node to another: to
// listens on the port, on all its addresses, and from sends to at.
func (l *Lab) StartDatagrams(from, to *Node, at netip.AddrPort, interval time.Duration) *Datagrams {
	l.t.Helper()
	in, err := to.ListenPacket(netip.AddrPortFrom(netip.Addr{}, at.Port()))
	l.check(err)
	out, err := from.Dial(context.Background(), "udp", at)
	l.check(err)
	d := &Datagrams{}
	forget := from.atEnd(func() { out.Close() })
	d.close = func() { in.Close(); out.Close(); forget() }
	d.stream = from.newStream(interval, func(number uint64) error {
		_, err := out.Write(binary.BigEndian.AppendUint64(make([]byte, 0, datagramSize), number)[:datagramSize])
		return err
	})
	to.goUntilEnd(func() {
		buf := make([]byte, datagramSize)
		for {
			n, err := in.Read(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil && n == datagramSize {
				d.came(binary.BigEndian.Uint64(buf))
			}
		}
	})
	return d
}

// Stop ends the stream, waits up to half a second for late datagrams, and returns the account.
func (d *Datagrams) Stop() Loss {
	loss := d.account()
	d.close()
	return loss
}
