package uplink

import (
	"slices"
	"strings"
)

// section is a part of a file as systemd and NetworkManager write them: a head
// in brackets and lines of key=value. Lines are kept as they are.
type section struct {
	name  string // "" for what stands before the first head
	lines []string
}

// parseSections reads such a file.
func parseSections(text string) []section {
	all := []section{{}}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		trimmed := strings.TrimSpace(line)
		if strings.HasPrefix(trimmed, "[") && strings.HasSuffix(trimmed, "]") {
			all = append(all, section{name: trimmed[1 : len(trimmed)-1]})
			continue
		}
		all[len(all)-1].lines = append(all[len(all)-1].lines, line)
	}
	return all
}

// formatSections is the inverse, with one empty line between sections.
func formatSections(all []section) string {
	var s strings.Builder
	for _, sec := range all {
		lines := trimEnd(sec.lines)
		if sec.name == "" && len(lines) == 0 {
			continue
		}
		if s.Len() > 0 {
			s.WriteString("\n")
		}
		if sec.name != "" {
			s.WriteString("[" + sec.name + "]\n")
		}
		for _, line := range lines {
			s.WriteString(line + "\n")
		}
	}
	return s.String()
}

// key is the key of a line; "" of one that has none.
func key(line string) string {
	k, _, ok := strings.Cut(line, "=")
	k = strings.TrimSpace(k)
	if !ok || strings.HasPrefix(k, "#") || strings.HasPrefix(k, ";") {
		return ""
	}
	return k
}

// value is the last value of a key in the sections of a name.
func value(all []section, name, k string) string {
	found := ""
	for _, sec := range all {
		for _, line := range sec.lines {
			if sec.name == name && key(line) == k {
				_, v, _ := strings.Cut(line, "=")
				found = strings.Trim(strings.TrimSpace(v), `"'`)
			}
		}
	}
	return found
}

// without is the section without the lines of some keys, and those lines.
func (s section) without(keys ...string) (rest section, taken []string) {
	rest.name = s.name
	for _, line := range s.lines {
		if k := key(line); k != "" && slices.Contains(keys, k) {
			taken = append(taken, line)
		} else {
			rest.lines = append(rest.lines, line)
		}
	}
	return rest, taken
}

// set gives a key a value, whatever it had, in the first section of the name;
// there will be one. An empty value takes the key away.
func set(all []section, name, k, v string) []section {
	for i, sec := range all {
		if sec.name == name {
			rest, _ := sec.without(k)
			rest.lines = trimEnd(rest.lines)
			if v != "" {
				rest.lines = append(rest.lines, k+"="+v)
			}
			all[i] = rest
			return all
		}
	}
	if v == "" {
		return all
	}
	return append(all, section{name: name, lines: []string{k + "=" + v}})
}

// trimEnd takes empty lines off the end.
func trimEnd(lines []string) []string {
	for len(lines) > 0 && strings.TrimSpace(lines[len(lines)-1]) == "" {
		lines = lines[:len(lines)-1]
	}
	return lines
}
