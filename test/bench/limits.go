package main

import (
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"viaduct/internal/lab"
)

// What the guest's port is limited to, in KiB/s and KiB.
const (
	limitAverage = 4096
	limitPeak    = 16384
	limitBurst   = 8192
	// limitPort is where datagrams go.
	limitPort = 7002
	// limitSize is the size of a datagram, and limitFrame that of its frame, which is
	// what is limited.
	limitSize, limitFrame = 1400, 1400 + 8 + 20 + 14
	// limitPause is longer than the burst takes to be allowed again.
	limitPause = limitBurst * time.Second / limitAverage * 3 / 2
	// limitFlood is how long datagrams are sent, twice as fast as the peak.
	limitFlood = 3 * time.Second
	// limitLink is the guest's.
	limitLink = "vif1.0"
	// limitOff is how far from what was asked a rate may be.
	limitOff = 0.1
)

// limits measures what a limited guest gets beside what it was to get, and what
// changes of limits and of other things cost it. (libvirt's own rules need
// police and sfq, which not every kernel has.)
func (b *bench) limits() {
	lab.Need(b, "iperf3")
	us := b.startOurs("limits", 1, 0)
	us.start([]int{0})
	g := b.lab.NewGuest(lab.GuestOptions{Name: "limited"})
	g.Plug(us.host.Node, "", limitLink)
	us.viaduct("port-create", networkName(0), "--link", limitLink, "--mac", g.MAC.String())
	g.AddAddr("eth0", netip.MustParsePrefix(subnet(0)+".250/24"))
	g.AddRoute(netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr(subnet(0)+".1"))
	outside := us.host.Outside
	// What begins outside is to find the guest.
	outside.AddRoute(netip.MustParsePrefix(subnet(0)+".0/24"), us.host.Addr)
	lab.Eventually(b, startLimit, func() error { return g.Reach(b.ctx, netip.AddrPortFrom(outside.Addr, lab.PortEcho)) })
	outside.Start("iperf3", "-s")
	lab.Eventually(b, startLimit, func() error { return g.Reach(b.ctx, netip.AddrPortFrom(outside.Addr, iperfPort)) })

	asked := fmt.Sprintf("%d,%d,%d", limitAverage, limitPeak, limitBurst)
	us.viaduct("port-bandwidth", networkName(0), limitLink, "--inbound", asked, "--outbound", asked)
	us.viaduct("net-apply", us.file("routed", strings.Replace(definition(0, "off"), "<forward mode='nat'/>", "<forward mode='route'/>", 1)))
	for _, way := range []struct {
		what, reverse string
		from, to      *lab.Node
		addr          string
	}{
		{"to the guest", "-R", outside.Node, g.Node, subnet(0) + ".250"},
		{"from the guest", "", g.Node, outside.Node, outside.Addr.String()},
	} {
		var tcp, average, peak, burst []float64
		for range b.scale.limitRounds {
			tcp = append(tcp, b.steadyRate(g, outside.Addr, way.reverse))
			time.Sleep(limitPause)
			seen := b.flood(way.from, way.to, netip.MustParseAddr(way.addr))
			average, peak, burst = append(average, seen.average), append(peak, seen.peak), append(burst, seen.burst)
			b.progress("%s: TCP %.0f, average %.0f, peak %.0f KiB/s, burst %.0f KiB", way.what, tcp[len(tcp)-1], seen.average, seen.peak, seen.burst)
		}
		for _, figure := range []struct {
			what, unit string
			seen       []float64
			asked      float64
		}{
			{"TCP %s, its payload", "KiB/s", tcp, limitAverage}, {"limit %s, average", "KiB/s", average, limitAverage},
			{"limit %s, peak", "KiB/s", peak, limitPeak}, {"limit %s, burst", "KiB", burst, limitBurst},
		} {
			got := median(figure.seen)
			b.report.add(row{fmt.Sprintf(figure.what, way.what), fmt.Sprintf("%.0f %s", got, figure.unit), fmt.Sprintf("asked for %.0f", figure.asked),
				times(got / figure.asked), "0.9 to 1.1", math.Abs(got/figure.asked-1) <= limitOff})
		}
	}
	b.changes(us, g)
}

// steadyRate is what a TCP stream brings in KiB/s once its burst is over.
func (b *bench) steadyRate(g *lab.Guest, server netip.Addr, args ...string) float64 {
	argv := []string{"iperf3", "-J", "-c", server.String(), "-t", strconv.Itoa(b.scale.limitSeconds), "-O", "2"}
	r, err := g.Run(b.ctx, append(argv, slices.DeleteFunc(args, func(a string) bool { return a == "" })...)...)
	b.must(err)
	var report struct {
		End iperfEnd `json:"end"`
	}
	b.must(json.Unmarshal([]byte(r.Stdout), &report))
	return report.End.Received.BitsPerSecond / 8 / 1024
}

// allowed is what a limit let pass, in KiB and KiB/s.
type allowed struct{ average, peak, burst float64 }

