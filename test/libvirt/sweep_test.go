package libvirt

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"viaduct/internal/libvirtrpc/rpctest"
	"viaduct/internal/libvirtrpc/xdr"
)

// tree is an XML element that is changed in one place at a time.
type tree struct {
	name  string
	attrs []xml.Attr
	text  string
	kids  []*tree
}

func parseTree(text string) *tree {
	d := xml.NewDecoder(strings.NewReader(text))
	top := &tree{}
	stack := []*tree{top}
	for {
		token, err := d.RawToken()
		if err == io.EOF {
			return top.kids[0]
		}
		if err != nil {
			panic(err)
		}
		open := stack[len(stack)-1]
		switch token := token.(type) {
		case xml.StartElement:
			e := &tree{name: rawName(token.Name), attrs: token.Copy().Attr}
			open.kids = append(open.kids, e)
			stack = append(stack, e)
		case xml.EndElement:
			stack = stack[:len(stack)-1]
		case xml.CharData:
			open.text += strings.TrimSpace(string(token))
		}
	}
}

func rawName(n xml.Name) string {
	if n.Space == "" {
		return n.Local
	}
	return n.Space + ":" + n.Local
}

func (e *tree) write(b *strings.Builder) {
	b.WriteString("<" + e.name)
	for _, a := range e.attrs {
		fmt.Fprintf(b, " %s='%s'", rawName(a.Name), escape.Replace(a.Value))
	}
	b.WriteString(">" + escape.Replace(e.text))
	for _, k := range e.kids {
		k.write(b)
	}
	b.WriteString("</" + e.name + ">")
}

var escape = strings.NewReplacer("&", "&amp;", "<", "&lt;", "'", "&apos;", "\n", "&#10;", "\t", "&#9;")

func (e *tree) String() string {
	var b strings.Builder
	e.write(&b)
	return b.String()
}

func (e *tree) walk(path string, visit func(path string, e, parent *tree, i int)) {
	for i, k := range e.kids {
		p := path + "/" + k.name
		visit(p, k, e, i)
		k.walk(p, visit)
	}
}

// question is something that both servers are asked, and what is said about it
// when they do not agree.
type question struct {
	what string
	ask  func(t *testing.T, c *rpctest.Client) string
}

type mutation struct{ what, xml string }

// mutations are definitions that differ from one in a single place: every
// attribute has each odd value once, and is left out; every element is empty,
// there twice, somewhere else and missing.
func mutations(base string) []mutation {
	root := parseTree(base)
	list := []mutation{{"as it is", root.String()}}
	add := func(format string, args ...any) {
		list = append(list, mutation{fmt.Sprintf(format, args...), root.String()})
	}
	top := &tree{kids: []*tree{root}}
	top.walk("", func(path string, e, parent *tree, i int) {
		for j := range e.attrs {
			name, was := rawName(e.attrs[j].Name), e.attrs[j].Value
			for _, v := range odd {
				e.attrs[j].Value = v
				add("%s@%s=%q", path, name, v)
			}
			e.attrs[j].Value = was
			kept := e.attrs
			e.attrs = append(append([]xml.Attr{}, kept[:j]...), kept[j+1:]...)
			add("%s without %s", path, name)
			e.attrs = kept
		}
		if len(e.kids) == 0 {
			was := e.text
			for _, v := range odd {
				e.text = v
				add("%s says %q", path, v)
			}
			e.text = was
		}
		if parent == top {
			return
		}
		kids := parent.kids
		parent.kids = append(append([]*tree{}, kids[:i]...), kids[i+1:]...)
		add("without %s", path)
		parent.kids = append(append(append([]*tree{}, kids[:i]...), e), kids[i:]...)
		add("%s twice", path)
		parent.kids = append(append([]*tree{}, kids[:i]...), kids[i+1:]...)
		parent.kids = append(parent.kids, e)
		add("%s last", path)
		parent.kids = kids
		attrs, inner, text := e.attrs, e.kids, e.text
		e.attrs, e.kids, e.text = nil, nil, ""
		add("%s empty", path)
		e.attrs, e.kids, e.text = attrs, inner, text
	})
	return list
}

