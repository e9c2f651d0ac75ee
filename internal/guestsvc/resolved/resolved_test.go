package resolved

import (
	"bytes"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/godbus/dbus/v5"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Without a bus a network starts and stops all the same, and the log says once
// what is missing. What a real systemd-resolved makes of it is tested in
// test/outcome.
func TestNoBus(t *testing.T) {
	var log bytes.Buffer
	var index atomic.Int32
	index.Store(7)
	c := NewClient(Deps{
		Connect: func() (*dbus.Conn, error) { return nil, errors.New("no such file") },
		Index:   func(string) (int, error) { return int(index.Load()), nil },
		Log:     slog.New(slog.NewTextHandler(&log, nil)),
	})
	config := Config{Network: "lab", Bridge: "virbr0", Domain: "lab.example", Servers: []netip.AddrPort{netip.MustParseAddrPort("192.168.122.1:53")}}
	if want := "on virbr0 domain lab.example server 192.168.122.1:53"; config.String() != want {
		t.Errorf("%q, want %q", config, want)
	}
	l, err := c.Start(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Reconfigure(config); err != nil {
		t.Error(err)
	}
	if !l.Bound() {
		t.Error("not bound to its link")
	}
	index.Store(8)
	if l.Bound() {
		t.Error("bound to another link of the same name")
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	c.Close()
	if n := strings.Count(log.String(), "systemd-resolved is not available"); n != 1 {
		t.Errorf("said %d times:\n%s", n, log.String())
	}
}
