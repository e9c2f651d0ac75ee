package netdef

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// set is a network's own settings.
func set(inner string) string {
	return "<metadata><v:settings xmlns:v='urn:viaduct:settings:1'>" + inner + "</v:settings></metadata>"
}

// Rules about more than one element, and about what commands hand over.
func TestRefusesTogether(t *testing.T) {
	for _, c := range []refusal{
		{net("<forward mode='bridge'/><bridge name='b'/>" + set("<v:ports layout='routed'/>")),
			ErrConfigUnsupported, `the ports of network 'n' cannot be routed with forward mode 'bridge'`},
		{withIP(set("<v:ports layout='routed'/>")),
			ErrConfigUnsupported, `<ip> in network 'n' has no meaning, since its ports are routed: each has a gateway of its own`},
		{net("<forward mode='route'/>" + set("<v:ports layout='routed'/><v:answer dev='e'/>")),
			ErrConfigUnsupported, `<answer> in network 'n' has no meaning, since its ports are routed: each says where it is answered for`},
		{net(set("<v:answer dev='e'/>")),
			ErrConfigUnsupported, `the host cannot answer for guests of network 'n': it forwards nothing to them`},
		{withIP("<forward mode='route' dev='e'/>" + set("<v:answer dev='f'/>")),
			ErrConfigUnsupported, `the host cannot answer on 'f' for guests of network 'n', which is forwarded by 'e' alone`},
		{withIP(set("<v:answer/>")),
			ErrXML, `missing attribute 'dev' of element 'v:answer' in network 'n'`},
		{withIP(set("<v:star/>")),
			ErrConfigUnsupported, `unknown element <v:star> in the settings of network 'n'`},
		{withIP(set(strings.Repeat("<v:exempt source='10.0.0.0/8'/>", 257))),
			ErrXML, `more than 256 <exempt> elements in network 'n'`},
	} {
		n, err := Parse([]byte(c.doc))
		if err != nil {
			t.Fatal(err)
		}
		checkRefusal(t, n.Validate(), c)
	}
	n := &Network{Name: "n"}
	update := func(parent int) error {
		_, err := n.Update(UpdateAddLast, SectionIPDHCPHost, parent, []byte("<host name='h' ip='10.0.0.1'/>"))
		return err
	}
	metadata := func(kind MetadataType, value, key, uri string) error {
		_, err := n.WithMetadata(kind, value, key, uri)
		return err
	}
	_, command := ParseUpdateCommand("x")
	_, section := ParseSection("x")
	_, missing := n.MetadataOf(MetadataElement, "urn:x")
	_, numbers := ParseRate("1,2,3,4,5")
	_, number := ParseRate("1,x")
	for _, c := range []struct {
		err error
		refusal
	}{
		{command, refusal{"command", ErrInvalidArg, "unrecognized command name 'x'"}},
		{section, refusal{"section", ErrInvalidArg, "unrecognized section name 'x'"}},
		{update(-1), refusal{"no address", ErrOperationInvalid, "couldn't update dhcp host entry - no <ip> element found in network 'n'"}},
		{update(3), refusal{"no such address", ErrOperationInvalid, "couldn't update dhcp host entry - no <ip> element found at index 3 in network 'n'"}},
		{missing, refusal{"no metadata", ErrNoNetworkMetadata, "Requested metadata element is not present"}},
		{metadata(MetadataTitle, "a\nb", "", ""), refusal{"title", ErrInvalidArg, "metadata title can't contain newlines"}},
		{metadata(9, "a", "", ""), refusal{"kind", ErrInvalidArg, "unknown metadata type '9'"}},
		{metadata(MetadataElement, "<a/>", "k", ""), refusal{"uri", ErrInvalidArg, "uri in virNetworkSetMetadata must not be NULL"}},
		{metadata(MetadataElement, "<a/>", "", "urn:x"), refusal{"key", ErrInvalidArg, "key in virNetworkSetMetadata must not be NULL"}},
		{metadata(MetadataElement, "<a/>", "1", "urn:x"), refusal{"prefix", ErrInternal, "failed to validate prefix for a new XML namespace"}},
		{metadata(MetadataElement, "<a xmlns:k='urn:y'/>", "k", "urn:x"), refusal{"twice", ErrInternal, "failed to create a new XML namespace"}},
		{numbers, refusal{"rate", ErrInvalidArg, "'1,2,3,4,5' is no rate: it has up to four numbers, 'average,peak,burst,floor'"}},
		{number, refusal{"rate", ErrInvalidArg, "'1,x' is no rate: 'x' is not a number from 0 to 4294967295"}},
	} {
		checkRefusal(t, c.err, c.refusal)
	}
}

// ruleFiles are those whose errors say what a definition, an update or a port may not be.
var ruleFiles = regexp.MustCompile(`^(parse.*|validate|reader|update|port|rate|subnet|metadata)\.go$`)

// Every rule has a case that breaks it: of each error text some test says the
// longest part that is no value.
func TestEveryRuleIsBroken(t *testing.T) {
	paths, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	rules := map[string]string{} // where by what is looked for
	var said strings.Builder
	for _, path := range paths {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		test := strings.HasSuffix(path, "_test.go")
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.BasicLit:
				if text, err := strconv.Unquote(n.Value); test && err == nil {
					said.WriteString(text + "\n")
				}
			case *ast.CallExpr:
				if format := formatOf(n); !test && ruleFiles.MatchString(path) && format != "" {
					rules[longestPart(format)] = path + ": " + format
				}
			}
			return true
		})
	}
	if len(rules) < 100 {
		t.Fatalf("only %d rules found", len(rules))
	}
	for part, rule := range rules {
		if !strings.Contains(said.String(), part) {
			t.Errorf("no test breaks %s", rule)
		}
	}
}

// formatOf is the text of a call that makes an error, "" for other calls.
func formatOf(call *ast.CallExpr) string {
	name := ""
	switch f := call.Fun.(type) {
	case *ast.SelectorExpr:
		name = f.Sel.Name
	case *ast.Ident:
		name = f.Name
	}
	at, makes := map[string]int{"refuse": 3, "fail": 2, "Errorf": 1}[name]
	if !makes || len(call.Args) <= at {
		return ""
	}
	return literal(call.Args[at])
}

// literal is the value of a string that is written out, joined with + or not.
func literal(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		text, _ := strconv.Unquote(e.Value)
		return text
	case *ast.BinaryExpr:
		return literal(e.X) + literal(e.Y)
	}
	return ""
}

var verbs = regexp.MustCompile(`%[0-9]*[a-z]`)

// longestPart is the longest part of a format between its values.
func longestPart(format string) string {
	return slices.MaxFunc(verbs.Split(format, -1), func(a, b string) int { return len(a) - len(b) })
}
