package main

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"viaduct/internal/lab"
)

// dhcpFamily is how perfdhcp is told what to do for a family of addresses.
type dhcpFamily struct {
	name   string
	args   []string // before the rate
	server []string // after it
	// The names of the two exchanges that make up a lease.
	offer, lease string
}

var (
	family4 = dhcpFamily{"DHCPv4", []string{"-4", "-l", "eth0"}, []string{servedAddr}, "DISCOVER-OFFER", "REQUEST-ACK"}
	family6 = dhcpFamily{"DHCPv6", []string{"-6", "-l", "eth0"}, []string{"all"}, "SOLICIT-ADVERTISE", "REQUEST-REPLY"}
)

func (b *bench) dhcp4() { b.dhcp(family4) }

func (b *bench) dhcp6() { b.dhcp(family6) }

// maxUnanswered is the share of exchanges that may stay unanswered at a rate
// that counts.
const maxUnanswered = 0.01

// dhcp finds the highest rate of exchanges of four messages, each by another
// guest, at which nearly all are answered.
func (b *bench) dhcp(f dhcpFamily) {
	lab.Need(b, "perfdhcp")
	servers := []*leaseServer{
		b.newLeaseServer(b.servedByUs("ours"+f.name), f), b.newLeaseServer(b.servedByDnsmasq("dnsmasq"+f.name), f),
	}
	for _, s := range servers {
		s.search()
	}
	us, them := servers[0], servers[1]
	same := us.offer(them.best.rate)
	show := func(rate float64) string { return fmt.Sprintf("%.0f/s", rate) }
	b.report.add(
		atLeast(f.name+", leases on disk, most exchanges", show(us.best.rate), "dnsmasq "+show(them.best.rate), us.best.rate/them.best.rate, 10),
		row{f.name + ", request until acknowledged, 99th percentile at that rate", millis(us.best.lease),
			"dnsmasq at its own " + millis(them.best.lease), times(quotient(them.best.lease, us.best.lease)), "", true},
		row{"both at dnsmasq's rate", millis(same.lease), "dnsmasq " + millis(them.best.lease), times(quotient(them.best.lease, same.lease)), "", true},
		row{f.name + ", first message until offered, 99th percentile at dnsmasq's rate", millis(same.offer),
			"dnsmasq, which does not look for conflicts, " + millis(them.best.offer), times(quotient(them.best.offer, same.offer)), "", true},
	)
}

// leaseServer is a DHCP server under load.
type leaseServer struct {
	*served
	b      *bench
	family dhcpFamily
	guest  *lab.Guest
	best   trial // at the highest rate that it bears
}

// trial is what came of an offered rate.
type trial struct {
	rate       float64 // exchanges per second
	unanswered float64 // share
	// The 99th percentiles of how long the two halves of an exchange took.
	offer, lease time.Duration
}

// macFile lists the guests' addresses: those of QEMU, whose last three octets
// are random.
const macFile = "/tmp/macs"

// maxClients is how many guests there are: nearly as many as addresses.
const maxClients = 60000

func (b *bench) newLeaseServer(s *served, f dhcpFamily) *leaseServer {
	l := &leaseServer{served: s, b: b, family: f}
	l.fresh() // which makes our bridge
	l.guest = b.loadGuest(s)
	random := rand.New(rand.NewPCG(1, 1)) // the same for all
	var macs strings.Builder
	for _, n := range random.Perm(1 << 24)[:maxClients] {
		fmt.Fprintf(&macs, "52:54:00:%02x:%02x:%02x\n", n>>16, n>>8&0xff, n&0xff)
	}
	l.guest.WriteFile(macFile, macs.String())
	l.awaitAnswer()
	return l
}

