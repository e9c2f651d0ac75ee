package uplink

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// yamlValue is what a YAML file says, with the lines in which its block mappings
// stand, so that a line can be moved and all others stay as they are.
type yamlValue struct {
	entries []yamlEntry // of a mapping
	items   []yamlValue // of a list
	text    string      // of a scalar
	kind    yamlKind
	flow    bool // written in braces or brackets
	quoted  bool // a scalar in quotes, which makes no number of its digits
}

type yamlKind int

const (
	yamlNull yamlKind = iota
	yamlScalar
	yamlMapping
	yamlList
)

// yamlEntry is a key of a mapping with its value. Lines count from 0; in flow
// style they mean nothing.
type yamlEntry struct {
	key    string
	quoted bool
	line   int
	end    int // the line after its last, without comments and empty lines
	indent int
	value  yamlValue
}

// maxYAML is the longest file that is parsed, in bytes: the depth of what is in
// it has no other bound, and the library's time grows with the square of it.
const maxYAML = 16 << 10

// parseYAML reads a file of one document.
func parseYAML(content string) (doc yamlValue, err error) {
	// The library is given what people write by hand, and what it cannot do
	// with that must not end the daemon.
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("parse YAML: %v", r)
		}
	}()
	if len(content) > maxYAML {
		return doc, fmt.Errorf("parse YAML: longer than %d bytes", maxYAML)
	}
	if at := strings.IndexFunc(strings.ReplaceAll(content, "\r\n", "\n"), isYAMLOdd); at >= 0 {
		return doc, fmt.Errorf("parse YAML: line %d: a character that is not printed, or lines that end in carriage returns alone", 1+strings.Count(content[:at], "\n"))
	}
	file, err := parser.ParseBytes([]byte(content), 0)
	if err != nil {
		first, _, _ := strings.Cut(err.Error(), "\n")
		return doc, fmt.Errorf("parse YAML: %s", first)
	}
	for _, d := range file.Docs {
		if d.Body == nil {
			continue
		}
		if doc.kind != yamlNull {
			return doc, errors.New("parse YAML: more than one document")
		}
		if doc, err = yamlOf(d.Body); err != nil {
			return doc, err
		}
	}
	lines := strings.Split(content, "\n")
	return doc, doc.close(lines, len(lines))
}

// yamlOf translates the library's tree.
func yamlOf(n ast.Node) (yamlValue, error) {
	switch n := n.(type) {
	case nil, *ast.NullNode:
		return yamlValue{}, nil
	case *ast.MappingValueNode:
		e, err := yamlEntryOf(n)
		return yamlValue{kind: yamlMapping, entries: []yamlEntry{e}}, err
	case *ast.MappingNode:
		v := yamlValue{kind: yamlMapping, flow: n.IsFlowStyle}
		for _, pair := range n.Values {
			e, err := yamlEntryOf(pair)
			if err != nil {
				return v, err
			}
			if v.child(e.key) != nil {
				return v, fmt.Errorf("parse YAML: line %d: key %q is there twice", e.line+1, e.key)
			}
			v.entries = append(v.entries, e)
		}
		return v, nil
	case *ast.SequenceNode:
		v := yamlValue{kind: yamlList, flow: n.IsFlowStyle}
		for _, item := range n.Values {
			one, err := yamlOf(item)
			if err != nil {
				return v, err
			}
			v.items = append(v.items, one)
		}
		return v, nil
	case *ast.LiteralNode:
		return yamlValue{kind: yamlScalar, text: n.Value.Value, quoted: true}, nil
	case *ast.StringNode:
		return yamlValue{kind: yamlScalar, text: n.Value, quoted: n.Token.Type != token.StringType || !yamlBare().MatchString(n.Value)}, nil
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return yamlValue{kind: yamlScalar, text: n.GetToken().Value}, nil
	}
	return yamlValue{}, fmt.Errorf("parse YAML: line %d: an anchor, an alias or a tag, which is not understood", n.GetToken().Position.Line)
}

