package tftp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"viaduct/internal/netdef"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var loopback = netip.MustParseAddr("127.0.0.1")

// serving starts a server for a folder, which guests on the loopback may read.
func serving(t *testing.T, root string, mtu int) (*Server, netip.AddrPort) {
	t.Helper()
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(loopback, 0)))
	if err != nil {
		t.Fatal(err)
	}
	addr := conn.LocalAddr().(*net.UDPAddr).AddrPort()
	c := Config{
		Network: netdef.UUID{1}, Name: "net", Bridge: "br0", MTU: mtu,
		Exports: []Export{{addr, root}}, Clients: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
	}
	s, err := Start(c, Deps{Listen: func(netip.AddrPort) (*net.UDPConn, error) { return conn, nil }, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, addr
}

// guest is a client.
type guest struct {
	*net.UDPConn
	t      *testing.T
	server netip.AddrPort
}

func newGuest(t *testing.T, server netip.AddrPort) guest {
	t.Helper()
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(loopback, 0)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return guest{conn, t, server}
}

func (g guest) send(p []byte) {
	g.t.Helper()
	if _, err := g.WriteToUDPAddrPort(p, g.server); err != nil {
		g.t.Fatal(err)
	}
}

func (g guest) ask(words ...string) {
	g.t.Helper()
	g.send([]byte("\x00\x01" + strings.Join(words, "\x00") + "\x00"))
}

func (g guest) ack(block uint16) { g.send([]byte{0, opAck, byte(block >> 8), byte(block)}) }

// next is the kind of the next packet, its block if it has one, and the rest.
func (g guest) next() (op, block uint16, rest []byte) {
	g.t.Helper()
	g.SetReadDeadline(time.Now().Add(20 * time.Second))
	buf := make([]byte, 1<<16)
	n, from, err := g.ReadFromUDPAddrPort(buf)
	if err != nil {
		g.t.Fatal(err)
	}
	if from.Port() != g.server.Port() {
		g.t.Errorf("answer from %s, want the port that was asked", from)
	}
	op = binary.BigEndian.Uint16(buf)
	if op == opOACK {
		return op, 0, buf[2:n]
	}
	return op, binary.BigEndian.Uint16(buf[2:]), buf[4:n]
}

// silent fails if something comes.
func (g guest) silent() {
	g.t.Helper()
	g.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, _, err := g.ReadFromUDPAddrPort(make([]byte, 100)); err == nil {
		g.t.Errorf("got %d bytes, want silence", n)
	}
}

// read reads a whole file in blocks of the given size.
func (g guest) read(size, window int) []byte {
	g.t.Helper()
	var file []byte
	for want := uint16(1); ; want++ {
		op, block, data := g.next()
		if op != opData || block != want {
			g.t.Fatalf("packet %d of block %d (%q), want block %d", op, block, data, want)
		}
		file = append(file, data...)
		if len(data) < size || int(want)%window == 0 {
			g.ack(block)
		}
		if len(data) < size {
			return file
		}
	}
}

func content(n int) []byte {
	data := make([]byte, n)
	rand.New(rand.NewSource(int64(n))).Read(data)
	return data
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestFiles(t *testing.T) {
	root := t.TempDir()
	_, server := serving(t, root, 0)
	for _, c := range []struct {
		size, block, window int
	}{
		{0, 512, 1}, {1, 512, 1}, {511, 512, 1}, {512, 512, 1}, {513, 512, 1}, {5000, 512, 1},
		{5000, 1432, 1}, {2864, 1432, 1}, {100000, 1432, 8}, {14320, 1432, 5}, {99, 8, 32},
		{8 * 70000, 8, 16}, // more blocks than there are numbers
	} {
		t.Run(fmt.Sprintf("%d in %dx%d", c.size, c.window, c.block), func(t *testing.T) {
			data := content(c.size)
			write(t, filepath.Join(root, "file"), data)
			g := newGuest(t, server)
			words := []string{"file", "octet"}
			if c.block != 512 || c.window != 1 {
				words = append(words, "blksize", fmt.Sprint(c.block), "windowsize", fmt.Sprint(c.window), "tsize", "0", "multicast", "")
			}
			g.ask(words...)
			if len(words) > 2 {
				op, _, options := g.next()
				want := fmt.Sprintf("blksize\x00%d\x00windowsize\x00%d\x00tsize\x00%d\x00", c.block, c.window, c.size)
				if op != opOACK || string(options) != want {
					t.Fatalf("packet %d %q, want the options %q", op, options, want)
				}
				g.ack(0)
			}
			if got := g.read(c.block, c.window); !bytes.Equal(got, data) {
				t.Errorf("%d bytes that differ from the %d of the file", len(got), len(data))
			}
		})
	}
}

func TestNetASCII(t *testing.T) {
	root := t.TempDir()
	_, server := serving(t, root, 0)
	write(t, filepath.Join(root, "text"), []byte(strings.Repeat("line\nof\rtext\n", 100)))
	g := newGuest(t, server)
	g.ask("text", "NetASCII", "tsize", "0")
	if got, want := string(g.read(512, 1)), strings.Repeat("line\r\nof\r\x00text\r\n", 100); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestNames asks for what must and must not be handed out.
func TestNames(t *testing.T) {
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	for _, d := range []string{root, filepath.Join(root, "sub")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(dir, "secret"), []byte("secret"))
	write(t, filepath.Join(root, "sub", "file"), []byte("file"))
	write(t, filepath.Join(root, "private"), []byte("secret"))
	for _, err := range []error{
		os.Chmod(filepath.Join(root, "private"), 0o640),
		os.Symlink("../secret", filepath.Join(root, "out")),
		os.Symlink(filepath.Join(dir, "secret"), filepath.Join(root, "absolute")),
		os.Symlink("..", filepath.Join(root, "up")),
		os.Symlink("sub/file", filepath.Join(root, "link")),
		syscall.Mkfifo(filepath.Join(root, "pipe"), 0o644),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	_, server := serving(t, root, 0)
	for _, c := range []struct {
		name string
		code uint16 // of the error; 100 for the file
	}{
		{"sub/file", 100}, {"/sub/file", 100}, {"//sub/./file", 100}, {`sub\file`, 100}, {`\sub\file`, 100}, {"link", 100},
		{root + "/sub/file", 100}, {"sub/../sub/file", 100},
		{"../root/sub/file", 2}, {"../secret", 2}, {"/../secret", 1}, {"sub/../../secret", 2}, {`..\secret`, 2}, {filepath.Join(dir, "secret"), 1},
		{"out", 2}, {"absolute", 2}, {"up/secret", 2}, {"private", 2}, {"pipe", 2}, {"sub", 2}, {".", 2}, {"/", 2}, {"..", 2},
		{"none", 1}, {"sub/file/x", 2}, {strings.Repeat("x", 400), 2},
	} {
		g := newGuest(t, server)
		g.ask(c.name, "octet")
		op, code, rest := g.next()
		switch {
		case c.code == 100 && (op != opData || string(rest) != "file"):
			t.Errorf("%q: packet %d %q, want the file", c.name, op, rest)
		case c.code != 100 && (op != opError || code != c.code):
			t.Errorf("%q: packet %d, code %d %q, want error %d", c.name, op, code, rest, c.code)
		}
	}
}

func TestRefuses(t *testing.T) {
	s, server := serving(t, t.TempDir(), 0)
	for _, c := range []struct {
		packet string
		code   uint16
	}{
		{"\x00\x02file\x00octet\x00", 2}, {"\x00\x01file\x00mail\x00", 4}, {"\x00\x01file\x00octet", 4}, {"\x00\x01\x00octet\x00", 4},
		{"\x00\x01file\x00octet\x00blksize\x00", 4}, {"\x00\x01" + strings.Repeat("x", 520) + "\x00octet\x00", 4},
	} {
		g := newGuest(t, server)
		g.send([]byte(c.packet))
		if op, code, text := g.next(); op != opError || code != c.code {
			t.Errorf("%q: packet %d, code %d %q, want error %d", c.packet, op, code, text, c.code)
		}
	}
	c := s.config
	c.Clients = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	if err := s.Reconfigure(c); err != nil {
		t.Fatal(err)
	}
	stranger := newGuest(t, server)
	stranger.ask("file", "octet")
	stranger.silent()
}

// TestSmallLink: no block needs more than one piece of a link of small MTU.
func TestSmallLink(t *testing.T) {
	root := t.TempDir()
	_, server := serving(t, root, 600)
	write(t, filepath.Join(root, "file"), content(3000))
	g := newGuest(t, server)
	g.ask("file", "octet", "blksize", "1432")
	if _, _, options := g.next(); string(options) != "blksize\x00568\x00" {
		t.Errorf("options %q, want blocks of 600-32 bytes", options)
	}
}

// TestBounds: one guest does not get all transfers, and an error of its ends one.
func TestBounds(t *testing.T) {
	root := t.TempDir()
	s, server := serving(t, root, 0)
	write(t, filepath.Join(root, "file"), content(3000))
	var first guest
	for i := range maxTransfersOfClient {
		g := newGuest(t, server)
		g.ask("file", "octet")
		g.next()
		if i == 0 {
			first = g
		}
	}
	late := newGuest(t, server)
	late.ask("file", "octet")
	late.silent()
	first.send([]byte("\x00\x05\x00\x00enough\x00"))
	late.ask("file", "octet")
	late.next()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.transfers) != maxTransfersOfClient || s.of[loopback] != maxTransfersOfClient {
		t.Errorf("%d transfers, %d of the guest, want %d", len(s.transfers), s.of[loopback], maxTransfersOfClient)
	}
}

// TestAskedAgain: a request that comes twice is answered once, another one
// from the same port takes its place.
func TestAskedAgain(t *testing.T) {
	root := t.TempDir()
	_, server := serving(t, root, 0)
	write(t, filepath.Join(root, "a"), []byte("a"))
	write(t, filepath.Join(root, "b"), []byte("b"))
	g := newGuest(t, server)
	g.ask("a", "octet")
	if _, _, data := g.next(); string(data) != "a" {
		t.Errorf("got %q", data)
	}
	g.ask("a", "octet")
	g.silent()
	g.ask("b", "octet")
	if _, _, data := g.next(); string(data) != "b" {
		t.Errorf("got %q", data)
	}
}
