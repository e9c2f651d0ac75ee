package uplink

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"reflect"
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

// netplanID is what netplan's files call the card, which need not be its name:
// they may know it by its MAC address.
func netplanID(root fs.FS, card Card) (string, error) {
	file, err := networkdFile(root, card)
	id, made := strings.CutPrefix(strings.TrimSuffix(path.Base(file), ".network"), "10-netplan-")
	if err != nil || !made {
		return card.Name, err
	}
	return id, nil
}

// planNetplan moves what netplan's file says of the card to a bridge. Comments
// and all else stay as they are.
func planNetplan(root fs.FS, card Card, bridge string) ([]Edit, error) {
	names, err := fs.Glob(root, "etc/netplan/*.yaml")
	if err != nil {
		return nil, err
	}
	id, err := netplanID(root, card)
	if err != nil {
		return nil, err
	}
	var edits []Edit
	for _, name := range names {
		old, _, err := read(root, "/"+name)
		if err != nil {
			return nil, err
		}
		changed, found, err := netplanMove(old, id, card, bridge)
		if err != nil {
			return nil, fmt.Errorf("/%s: %w", name, err)
		}
		if found {
			edits = append(edits, Edit{Path: "/" + name, Old: text(old), New: text(changed)})
		}
	}
	if len(edits) != 1 {
		return nil, fmt.Errorf("%s is defined in %d files in /etc/netplan, not in one", id, len(edits))
	}
	return edits, nil
}

// netplanMove is the file with the bridge in it. What was written is read again
// by two readers of YAML, and has to say to each what was meant.
func netplanMove(content, id string, card Card, bridge string) (changed string, found bool, err error) {
	doc, err := parseYAML(content)
	if err != nil {
		return "", false, err
	}
	m := netplanFile{lines: strings.Split(strings.TrimSuffix(content, "\n"), "\n"), bridge: bridge}
	if found, err = m.find(doc, id); !found || err != nil {
		return "", false, err
	}
	said := []yamlEntry{
		{key: "interfaces", value: yamlValue{kind: yamlList, items: []yamlValue{{kind: yamlScalar, text: id, quoted: m.card.quoted}}}},
		{key: "macaddress", value: yamlValue{kind: yamlScalar, text: card.MAC}},
		{key: "parameters", value: yamlValue{kind: yamlMapping, entries: []yamlEntry{
			{key: "stp", value: yamlValue{kind: yamlScalar, text: "false"}},
			{key: "forward-delay", value: yamlValue{kind: yamlScalar, text: "0"}},
		}}},
	}
	changed = m.moved(said)
	if err := errors.Join(m.check(parsedYAML, content, changed, said), m.check(decodeYAML, content, changed, said)); err != nil {
		return "", false, fmt.Errorf("%s is written in a way that is not understood: %w", id, err)
	}
	return changed, true, nil
}

// netplanSilent is said of a card that is a port, so that it has no addresses.
var netplanSilent = []yamlEntry{
	{key: "dhcp4", value: yamlValue{kind: yamlScalar, text: "false"}},
	{key: "dhcp6", value: yamlValue{kind: yamlScalar, text: "false"}},
	{key: "accept-ra", value: yamlValue{kind: yamlScalar, text: "false"}},
	{key: "link-local", value: yamlValue{kind: yamlList}},
}

// netplanFile is a file in which a card was found.
type netplanFile struct {
	lines               []string
	network, kind, card *yamlEntry
	bridges             *yamlEntry // nil if there are none
	bridge              string
}

// find finds the card, and refuses what cannot be changed line by line.
func (m *netplanFile) find(doc yamlValue, id string) (found bool, err error) {
	if m.network = doc.child("network"); m.network == nil {
		return false, nil
	}
	for _, kind := range netplanKinds {
		k := m.network.value.child(kind)
		if k == nil || k.value.child(id) == nil {
			continue
		}
		if m.card != nil {
			return false, fmt.Errorf("%s is in %s and in %s", id, m.kind.key, kind)
		}
		m.kind, m.card = k, k.value.child(id)
	}
	if m.card == nil {
		return false, nil
	}
	m.bridges = m.network.value.child("bridges")
	if m.bridges != nil && m.bridges.value.child(m.bridge) != nil {
		return false, fmt.Errorf("there is a bridge %s already", m.bridge)
	}
	def := m.card.value
	switch {
	case doc.flow, m.network.value.flow, m.kind.value.flow, m.bridges != nil && m.bridges.value.flow:
		return false, fmt.Errorf("what %s stands in, or bridges, is written in braces, which is not understood: write it in lines", id)
	case def.kind != yamlMapping && def.kind != yamlNull:
		return false, fmt.Errorf("%s is no mapping", id)
	case m.bridges != nil && m.bridges.value.kind != yamlMapping && m.bridges.value.kind != yamlNull:
		return false, errors.New("bridges is no mapping")
	case m.inFlow() && m.card.end > m.card.line+1 && strings.Contains(strings.Join(m.lines[m.card.line:m.card.end], ""), "#"):
		return false, fmt.Errorf("%s has comments in braces, which are not understood", id)
	}
	if match := def.child("match"); match != nil {
		if name := match.value.child("name"); name != nil && strings.ContainsAny(name.value.inFlow(), "*?[") {
			return false, fmt.Errorf("%s stands for all cards that match %s: write one of this card alone", id, name.value.inFlow())
		}
	}
	return true, nil
}

