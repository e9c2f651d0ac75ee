package main

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"viaduct/internal/lab"
)

const (
	// editReservations is how many the network has before the edits.
	editReservations = 200
	// editQueries is the interval of the stream of DNS queries meanwhile, and
	// editPings that of pings.
	editQueries = 2 * time.Millisecond
	editPings   = time.Millisecond
	// editStall is the longest time in which a guest may get nothing.
	editStall = 50 * time.Millisecond
	// editName is what is asked for.
	editName = "asked.example"
)

// edit changes a running network piece by piece, live and for its next start, by
// virsh, while a guest asks for a name all the time and pings the outside.
func (b *bench) edit() {
	us, them := b.startOurs("edit", 1, 0), b.newLibvirtd("edit-libvirt", 1)
	sides := []*edited{
		{manager: &us.manager, style: "ours", host: us.host, replace: us.replace},
		{manager: &them.manager, style: "libvirtd", host: them.host, replace: them.replace},
	}
	for _, s := range sides {
		s.start(b)
	}
	for round := range b.scale.edits {
		for i := range sides {
			sides[(i+round)%len(sides)].change(b, round)
		}
	}
	for _, s := range sides {
		s.stop()
		b.progress("%s: reservation %s, TXT record %s, queries %s, ping %s", s.style, millis(median(s.reservations)), millis(median(s.records)),
			s.lostQueries(), s.loss)
	}
	mine, theirs := sides[0], sides[1]
	compare := func(what string, a, b []time.Duration) row {
		return atLeast(what, millis(median(a)), "libvirtd "+millis(median(b)), quotient(median(b), median(a)), 1)
	}
	b.report.add(
		compare(fmt.Sprintf("add a reservation to %d, median of %d", editReservations, b.scale.edits), mine.reservations, theirs.reservations),
		compare("add a DNS TXT record there", mine.records, theirs.records),
		row{"DNS queries lost meanwhile", mine.lostQueries(), "libvirtd " + theirs.lostQueries(), "", "ours 0", mine.queries.lost() == 0},
		row{"longest stall of a 1 ms ping meanwhile", millis(mine.loss.Gap), "libvirtd " + millis(theirs.loss.Gap), "", "ours under 50 ms",
			mine.loss.Gap < editStall && mine.loss.Sent == mine.loss.Received},
	)
}

// edited is a network that is edited.
type edited struct {
	*manager
	style   string
	host    *lab.Host
	replace func(n int, xml string)

	queries *queries
	ping    *lab.Pinger
	loss    lab.Loss
	// One of each round.
	reservations, records []time.Duration
}

func editReservation(n int) string {
	return fmt.Sprintf("<host mac='52:54:00:01:00:%02x' name='r%d' ip='%s.%d'/>", n, n, subnet(0), 2+n)
}

// start gives the network its reservations and has a guest on it.
func (s *edited) start(b *bench) {
	var hosts strings.Builder
	for n := range editReservations {
		hosts.WriteString(editReservation(n) + "\n")
	}
	xml := strings.Replace(definition(0, "off"), "</dhcp>", hosts.String()+"</dhcp>", 1)
	name := fmt.Sprintf("<dns><host ip='%s.1'><hostname>%s</hostname></host></dns><ip ", subnet(0), editName)
	s.replace(0, strings.Replace(xml, "<ip ", name, 1))
	s.manager.start([]int{0})
	g := b.lab.PlugGuest(s.node, bridgeName(0), "vnet0")
	g.AddAddr("eth0", netip.MustParsePrefix(subnet(0)+".250/24"))
	gateway := netip.MustParseAddr(subnet(0) + ".1")
	g.AddRoute(netip.MustParsePrefix("0.0.0.0/0"), gateway)
	lab.Eventually(b, startLimit, func() error {
		_, err := g.Query(b.ctx, netip.AddrPortFrom(gateway, 53), editName, dns.TypeA)
		return err
	})
	s.ping = g.StartPing(s.host.Outside.Addr, editPings)
	b.must(s.ping.Await(b.ctx, 100))
	var err error
	s.queries, err = ask(b, g, netip.AddrPortFrom(gateway, 53))
	b.must(err)
}

// change makes one edit of each kind.
func (s *edited) change(b *bench, round int) {
	update := "net-update " + networkName(0) + " add "
	took := s.virsh(
		update+`ip-dhcp-host "`+editReservation(editReservations+round)+`" --live --config`,
		update+fmt.Sprintf(`dns-txt "<txt name='t%d' value='v'/>" --live --config`, round),
	)
	s.reservations, s.records = append(s.reservations, took[0]), append(s.records, took[1])
	b.must(s.ping.Await(b.ctx, 100))
}

func (s *edited) stop() {
	s.loss = s.ping.Stop()
	s.queries.stop()
}

func (s *edited) lostQueries() string {
	return fmt.Sprintf("%d of %d", s.queries.lost(), s.queries.sent)
}

// queries are a stream of questions that nobody repeats.
type queries struct {
	stop func()

	mu       sync.Mutex
	sent     int
	answered map[uint16]bool
}

// maxQueries is how many can be told from each other.
const maxQueries = 1 << 16

// ask starts the stream.
func ask(b *bench, g *lab.Guest, server netip.AddrPort) (*queries, error) {
	conn, err := g.Dial(b.ctx, "udp", server)
	if err != nil {
		return nil, err
	}
	query, err := new(dns.Msg).SetQuestion(dns.Fqdn(editName), dns.TypeA).Pack()
	if err != nil {
		return nil, err
	}
	q := &queries{answered: map[uint16]bool{}}
	ending, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(editQueries)
		defer tick.Stop()
		for q.sent < maxQueries {
			select {
			case <-ending:
				return
			case <-tick.C:
			}
			binary.BigEndian.PutUint16(query, uint16(q.sent))
			conn.Write(query) // what is refused counts as lost
			q.sent++
		}
	}()
	go func() {
		answer := make([]byte, dns.MinMsgSize)
		for {
			n, err := conn.Read(answer)
			select {
			case <-ended:
				if err != nil {
					return
				}
			default:
			}
			if err == nil && n >= 2 {
				q.mu.Lock()
				q.answered[binary.BigEndian.Uint16(answer)] = true
				q.mu.Unlock()
			}
		}
	}()
	q.stop = func() {
		close(ending)
		<-ended
		time.Sleep(probeWait)
		conn.Close()
	}
	return q, nil
}

func (q *queries) lost() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.sent - len(q.answered)
}
