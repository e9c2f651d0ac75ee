package cli

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"viaduct/internal/netdef"
)

var assistVerbs = []verb{{
	name: "net-new", group: groupNetworks, run: netNew,
	short: "make a network by answering questions",
	long: "Asks for the type of network and what belongs to it, with an answer to each that\n" +
		"Enter takes. It prints the definition, and then asks what to do with that.",
}}

// draft is what has been answered so far.
type draft struct {
	netdef.Network
	subnet netip.Prefix
	// taken are subnets that others have.
	taken []netip.Prefix
}

// question is one step of the assistant. What take refuses is asked
// again.
type question struct {
	text     string
	fallback func(*draft) string // what Enter means
	needless func(*draft) bool   // nil for what is always asked
	take     func(d *draft, answer string) error
}

const none = "none"

// types are what a network can be, in the order in which they are offered.
var types = []struct {
	word, help string
	mode       netdef.Mode
}{
	{"nat", "guests reach the outside with the host's address", netdef.ModeNAT},
	{"route", "guests have addresses that the outside knows the way to", netdef.ModeRoute},
	{"isolated", "guests reach each other and the host only", netdef.ModeNone},
	{"open", "as route, and the firewall is left to others", netdef.ModeOpen},
	{"bridge", "guests are in the network of a bridge that the host has", netdef.ModeBridge},
}

var questions = []question{
	{
		text: "Name", fallback: func(*draft) string { return "lan" },
		take: func(d *draft, answer string) error {
			d.Name = answer
			if answer == "" || strings.ContainsAny(answer, "/\n") {
				return errors.New("a name is needed, without '/'")
			}
			return nil
		},
	},
	{
		text: "Type: nat, route, isolated, open or bridge; ? explains", fallback: func(*draft) string { return types[0].word },
		take: func(d *draft, answer string) error {
			var all strings.Builder
			for _, t := range types {
				if answer == t.word {
					d.Forward.Mode = t.mode
					return nil
				}
				fmt.Fprintf(&all, "\n  %-9s %s", t.word, t.help)
			}
			return errors.New("the types are:" + all.String())
		},
	},
	{
		text:     "Bridge of the host",
		needless: func(d *draft) bool { return d.Forward.Mode != netdef.ModeBridge },
		fallback: func(*draft) string { return "br0" },
		take:     func(d *draft, answer string) error { d.Bridge.Name = answer; return nil },
	},
	{
		text:     "Only by the host's interface, or any",
		needless: func(d *draft) bool { return d.Forward.Mode != netdef.ModeNAT && d.Forward.Mode != netdef.ModeRoute },
		fallback: func(*draft) string { return "any" },
		take: func(d *draft, answer string) error {
			if answer != "any" {
				d.Forward.Interfaces = []string{answer}
			}
			return nil
		},
	},
	{text: "IPv4 subnet, or none", needless: hasNoSubnets, fallback: freeSubnet, take: takeSubnet(netip.Addr.Is4)},
	{
		text:     "DHCP: yes or no",
		needless: func(d *draft) bool { return !d.subnet.IsValid() },
		fallback: func(*draft) string { return "yes" },
		take:     takeDHCP,
	},
	{text: "IPv6 subnet, or none", needless: hasNoSubnets, fallback: func(*draft) string { return none }, take: takeSubnet(netip.Addr.Is6)},
}

func hasNoSubnets(d *draft) bool { return d.Forward.Mode == netdef.ModeBridge }

// freeSubnet is the first of the subnets that libvirt's tools take by default,
// and which nobody has.
func freeSubnet(d *draft) string {
	for i := 122; i < 256; i++ {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(i), 0}), 24)
		if !slices.ContainsFunc(d.taken, p.Overlaps) {
			return p.String()
		}
	}
	return none
}

