package netdef

import (
	"strings"
	"testing"
	"time"
)

// The layout of these errors is libvirt's; the words are libxml's where they
// are more than encoding/xml's.
func TestNotWellFormed(t *testing.T) {
	for _, c := range []refusal{
		{"", ErrXMLDetail, "(network_definition):1: Document is empty\n(null)\n^"},
		{"<network", ErrXMLDetail, "(network_definition):1: Couldn't find end of Start Tag network line 1\n<network\n--------^"},
		{"junk", ErrXMLDetail, "(network_definition):1: Start tag expected, '<' not found\njunk\n---^"},
		{"<network><name>x</name>\n<foo></network>", ErrXMLDetail,
			"(network_definition):2: Opening and ending tag mismatch: foo line 2 and network\n<foo></network>\n--------------^"},
		{"<network><name>x</name>", ErrXMLDetail,
			"(network_definition):1: Premature end of data in tag network line 1\n<network><name>x</name>\n-----------------------^"},
		{"<network><name>x</name></network><b/>", ErrXMLDetail,
			"(network_definition):1: Extra content at the end of the document\n<network><name>x</name></network><b/>\n------------------------------------^"},
		{"<network><name>x</name></network>b", ErrXMLDetail,
			"(network_definition):1: Extra content at the end of the document\n<network><name>x</name></network>b\n---------------------------------^"},
		{"</network>", ErrXMLDetail, "(network_definition):1: Extra content at the end of the document\n</network>\n---------^"},
		{"<network a='1' a='2'/>", ErrXMLDetail, "(network_definition):1: Attribute a redefined\n<network a='1' a='2'/>\n---------------------^"},
		{"<network><name>x&foo;</name></network>", ErrXMLDetail,
			"(network_definition):1: invalid character entity &foo;\n<network><name>x&foo;</name></network>\n--------------------^"},
		{"<network><name>a\x01b</name></network>", ErrXMLDetail,
			"(network_definition):1: illegal character code U+0001\n<network><name>a b</name></network>\n-----------------^"},
		// An entity that the document itself defines is not expanded either.
		{"<!DOCTYPE network [<!ENTITY e 'boo'>]>\n<network><name>x&e;</name></network>", ErrXMLDetail,
			"(network_definition):2: invalid character entity &e;\n<network><name>x&e;</name></network>\n------------------^"},
		{"<?xml version='1.0' encoding='UTF-7'?><network/>", ErrXMLDetail,
			"(network_definition):1: encoding \"UTF-7\" declared but Decoder.CharsetReader is nil\n" +
				"<?xml version='1.0' encoding='UTF-7'?><network/>\n-------------------------------------^"},
	} {
		_, err := Parse([]byte(c.doc))
		if e := checkRefusal(t, err, c); !strings.HasPrefix(e.Where, "line ") {
			t.Errorf("%q: place is %q", c.doc, e.Where)
		}
	}
}

func TestDocumentLimits(t *testing.T) {
	nested := func(depth int) string {
		return "<network><name>n</name>" + strings.Repeat("<a>", depth-1) + strings.Repeat("</a>", depth-1) + "</network>"
	}
	siblings := func(count int) string {
		return "<network><name>n</name>" + strings.Repeat("<a/>", count-2) + "</network>"
	}
	attributes := func(count int) string {
		var b strings.Builder
		for i := range count {
			b.WriteString(" a" + strings.Repeat("x", i) + "='1'")
		}
		return "<network" + b.String() + "><name>n</name></network>"
	}
	padded := func(size int) string {
		doc := "<network><name>n</name></network>"
		return doc + strings.Repeat("\n", size-len(doc))
	}
	for _, c := range []struct {
		name string
		doc  func(int) string
		most int
		text string
	}{
		{"size", padded, maxDocument, "is too large"},
		{"depth", nested, maxDepth, "Excessive depth in document: 256"},
		{"elements", siblings, maxElements, "More than 200000 elements"},
		{"attributes", attributes, maxAttrs, "More than 256 attributes in element network"},
	} {
		if _, err := Parse([]byte(c.doc(c.most))); err != nil {
			t.Errorf("%s at the limit: %v", c.name, err)
		}
		_, err := Parse([]byte(c.doc(c.most + 1)))
		if CodeOf(err) != ErrXMLDetail || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s above the limit: got %v, want %q", c.name, err, c.text)
		}
	}
}

