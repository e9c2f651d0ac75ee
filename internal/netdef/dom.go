package netdef

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
	"unicode"
)

// What a document may hold. The size is that of the longest string in
// libvirt's RPC, the depth is libxml's; the others keep a hostile document of
// that size from costing more than some tens of megabytes.
const (
	maxDocument = 4 << 20 // bytes
	maxDepth    = 256
	maxElements = 200_000
	maxAttrs    = 256 // of one element
)

// element is an XML element that knows its place in the document. All methods
// accept nil, an element that is not there: it has no attributes and no text.
type element struct {
	// prefix and name are as written; a prefix that is not declared is part
	// of the name. space is the namespace URI.
	prefix, name, space string
	attrs               []attr
	content             []content
	line                int // 1-based
}

// attr is an attribute; namespace declarations are attributes too.
type attr struct{ prefix, name, space, value string }

// declares tells whether the attribute declares a namespace.
func (a attr) declares() bool { return a.prefix == "xmlns" || a.prefix == "" && a.name == "xmlns" }

// content is one item between an element's tags: an element, a text, or a
// comment or processing instruction as it was written.
type content struct {
	child  *element
	text   []byte
	markup string
}

// domParser builds a tree of elements from encoding/xml's raw tokens, which
// keep prefixes and lines, and checks what these leave unchecked.
type domParser struct {
	what  string // names the document in errors, as libvirt does
	data  []byte
	dec   *xml.Decoder
	root  *element
	stack []*element
	// scopes holds the URIs that each prefix stands for, innermost last.
	scopes   map[string][]string
	elements int
	// verbatim leaves attribute values as they are written, which is for
	// documents of others.
	verbatim bool
	// tag is the start tag that is being read, as it is written.
	tag []byte
}

// parseDocument reads a whole document. Document type declarations are passed
// over: no entity but XML's own five is ever expanded.
func parseDocument(data []byte, what string) (*element, error) {
	p := &domParser{what: what, data: data}
	return p.document()
}

// parseForeign reads a document whose meaning is not ours.
func parseForeign(data []byte, what string) (*element, error) {
	p := &domParser{what: what, data: data, verbatim: true}
	return p.document()
}

func (p *domParser) document() (*element, error) {
	if len(p.data) > maxDocument {
		return nil, Errorf(ErrXMLDetail, "%s: document of %d bytes is too large, limit is %d bytes", p.what, len(p.data), maxDocument)
	}
	p.data = bytes.TrimPrefix(p.data, []byte("\xef\xbb\xbf")) // a byte order mark
	p.dec = xml.NewDecoder(bytes.NewReader(p.data))
	p.scopes = map[string][]string{}
	for {
		line, _ := p.dec.InputPos() // of the token's first character
		begin := p.dec.InputOffset()
		token, err := p.dec.RawToken()
		p.tag = p.data[begin:p.dec.InputOffset()]
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, p.decoderError(err)
		}
		if err := p.token(token, line); err != nil {
			return nil, err
		}
	}
	if len(p.data) == 0 {
		return nil, &Error{Code: ErrXMLDetail, Detail: p.what + ":1: Document is empty\n(null)\n^", Where: "line 1"}
	}
	if p.root == nil {
		return nil, p.syntaxError("Start tag expected, '<' not found")
	}
	if open := p.open(); open != nil {
		return nil, p.errorAt(len(p.data)+1, fmt.Sprintf("Premature end of data in tag %s line %d", open.qname(), open.line))
	}
	return p.root, nil
}

func (p *domParser) token(token xml.Token, line int) error {
	switch t := token.(type) {
	case xml.StartElement:
		return p.start(t, line)
	case xml.EndElement:
		return p.end(t)
	case xml.CharData:
		if open := p.open(); open != nil {
			open.appendContent(content{text: bytes.Clone(t)})
		} else if len(bytes.TrimSpace(t)) > 0 {
			if p.root == nil {
				return p.syntaxError("Start tag expected, '<' not found")
			}
			return p.syntaxError("Extra content at the end of the document")
		}
	case xml.Comment:
		p.markup("<!--" + string(t) + "-->")
	case xml.ProcInst:
		p.markup("<?" + strings.TrimRight(t.Target+" "+string(t.Inst), " ") + "?>")
	}
	return nil
}

func (p *domParser) markup(text string) {
	if open := p.open(); open != nil {
		open.appendContent(content{markup: text})
	}
}

