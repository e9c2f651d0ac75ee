package dns

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// upstreams are servers that know the same names, in order of preference.
type upstreams struct {
	addrs []netip.AddrPort
	id    string // differs where the servers do
}

// hostResolvers stands for those that the host itself uses.
var hostResolvers = &upstreams{}

func newUpstreams(addrs []netip.AddrPort) *upstreams {
	var id strings.Builder
	for _, a := range addrs {
		id.WriteString(a.String() + " ")
	}
	return &upstreams{addrs: addrs, id: id.String()}
}

// outages remembers which servers did not answer, so that not every question
// has to find out again.
type outages struct {
	mu   sync.Mutex
	down map[netip.AddrPort]outage
}

type outage struct {
	failures int
	until    time.Time
}

// How long a silent server is only asked when no other is left: the first
// time, and at most, after having doubled with each further failure.
const (
	firstOutage = 10 * time.Second
	maxOutage   = 5 * time.Minute
)

// maxOutages bounds the memory of servers that nobody asks any more.
const maxOutages = 1024

// order returns the servers to be asked, those that are down last. A server
// whose time is over is tried by the question that finds it so, and meanwhile
// stays down for all others.
func (o *outages) order(addrs []netip.AddrPort, now time.Time) []netip.AddrPort {
	o.mu.Lock()
	defer o.mu.Unlock()
	up := make([]netip.AddrPort, 0, len(addrs))
	var down []netip.AddrPort
	for _, a := range addrs {
		out, ok := o.down[a]
		switch {
		case !ok:
			up = append(up, a)
		case now.Before(out.until):
			down = append(down, a)
		default:
			out.until = now.Add(firstOutage)
			o.down[a] = out
			up = append(up, a)
		}
	}
	return append(up, down...)
}

// failed notes that a server did not answer, and reports whether that is news.
func (o *outages) failed(a netip.AddrPort, now time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	out, known := o.down[a]
	if !known && len(o.down) >= maxOutages {
		clear(o.down)
	}
	pause := min(maxOutage, firstOutage<<min(out.failures, 10))
	o.down[a] = outage{failures: out.failures + 1, until: now.Add(pause)}
	return !known
}

// answered notes that a server works, and reports whether that is news.
func (o *outages) answered(a netip.AddrPort) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	_, known := o.down[a]
	delete(o.down, a)
	return known
}

// response is what an upstream server said.
type response struct {
	reply reply
	// ttl is how long it may be kept; 0 not at all.
	ttl time.Duration
}

// final reports whether the response settles the question. Other codes tell
// about the server that sent them, and another may do better.
func (r response) final() bool {
	switch r.reply.code {
	case formatError, serverFailure, notImplemented, refused, badVersion:
		return false
	}
	return true
}

// ednsTrouble reports whether a server that knows no EDNS could have said this (RFC 6891 7).
func (r response) ednsTrouble() bool {
	return r.reply.code == formatError || r.reply.code == notImplemented || r.reply.code == badVersion
}

// exchange asks a server, with EDNS and then without if the server does not understand it.
func exchange(ctx context.Context, server netip.AddrPort, q *query) (response, error) {
	r, err := exchangeOnce(ctx, server, q, true)
	if err == nil && r.ednsTrouble() {
		r, err = exchangeOnce(ctx, server, q, false)
	}
	if err != nil {
		return response{}, fmt.Errorf("ask %s: %w", server, err)
	}
	return r, nil
}

// exchangeOnce asks by UDP, and by TCP if the answer is too long for that.
func exchangeOnce(ctx context.Context, server netip.AddrPort, q *query, edns bool) (response, error) {
	var id [2]byte
	rand.Read(id[:]) // never fails
	question := appendQuestion(nil, q, binary.BigEndian.Uint16(id[:]), edns)
	msg, err := exchangeUDP(ctx, server, question)
	if err == nil && msg[2]&byte(flagTC>>8) != 0 {
		msg, err = exchangeTCP(ctx, server, question)
	}
	if err != nil {
		return response{}, err
	}
	return parseResponse(msg, q)
}

// udpBuffers hold answers while they are read. A server that sends more than
// we asked for is asked again by TCP.
var udpBuffers = sync.Pool{New: func() any { return new([4096]byte) }}

