package uplink

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// interfacesFile is /etc/network/interfaces or a file that it names
// (interfaces(5)).
type interfacesFile struct {
	path    string
	content string
	stanzas []stanza
}

// stanza is a head line with the lines that belong to it.
type stanza struct {
	before []string // comments and empty lines
	head   []string // the words
	raw    []string // the head as it is written, with what continues it
	body   []string
}

var stanzaHeads = []string{"iface", "auto", "mapping", "source", "source-directory", "no-auto-down", "no-scripts", "rename", "template"}

func isHead(word string) bool {
	return slices.Contains(stanzaHeads, word) || strings.HasPrefix(word, "allow-")
}

func parseStanzas(content string) []stanza {
	all, pending, continued := []stanza{{}}, []string(nil), false
	for line := range strings.Lines(content) {
		line = strings.TrimRight(line, "\r\n")
		words := strings.Fields(strings.TrimSuffix(line, "\\"))
		last := &all[len(all)-1]
		switch {
		case continued && len(last.body) == 0:
			last.raw, last.head = append(last.raw, line), append(last.head, words...)
		case continued:
			last.body = append(last.body, line)
		case len(words) == 0 || strings.HasPrefix(words[0], "#"):
			pending = append(pending, line)
			continue
		case isHead(words[0]):
			all = append(all, stanza{before: pending, head: words, raw: []string{line}})
			pending = nil
		default:
			last.body = append(append(last.body, pending...), line)
			pending = nil
		}
		continued = strings.HasSuffix(line, "\\")
	}
	return append(all, stanza{before: pending})
}

func formatStanzas(all []stanza) string {
	var s strings.Builder
	for _, st := range all {
		for _, line := range slices.Concat(st.before, st.raw, st.body) {
			s.WriteString(line + "\n")
		}
	}
	return s.String()
}

// isIface reports whether it configures the card, or an alias of it.
func (s stanza) isIface(card string) bool {
	return len(s.head) > 1 && s.head[0] == "iface" && (s.head[1] == card || strings.HasPrefix(s.head[1], card+":"))
}

// starts reports whether it has the card started.
func (s stanza) starts(card string) bool {
	return len(s.head) > 1 && (s.head[0] == "auto" || s.head[0] == "allow-auto" || s.head[0] == "allow-hotplug") && slices.Contains(s.head[1:], card)
}

func ifupdownManages(root fs.FS, card Card) (bool, error) {
	files, err := interfacesFiles(root)
	for _, f := range files {
		for _, st := range f.stanzas {
			if st.isIface(card.Name) && !(len(st.head) > 3 && st.head[3] == "manual") {
				return true, err
			}
		}
	}
	return false, err
}

// leased reports whether ifupdown starts a DHCP client for the bridge. What it
// does beside that has been done, and it would stumble over it.
func leased(edits []Edit) bool {
	for _, e := range edits {
		if e.New == nil {
			continue
		}
		for _, st := range parseStanzas(*e.New) {
			if len(st.head) > 3 && st.head[0] == "iface" && st.head[3] == "dhcp" && slices.ContainsFunc(st.body, func(l string) bool { return strings.Contains(l, " master ") }) {
				return true
			}
		}
	}
	return false
}

// maxSources bounds how deep files name each other.
const maxSources = 10

// interfacesFiles reads /etc/network/interfaces and all that it names.
func interfacesFiles(root fs.FS) ([]interfacesFile, error) {
	var all []interfacesFile
	err := readInterfaces(root, "/etc/network/interfaces", 0, &all)
	return all, err
}

