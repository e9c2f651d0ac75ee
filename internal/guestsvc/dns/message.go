package dns

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// Sizes in bytes.
const (
	headerLen  = 12
	maxName    = 255
	maxLabel   = 63
	minUDP     = 512   // what a client without EDNS takes (RFC 1035 4.2.1)
	maxUDP     = 1232  // fits an IPv6 packet of minimal MTU: never fragmented
	maxTCP     = 65535 // the length prefix's limit
	maxMessage = 1500  // of a query; a name, its question and some EDNS options fit many times
)

// rrType is a record type or a type that only questions have.
type rrType uint16

const (
	typeA     rrType = 1
	typeSOA   rrType = 6
	typePTR   rrType = 12
	typeHINFO rrType = 13
	typeTXT   rrType = 16
	typeAAAA  rrType = 28
	typeSRV   rrType = 33
	typeOPT   rrType = 41
	typeTKEY  rrType = 249
	typeTSIG  rrType = 250
	typeIXFR  rrType = 251
	typeAXFR  rrType = 252
	typeANY   rrType = 255
)

const classIN = 1

const rootName = "\x00"

// rcode is a response code; those above 15 need EDNS.
type rcode uint16

const (
	success        rcode = 0
	formatError    rcode = 1
	serverFailure  rcode = 2
	nameError      rcode = 3
	notImplemented rcode = 4
	refused        rcode = 5
	badVersion     rcode = 16
)

// Bits of the header's second word.
const (
	flagQR     uint16 = 1 << 15
	maskOpcode uint16 = 0xf << 11
	flagAA     uint16 = 1 << 10
	flagTC     uint16 = 1 << 9
	flagRD     uint16 = 1 << 8
	flagRA     uint16 = 1 << 7
	flagCD     uint16 = 1 << 4
	maskRcode  uint16 = 0xf
)

const ednsDO = 1 << 15 // in the low half of an OPT record's TTL field

var errMalformed = errors.New("malformed message")

// query is a client's question. Every query that is answered, by whomever,
// is one of these.
type query struct {
	id    uint16
	flags uint16
	// question is the question section as sent, to be returned with the
	// client's own choice of upper and lower case; it aliases the message.
	question []byte
	typ      rrType
	class    uint16

	edns    bool
	do      bool
	udpSize uint16

	nameLen int
	nameBuf [maxName]byte
}

// name is the name asked for, in wire form and lower case.
func (q *query) name() []byte { return q.nameBuf[:q.nameLen] }

// clone is a copy that outlives the message q was read from.
func (q *query) clone() *query {
	c := *q
	c.question = append([]byte(nil), q.question...)
	return &c
}

// parse reads a message. It reports false for what deserves no answer: scraps
// and answers. Otherwise the code is success or what is wrong with the query,
// which then can still be replied to.
func (q *query) parse(msg []byte) (rcode, bool) {
	q.question, q.nameLen, q.edns, q.do, q.udpSize = nil, 0, false, false, minUDP
	if len(msg) < headerLen {
		return 0, false
	}
	q.id = binary.BigEndian.Uint16(msg)
	q.flags = binary.BigEndian.Uint16(msg[2:])
	if q.flags&flagQR != 0 {
		return 0, false
	}
	if q.flags&maskOpcode != 0 {
		return notImplemented, true
	}
	questions := binary.BigEndian.Uint16(msg[4:])
	records := int(binary.BigEndian.Uint16(msg[6:])) + int(binary.BigEndian.Uint16(msg[8:])) +
		int(binary.BigEndian.Uint16(msg[10:]))
	if questions != 1 {
		return formatError, true
	}
	off, ok := q.parseQuestion(msg)
	if !ok {
		return formatError, true
	}
	return q.parseRecords(msg, off, records), true
}

// parseQuestion reads the question and returns the offset behind it.
func (q *query) parseQuestion(msg []byte) (int, bool) {
	off := headerLen
	for {
		if off >= len(msg) {
			return 0, false
		}
		n := int(msg[off])
		// A compression pointer has nothing to point to in a question.
		if n > maxLabel || off+1+n > len(msg) || off+1+n-headerLen > maxName {
			return 0, false
		}
		off += 1 + n
		if n == 0 {
			break
		}
	}
	if off+4 > len(msg) {
		return 0, false
	}
	q.nameLen = copy(q.nameBuf[:], msg[headerLen:off])
	lower(q.name())
	q.typ = rrType(binary.BigEndian.Uint16(msg[off:]))
	q.class = binary.BigEndian.Uint16(msg[off+2:])
	q.question = msg[headerLen : off+4]
	return off + 4, true
}