// isYAMLOdd reports whether readers may differ about a character, such as about
// where it ends a line.
func isYAMLOdd(r rune) bool {
	return r == utf8.RuneError || r != '\n' && r != '\t' && !unicode.IsPrint(r)
}

// decodeYAML reads a file as programs do: values have types, and how they are
// written is lost.
func decodeYAML(content string) (tree map[string]any, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("decode YAML: %v", r)
		}
	}()
	return tree, yaml.Unmarshal([]byte(content), &tree)
}

func yamlEntryOf(n *ast.MappingValueNode) (yamlEntry, error) {
	key, err := yamlOf(n.Key)
	at := n.Key.GetToken().Position
	// What another reader may take for a number or for nothing is no name of
	// anything in netplan.
	if _, word := n.Key.(*ast.StringNode); err == nil && !word {
		err = fmt.Errorf("parse YAML: line %d: a key that is no word", at.Line)
	}
	if err != nil {
		return yamlEntry{}, err
	}
	value, err := yamlOf(n.Value)
	return yamlEntry{key: key.text, quoted: key.quoted, line: at.Line - 1, indent: at.Column - 1, value: value}, err
}

// close finds where the entries of block mappings end.
func (v *yamlValue) close(lines []string, end int) error {
	if v.flow {
		return nil
	}
	for i := range v.entries {
		e := &v.entries[i]
		e.end = end
		if i+1 < len(v.entries) {
			e.end = v.entries[i+1].line
		}
		if e.line < 0 || e.line >= e.end || e.end > len(lines) {
			return fmt.Errorf("parse YAML: line %d: entries that do not follow each other", e.line+1)
		}
		for e.end > e.line+1 && isYAMLBlank(lines[e.end-1]) {
			e.end--
		}
		if err := e.value.close(lines, e.end); err != nil {
			return err
		}
	}
	return nil
}

// isYAMLBlank reports whether a line says nothing.
func isYAMLBlank(line string) bool {
	line = strings.TrimSpace(line)
	return line == "" || line == "..." || strings.HasPrefix(line, "#")
}

// child is the entry of a key; nil if there is none.
func (v yamlValue) child(key string) *yamlEntry {
	for i := range v.entries {
		if v.entries[i].key == key {
			return &v.entries[i]
		}
	}
	return nil
}

// meaning is what is said, however it is written: maps, slices, strings and nil.
func (v yamlValue) meaning() any {
	switch v.kind {
	case yamlNull:
		return nil
	case yamlMapping:
		m := map[string]any{}
		for _, e := range v.entries {
			m[e.key] = e.value.meaning()
		}
		return m
	case yamlList:
		list := []any{}
		for _, item := range v.items {
			list = append(list, item.meaning())
		}
		return list
	}
	return v.text
}

// parsedYAML is the meaning of a file.
func parsedYAML(content string) (map[string]any, error) {
	doc, err := parseYAML(content)
	tree, _ := doc.meaning().(map[string]any)
	return tree, err
}

var yamlBare = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._/:-]*[A-Za-z0-9])?$`) })

// inFlow is the value on one line.
func (v yamlValue) inFlow() string {
	var parts []string
	switch v.kind {
	case yamlNull:
		return "null"
	case yamlMapping:
		for _, e := range v.entries {
			parts = append(parts, e.name()+": "+e.value.inFlow())
		}
		return "{" + strings.Join(parts, ", ") + "}"
	case yamlList:
		for _, item := range v.items {
			parts = append(parts, item.inFlow())
		}
		return "[" + strings.Join(parts, ", ") + "]"
	}
	if !v.quoted {
		return v.text
	}
	b, _ := json.Marshal(v.text) // JSON's strings are YAML's, and a string always can be one
	return string(b)
}

// name is the key as it is written on one line.
func (e yamlEntry) name() string {
	return yamlValue{kind: yamlScalar, text: e.key, quoted: e.quoted}.inFlow()
}
