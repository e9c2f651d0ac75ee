package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"

	"viaduct/internal/lab"
)

const (
	// queryFile lists what dnsperf asks for.
	queryFile = "/tmp/queries"
	// probeInterval is how often somebody else asks beside dnsperf.
	probeInterval = time.Millisecond
	// probeWait is how long he waits for an answer.
	probeWait = time.Second
)

// dns has dnsperf ask for local names as fast as it gets answers, our server and
// dnsmasq in turn, and sees how long another client waits meanwhile.
func (b *bench) dns() {
	lab.Need(b, "dnsperf")
	servers := []*nameServer{{served: b.servedByUs("oursDNS")}, {served: b.servedByDnsmasq("dnsmasqDNS")}}
	var queries strings.Builder
	for n := range servedNames {
		_, name := hostEntry(n)
		fmt.Fprintf(&queries, "%s A\n", name)
	}
	for _, s := range servers {
		s.fresh()
		s.guest = b.loadGuest(s.served)
		s.guest.WriteFile(queryFile, queries.String())
		lab.Eventually(b, startLimit, func() error {
			_, err := s.probe(b.ctx, 1)
			return err
		})
	}
	for round := range b.scale.queryRounds {
		for i := range servers {
			s := servers[(i+round)%len(servers)]
			b.must(s.load(b))
			b.progress("DNS, %s: %.0f queries/s, 99th percentile %s", s.style, s.rates[round], millis(s.waits[round]))
		}
	}
	us, them := servers[0], servers[1]
	show := func(rate float64) string { return fmt.Sprintf("%.1f k/s", rate/1e3) }
	b.report.add(
		atLeast("DNS queries for local names", show(median(us.rates)), "dnsmasq "+show(median(them.rates)), quotients(us.rates, them.rates), 0.9),
		row{"another client's queries meanwhile, 99th percentile", millis(median(us.waits)), "dnsmasq " + millis(median(them.waits)),
			times(quotient(median(them.waits), median(us.waits))), "", true},
	)
}

// nameServer is a DNS server under load.
type nameServer struct {
	*served
	guest *lab.Guest
	// One of each round: queries per second, and the 99th percentile of how
	// long another client waits.
	rates []float64
	waits []time.Duration
}

// load is one round.
func (s *nameServer) load(b *bench) error {
	p := s.guest.Start("dnsperf", "-s", servedAddr, "-d", queryFile, "-l", strconv.Itoa(b.scale.loadSeconds), "-c", "16")
	waits, probeErr := s.probe(b.ctx, b.scale.loadSeconds*int(time.Second/probeInterval)*9/10)
	r, err := p.Wait(b.ctx)
	if err != nil {
		return err
	}
	if probeErr != nil {
		return probeErr
	}
	for line := range strings.Lines(r.Stdout) {
		var rate float64
		if scan(strings.TrimSpace(line), "Queries per second: %f", &rate) {
			s.rates, s.waits = append(s.rates, rate), append(s.waits, percentile(waits, 99))
			return nil
		}
	}
	return fmt.Errorf("dnsperf tells no rate:\n%s%s", r.Stdout, r.Stderr)
}

// probe asks for so many names, one after the other, and returns how long each
// answer took.
func (s *nameServer) probe(ctx context.Context, count int) ([]time.Duration, error) {
	conn, err := s.guest.Dial(ctx, "udp", netip.MustParseAddrPort(servedAddr+":53"))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	_, name := hostEntry(0)
	query, err := new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA).Pack()
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(probeInterval)
	defer tick.Stop()
	began := time.Now()
	var waits []time.Duration
	answer := make([]byte, dns.MinMsgSize)
	for i := range count {
		if limit := time.Duration(count) * probeInterval; time.Since(began) > limit && i > 0 {
			break // the load ends
		}
		binary.BigEndian.PutUint16(query, uint16(i))
		sent := time.Now()
		conn.SetDeadline(sent.Add(probeWait))
		if _, err := conn.Write(query); err != nil {
			return nil, err
		}
		for {
			n, err := conn.Read(answer)
			if err != nil {
				return nil, err
			}
			if n >= 2 && binary.BigEndian.Uint16(answer) == uint16(i) {
				break
			}
		}
		waits = append(waits, time.Since(sent))
		<-tick.C
	}
	return waits, nil
}
