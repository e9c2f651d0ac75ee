package host

import (
	"net/netip"
	"strings"
	"testing"

	"viaduct/internal/hoststate"
	"viaduct/internal/lab"
)

// TestProxies makes links answer for addresses, and finds those again.
func TestProxies(t *testing.T) {
	h := openHost(t, Options{})
	link, _ := lab.Cable(t)
	want := state(
		hoststate.Proxy{Link: link, Addr: netip.MustParseAddr("192.0.2.9")},
		hoststate.Proxy{Link: link, Addr: netip.MustParseAddr("2001:db8::9")})
	reach(t, h, nil, want)
	for _, show := range []string{"-4 neigh show proxy dev " + link, "-6 neigh show proxy dev " + link} {
		if out := ip(t, show); !strings.Contains(out, "9") {
			t.Errorf("ip %s: %q", show, out)
		}
	}
	apply(t, h, Diff(want, nil)...) // once more changes nothing
	ip(t, "neigh del proxy 192.0.2.9 dev "+link)
	if left := Diff(want, h.Observe(want.Keys())); len(left) != 1 {
		t.Errorf("after one was taken away there is to do:\n%s", hoststate.FormatOps(left))
	}
	reach(t, h, nil, want)
	reach(t, h, want, nil)
	apply(t, h, Diff(nil, want)...)
}

func FuzzDecodeProxy(f *testing.F) {
	f.Add(neighbourHeader(2, 1))
	f.Add(append(neighbourHeader(2, 1), 8, 0, 1, 0, 192, 0, 2, 9))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, addr, ok := decodeProxy(b); ok && !addr.IsValid() {
			t.Errorf("% x: ok without an address", b)
		}
	})
}