// parseRecords looks for EDNS in what follows the question (RFC 6891).
func (q *query) parseRecords(msg []byte, off, count int) rcode {
	code := success
	for range count {
		rec, err := readRecord(msg, off)
		if err != nil {
			return formatError
		}
		off = rec.end
		if rec.typ != typeOPT {
			continue
		}
		if q.edns {
			return formatError
		}
		q.edns = true
		q.udpSize = max(rec.class, minUDP)
		q.do = rec.ttl&ednsDO != 0
		if rec.ttl>>16&0xff != 0 {
			code = badVersion
		}
	}
	return code
}

// udpLimit is how long an answer by UDP may be.
func (q *query) udpLimit() int { return int(min(q.udpSize, maxUDP)) }

// reply is what there is to say to a query: the same whether it was composed
// here, found in the cache or has just been fetched.
type reply struct {
	code          rcode
	authoritative bool
	// answers, authority and additional count the records of the sections, without OPT.
	answers, authority, additional uint16
	// body is the records, as they stand in a message behind the question.
	body []byte
	// age is how many seconds the records have been kept.
	age uint32
}

// append writes the message that gives r to the client, or one that tells it to
// use TCP if that message would be longer than limit.
func (r reply) append(out []byte, q *query, limit int) []byte {
	start := len(out)
	size := headerLen + len(q.question) + len(r.body)
	if q.edns {
		size += optLen
	}
	flags := flagQR | flagRA | q.flags&(maskOpcode|flagRD|flagCD) | uint16(r.code)&maskRcode
	if r.authoritative {
		flags |= flagAA
	}
	if size > limit {
		flags |= flagTC
		r.answers, r.authority, r.additional, r.body = 0, 0, 0, nil
	}
	var questions uint16
	if len(q.question) > 0 {
		questions = 1
	}
	if q.edns {
		r.additional++
	}
	out = binary.BigEndian.AppendUint16(out, q.id)
	for _, word := range [...]uint16{flags, questions, r.answers, r.authority, r.additional} {
		out = binary.BigEndian.AppendUint16(out, word)
	}
	out = append(out, q.question...)
	out = append(out, r.body...)
	if r.age > 0 {
		ageRecords(out[start+headerLen+len(q.question):], r.age)
	}
	if q.edns {
		out = appendOPT(out, r.code, q.do)
	}
	return out
}

const optLen = 11

// appendOPT writes the EDNS record, which tells how much we take by UDP.
func appendOPT(out []byte, code rcode, do bool) []byte {
	var bits uint32
	if do {
		bits = ednsDO
	}
	out = append(out, 0)
	out = binary.BigEndian.AppendUint16(out, uint16(typeOPT))
	out = binary.BigEndian.AppendUint16(out, maxUDP)
	out = binary.BigEndian.AppendUint32(out, uint32(code>>4)<<24|bits)
	return binary.BigEndian.AppendUint16(out, 0)
}

// appendQuestion writes a question to an upstream server.
func appendQuestion(out []byte, q *query, id uint16, edns bool) []byte {
	var additional uint16
	if edns {
		additional = 1
	}
	for _, word := range [...]uint16{id, flagRD | q.flags&flagCD, 1, 0, 0, additional} {
		out = binary.BigEndian.AppendUint16(out, word)
	}
	out = append(out, q.name()...)
	out = binary.BigEndian.AppendUint16(out, uint16(q.typ))
	out = binary.BigEndian.AppendUint16(out, q.class)
	if edns {
		out = appendOPT(out, success, q.do)
	}
	return out
}

// record is one resource record's place in a message.
type record struct {
	typ   rrType
	class uint16
	ttl   uint32
	// Offsets: of the TTL, of the data, and behind the data.
	ttlAt, data, end int
}

// readRecord reads the record at off. Names are passed over, not followed.
func readRecord(msg []byte, off int) (record, error) {
	off, err := skipName(msg, off)
	if err != nil {
		return record{}, err
	}
	if off+10 > len(msg) {
		return record{}, errMalformed
	}
	r := record{
		typ:   rrType(binary.BigEndian.Uint16(msg[off:])),
		class: binary.BigEndian.Uint16(msg[off+2:]),
		ttl:   binary.BigEndian.Uint32(msg[off+4:]),
		ttlAt: off + 4,
		data:  off + 10,
	}
	r.end = r.data + int(binary.BigEndian.Uint16(msg[off+8:]))
	if r.end > len(msg) {
		return record{}, errMalformed
	}
	return r, nil
}

