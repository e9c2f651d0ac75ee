package lab

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// The ports on which an Outside serves.
const (
	// PortEcho sends back what it gets, over TCP and UDP (RFC 862).
	PortEcho = 7
	// PortWho answers with the address that it sees its peer under: over
	// TCP at once, over UDP to any datagram.
	PortWho = 13
)

// ioTimeout bounds one exchange of the lab's own small clients.
const ioTimeout = 2 * time.Second

// Listen opens a TCP listener in the node, closed when the node ends.
func (n *Node) Listen(addr netip.AddrPort) (net.Listener, error) {
	var listener net.Listener
	err := n.Do(func() (err error) {
		config := net.ListenConfig{}
		config.SetMultipathTCP(false)
		listener, err = config.Listen(context.Background(), "tcp", listenAddr(addr))
		return err
	})
	if err != nil {
		return nil, err
	}
	n.atEnd(func() { listener.Close() })
	return listener, nil
}

// ListenPacket opens a UDP socket in the node, closed when the node ends.
func (n *Node) ListenPacket(addr netip.AddrPort) (*net.UDPConn, error) {
	var conn net.PacketConn
	err := n.Do(func() (err error) {
		conn, err = net.ListenPacket("udp", listenAddr(addr))
		return err
	})
	if err != nil {
		return nil, err
	}
	n.atEnd(func() { conn.Close() })
	return conn.(*net.UDPConn), nil
}

// listenAddr spells an address for package net; one without an IP means all
// addresses of both families.
func listenAddr(addr netip.AddrPort) string {
	if !addr.Addr().IsValid() {
		return ":" + strconv.Itoa(int(addr.Port()))
	}
	return addr.String()
}

// Dial opens a connection from the node. The network is "tcp" or "udp".
func (n *Node) Dial(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	var conn net.Conn
	err := n.Do(func() (err error) {
		conn, err = (&net.Dialer{}).DialContext(ctx, network, to.String())
		return err
	})
	return conn, err
}

// Reach opens a TCP connection from the node and closes it: nil says that
// something listens there and is let through.
func (n *Node) Reach(ctx context.Context, to netip.AddrPort) error {
	conn, err := n.Dial(ctx, "tcp", to)
	if err != nil {
		return err
	}
	return conn.Close()
}

// Serve accepts TCP connections on all addresses of the node and has each
// handled on a goroutine; connections end with the node.
func (n *Node) Serve(port uint16, handle func(net.Conn)) {
	n.lab.t.Helper()
	listener, err := n.Listen(netip.AddrPortFrom(netip.Addr{}, port))
	n.lab.check(err)
	n.goUntilEnd(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			forget := n.atEnd(func() { conn.Close() })
			n.goUntilEnd(func() {
				defer forget()
				defer conn.Close()
				handle(conn)
			})
		}
	})
}

// ServePacket answers each UDP datagram to the port with what answer returns, on
// all addresses of the node.
func (n *Node) ServePacket(port uint16, answer func(from netip.AddrPort, payload []byte) []byte) {
	n.lab.t.Helper()
	conn, err := n.ListenPacket(netip.AddrPortFrom(netip.Addr{}, port))
	n.lab.check(err)
	n.goUntilEnd(func() {
		buf := make([]byte, 64<<10)
		for {
			size, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			// A peer that vanished is its own loss.
			conn.WriteToUDPAddrPort(answer(unmap(from), buf[:size]), from)
		}
	})
}

// ServeEcho sends back what comes to the port by TCP or UDP.
func (n *Node) ServeEcho(port uint16) {
	n.lab.t.Helper()
	n.Serve(port, func(conn net.Conn) { io.Copy(conn, conn) })
	n.ServePacket(port, func(_ netip.AddrPort, payload []byte) []byte { return payload })
}

// ServeWho tells whoever asks, by TCP or UDP, under which address it is seen.
func (n *Node) ServeWho(port uint16) {
	n.lab.t.Helper()
	n.Serve(port, func(conn net.Conn) {
		fmt.Fprintln(conn, unmap(conn.RemoteAddr().(*net.TCPAddr).AddrPort()))
	})
	n.ServePacket(port, func(from netip.AddrPort, _ []byte) []byte { return []byte(from.String()) })
}

// Who asks a node that serves who under which address it sees us; the network
// is "tcp" or "udp".
func (n *Node) Who(ctx context.Context, network string, server netip.Addr) (netip.AddrPort, error) {
	ctx, cancel := context.WithTimeout(ctx, ioTimeout)
	defer cancel()
	conn, err := n.Dial(ctx, network, netip.AddrPortFrom(server, PortWho))
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)
	if network == "udp" {
		if _, err := conn.Write([]byte("?")); err != nil {
			return netip.AddrPort{}, err
		}
	}
	buf := make([]byte, 128)
	size, err := conn.Read(buf)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return netip.ParseAddrPort(strings.TrimSpace(string(buf[:size])))
}

func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// DNSServer is a name server of the lab, to be somebody's upstream.
type DNSServer struct {
	mu      sync.Mutex
	queries []dns.Question
}

// maxQueries bounds the questions a DNSServer remembers.
const maxQueries = 10000

// Queries are the questions it was asked so far.
func (s *DNSServer) Queries() []dns.Question {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]dns.Question(nil), s.queries...)
}

// ServeDNS answers DNS on port 53 of the node, by UDP and TCP, from records in
// zone file form ("www.example.com. 60 IN A 198.51.100.7"). A name that has none is
// NXDOMAIN.
func (n *Node) ServeDNS(records ...string) *DNSServer {
	n.lab.t.Helper()
	zone := make(map[string][]dns.RR)
	for _, text := range records {
		rr, err := dns.NewRR(text)
		n.lab.check(err)
		name := strings.ToLower(rr.Header().Name)
		zone[name] = append(zone[name], rr)
	}
	return n.ServeDNSFunc(func(q *dns.Msg) *dns.Msg { return answerFrom(zone, q) })
}

// ServeDNSFunc answers DNS with what answer returns; nil leaves the question
// without one.
func (n *Node) ServeDNSFunc(answer func(*dns.Msg) *dns.Msg) *DNSServer {
	n.lab.t.Helper()
	s := &DNSServer{}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		s.note(q)
		if reply := answer(q); reply != nil {
			w.WriteMsg(reply)
		}
	})
	at := netip.AddrPortFrom(netip.Addr{}, 53)
	conn, err := n.ListenPacket(at)
	n.lab.check(err)
	listener, err := n.Listen(at)
	n.lab.check(err)
	for _, server := range []*dns.Server{
		{PacketConn: conn, Handler: handler},
		{Listener: listener, Handler: handler},
	} {
		n.goUntilEnd(func() { server.ActivateAndServe() })
		n.atEnd(func() { server.Shutdown() })
	}
	return s
}

func (s *DNSServer) note(q *dns.Msg) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queries) < maxQueries {
		s.queries = append(s.queries, q.Question...)
	}
}

func answerFrom(zone map[string][]dns.RR, q *dns.Msg) *dns.Msg {
	reply := new(dns.Msg)
	reply.SetReply(q)
	reply.RecursionAvailable = true
	for _, question := range q.Question {
		records, known := zone[strings.ToLower(question.Name)]
		if !known {
			reply.Rcode = dns.RcodeNameError
		}
		for _, rr := range records {
			if rr.Header().Rrtype == question.Qtype || question.Qtype == dns.TypeANY {
				reply.Answer = append(reply.Answer, rr)
			}
		}
	}
	return reply
}
