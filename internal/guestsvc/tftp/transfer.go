package tftp

import (
	"context"
	"net/netip"
	"os"
	"time"
)

// retries is how often a client that keeps silent is sent the same again.
const retries = 5

// transfer is one file on its way to a client.
type transfer struct {
	request
	conn   udpConn
	to     netip.AddrPort
	raw    []byte // the request as it came, to tell a repeated one from a new one
	acks   chan uint16
	cancel context.CancelFunc
}

// udpConn is what a server needs of a *net.UDPConn.
type udpConn interface {
	ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error)
	WriteToUDPAddrPort(b []byte, addr netip.AddrPort) (int, error)
	Close() error
}

// send sends packets. One that does not arrive is sent again by and by, so
// errors say nothing.
func (t *transfer) send(packets ...[]byte) {
	for _, p := range packets {
		t.conn.WriteToUDPAddrPort(p, t.to)
	}
}

// hand hands out the file. It reports whether the client has it all, and how
// many blocks it has.
func (t *transfer) hand(ctx context.Context, f *os.File, size int64) (blocks uint64, done bool) {
	if len(t.options) > 0 {
		if _, ok := t.deliver(ctx, 0, [][]byte{t.optionAck(size)}, true); !ok {
			return 0, false
		}
	}
	from := newSource(f, t.netascii)
	var window [][]byte
	last := false
	for {
		for len(window) < t.window && !last {
			p, err := from.next(dataPacket(uint16(blocks+uint64(len(window))+1), t.block), t.block)
			if err != nil {
				t.send(errorPacket(errReading))
				return blocks, false
			}
			last = len(p) < 4+t.block
			window = append(window, p)
		}
		if len(window) == 0 {
			return blocks, true
		}
		n, ok := t.deliver(ctx, uint16(blocks), window, false)
		if !ok {
			return blocks, false
		}
		blocks += uint64(n)
		window = window[n:]
	}
}

// deliver sends packets until the client has some of them. base is the number
// of the block before them; an acknowledgement of options is of block 0 itself.
func (t *transfer) deliver(ctx context.Context, base uint16, packets [][]byte, options bool) (acked int, ok bool) {
	again := t.window > 1 && !options // whether a repeated acknowledgement asks for all again
	for range 1 + retries {
		t.send(packets...)
		patience := time.NewTimer(t.timeout)
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				patience.Stop()
				return 0, false
			case <-patience.C:
				waiting = false
			case block := <-t.acks:
				switch n := int(block - base); {
				case options && n == 0:
					patience.Stop()
					return 0, true
				case !options && 0 < n && n <= len(packets):
					patience.Stop()
					return n, true
				case n == 0 && again:
					// The first block of the window is lost (RFC 7440 section 4). Once only: in
					// a window of one a repeated acknowledgement must not be answered at all, or
					// every packet would go twice from then on.
					again, waiting = false, false
					patience.Stop()
				}
			}
		}
	}
	return 0, false
}