// skipName returns the offset behind the name at off.
func skipName(msg []byte, off int) (int, error) {
	for start := off; off < len(msg) && off-start < maxName; {
		switch n := int(msg[off]); {
		case n == 0:
			return off + 1, nil
		case n >= 0xc0:
			if off+2 > len(msg) {
				return 0, errMalformed
			}
			return off + 2, nil
		case n > maxLabel:
			return 0, errMalformed
		default:
			off += 1 + n
		}
	}
	return 0, errMalformed
}

// ageRecords takes seconds off the TTL of all records in a body that has been read before.
func ageRecords(body []byte, seconds uint32) {
	for off := 0; off < len(body); {
		rec, err := readRecord(body, off)
		if err != nil {
			return
		}
		binary.BigEndian.PutUint32(body[rec.ttlAt:], rec.ttl-min(rec.ttl, seconds))
		off = rec.end
	}
}

// lower makes ASCII letters small. In wire form this is safe for a whole name:
// length octets are below 'A'.
func lower(b []byte) {
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
}

// packName gives a name its wire form, in lower case. A dot at the end changes nothing.
func packName(name string) (string, error) {
	name = strings.TrimSuffix(name, ".")
	if name == "" {
		return rootName, nil
	}
	var out []byte
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > maxLabel {
			return "", fmt.Errorf("name %q has a part of %d octets, allowed are 1 to %d", name, len(label), maxLabel)
		}
		out = append(append(out, byte(len(label))), label...)
	}
	out = append(out, 0)
	if len(out) > maxName {
		return "", fmt.Errorf("name %q is longer than %d octets", name, maxName-2)
	}
	lower(out)
	return string(out), nil
}

// appendRecord writes a record of the name that the question asks for.
func appendRecord(out []byte, typ rrType, data []byte) []byte {
	out = append(out, 0xc0, headerLen) // the name, which stands in the question
	out = binary.BigEndian.AppendUint16(out, uint16(typ))
	out = binary.BigEndian.AppendUint16(out, classIN)
	out = binary.BigEndian.AppendUint32(out, localTTL)
	out = binary.BigEndian.AppendUint16(out, uint16(len(data)))
	return append(out, data...)
}

// reverseName is the name under which PTR records of an address, or the zone of
// a prefix whose length is a whole number of labels, are found (RFC 1035 3.5, RFC 3596 2.5).
func reverseName(p netip.Prefix) string {
	var s strings.Builder
	if p.Addr().Is4() {
		b := p.Addr().As4()
		for i := p.Bits()/8 - 1; i >= 0; i-- {
			fmt.Fprintf(&s, "%d.", b[i])
		}
		return s.String() + "in-addr.arpa"
	}
	b := p.Addr().As16()
	for i := p.Bits()/4 - 1; i >= 0; i-- {
		fmt.Fprintf(&s, "%x.", b[i/2]>>(4*(1-i%2))&0xf)
	}
	return s.String() + "ip6.arpa"
}

// The ends of reverse names in wire form.
var (
	arpa4 = []byte("\x07in-addr\x04arpa\x00")
	arpa6 = []byte("\x03ip6\x04arpa\x00")
)

// reverseAddr is the address that a reverse name in wire form stands for.
func reverseAddr(name []byte) (netip.Addr, bool) {
	if labels, ok := bytes.CutSuffix(name, arpa4); ok {
		return reverseAddr4(labels)
	}
	labels, ok := bytes.CutSuffix(name, arpa6)
	if !ok || len(labels) != 64 {
		return netip.Addr{}, false
	}
	var b [16]byte
	for i := range 32 {
		n := strings.IndexByte("0123456789abcdef", labels[2*i+1])
		if labels[2*i] != 1 || n < 0 {
			return netip.Addr{}, false
		}
		place := 31 - i
		b[place/2] |= byte(n) << (4 * (1 - place%2))
	}
	return netip.AddrFrom16(b), true
}

// reverseAddr4 reads the labels before in-addr.arpa, which are complete.
func reverseAddr4(labels []byte) (netip.Addr, bool) {
	var b [4]byte
	for i := 3; i >= 0; i-- {
		if len(labels) == 0 {
			return netip.Addr{}, false
		}
		end := 1 + int(labels[0])
		n, ok := decimalOctet(labels[1:end])
		if !ok {
			return netip.Addr{}, false
		}
		b[i], labels = n, labels[end:]
	}
	return netip.AddrFrom4(b), len(labels) == 0
}

// decimalOctet reads 0 to 255 without leading zeros.
func decimalOctet(s []byte) (byte, bool) {
	if len(s) == 0 || len(s) > 3 || len(s) > 1 && s[0] == '0' {
		return 0, false
	}
	n := 0
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = 10*n + int(s[i]-'0')
	}
	return byte(n), n <= 255
}
