package netdef

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// writer prints elements in libvirt's style: one a line, indented by two
// spaces, values in single quotes.
type writer struct {
	b     strings.Builder
	depth int
}

// pair is an attribute to print; one without a value is left out.
type pair struct {
	name, value string
	// always prints even an empty value.
	always bool
}

// Escape is text as libvirt writes it into XML. It does so too with a network's
// name in the names of some of the network's files.
func Escape(text string) string { return escapes.Replace(text) }

var escapes = strings.NewReplacer("<", "&lt;", ">", "&gt;", "&", "&amp;", "'", "&apos;", `"`, "&quot;")

// empty prints an element without content.
func (w *writer) empty(name string, attrs ...pair) { w.tag(name, attrs, "/>\n") }

// begin prints a start tag. What is printed until end is inside it.
func (w *writer) begin(name string, attrs ...pair) {
	w.tag(name, attrs, ">\n")
	w.depth++
}

func (w *writer) end(name string) {
	w.depth--
	w.raw("</" + name + ">\n")
}

// leaf prints an element that holds text, unless there is none.
func (w *writer) leaf(name, text string) {
	if text != "" {
		w.raw("<" + name + ">" + escapes.Replace(text) + "</" + name + ">\n")
	}
}

// raw prints text on a line of its own, as it is.
func (w *writer) raw(text string) {
	w.b.WriteString(strings.Repeat("  ", w.depth))
	w.b.WriteString(text)
}

func (w *writer) tag(name string, attrs []pair, end string) {
	w.raw("<" + name)
	for _, a := range attrs {
		if a.value != "" || a.always {
			fmt.Fprintf(&w.b, " %s='%s'", a.name, escapes.Replace(a.value))
		}
	}
	w.b.WriteString(end)
}

func str(name, value string) pair { return pair{name: name, value: value} }

// number is left out if it is zero.
func number[T int | uint | uint16 | uint64](name string, value T) pair {
	if value == 0 {
		return pair{}
	}
	return pair{name: name, value: fmt.Sprint(value)}
}

func switched(name string, s Switch) pair { return pair{name: name, value: s.String()} }

// address is left out if it is invalid.
func address(name string, a netip.Addr) pair {
	if !a.IsValid() {
		return pair{}
	}
	return pair{name: name, value: a.String()}
}

// length is left out if it is negative.
func length(name string, n int) pair {
	if n < 0 {
		return pair{}
	}
	return pair{name: name, value: strconv.Itoa(n)}
}
