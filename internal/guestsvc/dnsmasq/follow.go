package dnsmasq

import (
	"io"
	"net/netip"
	"os"
	"time"

	"viaduct/internal/netdef"
)

// settle is how long after the file of leases was written to it is read:
// dnsmasq empties it before it writes it anew.
const settle = 50 * time.Millisecond

// lost is a lease that was not in the file, with its end, so that one that was
// given anew since is another.
type lost struct {
	addr netip.Addr
	ends time.Time
}

// readLeases keeps the table as the file is, until over is closed or the
// process has ended.
func (s *Service) readLeases(c Config, changed <-chan struct{}, over, ended <-chan struct{}) {
	missed := map[lost]bool{}
	wait := time.After(settle) // what was written while nobody looked
	for {
		select {
		case <-changed:
			if wait == nil {
				wait = time.After(settle)
			}
		case <-wait:
			wait = nil
			if !s.takeLeases(c, missed) {
				wait = time.After(settle)
			}
		case <-over:
			return
		case <-ended:
			s.takeLeases(c, missed)
			return
		}
	}
}

// takeLeases reads the file into the table. A lease that is missing counts as
// released once it is missing twice in a row. It reports whether that settles it.
func (s *Service) takeLeases(c Config, missed map[lost]bool) (settled bool) {
	list, whole, err := c.leases()
	if err != nil {
		s.log.Warn("read dnsmasq's leases", "error", err)
		return true
	}
	table := s.deps.Leases(c.Network)
	note := func(err error) {
		if err != nil {
			s.log.Error("keep a lease of dnsmasq's", "error", err)
		}
	}
	there := map[netip.Addr]bool{}
	for _, l := range list {
		there[l.Addr] = true
		l.Network = c.Network
		l.Hostname = table.NameFor(l)
		if old, known := table.ByAddr(l.Addr); !known || !same(old, l) {
			table.Put(l, note)
		}
	}
	if !whole {
		return false
	}
	settled = true
	still := map[lost]bool{}
	for _, l := range table.All() {
		if there[l.Addr] {
			continue
		}
		if one := (lost{l.Addr, l.Expiry}); missed[one] {
			table.Remove(l.Addr, note)
		} else {
			still[one], settled = true, false
		}
	}
	clear(missed)
	for one := range still {
		missed[one] = true
	}
	return settled
}

// same reports whether two leases of an address say the same.
func same(a, b netdef.Lease) bool {
	return a.MAC == b.MAC && a.IAID == b.IAID && a.Hostname == b.Hostname && a.PrefixLen == b.PrefixLen &&
		a.Expiry.Equal(b.Expiry) && string(a.ClientID) == string(b.ClientID)
}

// leases reads the file of leases.
func (c Config) leases() (list []netdef.Lease, whole bool, err error) {
	f, err := os.Open(c.file(fileLeases))
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxLeaseFile))
	if err != nil {
		return nil, false, err
	}
	list, whole = parseLeases(data, c.Subnets)
	return list, whole, nil
}