// flood sends more than a limit lets pass, and finds out by when what came what
// the limit is: the peak by the first half of the burst, the average by what came
// after the burst, and the burst by what was more than the average.
func (b *bench) flood(from, to *lab.Node, addr netip.Addr) allowed {
	server := netip.AddrPortFrom(addr, limitPort)
	listener, err := to.ListenPacket(server)
	b.must(err)
	defer listener.Close()
	var ended atomic.Bool
	var came []time.Duration // since the first, one for each frame
	done := make(chan struct{})
	go func() {
		defer close(done)
		var first time.Time
		buf := make([]byte, limitSize)
		for {
			if _, _, err := listener.ReadFrom(buf); err != nil || ended.Load() {
				return
			}
			if now := time.Now(); first.IsZero() {
				first = now
				came = append(came, 0)
			} else {
				came = append(came, now.Sub(first))
			}
		}
	}()
	conn, err := from.Dial(b.ctx, "udp", server)
	b.must(err)
	defer conn.Close()
	datagram := make([]byte, limitSize)
	const perSecond = 2 * limitPeak * 1024 / limitFrame
	began := time.Now()
	for sent := 0; time.Since(began) < limitFlood; {
		for due := int(time.Since(began).Seconds() * perSecond); sent < due; sent++ {
			conn.Write(datagram) // what finds no room is lost, as what is over the limit is
		}
		time.Sleep(time.Millisecond)
	}
	ended.Store(true)
	listener.Close()
	<-done
	return allowance(came)
}

// allowance finds the limit in the times at which frames came.
func allowance(came []time.Duration) allowed {
	const kib = limitFrame / 1024.0
	// The burst is over when what is above the average has passed.
	over := limitBurst * time.Second / (limitPeak - limitAverage)
	at := func(t time.Duration) int { n, _ := slices.BinarySearch(came, t); return n }
	half, calm := over/2, 2*over
	last := limitFlood - limitFlood/10
	a := allowed{
		peak:    float64(at(half)) * kib / half.Seconds(),
		average: float64(at(last)-at(calm)) * kib / (last - calm).Seconds(),
	}
	a.burst = float64(at(calm))*kib - a.average*calm.Seconds()
	return a
}

// changes makes changes of all kinds of a network and a port, and reports what a
// 1 ms ping and a transfer of the guest notice.
func (b *bench) changes(us *ours, g *lab.Guest) {
	plain := definition(0, "off")
	port := []string{"port-bandwidth", networkName(0), limitLink}
	files := 0
	file := func(xml string) string {
		files++
		return us.file(fmt.Sprintf("change%d", files), xml)
	}
	with := func(old, text string) []string {
		if strings.Count(plain, old) != 1 {
			b.Fatalf("%s is not once in\n%s", old, plain)
		}
		return []string{"net-apply", file(strings.Replace(plain, old, text, 1))}
	}
	back := []string{"net-apply", file(plain)}
	rounds := [][]string{
		append(slices.Clone(port), "--inbound", "500000", "--outbound", "500000"), append(slices.Clone(port), "--inbound", "400000"), port,
		with("<ip ", "<bandwidth><inbound average='500000'/><outbound average='500000'/></bandwidth><ip "),
		with("<ip ", "<bandwidth><outbound average='400000'/></bandwidth><ip "), back,
		with("<ip ", "<domain name='lab.example'/><ip "), with("</ip>", "</ip><ip address='192.168.61.1' prefix='24'/>"), back,
		with("<ip ", "<mtu size='1400'/><ip "), back, with("<forward mode='nat'/>", "<forward mode='route'/>"), back,
		with("<ip ", "<route address='192.168.70.0' prefix='24' gateway='"+subnet(0)+".8'/><ip "), back,
		with("<ip ", "<dns enable='no'/><ip "), back,
		{"net-update", networkName(0), "add", "dns-txt", "<txt name='t' value='v'/>", "--live"}, {"net-update", networkName(0), "delete", "dns-txt", "<txt name='t'/>", "--live"},
	}
	for _, first := range [][]string{port, back} {
		us.viaduct(first...)
	}
	flow := b.lab.StartFlow(g.Node, us.host.Outside.Node, netip.AddrPortFrom(us.host.Outside.Addr, limitPort))
	b.must(flow.Await(b.ctx, 1<<20))
	rest := b.watch(g, us, func(ping *lab.Pinger) { b.must(ping.Await(b.ctx, 2000)) })
	count := 0
	loss := b.watch(g, us, func(ping *lab.Pinger) {
		for count < b.scale.changes {
			for _, command := range rounds {
				us.viaduct(command...)
				b.must(ping.Await(b.ctx, 5))
				count++
			}
		}
	})
	report := flow.Stop()
	b.must(report.Err)
	b.progress("%d changes: %s", count, loss)
	b.report.add(
		row{fmt.Sprintf("packets of a 1 ms ping lost in %d changes beside a transfer", count), fmt.Sprintf("%d of %d", loss.Sent-loss.Received, loss.Sent), "", "",
			"0", loss.Sent == loss.Received},
		row{"longest stall of the ping during the changes", millis(loss.Gap), "without changes " + millis(rest.Gap), "", "under 50 ms", loss.Gap < editStall},
		row{"longest stall of the transfer", millis(report.Stall), "", "", "under 50 ms", report.Stall < editStall},
	)
}

// watch pings the outside while something is done.
func (b *bench) watch(g *lab.Guest, us *ours, do func(*lab.Pinger)) lab.Loss {
	ping := g.StartPing(us.host.Outside.Addr, editPings)
	b.must(ping.Await(b.ctx, 100))
	do(ping)
	return ping.Stop()
}