// dial is a connection to a server's socket.
func (s *server) dial() *rpctest.Client {
	s.t.Helper()
	path := socket
	if s.daemon == nil {
		path = "/run/libvirt/libvirt-sock"
	}
	var c *rpctest.Client
	s.must(s.host.Do(func() (err error) {
		c, err = rpctest.Dial(path)
		return err
	}))
	s.must(c.Open(uri, 0))
	s.t.Cleanup(c.Close)
	return c
}

// answer is what a failed call says.
func answer(t *testing.T, err error) string {
	var f *rpctest.Failure
	if !errors.As(err, &f) {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d/%d: %s", f.Code, f.Domain, f.Message)
}

// call makes a call, and says what went wrong.
func call(t *testing.T, c *rpctest.Client, procedure uint32, args func(*xdr.Encoder)) (*xdr.Decoder, string) {
	d, err := c.Call(procedure, args)
	if err != nil {
		return nil, answer(t, err)
	}
	return d, ""
}

// The procedures of libvirt's protocol that are called here.
const (
	procDefine   = 41
	procCreate   = 40
	procDestroy  = 42
	procXML      = 43
	procLookup   = 46
	procUndefine = 49
	procUpdate   = 291
	procNewPort  = 406
	procPortXML  = 409
	procEndPort  = 410
)

// made makes a network and returns what names it in calls.
func made(t *testing.T, c *rpctest.Client, procedure uint32, definition string) (name func(*xdr.Encoder), failure string) {
	d, failure := call(t, c, procedure, func(e *xdr.Encoder) { e.String(definition) })
	if failure != "" {
		return nil, failure
	}
	n, id := d.String(), d.UUID()
	return func(e *xdr.Encoder) { e.String(n); e.UUID(id) }, ""
}

// defining asks what a network is once it is defined, and after what is done to it.
func defining(what, definition string, change func(t *testing.T, c *rpctest.Client, name func(*xdr.Encoder)) string) question {
	return question{what, func(t *testing.T, c *rpctest.Client) string {
		name, failure := made(t, c, procDefine, definition)
		if failure != "" {
			return failure
		}
		defer func() {
			if _, failure := call(t, c, procUndefine, name); failure != "" {
				t.Errorf("%s: undefine: %s", what, failure)
			}
		}()
		if change != nil {
			if failure := change(t, c, name); failure != "" {
				return failure
			}
		}
		d, failure := call(t, c, procXML, func(e *xdr.Encoder) { name(e); e.Uint32(1) })
		if failure != "" {
			return failure
		}
		return d.String()
	}}
}

func definitionQuestions() []question {
	var list []question
	for kind, base := range bases {
		for _, m := range mutations(base) {
			list = append(list, defining(kind+": "+m.what, m.xml, nil))
		}
	}
	for _, definition := range strings.Split(strings.TrimSpace(definitions), "\n") {
		if !strings.HasPrefix(definition, "<network") {
			definition = in(definition)
		}
		list = append(list, defining(definition, definition, nil))
	}
	for _, a := range breakages {
		for _, b := range breakages {
			list = append(list, defining(a+b, in(a+b), nil))
		}
	}
	return list
}

func updateQuestions() []question {
	var list []question
	for section, some := range pieces {
		for _, piece := range some {
			for _, command := range []int32{-1, 0, 1, 2, 3, 4, 5} {
				for _, parent := range []int32{-2, -1, 0, 1, 2, 4} {
					if section != 4 && section != 5 && parent != -1 {
						continue // only these are parts of an <ip>
					}
					for _, base := range []string{updatable, pool, "<network><name>u</name></network>"} {
						if parent != -1 && base != updatable {
							continue
						}
						what := fmt.Sprintf("update: command %d section %d parent %d %s", command, section, parent, piece)
						list = append(list, defining(what, base, func(t *testing.T, c *rpctest.Client, name func(*xdr.Encoder)) string {
							_, failure := call(t, c, procUpdate, func(e *xdr.Encoder) {
								name(e)
								e.Uint32(uint32(command))
								e.Uint32(uint32(section))
								e.Int32(parent)
								e.String(piece)
								e.Uint32(2) // the definition
							})
							return failure
						}))
					}
				}
			}
		}
	}
	return list
}

// portQuestion asks what a port of a network is that is active.
func portQuestion(what string, network int, port string, flags uint32) question {
	return question{what, func(t *testing.T, c *rpctest.Client) string {
		_, name, _ := strings.Cut(portNetworks[network], "<name>")
		name, _, _ = strings.Cut(name, "<")
		d, failure := call(t, c, procLookup, func(e *xdr.Encoder) { e.String(name) })
		if failure != "" {
			return failure
		}
		_, id := d.String(), d.UUID()
		in := func(e *xdr.Encoder) { e.String(name); e.UUID(id) }
		d, failure = call(t, c, procNewPort, func(e *xdr.Encoder) { in(e); e.String(port); e.Uint32(flags) })
		if failure != "" {
			return failure
		}
		_, _, portID := d.String(), d.UUID(), d.UUID()
		that := func(e *xdr.Encoder) { in(e); e.UUID(portID); e.Uint32(0) }
		d, said := call(t, c, procPortXML, that)
		if said == "" {
			said = d.String()
		}
		if _, failure := call(t, c, procEndPort, that); failure != "" {
			t.Errorf("%s: delete port: %s", what, failure)
		}
		return said
	}}
}

func portQuestions() []question {
	var list []question
	for network := range portNetworks {
		for _, inner := range portKinds {
			for _, flags := range []uint32{0, 1} { // a new one, and one that was there before
				what := fmt.Sprintf("port in network %d, flags %d: %s", network, flags, inner)
				list = append(list, portQuestion(what, network, fmt.Sprintf(portBase, inner), flags))
			}
		}
	}
	for _, m := range mutations(fmt.Sprintf(portBase, portKinds[0])) {
		list = append(list, portQuestion("port: "+m.what, 0, m.xml, 0))
	}
	return list
}

// Whatever is wrong or odd in a definition, an update or a port, libvirtd and
// Viaduct give the same answer: error, part of libvirt, words, or the definition
// as it is kept. Where they do not, known says why.
func TestSweep(t *testing.T) {
	theirs, ours := newTheirs(t), newOurs(t)
	them, us := theirs.dial(), ours.dial()
	for _, n := range portNetworks {
		for _, c := range []*rpctest.Client{them, us} {
			if _, failure := made(t, c, procCreate, n); failure != "" {
				t.Fatal(failure)
			}
		}
	}
	began, differ, failed := time.Now(), 0, 0
	used := map[string]bool{}
	questions := slices.Concat(definitionQuestions(), updateQuestions(), portQuestions())
	for _, q := range questions {
		want, got := hide(q.ask(t, them)), hide(q.ask(t, us))
		if want == got {
			continue
		}
		differ++
		i := slices.IndexFunc(known, func(d difference) bool {
			return d.what.MatchString(q.what) && d.theirs.MatchString(want) && d.ours.MatchString(got)
		})
		if i >= 0 {
			used[known[i].why] = true
			continue
		}
		if failed++; failed <= 50 {
			t.Errorf("%s\n libvirt: %s\n viaduct: %s", q.what, want, got)
		}
	}
	for _, d := range known {
		if !used[d.why] && failed == 0 {
			t.Errorf("nothing differs any more because %s", d.why)
		}
	}
	t.Logf("%d questions, %d differ, %d of them without a reason, %s", len(questions), differ, failed, time.Since(began))
}

// difference is a reason why answers differ: what is asked, and what both
// answer.
type difference struct {
	why                string
	what, theirs, ours *regexp.Regexp
}

func because(why, what, theirs, ours string) difference {
	// Answers have several lines.
	return difference{why, regexp.MustCompile("(?s)" + what), regexp.MustCompile("(?s)" + theirs), regexp.MustCompile("(?s)" + ours)}
}
