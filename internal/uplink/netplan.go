package uplink

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// netplanManages looks at what netplan has generated for the programs it commands.
func netplanManages(root fs.FS, card Card) (bool, error) {
	file, err := networkdFile(root, card)
	if err != nil || strings.HasPrefix(file, "/run/systemd/network/10-netplan-") {
		return err == nil, err
	}
	_, exists, err := read(root, "/run/NetworkManager/system-connections/netplan-"+card.Name+".nmconnection")
	return exists, err
}

// netplanCardKeys are those of a definition that are about the card itself.
var netplanCardKeys = []string{
	"match", "set-name", "wakeonlan", "mtu", "macaddress", "renderer", "emit-lldp", "receive-checksum-offload", "transmit-checksum-offload",
	"tcp-segmentation-offload", "tcp6-segmentation-offload", "generic-segmentation-offload", "generic-receive-offload", "large-receive-offload",
	"openvswitch", "virtual-function-count", "embedded-switch-mode", "delay-virtual-functions-rebind", "infiniband-mode", "id", "link",
	"interfaces", "parameters",
}

// netplanKinds are the mappings in which a card may be.
var netplanKinds = []string{"ethernets", "bonds", "vlans"}

// planNetplan moves what netplan's file says of the card to a bridge, in the
// block style in which such files are written; what is written otherwise is
// refused. Comments and all else stay as they are.
func planNetplan(root fs.FS, card Card, bridge string) ([]Edit, error) {
	names, err := fs.Glob(root, "etc/netplan/*.yaml")
	if err != nil {
		return nil, err
	}
	var edits []Edit
	for _, name := range names {
		old, _, err := read(root, "/"+name)
		if err != nil {
			return nil, err
		}
		changed, found, err := netplanMove(old, card, bridge)
		if err != nil {
			return nil, fmt.Errorf("/%s: %w", name, err)
		}
		if found {
			edits = append(edits, Edit{Path: "/" + name, Old: text(old), New: text(changed)})
		}
	}
	if len(edits) != 1 {
		return nil, fmt.Errorf("%s is defined in %d files in /etc/netplan, not in one", card.Name, len(edits))
	}
	return edits, nil
}

// yamlLine is a line of a block mapping.
type yamlLine struct {
	raw    string
	indent int
	key    string // "" of a comment, an item or the like
	rest   string // what follows the key
}

func yamlLines(content string) ([]yamlLine, error) {
	var all []yamlLine
	for line := range strings.Lines(content) {
		line = strings.TrimRight(line, "\r\n")
		body := strings.TrimLeft(line, " ")
		l := yamlLine{raw: line, indent: len(line) - len(body)}
		if strings.HasPrefix(body, "\t") {
			return nil, fmt.Errorf("line %d is indented by a tab", len(all)+1)
		}
		if k, rest, ok := strings.Cut(body, ":"); ok && !strings.HasPrefix(body, "#") && !strings.HasPrefix(body, "- ") && (rest == "" || rest[0] == ' ') {
			l.key, l.rest = strings.Trim(k, `"'`), strings.TrimSpace(rest)
			if strings.HasPrefix(l.rest, "#") {
				l.rest = ""
			}
		} else if body == "" || strings.HasPrefix(body, "#") {
			l.indent = -1 // belongs to whatever it stands in
		}
		all = append(all, l)
	}
	return all, nil
}

// blockOf is the index after the last line of the mapping that begins at i.
// What is an item of its list may stand as far left as the key.
func blockOf(all []yamlLine, i int) int {
	end := i + 1
	for j := i + 1; j < len(all); j++ {
		l := all[j]
		item := l.indent == all[i].indent && strings.HasPrefix(strings.TrimSpace(l.raw), "-")
		if l.indent >= 0 && l.indent <= all[i].indent && !item {
			break
		}
		if l.indent >= 0 {
			end = j + 1
		}
	}
	return end
}

// child finds a key right below the mapping at i.
func child(all []yamlLine, i int, k string) (at int) {
	depth := -1
	for j := i + 1; j < blockOf(all, i); j++ {
		if all[j].indent < 0 {
			continue
		}
		if depth < 0 {
			depth = all[j].indent
		}
		if all[j].indent == depth && all[j].key == k {
			return j
		}
	}
	return -1
}

func netplanMove(content string, card Card, bridge string) (changed string, found bool, err error) {
	all, err := yamlLines(content)
	if err != nil {
		return "", false, err
	}
	top := slices.IndexFunc(all, func(l yamlLine) bool { return l.indent == 0 && l.key == "network" })
	if top < 0 {
		return "", false, nil
	}
	at, kindIndent := -1, 0
	for _, kind := range netplanKinds {
		if mapping := child(all, top, kind); mapping >= 0 && at < 0 {
			if all[mapping].rest != "" {
				return "", false, fmt.Errorf("%s is written on one line, which is not understood", kind)
			}
			at, kindIndent = child(all, mapping, card.Name), all[mapping].indent
		}
	}
	if at < 0 {
		return "", false, nil
	}
	if all[at].rest != "" || strings.ContainsAny(content, "&*") {
		return "", false, fmt.Errorf("%s is written on one line, or with anchors, which is not understood", card.Name)
	}
	keep, moved := divideNetplan(all, at)
	pad := strings.Repeat(" ", all[at].indent-kindIndent)
	inner := strings.Repeat(" ", kindIndent) + pad + pad
	card0 := append([]string{all[at].raw}, keep...)
	for _, line := range []string{"dhcp4: false", "dhcp6: false", "accept-ra: false", "link-local: []"} {
		card0 = append(card0, inner+line)
	}
	given := []string{strings.Repeat(" ", kindIndent) + pad + bridge + ":"}
	for _, line := range []string{"interfaces: [" + card.Name + "]", "macaddress: " + card.MAC, "parameters: {stp: false, forward-delay: 0}"} {
		given = append(given, inner+line)
	}
	given = append(given, moved...)
	var out []string
	bridges := child(all, top, "bridges")
	end := blockOf(all, top)
	for i := 0; i < len(all); i++ {
		switch {
		case i == at:
			out = append(out, card0...)
			i = blockOf(all, at) - 1
		default:
			out = append(out, all[i].raw)
		}
		if i == bridges {
			out = append(out, given...)
		}
		if i == end-1 && bridges < 0 {
			out = append(append(out, strings.Repeat(" ", kindIndent)+"bridges:"), given...)
		}
	}
	return strings.Join(out, "\n") + "\n", true, nil
}

// divideNetplan divides the lines below the card's key between card and bridge.
func divideNetplan(all []yamlLine, at int) (keep, moved []string) {
	end := blockOf(all, at)
	for i := at + 1; i < end; {
		next := i + 1
		if all[i].key != "" {
			next = min(blockOf(all, i), end)
		}
		for _, l := range all[i:next] {
			if slices.Contains(netplanCardKeys, all[i].key) {
				keep = append(keep, l.raw)
			} else {
				moved = append(moved, l.raw)
			}
		}
		i = next
	}
	return keep, moved
}