// exchangeUDP sends a question from a socket of its own, whose port the kernel
// chooses at random, and waits for the answer that belongs to it. Whatever
// else arrives is ignored: it may be forged.
func exchangeUDP(ctx context.Context, server netip.AddrPort, question []byte) ([]byte, error) {
	conn, err := dial(ctx, "udp", server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if _, err := conn.Write(question); err != nil {
		return nil, err
	}
	buf := udpBuffers.Get().(*[4096]byte)
	defer udpBuffers.Put(buf)
	for {
		n, err := conn.Read(buf[:])
		if err != nil {
			return nil, err
		}
		if !belongs(buf[:n], question) {
			continue
		}
		if n == len(buf) {
			buf[2] |= byte(flagTC >> 8)
		}
		return bytes.Clone(buf[:n]), nil
	}
}

// exchangeTCP asks for an answer of any length.
func exchangeTCP(ctx context.Context, server netip.AddrPort, question []byte) ([]byte, error) {
	conn, err := dial(ctx, "tcp", server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(question))), question...)); err != nil {
		return nil, err
	}
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return nil, err
	}
	msg := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(conn, msg); err != nil {
		return nil, err
	}
	if !belongs(msg, question) || msg[2]&byte(flagTC>>8) != 0 {
		return nil, errMalformed
	}
	return msg, nil
}

// conn is a connection that ends with its context.
type conn struct {
	net.Conn
	release func() bool
}

func (c conn) Close() error {
	c.release()
	return c.Conn.Close()
}

func dial(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, network, server.String())
	if err != nil {
		return nil, err
	}
	return conn{c, context.AfterFunc(ctx, func() { c.Close() })}, nil
}

// belongs reports whether msg answers the question: same id and the same
// thing asked. That it comes from the server asked, the socket has seen to. A
// server that refuses may leave the question out.
func belongs(msg, question []byte) bool {
	if len(msg) < headerLen || !bytes.Equal(msg[:2], question[:2]) {
		return false
	}
	flags := binary.BigEndian.Uint16(msg[2:])
	if flags&flagQR == 0 || flags&maskOpcode != 0 {
		return false
	}
	code := rcode(flags & maskRcode)
	switch binary.BigEndian.Uint16(msg[4:]) {
	case 0:
		return code != success && code != nameError && len(msg) == headerLen
	case 1:
	default:
		return false
	}
	end, err := skipName(question, headerLen)
	if err != nil || len(msg) < end+4 || len(question) < end+4 {
		return false
	}
	name := make([]byte, 0, maxName)
	name = append(name, msg[headerLen:end]...)
	lower(name)
	return bytes.Equal(name, question[headerLen:end]) && bytes.Equal(msg[end:end+4], question[end:end+4])
}

// How long things may be kept at most, in seconds: names that exist, and
// those that do not (RFC 2308 5 suggests no more than hours).
const (
	maxTTL         = 24 * 60 * 60
	maxNegativeTTL = 60 * 60
)

// parseResponse takes apart a message that belongs to the question. Of the
// header only the code is kept: what we hand on is neither authoritative nor vouched for.
func parseResponse(msg []byte, q *query) (response, error) {
	var r reply
	r.code = rcode(binary.BigEndian.Uint16(msg[2:]) & maskRcode)
	if binary.BigEndian.Uint16(msg[4:]) == 0 {
		return response{reply: r}, nil
	}
	start := headerLen + q.nameLen + 4
	off := start
	ttl, found, soa := uint32(maxTTL), false, false
	sections := [...]*uint16{&r.answers, &r.authority, &r.additional}
sections:
	for i, count := range sections {
		for range binary.BigEndian.Uint16(msg[6+2*i:]) {
			rec, err := readRecord(msg, off)
			if err != nil {
				return response{}, err
			}
			if rec.typ == typeOPT && count == &r.additional {
				// EDNS is between neighbours. It is last but for signatures
				// of the message, which go with it.
				r.code |= rcode(rec.ttl>>24) << 4
				break sections
			}
			off = rec.end
			*count++
			if rec.ttl > 1<<31-1 { // means 0 (RFC 2181 8)
				rec.ttl = 0
			}
			ttl = min(ttl, rec.ttl)
			found = found || count == &r.answers && rec.typ == q.typ
			if count == &r.authority && rec.typ == typeSOA && rec.end-rec.data >= 22 {
				soa = true
				ttl = min(ttl, maxNegativeTTL, binary.BigEndian.Uint32(msg[rec.end-4:]))
			}
		}
	}
	r.body = msg[start:off]
	// What does not exist may be kept only with an SOA record, which says for how long.
	exists := r.code == success && (found || q.typ == typeANY)
	if !exists && !(soa && (r.code == success || r.code == nameError)) {
		ttl = 0
	}
	return response{reply: r, ttl: time.Duration(ttl) * time.Second}, nil
}