// inFlow reports whether what is said of the card is not written in lines.
func (m *netplanFile) inFlow() bool { return m.card.value.flow || m.card.value.kind == yamlNull }

// check reads both files and fails unless the changed one says all that the other
// did, but for the card what is the card's, and for the bridge the rest.
func (m *netplanFile) check(read func(string) (map[string]any, error), content, changed string, said []yamlEntry) error {
	added := "card:\n"
	for _, e := range netplanSilent {
		added += entryLine(e, 1) + "\n"
	}
	added += "bridge:\n"
	for _, e := range said {
		added += entryLine(e, 1) + "\n"
	}
	old, err := read(content)
	now, errNow := read(changed)
	add, errAdd := read(added)
	if err = errors.Join(err, errNow, errAdd); err != nil {
		return err
	}
	below := func(tree map[string]any, key string) map[string]any {
		found, _ := tree[key].(map[string]any)
		return found
	}
	network := below(old, "network")
	if below(network, m.kind.key) == nil {
		return errors.New("not all readers find it")
	}
	card, bridge := below(add, "card"), below(add, "bridge")
	for key, value := range below(below(network, m.kind.key), m.card.key) {
		owner := bridge
		if slices.Contains(netplanCardKeys, key) {
			owner = card
		}
		owner[key] = value
	}
	if bridges := below(network, "bridges"); bridges != nil {
		bridges[m.bridge] = bridge
	} else {
		network["bridges"] = map[string]any{m.bridge: bridge}
	}
	below(network, m.kind.key)[m.card.key] = card
	if !reflect.DeepEqual(old, now) {
		return errors.New("what would be written is not what is meant")
	}
	return nil
}

// moved is the file with the card's lines divided between card and bridge.
func (m *netplanFile) moved(said []yamlEntry) string {
	step := m.card.indent - m.kind.indent
	inner, outer := m.card.indent+step, m.kind.indent+step
	if !m.inFlow() {
		inner = m.card.value.entries[0].indent
	}
	if m.bridges != nil && len(m.bridges.value.entries) > 0 {
		outer = m.bridges.value.entries[0].indent
	}
	keep, given := m.divide(inner)
	keep = append([]string{m.cardLine()}, keep...)
	for _, e := range netplanSilent {
		keep = append(keep, entryLine(e, inner))
	}
	bridge := []string{strings.Repeat(" ", m.card.indent) + m.bridge + ":"}
	for _, e := range said {
		bridge = append(bridge, entryLine(e, inner))
	}
	bridge = indented(append(bridge, given...), outer-m.card.indent)

	var out []string
	for i := 0; i < len(m.lines); i++ {
		if i == m.card.line {
			out = append(out, keep...)
			i = m.card.end - 1
		} else {
			out = append(out, m.lines[i])
		}
		switch {
		case m.bridges != nil && i == m.bridges.line:
			out = append(out, bridge...)
		case m.bridges == nil && i == m.network.end-1:
			out = append(append(out, strings.Repeat(" ", m.kind.indent)+"bridges:"), bridge...)
		}
	}
	return strings.Join(out, "\n") + "\n"
}

// cardLine is the line of the card's key, with what comment there is behind it.
func (m *netplanFile) cardLine() string {
	line := m.lines[m.card.line]
	if !m.inFlow() {
		return line
	}
	cut := line[:m.card.indent] + m.card.name() + ":"
	if at := strings.LastIndex(line, " #"); at > strings.LastIndexAny(line, `}"'`) {
		cut += line[at:]
	}
	return cut
}

// divide divides what is said of the card between card and bridge. A comment
// goes with what it stands before.
func (m *netplanFile) divide(inner int) (keep, given []string) {
	from := m.card.line + 1
	for _, e := range m.card.value.entries {
		var lines []string
		if m.inFlow() {
			lines = []string{entryLine(e, inner)}
		} else {
			lines = m.lines[from:e.end]
			from = e.end
		}
		if slices.Contains(netplanCardKeys, e.key) {
			keep = append(keep, lines...)
		} else {
			given = append(given, lines...)
		}
	}
	return keep, given
}

func entryLine(e yamlEntry, indent int) string {
	return strings.Repeat(" ", indent) + e.name() + ": " + e.value.inFlow()
}

// indented shifts lines to the right, or to the left as far as there is room.
func indented(lines []string, by int) []string {
	shifted := slices.Clone(lines)
	for i, line := range shifted {
		switch {
		case strings.TrimSpace(line) == "":
		case by > 0:
			shifted[i] = strings.Repeat(" ", by) + line
		case by < 0:
			room := len(line) - len(strings.TrimLeft(line, " "))
			shifted[i] = line[min(-by, room):]
		}
	}
	return shifted
}
