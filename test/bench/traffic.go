package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"viaduct/internal/lab"
)

// site is a guest of the host's middle network, and a host outside that it
// sends to through the host's address translation.
type site struct {
	style    string
	networks int
	guest    *lab.Guest
	host     *lab.Host
	rates    []float64 // per second, one of each round
}

// udpPayload makes a frame of 64 bytes, without its checksum: UDP, IPv4 and
// Ethernet headers take 42.
const udpPayload = 22

// kinds are the kinds of traffic.
var kinds = []struct {
	what    string
	prepare func(*bench, *site) // may be nil; what it does stays
	measure func(*bench, *site) float64
	show    func(float64) string
}{
	{"NAT, 64-byte UDP", nil, (*bench).packetRate, func(v float64) string { return fmt.Sprintf("%.1f k/s", v/1e3) }},
	{"NAT, TCP", nil, (*bench).bitRate, gigabits},
	{"NAT, TCP in segments of 1500 bytes", (*bench).withoutOffloads, (*bench).bitRate, gigabits},
}

func gigabits(v float64) string { return fmt.Sprintf("%.1f Gb/s", v/1e9) }

// traffic measures one flow from a guest outward with few and many networks on
// the host, with our rules and with those that libvirt would have. What is to be
// compared is measured in turn, so that a busy moment of the machine meets all.
func (b *bench) traffic() {
	lab.Need(b, "iperf3", "iptables-restore", "ethtool")
	var ours, linear []*site
	for _, count := range []int{1, 100, b.scale.many} {
		ours = append(ours, b.ourSite(count))
		linear = append(linear, b.linearSite(count))
	}
	all := append(slices.Clone(ours), linear...)
	for _, kind := range kinds {
		for _, s := range all {
			if kind.prepare != nil {
				kind.prepare(b, s)
			}
		}
		for round := range b.scale.rounds {
			for i := range all {
				s := all[i]
				if round%2 == 1 {
					s = all[len(all)-1-i]
				}
				s.rates = append(s.rates, kind.measure(b, s))
				b.progress("%s, %s, %d networks: %s", kind.what, s.style, s.networks, kind.show(s.rates[round]))
			}
		}
		for i, us := range ours {
			what := fmt.Sprintf("%s, %d networks", kind.what, us.networks)
			figure, their := kind.show(median(us.rates)), "linear rules "+kind.show(median(linear[i].rates))
			if i < len(ours)-1 {
				b.report.add(row{what, figure, their, times(ratio(us, linear[i])), "", true})
				continue
			}
			b.report.add(atLeast(what, figure, their, ratio(us, linear[i]), 10),
				atLeast("the same", figure, "ours with 1 network "+kind.show(median(ours[0].rates)), ratio(us, ours[0]), 0.9))
		}
		for _, s := range all {
			s.rates = nil
		}
	}
}

// ratio is the median over all rounds of how much faster a is than b.
func ratio(a, b *site) float64 { return quotients(a.rates, b.rates) }

// ourSite is a host with our daemon.
func (b *bench) ourSite(count int) *site {
	us := b.startOurs(fmt.Sprintf("ours%d", count), count, count)
	return b.newSite(us.host, "ours", count)
}

// linearSite is a host with the rules that libvirt's iptables backend would
// have for as many networks, of which only the one in use has a bridge.
func (b *bench) linearSite(count int) *site {
	h := b.lab.NewHost(lab.HostOptions{Name: fmt.Sprintf("linear%d", count)})
	h.SetSysctl("net.ipv4.ip_forward", "1")
	used := count / 2
	h.AddBridge(bridgeName(used))
	h.AddAddr(bridgeName(used), netip.MustParsePrefix(subnet(used)+".1/24"))
	_, err := h.RunCommand(b.ctx, lab.Command{Argv: []string{"iptables-restore"}, Stdin: linearRules(count)})
	b.must(err)
	return b.newSite(h, "linear rules", count)
}

// newSite plugs a guest into the middle network. An address of its own spares it
// the client.
func (b *bench) newSite(h *lab.Host, style string, count int) *site {
	used := count / 2
	g := b.lab.PlugGuest(h.Node, bridgeName(used), "vnet0")
	g.AddAddr("eth0", netip.MustParsePrefix(subnet(used)+".200/24"))
	g.AddRoute(netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.MustParseAddr(subnet(used)+".1"))
	lab.Eventually(b, startLimit, func() error { return g.Reach(b.ctx, netip.AddrPortFrom(h.Outside.Addr, lab.PortEcho)) })
	h.Outside.Start("iperf3", "-s")
	lab.Eventually(b, startLimit, func() error { return g.Reach(b.ctx, netip.AddrPortFrom(h.Outside.Addr, iperfPort)) })
	return &site{style: style, networks: count, guest: g, host: h}
}

const iperfPort = 5201

// withoutOffloads has TCP cross the host in segments of the links' MTU, each of
// which passes the rules, as they come from a network card that does not put
// segments together. Otherwise up to 64 KiB pass as one.
func (b *bench) withoutOffloads(s *site) {
	for _, end := range []struct {
		node *lab.Node
		link string
	}{{s.guest.Node, "eth0"}, {s.host.Node, "vnet0"}, {s.host.Node, "eth0"}, {s.host.Outside.Node, "eth0"}} {
		_, err := end.node.Run(b.ctx, "ethtool", "-K", end.link, "tso", "off", "gso", "off", "gro", "off")
		b.must(err)
	}
}

