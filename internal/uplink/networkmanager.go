package uplink

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

const nmKeyfiles = "/etc/NetworkManager/system-connections"

// nmState is what NetworkManager says of the card.
func nmState(root fs.FS, card Card) ([]section, error) {
	state, _, err := read(root, "/run/NetworkManager/devices/"+card.index())
	return parseSections(state), err
}

func nmManages(root fs.FS, card Card) (bool, error) {
	state, err := nmState(root, card)
	return value(state, "device", "managed") != "false" && value(state, "device", "connection-uuid") != "", err
}

// planNetworkManager writes keyfiles (nm-settings-keyfile(5)): the card's own
// profile is no longer activated by itself; what it says of addresses is said of
// a bridge, and what it says of the card of the bridge's port.
func planNetworkManager(root fs.FS, card Card, bridge string) ([]Edit, error) {
	state, err := nmState(root, card)
	if err != nil {
		return nil, err
	}
	uuid := value(state, "device", "connection-uuid")
	file, old, err := nmKeyfile(root, uuid)
	if err != nil {
		return nil, err
	}
	all := parseSections(old)
	typ := value(all, "connection", "type")
	if controller := value(all, "connection", "controller") + value(all, "connection", "master"); controller != "" {
		return nil, fmt.Errorf("%s: %s is a port of %s already", file, card.Name, controller)
	}
	bridgeID, portID := derivedUUID(uuid, bridge), derivedUUID(uuid, bridge+"-port")
	profile := []section{
		{"connection", []string{"id=" + bridge, "uuid=" + bridgeID, "type=bridge", "interface-name=" + bridge, "autoconnect=true", "autoconnect-slaves=1"}},
		{"bridge", []string{"stp=false", "forward-delay=0", "mac-address=" + card.MAC}},
	}
	port := []section{{"connection", []string{
		"id=" + bridge + "-port", "uuid=" + portID, "type=" + typ, "interface-name=" + card.Name, "autoconnect=true", "master=" + bridgeID, "slave-type=bridge",
	}}}
	for _, sec := range all {
		switch sec.name {
		case "", "connection", "bridge", "bridge-port":
		case "ipv4", "ipv6", "proxy":
			profile = append(profile, sec)
		default:
			port = append(port, sec)
		}
	}
	oldProfile := set(slices.Clone(all), "connection", "autoconnect", "false")
	edits := []Edit{{Path: file, Old: text(old), New: text(formatSections(oldProfile)), Mode: 0o600}}
	for _, f := range []struct {
		name     string
		sections []section
	}{{bridge, profile}, {bridge + "-port", port}} {
		e, errOne := made(root, path.Join(nmKeyfiles, f.name+".nmconnection"), formatSections(f.sections), 0o600)
		err = errors.Join(err, errOne)
		edits = append(edits, e)
	}
	return edits, err
}

// nmKeyfile finds the profile of a UUID.
func nmKeyfile(root fs.FS, uuid string) (file, content string, err error) {
	names, err := fs.Glob(root, strings.TrimPrefix(nmKeyfiles, "/")+"/*")
	if err != nil {
		return "", "", err
	}
	for _, name := range names {
		content, _, err := read(root, "/"+name)
		if err != nil {
			return "", "", err
		}
		if value(parseSections(content), "connection", "uuid") == uuid {
			return "/" + name, content, nil
		}
	}
	return "", "", fmt.Errorf("no keyfile in %s has the connection %s: a profile that is only in memory is gone at the next start anyway", nmKeyfiles, uuid)
}

// nmProfile is the UUID of the profile that was changed, the card's.
func nmProfile(edits []Edit) string {
	for _, e := range edits {
		if e.Old != nil {
			return value(parseSections(*e.Old), "connection", "uuid")
		}
	}
	return ""
}

// derivedUUID is another UUID, always the same, in the form of RFC 9562's version 8.
func derivedUUID(uuid, name string) string {
	b := sha256.Sum256([]byte(uuid + " " + name))
	b[6], b[8] = b[6]&0x0f|0x80, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}