// Lists that are compared item by item are short enough for that, and long
// ones take no more than linear time.
func TestListLimits(t *testing.T) {
	_, err := Parse([]byte(net(strings.Repeat("<ip address='10.0.0.1'/>", 257))))
	e := checkRefusal(t, err, refusal{"257 addresses", ErrXML, "more than 256 <ip> elements in network 'n'"})
	if e.Where != "line 1, <ip>" {
		t.Errorf("got place %q", e.Where)
	}
	pieces := "<title>" + strings.Repeat("<![CDATA[x]]>", 300_000) + "</title>"
	start := time.Now()
	n, err := Parse([]byte(net(pieces)))
	if err != nil || len(n.Title) != 300_000 {
		t.Errorf("text in pieces: %v", err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("text in pieces took %v", took)
	}
}

// Whoever shows an error to a person can say where it is.
func TestErrorPlace(t *testing.T) {
	doc := `<?xml version='1.0'?>
<!-- two
     lines -->
<network>
  <name>n</name>
  <ip address='192.168.5.1'
      netmask='255.255.255.0'>
    <dhcp>
      <range start='192.168.5.2' end='192.168.5.9'/>
      <range start='192.168.6.2' end='192.168.6.9'/>
    </dhcp>
  </ip>
</network>
`
	_, err := Parse([]byte(doc))
	e := checkRefusal(t, err, refusal{doc, ErrInternal, "range 192.168.6.2 - 192.168.6.9 is not entirely within network 192.168.5.1/24"})
	if want := "line 10, <range>"; e.Where != want {
		t.Errorf("got place %q, want %q", e.Where, want)
	}
}

// What libvirt and editors put before the document does no harm.
func TestProlog(t *testing.T) {
	n, err := Parse([]byte("\xef\xbb\xbf<?xml version='1.0' encoding='UTF-8'?>\n<!--\nWARNING: DO NOT EDIT\n-->\n" +
		"<!DOCTYPE network>\n" + net("") + "\n<!-- end -->\n"))
	if err != nil || n.Name != "n" {
		t.Errorf("got %v, %v", n, err)
	}
}

func TestBlanks(t *testing.T) {
	n, err := Parse([]byte("<network><name>n</name><uuid>\n 81FF0D90C91E674264DA4A736EDB9A9B\n</uuid>" +
		"<bridge name='a\n\tb'/><dns><host ip='10.0.0.1'><hostname>\n  h\n</hostname></host></dns></network>"))
	if err != nil {
		t.Fatal(err)
	}
	if n.Bridge.Name != "a  b" || n.DNS.Hosts[0].Hostnames[0] != "h" || n.UUID.String() != "81ff0d90-c91e-6742-64da-4a736edb9a9b" {
		t.Errorf("got bridge %q, hostname %q, uuid %s", n.Bridge.Name, n.DNS.Hosts[0].Hostnames[0], n.UUID)
	}
}

// TestBlankReferences: an end of line between quotes is a space (XML 1.0 section
// 3.3.3), but one that is written as a number is meant, and refused.
func TestBlankReferences(t *testing.T) {
	n, err := Parse([]byte("<network><name>n</name><dns><txt name='a' value='b\nc'/></dns></network>"))
	if err != nil || n.DNS.TXTs[0].Value != "b c" {
		t.Errorf("%v, %v; want a space", n, err)
	}
	for _, reference := range []string{"&#10;", "&#x0A;", "&#xd;", "&#9;"} {
		if _, err := Parse([]byte("<network><name>n</name><dns><txt name='a' value='b" + reference + "c'/></dns></network>")); err == nil {
			t.Errorf("%s was taken", reference)
		}
	}
}