// search doubles the rate until it is too much, and then halves the interval.
func (l *leaseServer) search() {
	const first = 250
	low, high := 0.0, 0.0
	for rate := float64(first); high == 0; rate *= 2 {
		if l.bears(rate) {
			low = rate
		} else {
			high = rate
		}
	}
	for range l.b.scale.halvings {
		if middle := (low + high) / 2; l.bears(middle) {
			low = middle
		} else {
			high = middle
		}
	}
	if l.best.rate == 0 {
		l.b.Fatalf("%s: %s bears no rate down to %g/s", l.family.name, l.style, high)
	}
}

// bears offers a rate, and again if it seems too much: the machine may have
// been busy.
func (l *leaseServer) bears(rate float64) bool {
	for range 2 {
		if t := l.offer(rate); t.unanswered < maxUnanswered {
			l.best = t
			return true
		}
	}
	return false
}

// offer offers a rate to the server, which has no leases yet.
func (l *leaseServer) offer(rate float64) trial {
	l.fresh()
	args := append([]string{"perfdhcp"}, l.family.args...)
	args = append(args, "-r", fmt.Sprint(int(rate)), "-p", fmt.Sprint(l.b.scale.loadSeconds), "-W", "1000000", "-M", macFile, "-x", "t")
	// It tells of every packet, which is more than the lab keeps of an output.
	const told = "/tmp/perfdhcp"
	args = append([]string{"sh", "-c", `exec "$@" >` + told, "sh"}, append(args, l.family.server...)...)
	r, err := l.guest.Run(l.b.ctx, args...)
	if r.Code != incomplete {
		l.b.must(err)
	}
	report, err := l.guest.ReadFile(told)
	l.b.must(err)
	t, err := l.parse(report, rate)
	l.b.must(err)
	l.b.progress("%s, %s: %g/s offered, %.2f %% unanswered, 99th percentile %s and %s",
		l.family.name, l.style, rate, 100*t.unanswered, millis(t.offer), millis(t.lease))
	return t
}

// incomplete is how perfdhcp exits if not all exchanges were completed.
const incomplete = 3

// awaitAnswer waits until guest and server understand each other.
func (l *leaseServer) awaitAnswer() {
	lab.Eventually(l.b, startLimit, func() error {
		ctx, cancel := context.WithTimeout(l.b.ctx, 5*time.Second)
		defer cancel()
		args := append([]string{"perfdhcp"}, l.family.args...)
		args = append(args, "-r", "10", "-p", "1", "-b", "mac=52:54:01:00:00:01")
		_, err := l.guest.Run(ctx, append(args, l.family.server...)...)
		return err
	})
}

// parse reads what perfdhcp says about each kind of exchange: counts, and
// below them when each message was sent and answered.
func (l *leaseServer) parse(report string, rate float64) (trial, error) {
	var sent, received float64
	took := map[string][]time.Duration{}
	exchange := ""
	lines := bufio.NewScanner(strings.NewReader(report))
	for lines.Scan() {
		line := lines.Text()
		var count, from, to float64
		switch {
		case strings.HasPrefix(line, "***"):
			_, exchange, _ = strings.Cut(strings.Trim(line, "*"), ": ")
		case scan(line, "sent packets: %f", &count) && exchange == l.family.offer:
			sent = count
		case scan(line, "received packets: %f", &count) && exchange == l.family.lease:
			received = count
		case scan(line, "sent / received: %f / %f", &from, &to):
			took[exchange] = append(took[exchange], time.Duration((to-from)*float64(time.Second)))
		}
	}
	if sent == 0 {
		return trial{}, fmt.Errorf("perfdhcp tells of no packets sent:\n%.1000s", report)
	}
	return trial{
		rate: rate, unanswered: 1 - received/sent,
		offer: percentile(took[l.family.offer], 99), lease: percentile(took[l.family.lease], 99),
	}, nil
}

func scan(line, format string, into ...any) bool {
	n, err := fmt.Sscanf(line, format, into...)
	return err == nil && n == len(into)
}

// percentile is the value that so many percent of all do not exceed, 0 of none.
func percentile(values []time.Duration, percent int) time.Duration {
	if len(values) == 0 {
		return 0
	}
	return slices.Sorted(slices.Values(values))[(len(values)-1)*percent/100]
}
