package tftp

import (
	"context"
	"encoding/binary"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"viaduct/internal/netdef"
)

// wire is a connection that tells what is sent.
type wire struct{ sent chan []byte }

func (w wire) ReadFromUDPAddrPort([]byte) (int, netip.AddrPort, error) {
	return 0, netip.AddrPort{}, net.ErrClosed
}
func (w wire) Close() error { return nil }
func (w wire) WriteToUDPAddrPort(p []byte, _ netip.AddrPort) (int, error) {
	w.sent <- p
	return len(p), nil
}

// blocks are the numbers of the data packets sent so far.
func (w wire) blocks() (list []uint16) {
	synctest.Wait()
	for len(w.sent) > 0 {
		list = append(list, binary.BigEndian.Uint16((<-w.sent)[2:]))
	}
	return list
}

// TestLoss loses packets of all kinds, in no real time.
func TestLoss(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	write(t, path, content(10*512))
	for _, c := range []struct {
		name   string
		window int
		script func(t *testing.T, w wire, ack func(uint16))
		blocks uint64
		done   bool
	}{
		{"a silent guest", 1, func(t *testing.T, w wire, _ func(uint16)) {
			w.want(t, 1)
			for range retries {
				time.Sleep(defaultTimeout)
				w.want(t, 1)
			}
			time.Sleep(defaultTimeout)
		}, 0, false},
		{"an acknowledgement twice", 1, func(t *testing.T, w wire, ack func(uint16)) {
			w.want(t, 1)
			ack(1)
			w.want(t, 2)
			ack(1)
			w.want(t)
			time.Sleep(defaultTimeout)
			w.want(t, 2)
			ack(2)
			w.want(t, 3)
		}, 2, false},
		{"one from the future", 1, func(t *testing.T, w wire, ack func(uint16)) {
			w.want(t, 1)
			ack(2)
			ack(0xffff)
			w.want(t)
		}, 0, false},
		{"the middle of a window", 4, func(t *testing.T, w wire, ack func(uint16)) {
			w.want(t, 1, 2, 3, 4)
			ack(2)
			w.want(t, 3, 4, 5, 6)
			ack(6)
			w.want(t, 7, 8, 9, 10)
			ack(10)
			w.want(t, 11)
			ack(11)
		}, 11, true},
		{"the first of a window", 4, func(t *testing.T, w wire, ack func(uint16)) {
			w.want(t, 1, 2, 3, 4)
			ack(4)
			w.want(t, 5, 6, 7, 8)
			ack(4)
			w.want(t, 5, 6, 7, 8)
			ack(4)
			w.want(t)
			ack(8)
			w.want(t, 9, 10, 11)
			ack(11)
		}, 11, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, err := os.Open(path)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				w := wire{make(chan []byte, 100)}
				tr := &transfer{request: request{block: 512, window: c.window, timeout: defaultTimeout}, conn: w, acks: make(chan uint16, maxWindow)}
				ctx, cancel := context.WithCancel(t.Context())
				type result struct {
					blocks uint64
					done   bool
				}
				results := make(chan result, 1)
				go func() {
					blocks, done := tr.hand(ctx, f, 10*512)
					results <- result{blocks, done}
				}()
				c.script(t, w, func(block uint16) {
					tr.acks <- block
					synctest.Wait()
				})
				synctest.Wait()
				cancel()
				if got := <-results; got != (result{c.blocks, c.done}) {
					t.Errorf("%+v, want %d blocks, done %v", got, c.blocks, c.done)
				}
			})
		})
	}
}

func (w wire) want(t *testing.T, want ...uint16) {
	t.Helper()
	if got := w.blocks(); !slices.Equal(got, want) {
		t.Errorf("sent blocks %v, want %v", got, want)
	}
}

// FuzzPackets throws two packets at a server: what it keeps stays bounded and
// no answer is larger than the link takes.
func FuzzPackets(f *testing.F) {
	root := f.TempDir()
	if err := os.WriteFile(filepath.Join(root, "file"), content(5000), 0o644); err != nil {
		f.Fatal(err)
	}
	for _, seed := range [][2]string{
		{"\x00\x01file\x00octet\x00", "\x00\x04\x00\x01"},
		{"\x00\x01file\x00octet\x00blksize\x001432\x00windowsize\x0064\x00tsize\x000\x00timeout\x001\x00", "\x00\x04\x00\x00"},
		{"\x00\x01../file\x00netascii\x00", "\x00\x05\x00\x00\x00"},
		{"\x00\x02file\x00octet\x00", "\x00\x03\x00\x01abc"},
	} {
		f.Add([]byte(seed[0]), []byte(seed[1]))
	}
	addr := netip.MustParseAddrPort("192.0.2.1:69")
	f.Fuzz(func(t *testing.T, first, second []byte) {
		w := wire{make(chan []byte, 1000)}
		s, err := Start(Config{Network: netdef.UUID{1}, Clients: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}, Deps{Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		s.config.Exports = []Export{{addr, root}}
		l := &listener{addr, w}
		for _, p := range [][]byte{first, second, first} {
			s.packet(l, netip.MustParseAddrPort("192.0.2.9:1000"), p)
		}
		s.mu.Lock()
		if len(s.transfers) > 1 {
			t.Errorf("%d transfers to one port", len(s.transfers))
		}
		s.mu.Unlock()
		s.Close()
		for len(w.sent) > 0 {
			if p := <-w.sent; len(p) > defaultMTU-headers+4 {
				t.Errorf("a packet of %d bytes", len(p))
			}
		}
	})
}
