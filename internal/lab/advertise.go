package lab

import (
	"net"
	"net/netip"
	"time"

	"github.com/mdlayher/ndp"
)

// Advertise has the node say once, on a link, that it is a router for the given
// time and that hosts may make themselves addresses of a prefix (RFC 4861,
// 4.2). It waits until the node's link-local address may be used.
func (n *Node) Advertise(link string, prefix netip.Prefix, lifetime time.Duration) {
	n.lab.t.Helper()
	n.lab.check(n.Do(func() error {
		ifi, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		var conn *ndp.Conn
		Eventually(n.lab.t, 10*time.Second, func() error {
			conn, _, err = ndp.Listen(ifi, ndp.LinkLocal)
			return err
		})
		defer conn.Close()
		return conn.WriteTo(&ndp.RouterAdvertisement{
			CurrentHopLimit: 64, RouterLifetime: lifetime,
			Options: []ndp.Option{&ndp.PrefixInformation{
				PrefixLength: uint8(prefix.Bits()), OnLink: true, AutonomousAddressConfiguration: true,
				ValidLifetime: time.Hour, PreferredLifetime: time.Hour, Prefix: prefix.Addr(),
			}},
		}, nil, netip.IPv6LinkLocalAllNodes())
	}))
}
