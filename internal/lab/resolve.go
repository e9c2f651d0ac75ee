package lab

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// Query asks one name server one question from the node, by UDP, and by TCP if
// the answer does not fit.
func (n *Node) Query(ctx context.Context, server netip.AddrPort, name string, kind uint16) (*dns.Msg, error) {
	question := new(dns.Msg)
	question.SetQuestion(dns.Fqdn(name), kind)
	reply, err := n.Exchange(ctx, "udp", server, question)
	if err == nil && reply.Truncated {
		return n.Exchange(ctx, "tcp", server, question)
	}
	return reply, err
}

// Exchange sends a DNS message from the node and returns the reply. The
// network is "udp" or "tcp".
func (n *Node) Exchange(ctx context.Context, network string, server netip.AddrPort, question *dns.Msg) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, ioTimeout)
	defer cancel()
	conn, err := n.Dial(ctx, network, server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	reply, _, err := new(dns.Client).ExchangeWithConnContext(ctx, question, &dns.Conn{Conn: conn})
	if err != nil {
		return nil, fmt.Errorf("ask %s from node %s: %w", server, n.Name, err)
	}
	return reply, nil
}

// Resolve looks a name up as a program in the node would: it asks the servers of
// the node's resolv.conf, trying the search list for a name without a dot,
// and returns the addresses of both families.
func (n *Node) Resolve(ctx context.Context, name string) ([]netip.Addr, error) {
	servers, search, err := n.resolvers()
	if err != nil {
		return nil, err
	}
	candidates := []string{name}
	if !strings.Contains(name, ".") {
		candidates = nil
		for _, domain := range search {
			candidates = append(candidates, name+"."+domain)
		}
		candidates = append(candidates, name)
	}
	var addrs []netip.Addr
	var last error
	for _, candidate := range candidates {
		for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA} {
			reply, err := n.askAny(ctx, servers, candidate, kind)
			if err != nil {
				last = err
				continue
			}
			addrs = append(addrs, addressesOf(reply)...)
		}
		if len(addrs) > 0 {
			return addrs, nil
		}
	}
	if last == nil {
		last = fmt.Errorf("no address")
	}
	return nil, fmt.Errorf("resolve %q in node %s: %w", name, n.Name, last)
}

// ResolveAddr looks up the names of an address, as Resolve does for names.
func (n *Node) ResolveAddr(ctx context.Context, addr netip.Addr) ([]string, error) {
	servers, _, err := n.resolvers()
	if err != nil {
		return nil, err
	}
	question, err := dns.ReverseAddr(addr.String())
	if err != nil {
		return nil, err
	}
	reply, err := n.askAny(ctx, servers, question, dns.TypePTR)
	if err != nil {
		return nil, fmt.Errorf("resolve %s in node %s: %w", addr, n.Name, err)
	}
	var names []string
	for _, rr := range reply.Answer {
		if ptr, ok := rr.(*dns.PTR); ok {
			names = append(names, ptr.Ptr)
		}
	}
	return names, nil
}

// resolvers reads the node's resolv.conf.
func (n *Node) resolvers() (servers []netip.Addr, search []string, err error) {
	text, err := n.ReadFile("/etc/resolv.conf")
	if err != nil {
		return nil, nil, err
	}
	servers, domain, search := parseResolvConf(text)
	if len(servers) == 0 {
		return nil, nil, fmt.Errorf("node %s has no name server in /etc/resolv.conf", n.Name)
	}
	if len(search) == 0 && domain != "" {
		search = []string{domain}
	}
	return servers, search, nil
}

// askAny asks one server after another until one answers, with whatever but
// an error.
func (n *Node) askAny(ctx context.Context, servers []netip.Addr, name string, kind uint16) (reply *dns.Msg, err error) {
	for _, server := range servers {
		reply, err = n.Query(ctx, netip.AddrPortFrom(server, 53), name, kind)
		if err == nil && reply.Rcode != dns.RcodeSuccess {
			err = fmt.Errorf("%s %s: %s", dns.TypeToString[kind], name, dns.RcodeToString[reply.Rcode])
		}
		if err == nil {
			return reply, nil
		}
	}
	return nil, err
}

func addressesOf(reply *dns.Msg) []netip.Addr {
	var addrs []netip.Addr
	for _, rr := range reply.Answer {
		var addr netip.Addr
		switch rr := rr.(type) {
		case *dns.A:
			addr, _ = netip.AddrFromSlice(rr.A.To4())
		case *dns.AAAA:
			addr, _ = netip.AddrFromSlice(rr.AAAA)
		}
		if addr.IsValid() {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}