func readInterfaces(root fs.FS, file string, depth int, all *[]interfacesFile) error {
	content, ok, err := read(root, file)
	if err != nil || !ok {
		return err
	}
	if depth > maxSources {
		return fmt.Errorf("%s: files name each other too deep", file)
	}
	f := interfacesFile{path: file, content: content, stanzas: parseStanzas(content)}
	*all = append(*all, f)
	for _, st := range f.stanzas {
		if len(st.head) < 2 || st.head[0] != "source" && st.head[0] != "source-directory" {
			continue
		}
		for _, pattern := range st.head[1:] {
			if !path.IsAbs(pattern) {
				pattern = path.Join(path.Dir(file), pattern)
			}
			if st.head[0] == "source-directory" {
				pattern += "/*"
			}
			found, err := fs.Glob(root, strings.TrimPrefix(pattern, "/"))
			if err != nil {
				return fmt.Errorf("%s: source %s: %w", file, pattern, err)
			}
			for _, name := range found {
				if info, err := fs.Stat(root, name); err != nil || info.IsDir() {
					continue
				}
				if err := readInterfaces(root, "/"+name, depth+1, all); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// planIfupdown gives the stanzas of the card to the bridge. The bridge is made
// by ip, which ifupdown needs anyway, and not by another package's scripts.
func planIfupdown(root fs.FS, card Card, bridge string) ([]Edit, error) {
	files, err := interfacesFiles(root)
	if err != nil {
		return nil, err
	}
	var edits []Edit
	making := bridgeLines(card, bridge)
	for _, f := range files {
		var next []stanza
		for _, st := range f.stanzas {
			given, err := giveStanza(st, card.Name, bridge, &making)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", f.path, err)
			}
			next = append(next, given...)
		}
		if changed := formatStanzas(next); changed != f.content && changed != f.content+"\n" {
			edits = append(edits, Edit{Path: f.path, Old: text(f.content), New: text(changed)})
		}
	}
	// In its leases dhclient has what it calls itself to servers.
	leases, exists, err := read(root, "/var/lib/dhcp/dhclient."+card.Name+".leases")
	if err != nil {
		return nil, err
	}
	if exists {
		edits = append(edits, Edit{Path: "/var/lib/dhcp/dhclient." + bridge + ".leases", New: text(replaceWord(leases, card.Name, bridge)), Once: true})
	}
	if making != nil {
		return nil, fmt.Errorf("no stanza \"iface %s\" in /etc/network/interfaces", card.Name)
	}
	return edits, nil
}

// bridgeLines make the bridge and the card its port, also where they are already.
func bridgeLines(card Card, bridge string) []string {
	return []string{
		"\tpre-up ip link show dev " + bridge + " >/dev/null 2>&1 || ip link add name " + bridge + " address " + card.MAC +
			" type bridge stp_state 0 forward_delay 0",
		"\tpre-up ip link set dev " + card.Name + " up master " + bridge,
		"\tpre-up echo 1 >/proc/sys/net/ipv6/conf/" + card.Name + "/disable_ipv6 || true",
		"\tpost-down ip link del dev " + bridge,
	}
}

// giveStanza is what a stanza becomes. The first that configures the card also
// makes the bridge, by the lines that making has until then.
func giveStanza(st stanza, card, bridge string, making *[]string) ([]stanza, error) {
	switch {
	case len(st.head) > 1 && st.head[0] == "mapping" && slices.Contains(st.head[1:], card):
		return nil, fmt.Errorf("a mapping of %s is not understood", card)
	case st.starts(card):
		out := []stanza{{before: st.before, raw: []string{"auto " + bridge}}}
		others := slices.DeleteFunc(slices.Clone(st.head), func(word string) bool { return word == card })
		if len(others) > 1 {
			out = append(out, stanza{raw: []string{strings.Join(others, " ")}})
		}
		return out, nil
	case !st.isIface(card):
		return []stanza{st}, nil
	}
	given := stanza{before: st.before, raw: []string{strings.Join(append([]string{"iface", bridge + strings.TrimPrefix(st.head[1], card)}, st.head[2:]...), " ")}}
	for _, line := range st.body {
		if words := strings.Fields(line); len(words) > 0 && (strings.HasPrefix(words[0], "bridge") || strings.HasPrefix(words[0], "bond")) {
			return nil, fmt.Errorf("%s is a bridge or in a bond already: %s", card, strings.TrimSpace(line))
		}
		given.body = append(given.body, replaceWord(line, card, bridge))
	}
	if *making == nil || st.head[1] != card {
		return []stanza{given}, nil
	}
	port := stanza{before: given.before, raw: []string{"iface " + card + " inet manual"}}
	given.before, given.body = []string{""}, append(*making, given.body...)
	*making = nil
	return []stanza{port, given}, nil
}

// replaceWord replaces a name where it stands alone.
func replaceWord(line, from, to string) string {
	part := func(i int) bool {
		return i >= 0 && i < len(line) && strings.IndexByte("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.", line[i]) >= 0
	}
	var s strings.Builder
	for i := 0; i < len(line); i++ {
		if strings.HasPrefix(line[i:], from) && !part(i-1) && !part(i+len(from)) {
			s.WriteString(to)
			i += len(from) - 1
			continue
		}
		s.WriteByte(line[i])
	}
	return s.String()
}
