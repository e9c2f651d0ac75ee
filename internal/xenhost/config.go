package xenhost

import (
	"fmt"
	"strings"
	"unicode"
)

// Guest is what a domain's configuration says of it (xl.cfg(5)).
type Guest struct {
	Name string
	UUID string
	Vifs []string // the lines of vif = [ ... ]
}

// maxConfig bounds a file that is read, in bytes.
const maxConfig = 1 << 20

// ParseGuest reads a domain's configuration: settings, whose values are numbers,
// texts in quotes or lists of these. What is not understood is passed over with
// the rest of its line and named.
func ParseGuest(text string) (Guest, []string) {
	var g Guest
	var odd []string
	p := &configText{rest: text, line: 1}
	for p.blank(true); p.rest != ""; p.blank(true) {
		line := p.line
		key := p.word()
		p.blank(false)
		if key == "" || !p.take("=") {
			odd = append(odd, fmt.Sprintf("line %d is no setting", line))
			p.skipLine()
			continue
		}
		p.blank(false)
		values, ok := p.value()
		if !ok {
			odd = append(odd, fmt.Sprintf("line %d: the value of %s cannot be read", line, key))
			p.skipLine()
			continue
		}
		first := ""
		if len(values) > 0 {
			first = values[0]
		}
		switch key {
		case "name":
			g.Name = first
		case "uuid":
			g.UUID = first
		case "vif":
			g.Vifs = values
		}
	}
	return g, odd
}

// configText is a configuration being read.
type configText struct {
	rest string
	line int
}

// blank passes over blanks and comments, and where lines does not matter over
// ends of lines and semicolons too.
func (p *configText) blank(lines bool) {
	for p.rest != "" {
		switch c := p.rest[0]; {
		case c == '#':
			end := strings.IndexByte(p.rest, '\n')
			if end < 0 {
				end = len(p.rest)
			}
			p.rest = p.rest[end:]
		case c == '\n' && lines:
			p.line++
			p.rest = p.rest[1:]
		case c == ' ', c == '\t', c == '\r', c == ';' && lines:
			p.rest = p.rest[1:]
		case strings.HasPrefix(p.rest, "\\\n"):
			p.line++
			p.rest = p.rest[2:]
		default:
			return
		}
	}
}

func (p *configText) take(what string) bool {
	rest, ok := strings.CutPrefix(p.rest, what)
	p.rest = rest
	return ok
}

func (p *configText) word() string {
	end := strings.IndexFunc(p.rest, func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '_' && r != '.' && r != '-'
	})
	if end < 0 {
		end = len(p.rest)
	}
	word := p.rest[:end]
	p.rest = p.rest[end:]
	return word
}

func (p *configText) skipLine() {
	end := strings.IndexByte(p.rest, '\n')
	if end < 0 {
		end = len(p.rest)
	}
	p.rest = p.rest[end:]
}

// value reads a text, a number or a list.
func (p *configText) value() ([]string, bool) {
	if !p.take("[") {
		v, ok := p.scalar()
		return []string{v}, ok
	}
	values := []string{}
	for {
		p.blank(true)
		if p.take("]") {
			return values, true
		}
		v, ok := p.scalar()
		if !ok {
			return nil, false
		}
		values = append(values, v)
		p.blank(true)
		if !p.take(",") && !strings.HasPrefix(p.rest, "]") {
			return nil, false
		}
	}
}

func (p *configText) scalar() (string, bool) {
	for _, quote := range []string{`"""`, `"`, `'`} {
		if !p.take(quote) {
			continue
		}
		inside, after, closed := strings.Cut(p.rest, quote)
		if !closed {
			return "", false
		}
		p.line += strings.Count(inside, "\n")
		p.rest = after
		return inside, true
	}
	word := p.word()
	return word, word != ""
}

// XendConfig are the settings of xend that are about networks, from
// xend-config.sxp: the name of a script and what it is called with.
type XendConfig struct {
	Network, Vif Call
}

// Call is a script's name and its variables.
type Call struct {
	Script string
	Args   map[string]string
}

// ParseXend reads an xend-config.sxp.
func ParseXend(text string) XendConfig {
	var c XendConfig
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		line = strings.TrimSpace(line)
		inside, ok := strings.CutPrefix(line, "(")
		if !ok {
			continue
		}
		inside = strings.TrimRight(inside, ") \t")
		key, value, _ := strings.Cut(inside, " ")
		words := strings.FieldsFunc(value, func(r rune) bool { return unicode.IsSpace(r) || r == '\'' || r == '"' })
		if len(words) == 0 {
			continue
		}
		call := Call{Script: words[0][strings.LastIndexByte(words[0], '/')+1:], Args: map[string]string{}}
		for _, w := range words[1:] {
			if k, v, ok := strings.Cut(w, "="); ok {
				call.Args[k] = v
			}
		}
		switch key {
		case "network-script":
			c.Network = call
		case "vif-script":
			c.Vif = call
		}
	}
	return c
}

// Bridge is a bridge that Debian's /etc/network/interfaces describes.
type Bridge struct {
	Name  string
	Ports []string // links in it; none if it is the guests' alone
}

// ParseInterfaces reads bridges from a file of ifupdown's (interfaces(5),
// bridge-utils-interfaces(5)), and the names of files that it takes in.
func ParseInterfaces(text string) (bridges []Bridge, sources []string) {
	text = strings.ReplaceAll(text, "\\\n", " ")
	name := ""
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 2 || strings.HasPrefix(words[0], "#") {
			continue
		}
		switch words[0] {
		case "iface":
			name = words[1]
		case "auto", "allow-hotplug", "allow-auto", "mapping", "rename":
			name = ""
		case "source", "source-directory":
			sources = append(sources, words[1])
		case "bridge_ports", "bridge-ports":
			if name == "" {
				continue
			}
			b := Bridge{Name: name}
			for _, port := range words[1:] {
				switch port {
				case "none", "regex", "all":
				default:
					b.Ports = append(b.Ports, port)
				}
			}
			bridges = append(bridges, b)
			name = "" // a second family of the same bridge says it again
		}
	}
	seen := map[string]bool{}
	kept := bridges[:0]
	for _, b := range bridges {
		if !seen[b.Name] {
			kept = append(kept, b)
		}
		seen[b.Name] = true
	}
	return kept, sources
}
