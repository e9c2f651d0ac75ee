package uplink

import (
	"io/fs"
	"slices"
	"strings"
)

const wickedFiles = "/etc/sysconfig/network/"

func wickedManages(root fs.FS, card Card) (bool, error) {
	_, exists, err := read(root, wickedFiles+"ifcfg-"+card.Name)
	return exists, err
}

// wickedCardKeys are the keys of an ifcfg file that are about the card itself
// (ifcfg(5)), and stay with it.
var wickedCardKeys = []string{"ETHTOOL_OPTIONS", "MTU", "LLADDR", "NAME"}

// planWicked gives what ifcfg-CARD says to ifcfg-BRIDGE, and its routes and name
// servers too.
func planWicked(root fs.FS, card Card, bridge string) ([]Edit, error) {
	old, _, err := read(root, wickedFiles+"ifcfg-"+card.Name)
	if err != nil {
		return nil, err
	}
	given, kept := parseSections(old)[0].without(wickedCardKeys...)
	given, _ = given.without("STARTMODE", "BRIDGE", "BRIDGE_PORTS", "BRIDGE_STP", "BRIDGE_FORWARDDELAY")
	lines := append(trimEnd(given.lines), "STARTMODE='auto'", "BRIDGE='yes'", "BRIDGE_PORTS='"+card.Name+"'", "BRIDGE_STP='off'",
		"BRIDGE_FORWARDDELAY='0'", "LLADDR='"+card.MAC+"'")
	card0 := append(slices.Clone(kept), "STARTMODE='hotplug'", "BOOTPROTO='none'")
	made0, err := made(root, wickedFiles+"ifcfg-"+bridge, strings.Join(lines, "\n")+"\n", 0o600)
	if err != nil {
		return nil, err
	}
	edits := []Edit{made0, {Path: wickedFiles + "ifcfg-" + card.Name, Old: text(old), New: text(strings.Join(card0, "\n") + "\n")}}
	routes, exists, err := read(root, wickedFiles+"ifroute-"+card.Name)
	if err != nil || !exists {
		return edits, err
	}
	moved, err := made(root, wickedFiles+"ifroute-"+bridge, replaceWord(routes, card.Name, bridge), 0o600)
	return append(edits, moved, Edit{Path: wickedFiles + "ifroute-" + card.Name, Old: text(routes)}), err
}