func takeSubnet(family func(netip.Addr) bool) func(*draft, string) error {
	return func(d *draft, answer string) error {
		if answer == none {
			return nil
		}
		p, err := netip.ParsePrefix(answer)
		if err != nil || !family(p.Addr()) || p.Addr().BitLen()-p.Bits() < 2 {
			return fmt.Errorf("'%s' is no subnet of the family such as 192.168.150.0/24 or fd00:150::/64", answer)
		}
		p = p.Masked()
		if i := slices.IndexFunc(d.taken, p.Overlaps); i >= 0 {
			return fmt.Errorf("%s is in use already, by %s", p, d.taken[i])
		}
		ip := netdef.IP{Address: p.Addr().Next(), PrefixLen: p.Bits()}
		if p.Addr().Is6() {
			ip.Family = "ipv6"
		} else {
			d.subnet = p
		}
		d.IPs = append(d.IPs, ip)
		return nil
	}
}

// takeDHCP gives guests all addresses of the IPv4 subnet but the host's.
func takeDHCP(d *draft, answer string) error {
	switch answer {
	case "yes":
		first := d.IPs[0].Address.Next()
		d.IPs[0].Ranges = []netdef.DHCPRange{{Start: first, End: lastOf(d.subnet)}}
		return nil
	case "no":
		return nil
	}
	return errors.New("that is yes or no")
}

// lastOf is the last address of an IPv4 subnet that a guest can have. Ranges
// have at most 65536 addresses.
func lastOf(p netip.Prefix) netip.Addr {
	const most = 16
	b := p.Addr().As4()
	host := uint32(1)<<min(32-p.Bits(), most) - 2
	for i := range b {
		b[i] |= byte(host >> (8 * (3 - i)))
	}
	return netip.AddrFrom4(b)
}

// netNew asks, shows what comes out, and does it if somebody says so.
func netNew(c *call) error {
	d := &draft{}
	var err error
	if d.taken, err = c.subnetsTaken(); err != nil {
		return err
	}
	in := bufio.NewScanner(c.in)
	for _, q := range questions {
		for q.needless == nil || !q.needless(d) {
			answer, ok := c.ask(in, q.text, q.fallback(d))
			if !ok {
				return errors.New("there is no answer, so nothing was made")
			}
			if err := q.take(d, answer); err == nil {
				break
			} else {
				fmt.Fprintln(c.errs, err)
			}
		}
	}
	xml := d.Format(netdef.FormatOptions{Inactive: true})
	if _, err := check([]byte(xml)); err != nil {
		return err
	}
	if err := c.xml(xml); err != nil {
		return err
	}
	if answer, ok := c.ask(in, "Define it, start it now and whenever the host starts: yes or no", "yes"); !ok || answer != "yes" {
		return nil
	}
	n, err := c.client.Define(c, []byte(xml))
	if err != nil {
		return failing(err, "Failed to define network %s", d.Name)
	}
	if err := c.client.SetAutostart(c, n.UUID.String(), true); err != nil {
		return failing(err, "failed to mark network %s as autostarted", n.Name)
	}
	if err := c.client.Start(c, n.UUID.String()); err != nil {
		return failing(err, "Failed to start network %s", n.Name)
	}
	return c.started(n, "Network %s started", n.Name)
}

// ask puts one question; ok is false if nobody answers.
func (c *call) ask(in *bufio.Scanner, text, fallback string) (answer string, ok bool) {
	fmt.Fprintf(c.errs, "%s [%s]: ", text, fallback)
	if !in.Scan() {
		fmt.Fprintln(c.errs)
		return "", false
	}
	return cmp.Or(strings.TrimSpace(in.Text()), fallback), true
}

// subnetsTaken are those of the networks that are known, and of the host.
func (c *call) subnetsTaken() ([]netip.Prefix, error) {
	networks, err := c.client.Networks(c)
	if err != nil {
		return nil, err
	}
	var taken []netip.Prefix
	for _, n := range networks {
		xml, err := c.client.XML(c, n.UUID.String(), false)
		if err != nil {
			return nil, err
		}
		def, err := netdef.Parse([]byte(xml))
		if err != nil {
			return nil, err
		}
		for _, ip := range def.IPs {
			taken = append(taken, ip.Subnet())
		}
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("list the host's addresses: %w", err)
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLinkLocalUnicast() {
			taken = append(taken, p.Masked())
		}
	}
	return taken, nil
}
