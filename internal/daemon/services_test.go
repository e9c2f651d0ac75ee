package daemon

import (
	"bytes"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"viaduct/internal/host/sockets"
	"viaduct/internal/lab"
)

func TestMain(m *testing.M) {
	lab.Init()
	goleak.VerifyTestMain(m)
}

// DNS takes port 53 where it can, else another one, and tells who is in the way.
func TestDNSPort(t *testing.T) {
	addr := netip.MustParseAddr("192.0.2.1")
	for _, c := range []struct {
		name string
		held []string
		want uint16
		warn bool
	}{
		{"free", nil, 53, false},
		{"held on another address", []string{"198.51.100.1:53"}, 53, false},
		{"held on all", []string{"0.0.0.0:53"}, 5354, true},
		{"held on this one", []string{"192.0.2.1:53"}, 5354, true},
		{"the next is held too", []string{"0.0.0.0:53", "0.0.0.0:5354"}, 5355, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			node := lab.New(t).Node("host")
			err := node.Do(func() error {
				for _, held := range c.held {
					u, l, err := sockets.ListenDNS(netip.MustParseAddrPort(held))
					if err != nil {
						return err
					}
					defer u.Close()
					defer l.Close()
				}
				var log bytes.Buffer
				port, err := choosesDNSPort(slog.New(slog.NewTextHandler(&log, nil)))(addr)
				if port != c.want {
					t.Errorf("port %d, want %d", port, c.want)
				}
				if strings.Contains(log.String(), "redirected") != c.warn {
					t.Errorf("log: %s", log.String())
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
}
