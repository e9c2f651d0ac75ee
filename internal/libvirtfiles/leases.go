package libvirtfiles

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"viaduct/internal/netdef"
)

// lease is an entry of a .status file, which is an array of them.
type lease struct {
	Address  string `json:"ip-address"`
	MAC      string `json:"mac-address,omitempty"`
	Hostname string `json:"hostname,omitempty"`
	ClientID string `json:"client-id,omitempty"`
	IAID     string `json:"iaid,omitempty"`
	// Expiry is in seconds since 1970; 0 means never.
	Expiry     int64  `json:"expiry-time"`
	ServerDUID string `json:"server-duid,omitempty"`
}

// leases reads what is known of the guests of a network.
func (p Paths) leases(n *netdef.Network) ([]netdef.Lease, error) {
	if n.Bridge.Name == "" {
		return nil, nil
	}
	path := p.Leases(n.Bridge.Name)
	data, err := readFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) || err == nil && len(data) == 0:
		return nil, nil
	case err != nil:
		return nil, err
	}
	leases, err := ParseLeases(data)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	// What is not of the network's subnets is left from another time.
	var list []netdef.Lease
	for _, l := range leases {
		for _, ip := range n.IPs {
			if ip.Prefix().Contains(l.Addr) {
				l.PrefixLen = ip.Prefix().Bits()
				list = append(list, l)
				break
			}
		}
	}
	return list, nil
}

// ParseLeases reads the leases of a bridge's guests. The length of their
// prefixes is not in it.
func ParseLeases(data []byte) ([]netdef.Lease, error) {
	var entries []lease
	if err := json.Unmarshal(data, &entries); err != nil {
		return nil, err
	}
	var list []netdef.Lease
	for _, e := range entries {
		l, err := e.lease()
		if err != nil {
			return nil, fmt.Errorf("lease of %q: %w", e.Address, err)
		}
		list = append(list, l)
	}
	return list, nil
}

func (e lease) lease() (l netdef.Lease, err error) {
	if l.Addr, err = netip.ParseAddr(e.Address); err != nil {
		return l, err
	}
	if e.MAC != "" {
		if l.MAC, err = netdef.ParseMAC(e.MAC); err != nil {
			return l, err
		}
	}
	if e.ClientID != "" && e.ClientID != "*" {
		if l.ClientID, err = hex.DecodeString(strings.ReplaceAll(e.ClientID, ":", "")); err != nil {
			return l, fmt.Errorf("client id: %w", err)
		}
	}
	if e.IAID != "" {
		// dnsmasq marks temporary addresses by a T.
		id, err := strconv.ParseUint(strings.TrimPrefix(e.IAID, "T"), 10, 32)
		if err != nil {
			return l, fmt.Errorf("iaid: %w", err)
		}
		l.IAID = uint32(id)
	}
	if e.Hostname != "*" {
		l.Hostname = e.Hostname
	}
	if e.Expiry > 0 {
		l.Expiry = time.Unix(e.Expiry, 0)
	}
	return l, nil
}

// FormatLeases writes leases as libvirt reads them when its dnsmasq starts.
// IPv6 leases are bound to the server that gave them (serverDUID).
func FormatLeases(list []netdef.Lease, serverDUID string) ([]byte, error) {
	entries := []lease{}
	for _, l := range list {
		e := lease{Address: l.Addr.String(), Hostname: l.Hostname, ClientID: strings.ReplaceAll(fmt.Sprintf("% x", l.ClientID), " ", ":")}
		if !l.MAC.IsZero() {
			e.MAC = l.MAC.String()
		}
		if !l.Expiry.IsZero() {
			e.Expiry = l.Expiry.Unix()
		}
		if l.Addr.Is6() {
			e.IAID, e.ServerDUID = strconv.FormatUint(uint64(l.IAID), 10), serverDUID
		}
		entries = append(entries, e)
	}
	return json.MarshalIndent(entries, "", "  ")
}

// ServerDUID is that of the server that gave the leases in a .status file; ""
// if none of them says so.
func ServerDUID(data []byte) string {
	var entries []lease
	if json.Unmarshal(data, &entries) != nil {
		return ""
	}
	for _, e := range entries {
		if e.ServerDUID != "" {
			return e.ServerDUID
		}
	}
	return ""
}
