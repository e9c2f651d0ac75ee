package vifspec

import (
	"fmt"
	"math"
	"math/bits"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

// Rate is what a guest may send, as Linux' netback counts it: so many octets in
// each interval (drivers/net/xen-netback/netback.c, tx_add_credit).
type Rate struct {
	Bytes    uint64 // per interval; 0 stops the guest
	Interval uint64 // microseconds
}

// defaultInterval is that of a rate that names none, in microseconds.
const defaultInterval = 50_000

var (
	rateForm     = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[0-9]+[GMK]?[Bb]/s$`) })
	intervalForm = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[0-9]+[mu]?s?$`) })
)

// ParseRate reads the value of rate=, RATE[@INTERVAL], as xl does
// (tools/libs/util/libxlu_vif.c), its wording of errors included.
func ParseRate(text string) (Rate, error) {
	rate, interval, given := strings.Cut(text, "@")
	if rate == "" {
		return Rate{}, fmt.Errorf("no rate specified in `%s'", text)
	}
	perSecond, err := parseBytesPerSecond(rate)
	if err != nil {
		return Rate{}, err
	}
	r := Rate{Interval: defaultInterval}
	if given {
		if r.Interval, err = parseInterval(interval); err != nil {
			return Rate{}, err
		}
	}
	hi, product := bits.Mul64(perSecond, r.Interval)
	if hi != 0 {
		return Rate{}, fmt.Errorf("rate overflow in `%s'", text)
	}
	r.Bytes = product / 1_000_000
	return r, nil
}

var multiples = map[byte]uint64{'K': 1e3, 'M': 1e6, 'G': 1e9}

func parseBytesPerSecond(text string) (uint64, error) {
	if !rateForm().MatchString(text) {
		return 0, fmt.Errorf("invalid rate in `%s'", text)
	}
	n, unit, ok := leadingNumber(text)
	if !ok {
		return 0, fmt.Errorf("rate overflow in `%s'", text)
	}
	if m, has := multiples[unit[0]]; has {
		n, unit = n*m, unit[1:]
	}
	if unit[0] == 'b' {
		n /= 8
	}
	return n, nil
}

func parseInterval(text string) (uint64, error) {
	if !intervalForm().MatchString(text) {
		return 0, fmt.Errorf("invalid replenishment interval in `%s'", text)
	}
	n, unit, ok := leadingNumber(text)
	switch unit {
	case "", "s": // the manual says microseconds where there is no unit; the code says seconds
		n *= 1_000_000
	case "m", "ms":
		n *= 1_000
	}
	if !ok || n > math.MaxUint32 {
		return 0, fmt.Errorf("replenishment interval overflow in `%s'", text)
	}
	return n, nil
}

// leadingNumber reads a number as strtoull does with base 0, so that a leading
// 0 makes it octal and the first 8 or 9 ends it. It is not ok if it is 0 or
// takes more than 32 bits.
func leadingNumber(text string) (n uint64, rest string, ok bool) {
	base, set := 10, "0123456789"
	if text[0] == '0' {
		base, set = 8, "01234567"
	}
	rest = strings.TrimLeft(text, set)
	n, err := strconv.ParseUint(text[:len(text)-len(rest)], base, 32)
	return n, rest, err == nil && n > 0
}

// ParseStoredRate reads the rate that is kept in xenstore for netback. What
// netback cannot read it does not enforce, and only the kernel's log tells.
func ParseStoredRate(text string) (Rate, error) {
	octets, interval, ok := strings.Cut(text, ",")
	var r Rate
	var err1, err2 error
	r.Bytes, err1 = strconv.ParseUint(octets, 10, 64)
	r.Interval, err2 = strconv.ParseUint(interval, 10, 32)
	if !ok || err1 != nil || err2 != nil {
		return Rate{}, fmt.Errorf("rate '%s' in xenstore is not 'octets,microseconds': netback would not limit the guest", text)
	}
	return r, nil
}

// String is the rate as it is kept in xenstore.
func (r Rate) String() string { return fmt.Sprintf("%d,%d", r.Bytes, r.Interval) }

// BytesPerSecond is the rate over longer times.
func (r Rate) BytesPerSecond() uint64 {
	if r.Interval == 0 {
		return 0
	}
	hi, lo := bits.Mul64(r.Bytes, 1_000_000)
	if hi >= r.Interval {
		return math.MaxUint64
	}
	quotient, _ := bits.Div64(hi, lo, r.Interval)
	return quotient
}

// bucket is how many octets netback lets a guest that was idle send at once, at the least.
const bucket = 131072

// Warnings tells what netback makes of the rate that nobody expects of it.
func (r Rate) Warnings() []string {
	var w []string
	if r.Bytes == 0 {
		w = append(w, fmt.Sprintf("it comes to 0 octets in %d us: the guest cannot send anything", r.Interval))
	}
	if r.Interval < 1000 {
		w = append(w, fmt.Sprintf("an interval of %d us is below 1 ms, which netback takes for 0: the guest is not limited", r.Interval))
	}
	return w
}
