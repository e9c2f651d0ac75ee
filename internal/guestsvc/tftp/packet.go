package tftp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strconv"
	"strings"
	"time"
)

// The kinds of packets (RFC 1350 section 5, RFC 2347).
const (
	opRead  = 1
	opWrite = 2
	opData  = 3
	opAck   = 4
	opError = 5
	opOACK  = 6
)

// refusal is an error packet's code (RFC 1350 appendix I) and text.
type refusal struct {
	code uint16
	text string
}

func (r refusal) Error() string { return r.text }

var (
	errNotFound  = refusal{1, "file not found"}
	errForbidden = refusal{2, "access violation"}
	errReadOnly  = refusal{2, "this server only hands out files"}
	errIllegal   = refusal{4, "illegal TFTP operation"}
	errReading   = refusal{0, "the file cannot be read"}
)

// Limits of what a client may ask for.
const (
	maxRequest       = 512 // bytes, RFC 2347
	defaultBlock     = 512 // bytes, RFC 1350
	minBlock         = 8   // RFC 2348
	maxBlock         = 65464
	maxWindow        = 32 // blocks; RFC 7440 allows more
	defaultMTU       = 1500
	headers          = 20 + 8 + 4 // IPv4, UDP and TFTP
	defaultTimeout   = time.Second
	maxOptionTimeout = 255 // seconds, RFC 2349
)

// request asks for a file.
type request struct {
	file     string
	netascii bool
	// block is the size of blocks in bytes, window how many are sent at once.
	block, window int
	timeout       time.Duration
	// wantsSize says that the client asks how long the file is.
	wantsSize bool
	// options are those that were understood, as the answer names them, in
	// the client's order; the size is filled in once it is known.
	options []option
}

type option struct{ name, value string }

const optionSize = "tsize"

// parseRead reads a read request, without its first two bytes. largest is the
// largest block that the link carries in one piece.
func parseRead(body []byte, largest int) (request, error) {
	r := request{block: defaultBlock, window: 1, timeout: defaultTimeout}
	if len(body) == 0 || len(body) > maxRequest || body[len(body)-1] != 0 {
		return r, errIllegal
	}
	words := strings.Split(string(body[:len(body)-1]), "\x00")
	if len(words) < 2 || len(words)%2 != 0 || words[0] == "" {
		return r, errIllegal
	}
	r.file = words[0]
	switch strings.ToLower(words[1]) {
	case "octet":
	case "netascii":
		r.netascii = true
	default:
		return r, errIllegal
	}
	seen := map[string]bool{}
	for ; len(words) > 2; words = words[2:] {
		name := strings.ToLower(words[2])
		if !seen[name] {
			r.accept(name, words[3], largest)
		}
		seen[name] = true
	}
	return r, nil
}

// accept takes an option over if it is understood and makes sense. Others are
// left out of the answer, by which the client knows.
func (r *request) accept(name, text string, largest int) {
	value, err := strconv.ParseUint(text, 10, 63)
	if err != nil {
		return
	}
	switch {
	case name == "blksize" && minBlock <= value && value <= maxBlock:
		r.block = int(min(value, uint64(largest)))
		value = uint64(r.block)
	case name == "timeout" && 1 <= value && value <= maxOptionTimeout:
		r.timeout = time.Duration(value) * time.Second
	case name == optionSize && !r.netascii: // the length on the wire is not known before
		r.wantsSize = true
	case name == "windowsize" && 1 <= value && value <= 65535:
		r.window = int(min(value, maxWindow))
		value = uint64(r.window)
	default:
		return
	}
	r.options = append(r.options, option{name, strconv.FormatUint(value, 10)})
}

// optionAck acknowledges the options.
func (r request) optionAck(size int64) []byte {
	p := binary.BigEndian.AppendUint16(nil, opOACK)
	for _, o := range r.options {
		if o.name == optionSize {
			o.value = strconv.FormatInt(size, 10)
		}
		p = append(append(p, o.name...), 0)
		p = append(append(p, o.value...), 0)
	}
	return p
}

func dataPacket(block uint16, size int) []byte {
	p := make([]byte, 4, 4+size)
	binary.BigEndian.PutUint16(p, opData)
	binary.BigEndian.PutUint16(p[2:], block)
	return p
}

func errorPacket(err error) []byte {
	r := errReading
	errors.As(err, &r)
	p := binary.BigEndian.AppendUint16(nil, opError)
	p = binary.BigEndian.AppendUint16(p, r.code)
	return append(append(p, r.text...), 0)
}

// toNetASCII is the text as a terminal of 1980 takes it (RFC 764): lines end
// with CR and LF, a CR of its own with NUL.
func toNetASCII(text []byte) []byte {
	return bytes.ReplaceAll(bytes.ReplaceAll(text, []byte("\r"), []byte("\r\x00")), []byte("\n"), []byte("\r\n"))
}
