package netdef

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// libvirt's words about attributes in general; each names attribute and element.
const (
	missingAttribute = "Missing required attribute '%s' in element '%s'"
	zeroNotPermitted = "Invalid value for attribute '%s' in element '%s': Zero is not permitted"
)

// reader turns elements into values. It keeps the first error and goes on, so
// that the code that uses it reads as a list of what is read and what must
// hold; its owner asks for the error at the end.
type reader struct {
	network string // its name, for error texts
	err     *Error
}

// fail refuses the document because of an element.
func (r *reader) fail(e *element, code Code, format string, args ...any) {
	if r.err == nil {
		r.err = Errorf(code, format, args...)
		r.err.Where = e.where()
	}
}

// refuse fails if bad holds.
func (r *reader) refuse(bad bool, e *element, code Code, format string, args ...any) {
	if bad {
		r.fail(e, code, format, args...)
	}
}

// How many elements of a kind a network may have. Lists that are compared
// with each other, or item by item, are the shorter ones.
const (
	fewElements  = 256
	someElements = 4096
	manyElements = 1 << 16
)

// list returns the children of that name, of which there may be as many as given.
func (r *reader) list(e *element, name string, most int) []*element {
	items := e.all(name)
	if len(items) > most {
		r.fail(items[most], ErrXML, "more than %d <%s> elements in network '%s'", most, name, r.network)
		return nil
	}
	return items
}

// line is an element's text, of one line, without the blanks around it.
func (r *reader) line(e *element) string {
	text := strings.TrimSpace(e.text())
	if i := strings.IndexFunc(text, unicode.IsControl); i >= 0 {
		r.illegalChar(e, text[i:])
	}
	return text
}

// illegalChar refuses the character that rest starts with.
func (r *reader) illegalChar(e *element, rest string) {
	for _, c := range rest {
		r.fail(e, ErrXMLDetail, "invalid char in %s: %c", e.name, c)
		return
	}
}

// yesNo reads a switch.
func (r *reader) yesNo(e *element, name string) Switch {
	value, ok := e.lookup(name)
	switch {
	case !ok:
		return Unset
	case value == "yes":
		return Yes
	case value == "no":
		return No
	}
	r.invalid(e, name, value, "")
	return Unset
}

// choice reads an attribute that has one of the given values; "" if it is absent.
func (r *reader) choice(e *element, name string, values ...string) string {
	value, ok := e.lookup(name)
	if ok && !slices.Contains(values, value) {
		r.invalid(e, name, value, "")
	}
	return value
}

// uint reads a number of at most the given size; base 0 means that of C literals.
func (r *reader) uint(e *element, name string, base, bits int) (value uint64, ok bool) {
	text, ok := e.lookup(name)
	if !ok {
		return 0, false
	}
	value, ok = parseUint(text, base, bits)
	if !ok {
		r.invalid(e, name, text, " Expected non-negative integer value")
	}
	return value, ok
}

func (r *reader) invalid(e *element, name, value, hint string) {
	r.fail(e, ErrXML, "Invalid value for attribute '%s' in element '%s': '%s'.%s", name, e.name, value, hint)
}

// cBlanks are what C calls blanks (isspace).
const cBlanks = " \t\n\v\f\r"

// parseUint reads digits as C's strtoul does, blanks before them included, but
// takes no sign to wrap around.
func parseUint(text string, base, bits int) (uint64, bool) {
	text = strings.TrimPrefix(strings.TrimLeft(text, cBlanks), "+")
	if base == 0 {
		// Go's own base 0 also knows 0b, 0o and underscores, which C does not.
		base = 10
		switch digits, hex := strings.CutPrefix(strings.ToLower(text), "0x"); {
		case hex:
			text, base = digits, 16
		case len(text) > 1 && text[0] == '0':
			base = 8
		}
	}
	value, err := strconv.ParseUint(text, base, bits)
	return value, err == nil
}

// parseAddr reads an IP address without a zone.
func parseAddr(text string) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(text)
	return addr, err == nil && addr.Zone() == ""
}

// addr reads an address for which libvirt has no words of its own.
func (r *reader) addr(e *element, text string) netip.Addr {
	addr, ok := parseAddr(text)
	r.refuse(!ok, e, ErrSystem, "Cannot parse socket address '%s': Name or service not known", text)
	return addr
}

// pciAddress reads the attributes that name a PCI device.
func (r *reader) pciAddress(e *element) PCIAddress {
	var a PCIAddress
	for _, part := range []struct {
		name string
		into *uint
		max  uint64
		// tooLarge is libvirt's wording.
		tooLarge string
	}{
		{"domain", &a.Domain, 0xFFFFFFFF, ""},
		{"bus", &a.Bus, 0xFF, "Invalid PCI address bus='0x%x', must be <= 0xFF"},
		{"slot", &a.Slot, 0x1F, "Invalid PCI address slot='0x%x', must be <= 0x1F"},
		{"function", &a.Function, 7, "Invalid PCI address function=0x%x, must be <= 7"},
	} {
		value, _ := r.uint(e, part.name, 0, 32)
		r.refuse(value > part.max, e, ErrXML, part.tooLarge, value)
		*part.into = uint(value)
	}
	r.refuse(a.Domain == 0 && a.Bus == 0 && a.Slot == 0, e, ErrXML,
		"Invalid PCI address %04x:%02x:%02x, at least one of domain, bus, or slot must be > 0", a.Domain, a.Bus, a.Slot)
	return a
}
