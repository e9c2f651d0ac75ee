package host

import (
	"net/netip"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"viaduct/internal/hoststate"
)

// BenchmarkNetwork makes and removes a bridge with an address, up, by Apply and
// by the bare netlink requests, beside other bridges.
func BenchmarkNetwork(b *testing.B) {
	for _, others := range []int{0, 200} {
		h := openHost(b, Options{})
		for n := range others {
			n += 100
			br := testBridge(n)
			apply(b, h, hoststate.CreateOp(br), hoststate.CreateOp(hoststate.Address{Link: br.Name,
				Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n >> 8), byte(n), 1}), 24)}), hoststate.CreateOp(hoststate.LinkUp{Link: br.Name}))
		}
		name := map[int]string{0: "alone", 200: "beside 200"}[others]
		b.Run("apply "+name, func(b *testing.B) { benchApply(b, h) })
		b.Run("bare "+name, func(b *testing.B) { benchBare(b, h.rtnl) })
	}
}

func benchApply(b *testing.B, h *kernelHost) {
	br := testBridge(1)
	want := state(br, hoststate.LinkUp{Link: br.Name}, hoststate.Address{Link: br.Name, Prefix: netip.MustParsePrefix("10.0.1.1/24")})
	keys := want.Keys()
	var start, stop time.Duration
	for b.Loop() {
		t := time.Now()
		apply(b, h, Diff(want, h.Observe(keys))...)
		start += time.Since(t)
		t = time.Now()
		apply(b, h, Diff(nil, h.Observe(keys))...)
		stop += time.Since(t)
	}
	report(b, start, stop)
}

func benchBare(b *testing.B, r *rtnl) {
	br := testBridge(1)
	do := func(typ netlink.HeaderType, flags netlink.HeaderFlags, body []byte, err error) {
		if err == nil {
			err = r.do(typ, flags, body)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	const index = 1 << 20 // chosen, so that nothing has to be looked up
	var start, stop time.Duration
	for b.Loop() {
		t := time.Now()
		body, err := linkBody(index, 0, 0, func(e *netlink.AttributeEncoder) {
			e.String(unix.IFLA_IFNAME, br.Name)
			e.Bytes(unix.IFLA_ADDRESS, br.MAC[:])
			bridgeInfo(e, func(e *netlink.AttributeEncoder) { e.Uint32(brForwardDelay, 0) })
		})
		do(unix.RTM_NEWLINK, netlink.Create|netlink.Excl, body, err)
		body, err = linkBody(index, 0, 0, func(e *netlink.AttributeEncoder) { e.String(unix.IFLA_IFALIAS, br.Alias) })
		do(unix.RTM_SETLINK, 0, body, err)
		body, err = addressBody(index, netip.MustParsePrefix("10.0.1.1/24"))
		do(unix.RTM_NEWADDR, netlink.Create|netlink.Excl, body, err)
		body, err = linkBody(index, unix.IFF_UP, unix.IFF_UP, nil)
		do(unix.RTM_SETLINK, 0, body, err)
		start += time.Since(t)
		t = time.Now()
		body, err = linkBody(index, 0, 0, nil)
		do(unix.RTM_DELLINK, 0, body, err)
		stop += time.Since(t)
	}
	report(b, start, stop)
}

func report(b *testing.B, start, stop time.Duration) {
	b.ReportMetric(float64(start.Microseconds())/float64(b.N), "µs/start")
	b.ReportMetric(float64(stop.Microseconds())/float64(b.N), "µs/stop")
	b.ReportMetric(0, "ns/op")
}
