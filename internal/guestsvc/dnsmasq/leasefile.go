package dnsmasq

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"viaduct/internal/guestsvc/leases"
	"viaduct/internal/netdef"
)

// dnsmasq's file of leases has a line for each: when it ends in seconds since
// 1970 (0 for never), the MAC, the address, the name, and the client's id in hex;
// "*" stands for what is not known. A line with the server's own DUID parts the
// IPv4 leases from those of IPv6, which have the number of the identity
// association in place of the MAC, and the client's DUID as its id.
const (
	leaseFields = 5
	duidLine    = "duid"
	unknown     = "*"
)

// maxLeaseFile is how much of a file is looked at, in bytes.
const maxLeaseFile = 64 << 20

// parseLeases reads the leases, all but what makes no sense. It reports whether
// the file is whole: dnsmasq writes it in place.
func parseLeases(data []byte, subnets []netip.Prefix) (list []netdef.Lease, whole bool) {
	for line := range bytes.Lines(data) {
		whole = bytes.HasSuffix(line, []byte("\n"))
		words := strings.Fields(string(line))
		if len(words) < leaseFields || !whole {
			continue
		}
		if l, ok := parseLease(words, subnets); ok {
			list = append(list, l)
		}
	}
	return list, whole || len(data) == 0
}

func parseLease(words []string, subnets []netip.Prefix) (l netdef.Lease, ok bool) {
	ends, err := strconv.ParseInt(words[0], 10, 64)
	if err != nil || ends < 0 {
		return l, false
	}
	if ends > 0 {
		l.Expiry = time.Unix(ends, 0)
	}
	if l.Addr, err = netip.ParseAddr(words[2]); err != nil || l.Addr.Zone() != "" || l.Addr.Is4In6() {
		return l, false
	}
	for _, p := range subnets {
		if p.Contains(l.Addr) {
			l.PrefixLen = p.Bits()
		}
	}
	if words[3] != unknown {
		l.Hostname = leases.HostLabel(words[3])
	}
	if words[4] != unknown {
		if l.ClientID, err = hex.DecodeString(strings.ReplaceAll(words[4], ":", "")); err != nil || len(l.ClientID) == 0 {
			return l, false
		}
	}
	if l.Addr.Is4() {
		l.MAC, err = netdef.ParseMAC(words[1])
		return l, err == nil
	}
	// A temporary address has a T before the number.
	iaid, err := strconv.ParseUint(strings.TrimPrefix(words[1], "T"), 10, 32)
	l.IAID, l.MAC = uint32(iaid), leases.DUIDMAC(l.ClientID)
	return l, err == nil && len(l.ClientID) > 0
}

// formatLeases writes the leases for dnsmasq to go on with.
func formatLeases(list []netdef.Lease, server []byte) []byte {
	var v4, v6 bytes.Buffer
	for _, l := range list {
		out, who := &v4, l.MAC.String()
		if l.Addr.Is6() {
			out, who = &v6, strconv.FormatUint(uint64(l.IAID), 10)
		}
		ends := int64(0)
		if !l.Expiry.IsZero() {
			ends = max(l.Expiry.Unix(), 1)
		}
		fmt.Fprintf(out, "%d %s %s %s %s\n", ends, who, l.Addr, or(l.Hostname), or(octets(l.ClientID)))
	}
	fmt.Fprintf(&v4, "%s %s\n", duidLine, octets(server))
	return append(v4.Bytes(), v6.Bytes()...)
}

func or(word string) string {
	if word == "" {
		return unknown
	}
	return word
}

// octets are in hex, with colons between them.
func octets(b []byte) string {
	words := make([]string, len(b))
	for i, c := range b {
		words[i] = fmt.Sprintf("%02x", c)
	}
	return strings.Join(words, ":")
}
