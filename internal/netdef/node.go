package netdef

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Node is an XML element kept as it was read: metadata and whatever else must
// come out as it went in.
type Node struct {
	// XML is the element's text in canonical serialisation, namespace declarations included.
	XML string
	// Space is the element's namespace URI.
	Space string
}

func newNode(e *element) Node {
	var s serializer
	s.element(e, 0, true, outerDeclarations(e))
	return Node{XML: s.String(), Space: e.space}
}

// parseMetadata keeps the first child of each namespace; what is in none belongs to nobody.
func parseMetadata(metadata *element) []Node {
	if metadata == nil {
		return nil
	}
	nodes := []Node{}
	seen := map[string]bool{}
	for _, c := range metadata.content {
		if c.child == nil || c.child.space == "" || seen[c.child.space] {
			continue
		}
		seen[c.child.space] = true
		nodes = append(nodes, newNode(c.child))
	}
	return nodes
}

// outerDeclarations are the declarations that e's subtree relies on but that
// were made outside of it.
func outerDeclarations(e *element) []attr {
	var outer []attr
	var walk func(e *element, inner []attr)
	need := func(prefix, space string, inner []attr) {
		if space == "" {
			return
		}
		declaration := attr{prefix: "xmlns", name: prefix, value: space}
		if prefix == "" {
			declaration = attr{name: "xmlns", value: space}
		}
		same := func(a attr) bool { return a.prefix == declaration.prefix && a.name == declaration.name }
		if !slices.ContainsFunc(inner, same) && !slices.ContainsFunc(outer, same) {
			outer = append(outer, declaration)
		}
	}
	walk = func(e *element, inner []attr) {
		for _, a := range e.attrs {
			if a.declares() {
				inner = append(slices.Clip(inner), a)
			}
		}
		need(e.prefix, e.space, inner)
		for _, a := range e.attrs {
			need(a.prefix, a.space, inner)
		}
		for _, c := range e.content {
			if c.child != nil {
				walk(c.child, inner)
			}
		}
	}
	walk(e, nil)
	return outer
}

// serializer writes elements as libxml's formatted output does: a line for
// each element, unless there is text beside it.
type serializer struct{ strings.Builder }

var (
	textEscapes  = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "\r", "&#13;")
	valueEscapes = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;", "\n", "&#10;", "\t", "&#9;", "\r", "&#13;")
)

func (s *serializer) element(e *element, depth int, pretty bool, outer []attr) {
	s.WriteString("<" + e.qname())
	s.attributes(outer)
	for _, declarations := range []bool{true, false} {
		for _, a := range e.attrs {
			if a.declares() == declarations {
				s.attributes([]attr{a})
			}
		}
	}
	items := e.significant()
	if len(items) == 0 {
		s.WriteString("/>")
		return
	}
	s.WriteString(">")
	if slices.ContainsFunc(items, func(c content) bool { return len(c.text) > 0 }) {
		pretty = false
	}
	newline := func(depth int) {
		if pretty {
			s.WriteString("\n" + strings.Repeat("  ", depth))
		}
	}
	for _, c := range items {
		newline(depth + 1)
		switch {
		case c.child != nil:
			s.element(c.child, depth+1, pretty, nil)
		case c.markup != "":
			s.WriteString(c.markup)
		default:
			textEscapes.WriteString(s, string(c.text))
		}
	}
	newline(depth)
	s.WriteString("</" + e.qname() + ">")
}

func (s *serializer) attributes(attrs []attr) {
	for _, a := range attrs {
		name := a.name
		if a.prefix != "" {
			name = a.prefix + ":" + name
		}
		s.WriteString(" " + name + `="`)
		for _, c := range valueEscapes.Replace(a.value) {
			if c < utf8.RuneSelf || a.declares() {
				s.WriteRune(c)
			} else {
				fmt.Fprintf(s, "&#x%X;", c)
			}
		}
		s.WriteString(`"`)
	}
}

// significant is the content without the blanks that only lay it out: those
// in an element that starts with something other than text and holds more than them.
func (e *element) significant() []content {
	mixed := len(e.content) > 0 && !isBlank(e.content[0].text)
	var kept []content
	for _, c := range e.content {
		if len(c.text) > 0 && isBlank(c.text) && !mixed && len(e.content) > 1 {
			continue
		}
		kept = append(kept, c)
	}
	return kept
}

func isBlank(text []byte) bool { return len(bytes.TrimSpace(text)) == 0 }

// indented is the node's text as a part of a document, indented by depth
// levels. Text inside the node is left alone, which is why it is read again.
func (n Node) indented(depth int) string {
	root, err := parseForeign([]byte(n.XML), "(metadata_xml)")
	if err != nil {
		return n.XML
	}
	var s serializer
	s.element(root, depth, true, nil)
	return s.String()
}
