package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"golang.org/x/sys/unix"

	"viaduct/internal/lab"
)

const (
	disk    = "/dev/vda"
	mounted = "/disk"
	// Whatever is not synced stays in memory, and goes with it.
	keepInMemory = "commit=600"
	writeBack    = "/proc/sys/vm/dirty_writeback_centisecs"
)

const networkXML = `<network><name>load</name><forward mode='nat'/><bridge name='virbr50'/>
	<ip address='10.50.0.1' prefix='16'><dhcp><range start='10.50.1.0' end='10.50.250.255'/></dhcp></ip></network>`

const (
	clients = 400 // how many guests there seem to be
	flying  = 32  // how many of them ask at the same time
	// patience is how long to wait for an answer before asking anew.
	patience = time.Second
)

// load lists the leases that the daemon knows, which are those of the
// machine's former life, and then has more given until somebody pulls the plug.
func load(w *world) {
	w.must(os.WriteFile(writeBack, []byte("0"), 0o644))
	lab.Eventually(w, time.Minute, func() error { return unix.Mount(disk, mounted, "ext4", 0, keepInMemory) })
	w.start(mounted, "--no-default")
	if _, err := os.Stat(mounted + "/config/networks/load.xml"); err != nil {
		w.must(os.WriteFile(mounted+"/load.xml", []byte(networkXML), 0o644))
		w.viaduct("net-define", mounted+"/load.xml")
		w.viaduct("net-autostart", "load")
		w.viaduct("net-start", "load")
	}
	var known []struct{ MAC, IP, Hostname string }
	w.must(json.Unmarshal([]byte(w.viaduct("net-dhcp-leases", "load", "-o", "json")), &known))
	last := 0
	for _, l := range known {
		var turn int
		_, err := fmt.Sscanf(l.Hostname, turnName, &turn)
		w.must(err)
		last = max(last, turn)
		fmt.Println("LEASE", l.MAC, l.IP, turn)
	}
	guest := w.PlugGuest(w.host.Node, "virbr50", "guest")
	var conn net.PacketConn
	w.must(guest.Do(func() (err error) {
		conn, err = nclient4.NewRawUDPConn("eth0", nclient4.ClientPort)
		return err
	}))
	fmt.Println("READY")
	c := &crowd{conn: conn, turn: last, turns: map[dhcpv4.TransactionID]int{}}
	w.must(c.run())
}

// turnName is a guest's host name: it tells which exchange a lease is from.
const turnName = "turn%d"

// crowd plays many guests who get and renew leases for ever.
type crowd struct {
	conn net.PacketConn
	// turn counts the exchanges, and turns says which of them are under way.
	turn  int
	turns map[dhcpv4.TransactionID]int
}

func (c *crowd) run() error {
	buf := make([]byte, 1500)
	for idle := true; ; {
		if idle {
			clear(c.turns)
			for range flying {
				if err := c.discover(); err != nil {
					return err
				}
			}
		}
		c.conn.SetReadDeadline(time.Now().Add(patience))
		n, _, err := c.conn.ReadFrom(buf)
		if idle = errors.Is(err, os.ErrDeadlineExceeded); idle {
			continue
		}
		if err != nil {
			return err
		}
		m, err := dhcpv4.FromBytes(buf[:n])
		if err != nil {
			return err
		}
		if err := c.react(m); err != nil {
			return err
		}
	}
}

// discover begins an exchange.
func (c *crowd) discover() error {
	c.turn++
	guest := c.turn % clients
	mac := net.HardwareAddr{0x52, 0x54, 0xff, 0, byte(guest >> 8), byte(guest)}
	m, err := dhcpv4.NewDiscovery(mac, dhcpv4.WithBroadcast(true), c.named(c.turn))
	if err != nil {
		return err
	}
	c.turns[m.TransactionID] = c.turn
	return c.send(m)
}

// react goes on with an exchange.
func (c *crowd) react(m *dhcpv4.DHCPv4) error {
	turn, ours := c.turns[m.TransactionID]
	if !ours {
		return nil
	}
	if m.MessageType() == dhcpv4.MessageTypeOffer {
		request, err := dhcpv4.NewRequestFromOffer(m, dhcpv4.WithBroadcast(true), c.named(turn))
		if err != nil {
			return err
		}
		return c.send(request)
	}
	if m.MessageType() == dhcpv4.MessageTypeAck {
		fmt.Println("ACK", m.ClientHWAddr, m.YourIPAddr, turn)
	}
	delete(c.turns, m.TransactionID)
	return c.discover()
}

func (c *crowd) named(turn int) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptHostName(fmt.Sprintf(turnName, turn)))
}

func (c *crowd) send(m *dhcpv4.DHCPv4) error {
	_, err := c.conn.WriteTo(m.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: nclient4.ServerPort})
	return err
}