// packetRate is how many packets per second arrive outside.
func (b *bench) packetRate(s *site) float64 {
	end := b.iperf(s, "-u", "-b", "0", "-l", strconv.Itoa(udpPayload))
	return (end.Sum.Packets - end.Sum.Lost) / end.Sum.Seconds
}

// bitRate is how many bits per second arrive outside by TCP.
func (b *bench) bitRate(s *site) float64 { return b.iperf(s).Received.BitsPerSecond }

// iperfEnd is the part of iperf3's report that matters here.
type iperfEnd struct {
	Sum struct {
		Packets float64 `json:"packets"`
		Lost    float64 `json:"lost_packets"`
		Seconds float64 `json:"seconds"`
	} `json:"sum"`
	Received struct {
		BitsPerSecond float64 `json:"bits_per_second"`
	} `json:"sum_received"`
}

func (b *bench) iperf(s *site, args ...string) iperfEnd {
	r, err := s.guest.Run(b.ctx, append([]string{"iperf3", "-J", "-c", s.host.Outside.Addr.String(), "-t", strconv.Itoa(b.scale.seconds)}, args...)...)
	b.must(err)
	var report struct {
		End iperfEnd `json:"end"`
	}
	b.must(json.Unmarshal([]byte(r.Stdout), &report))
	return report.End
}

// linearRules are the rules of libvirt's iptables backend for NAT networks. The
// rules of the network that was started last come first.
func linearRules(count int) string {
	tables := []struct {
		head  string
		rules []string // B is the network's bridge and N its subnet
	}{
		{"*filter\n:LIBVIRT_FWI - [0:0]\n:LIBVIRT_FWO - [0:0]\n:LIBVIRT_FWX - [0:0]\n:LIBVIRT_INP - [0:0]\n:LIBVIRT_OUT - [0:0]\n" +
			"-A INPUT -j LIBVIRT_INP\n-A FORWARD -j LIBVIRT_FWX\n-A FORWARD -j LIBVIRT_FWI\n-A FORWARD -j LIBVIRT_FWO\n-A OUTPUT -j LIBVIRT_OUT\n",
			[]string{
				"-A LIBVIRT_INP -i B -p udp -m udp --dport 53 -j ACCEPT",
				"-A LIBVIRT_INP -i B -p tcp -m tcp --dport 53 -j ACCEPT",
				"-A LIBVIRT_INP -i B -p udp -m udp --dport 67 -j ACCEPT",
				"-A LIBVIRT_INP -i B -p tcp -m tcp --dport 67 -j ACCEPT",
				"-A LIBVIRT_OUT -o B -p udp -m udp --dport 53 -j ACCEPT",
				"-A LIBVIRT_OUT -o B -p tcp -m tcp --dport 53 -j ACCEPT",
				"-A LIBVIRT_OUT -o B -p udp -m udp --dport 68 -j ACCEPT",
				"-A LIBVIRT_OUT -o B -p tcp -m tcp --dport 68 -j ACCEPT",
				"-A LIBVIRT_FWX -i B -o B -j ACCEPT",
				"-A LIBVIRT_FWI -d N -o B -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
				"-A LIBVIRT_FWI -o B -j REJECT --reject-with icmp-port-unreachable",
				"-A LIBVIRT_FWO -s N -i B -j ACCEPT",
				"-A LIBVIRT_FWO -i B -j REJECT --reject-with icmp-port-unreachable",
			}},
		{"*nat\n:LIBVIRT_PRT - [0:0]\n-A POSTROUTING -j LIBVIRT_PRT\n", []string{
			"-A LIBVIRT_PRT -s N -d 224.0.0.0/24 -j RETURN",
			"-A LIBVIRT_PRT -s N -d 255.255.255.255/32 -j RETURN",
			"-A LIBVIRT_PRT -s N ! -d N -p tcp -j MASQUERADE --to-ports 1024-65535",
			"-A LIBVIRT_PRT -s N ! -d N -p udp -j MASQUERADE --to-ports 1024-65535",
			"-A LIBVIRT_PRT -s N ! -d N -j MASQUERADE",
		}},
		{"*mangle\n:LIBVIRT_PRT - [0:0]\n-A POSTROUTING -j LIBVIRT_PRT\n", []string{
			"-A LIBVIRT_PRT -o B -p udp -m udp --dport 68 -j CHECKSUM --checksum-fill",
		}},
	}
	var s strings.Builder
	for _, t := range tables {
		s.WriteString(t.head)
		for n := count - 1; n >= 0; n-- {
			r := strings.NewReplacer(" B ", " "+bridgeName(n)+" ", " N ", " "+subnet(n)+".0/24 ")
			for _, rule := range t.rules {
				s.WriteString(r.Replace(rule) + "\n")
			}
		}
		s.WriteString("COMMIT\n")
	}
	return s.String()
}
