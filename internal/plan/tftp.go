package plan

import (
	"net/netip"
	"slices"

	"viaduct/internal/guestsvc/tftp"
	"viaduct/internal/netdef"
)

func tftpConfig(n *netdef.Network) tftp.Config {
	c := tftp.Config{Network: n.UUID, Name: n.Name, Bridge: n.Bridge.Name, Clients: subnets(n), MTU: n.MTU}
	for _, ip := range tftpIPs(n) {
		c.Exports = append(c.Exports, tftp.Export{Listen: netip.AddrPortFrom(ip.Address, tftpPort), Root: ip.TFTPRoot})
	}
	return c
}

// tftpIPs are the <ip> elements at whose addresses files are handed out.
func tftpIPs(n *netdef.Network) []netdef.IP {
	return slices.DeleteFunc(slices.Clone(n.IPs), func(ip netdef.IP) bool { return ip.TFTPRoot == "" })
}
