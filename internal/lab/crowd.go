package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
)

// Crowd are many guests that share a node, so that they cost little: each has
// a cable of its own to a bridge of the host, and a DHCP client that speaks by
// raw frames. It uses no address that it gets.
type Crowd struct {
	*Node
	guests []crowdGuest
}

type crowdGuest struct {
	link   string
	bridge string
	mac    net.HardwareAddr
}

// CrowdLease is what a guest of a crowd got.
type CrowdLease struct {
	Bridge string
	MAC    net.HardwareAddr
	Addr   netip.Addr
	// Took is how long after the common start it had its lease.
	Took time.Duration
}

// PlugCrowd plugs so many guests into each of the bridges.
func (l *Lab) PlugCrowd(name string, host *Node, bridges []string, each int) *Crowd {
	l.t.Helper()
	c := &Crowd{Node: l.node(name, sysReadOnly)}
	for i, bridge := range bridges {
		for j := range each {
			g := crowdGuest{fmt.Sprintf("crowd%d", i*each+j), bridge, net.HardwareAddr{0x52, 0x54, 1, byte(i), byte(j >> 8), byte(j)}}
			l.check(host.wire(g.link, c.Node, g.link, WireOptions{MACA: append(net.HardwareAddr{0xfe}, g.mac[1:]...), MACB: g.mac}))
			host.SetMaster(g.link, bridge)
			host.LinkUp(g.link)
			c.LinkUp(g.link)
			c.guests = append(c.guests, g)
		}
	}
	return c
}

// crowdTry is how long a guest waits for an answer before it repeats itself, as
// udhcpc does.
const crowdTry = 3 * time.Second

// Boot has all guests ask for a lease at the same time, and returns when all
// have theirs.
func (c *Crowd) Boot(ctx context.Context) ([]CrowdLease, error) {
	clients := make([]*nclient4.Client, len(c.guests))
	defer func() {
		for _, client := range clients {
			if client != nil {
				client.Close()
			}
		}
	}()
	err := c.Do(func() (err error) {
		for i, g := range c.guests {
			if clients[i], err = nclient4.New(g.link, nclient4.WithHWAddr(g.mac), nclient4.WithTimeout(crowdTry), nclient4.WithRetry(10)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	leases, errs := make([]CrowdLease, len(clients)), make([]error, len(clients))
	var booting sync.WaitGroup
	began := time.Now()
	for i, client := range clients {
		booting.Go(func() {
			lease, err := client.Request(ctx)
			if err != nil {
				errs[i] = fmt.Errorf("guest %d on %s: %w", i, c.guests[i].bridge, err)
				return
			}
			addr, _ := netip.AddrFromSlice(lease.ACK.YourIPAddr.To4())
			leases[i] = CrowdLease{c.guests[i].bridge, c.guests[i].mac, addr, time.Since(began)}
		})
	}
	booting.Wait()
	return leases, errors.Join(errs...)
}
