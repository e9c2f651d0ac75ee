package outcome

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"viaduct/internal/lab"
)

// Where links of different MTU meet, TCP passes even if nobody hears the ICMP
// messages that say how large a packet may be.
func TestTCPPassesSmallLinksWithoutICMP(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ guests, uplink, outside int }{
		{guests: 9000, uplink: 1400, outside: 9000}, // both ends have more than the link between them
		{guests: 1500, uplink: 1400, outside: 1500},
		{guests: 1400, uplink: 9000, outside: 9000},
	} {
		t.Run(fmt.Sprintf("guests with %d, uplink with %d", c.guests, c.uplink), func(t *testing.T) {
			s := startSite(t)
			s.host.SetMTU("eth0", c.uplink)
			s.host.Outside.SetMTU("eth0", c.outside)
			s.create(fmt.Sprintf(`<network><name>a</name><forward mode='route'/><bridge name='virbr50'/><mtu size='%d'/>
				<ip address='192.168.50.1' prefix='24'><dhcp><range start='192.168.50.2' end='192.168.50.9'/></dhcp></ip>
				<ip family='ipv6' address='fd00:50::1' prefix='64'/></network>`, c.guests))
			g := s.NewGuest(lab.GuestOptions{MTU: c.guests})
			g.Plug(s.host.Node, "virbr50", "vnet0")
			lease, address6 := s.lease(g), s.address6(g, "fd00:50::/64")
			outside := s.host.Outside
			outside.AddRoute(netip.MustParsePrefix("192.168.50.0/24"), s.host.Addr)
			outside.AddRoute(netip.MustParsePrefix("fd00:50::/64"), s.host.Addr6)
			for _, n := range []*lab.Node{g.Node, outside.Node} {
				_, err := n.Run(s.context(), "nft", `add table inet deaf; add chain inet deaf input { type filter hook input priority 0; };
					add rule inet deaf input icmp type destination-unreachable drop; add rule inet deaf input icmpv6 type packet-too-big drop`)
				s.must(err)
			}
			g.ServeEcho(lab.PortEcho)
			for _, way := range []struct {
				from *lab.Node
				to   netip.Addr
			}{{g.Node, outside.Addr}, {g.Node, outside.Addr6}, {outside.Node, lease.Addr.Addr()}, {outside.Node, address6}} {
				if err := transfer(s.context(), way.from, netip.AddrPortFrom(way.to, lab.PortEcho)); err != nil {
					t.Errorf("%s to %s and back: %v", way.from.Name, way.to, err)
				}
			}
		})
	}
}

// transfer sends more than any buffer holds to an echo server and reads it back.
func transfer(ctx context.Context, from *lab.Node, to netip.AddrPort) error {
	// Addresses and neighbours take their time on a busy machine.
	var conn net.Conn
	var err error
	for began := time.Now(); time.Since(began) < 20*time.Second; {
		if conn, err = from.Dial(ctx, "tcp", to); err == nil {
			break
		}
	}
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	const size = 256 << 10
	sent := make(chan error, 1)
	go func() {
		_, err := conn.Write(make([]byte, size))
		sent <- err
	}()
	n, err := io.CopyN(io.Discard, conn, size)
	if err != nil {
		err = fmt.Errorf("after %d of %d bytes: %w", n, size, err)
		conn.Close()
	}
	return errors.Join(err, <-sent)
}