func (p *domParser) open() *element {
	if len(p.stack) == 0 {
		return nil
	}
	return p.stack[len(p.stack)-1]
}

func (p *domParser) start(t xml.StartElement, line int) error {
	p.elements++
	switch {
	case p.open() == nil && p.root != nil:
		return p.syntaxError("Extra content at the end of the document")
	case len(p.stack) == maxDepth:
		return p.syntaxError(fmt.Sprintf("Excessive depth in document: %d", maxDepth))
	case p.elements > maxElements:
		return p.syntaxError(fmt.Sprintf("More than %d elements in document", maxElements))
	case len(t.Attr) > maxAttrs:
		return p.syntaxError(fmt.Sprintf("More than %d attributes in element %s", maxAttrs, rawName(t.Name)))
	}
	e := &element{line: line}
	for _, a := range t.Attr {
		if prefix, ok := declared(a.Name); ok {
			p.scopes[prefix] = append(p.scopes[prefix], a.Value)
		}
	}
	e.prefix, e.name, e.space = p.resolve(t.Name, true)
	for _, a := range t.Attr {
		prefix, name, space := p.resolve(a.Name, false)
		if e.has(prefix, name) {
			return p.syntaxError(fmt.Sprintf("Attribute %s redefined", rawName(a.Name)))
		}
		value := a.Value
		if !p.verbatim && !p.inMetadata() {
			if !blankReference().Match(p.tag) {
				value = strings.Map(blankToSpace, value)
			}
			if i := strings.IndexFunc(value, unicode.IsControl); i >= 0 {
				return &Error{
					Code:   ErrXMLDetail,
					Detail: fmt.Sprintf("attribute '%s' of element <%s> holds a control character: %q", rawName(a.Name), e.qname(), value),
					Where:  e.where(),
				}
			}
		}
		e.attrs = append(e.attrs, attr{prefix: prefix, name: name, space: space, value: value})
	}
	if open := p.open(); open != nil {
		open.appendContent(content{child: e})
	} else {
		p.root = e
	}
	p.stack = append(p.stack, e)
	return nil
}

func (p *domParser) end(t xml.EndElement) error {
	open := p.open()
	if open == nil {
		return p.syntaxError("Extra content at the end of the document")
	}
	if open.qname() != rawName(t.Name) {
		return p.syntaxError(fmt.Sprintf("Opening and ending tag mismatch: %s line %d and %s", open.qname(), open.line, rawName(t.Name)))
	}
	for _, a := range open.attrs {
		if prefix, ok := declared(xml.Name{Space: a.prefix, Local: a.name}); ok {
			p.scopes[prefix] = p.scopes[prefix][:len(p.scopes[prefix])-1]
		}
	}
	p.stack = p.stack[:len(p.stack)-1]
	return nil
}

// inMetadata tells whether the next element is inside <metadata>, whose
// content is nobody's business but its owner's.
func (p *domParser) inMetadata() bool {
	return len(p.stack) > 1 && p.stack[1].name == "metadata"
}

// resolve splits a raw name. A prefix that nobody declared stays in the name,
// so that such an element is in no namespace and matches nothing.
func (p *domParser) resolve(n xml.Name, useDefault bool) (prefix, name, space string) {
	switch {
	case n.Space == "xmlns" || n.Space == "xml":
		return n.Space, n.Local, ""
	case n.Space == "" && !useDefault:
		return "", n.Local, ""
	}
	if uris := p.scopes[n.Space]; len(uris) > 0 {
		return n.Space, n.Local, uris[len(uris)-1]
	}
	return "", rawName(n), ""
}

// declared is the prefix that an attribute of this name declares.
func declared(n xml.Name) (prefix string, ok bool) {
	switch {
	case n.Space == "xmlns":
		return n.Local, true
	case n.Space == "" && n.Local == "xmlns":
		return "", true
	}
	return "", false
}

func rawName(n xml.Name) string {
	if n.Space == "" {
		return n.Local
	}
	return n.Space + ":" + n.Local
}

// blankReference finds a tab or an end of line that somebody wrote as a
// number, which the normalisation of attribute values would leave alone.
var blankReference = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`&#(0*(9|10|13)|x0*(9|[aA]|[dD]));`) })

// blankToSpace is XML's normalisation of attribute values (section 3.3.3),
// which encoding/xml leaves to its caller.
func blankToSpace(r rune) rune {
	if r == '\n' || r == '\t' || r == '\r' {
		return ' '
	}
	return r
}

// tagName finds the name of a tag that has only begun.
var tagName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^<([^\s/>]+)`) })

// decoderError says in libxml's words, as far as they are known, what is wrong.
func (p *domParser) decoderError(err error) *Error {
	var syntax *xml.SyntaxError
	if !errors.As(err, &syntax) {
		return p.syntaxError(strings.TrimPrefix(err.Error(), "xml: "))
	}
	if name := tagName().FindSubmatch(p.tag); name != nil && int(p.dec.InputOffset()) >= len(p.data) {
		return p.errorAt(len(p.data)+1, fmt.Sprintf("Couldn't find end of Start Tag %s line %d", name[1], syntax.Line))
	}
	return p.syntaxError(syntax.Msg)
}

// syntaxError is laid out as libvirt shows those of libxml: the line, what is
// wrong, the text up to there and a mark below its end.
func (p *domParser) syntaxError(message string) *Error {
	return p.errorAt(int(p.dec.InputOffset()), message)
}

// errorAt is a syntaxError about the octet before the end of what counts.
func (p *domParser) errorAt(end int, message string) *Error {
	const shown = 80 // characters of the line
	line, _ := p.dec.InputPos()
	read := min(end, len(p.data))
	start := max(bytes.LastIndexByte(p.data[:read], '\n')+1, read-shown)
	text, _, _ := bytes.Cut(p.data[start:min(start+shown, len(p.data))], []byte("\n"))
	printable := strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(string(text), "?"))
	return &Error{
		Code:   ErrXMLDetail,
		Detail: fmt.Sprintf("%s:%d: %s\n%s\n%s^", p.what, line, message, printable, strings.Repeat("-", max(0, end-start-1))),
		Where:  fmt.Sprintf("line %d", line),
	}
}

// appendContent adds an item; text that follows text joins it.
func (e *element) appendContent(c content) {
	last := len(e.content) - 1
	switch {
	case c.child == nil && c.markup == "" && len(c.text) == 0:
	case len(c.text) > 0 && last >= 0 && len(e.content[last].text) > 0:
		e.content[last].text = append(e.content[last].text, c.text...)
	default:
		e.content = append(e.content, c)
	}
}

// qname is the name as written.
func (e *element) qname() string {
	return rawName(xml.Name{Space: e.prefix, Local: e.name})
}

// where names the element's place for people.
func (e *element) where() string {
	if e == nil {
		return ""
	}
	return fmt.Sprintf("line %d, <%s>", e.line, e.qname())
}

func (e *element) has(prefix, name string) bool {
	for _, a := range e.attrs {
		if a.prefix == prefix && a.name == name {
			return true
		}
	}
	return false
}

// lookup is the value of an attribute without namespace, and whether it is there.
func (e *element) lookup(name string) (string, bool) {
	if e != nil {
		for _, a := range e.attrs {
			if a.prefix == "" && a.name == name {
				return a.value, true
			}
		}
	}
	return "", false
}

// attr is the value of an attribute; an absent one counts as empty.
func (e *element) attr(name string) string {
	value, _ := e.lookup(name)
	return value
}

// allIn returns the child elements of that name that are in the given namespace.
func (e *element) allIn(space, name string) []*element {
	var found []*element
	if e != nil {
		for _, c := range e.content {
			if c.child != nil && c.child.name == name && c.child.space == space {
				found = append(found, c.child)
			}
		}
	}
	return found
}

// all returns the child elements of that name.
func (e *element) all(name string) []*element { return e.allIn("", name) }

// child is the first child element of that name, nil if there is none.
func (e *element) child(name string) *element {
	if found := e.all(name); len(found) > 0 {
		return found[0]
	}
	return nil
}

// last is the last child element of that name, nil if there is none: libvirt
// takes the first of most elements, but the last of some.
func (e *element) last(name string) *element {
	found := e.all(name)
	if len(found) == 0 {
		return nil
	}
	return found[len(found)-1]
}

// text is all text inside the element.
func (e *element) text() string {
	if e == nil {
		return ""
	}
	var b strings.Builder
	e.appendText(&b)
	return b.String()
}

func (e *element) appendText(b *strings.Builder) {
	for _, c := range e.content {
		b.Write(c.text)
		if c.child != nil {
			c.child.appendText(b)
		}
	}
}
