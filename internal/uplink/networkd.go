package uplink

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// networkdState is what systemd-networkd says of the card.
func networkdState(root fs.FS, card Card) ([]section, error) {
	state, _, err := read(root, "/run/systemd/netif/links/"+card.index())
	return parseSections(state), err
}

// networkdFile is the .network file by which systemd-networkd configures the
// card; "" if it does not.
func networkdFile(root fs.FS, card Card) (string, error) {
	state, err := networkdState(root, card)
	if admin := value(state, "", "ADMIN_STATE"); admin == "unmanaged" || admin == "" {
		return "", err
	}
	return value(state, "", "NETWORK_FILE"), err
}

func networkdManages(root fs.FS, card Card) (bool, error) {
	file, err := networkdFile(root, card)
	return file != "", err
}

// Keys that are about the card itself and stay with it.
var (
	networkdCardKeys = []string{"VLAN", "MACVLAN", "MACVTAP", "IPVLAN", "IPVTAP", "LLDP", "EmitLLDP", "BindCarrier"}
	networkdLinkKeys = []string{"MACAddress", "MTUBytes", "ARP", "Multicast", "AllMulticast", "Promiscuous"}
)

// planNetworkd writes files that come before the card's, which is left as it is:
// the bridge, the bridge's network after the card's, and the card as its port.
func planNetworkd(root fs.FS, card Card, bridge string) ([]Edit, error) {
	file, err := networkdFile(root, card)
	if err != nil {
		return nil, err
	}
	if file == "" {
		return nil, fmt.Errorf("no file says how %s is configured", card.Name)
	}
	all, err := networkdSections(root, card, file)
	if err != nil {
		return nil, err
	}
	prefix := ""
	for _, p := range []string{"05-viaduct-", "00-viaduct-"} {
		if prefix == "" && p < path.Base(file) {
			prefix = "/etc/systemd/network/" + p + bridge
		}
	}
	if prefix == "" {
		return nil, fmt.Errorf("no name of a file comes before that of %s", file)
	}
	netdev := []section{
		{lines: []string{"# Made by viaduct uplink-create."}},
		{"NetDev", []string{"Name=" + bridge, "Kind=bridge", "MACAddress=" + card.MAC}},
		{"Bridge", []string{"STP=no", "ForwardDelaySec=0"}},
	}
	network, port := networkdNetworks(all, card, bridge, file)
	if network, err = sameClient(root, card, network); err != nil {
		return nil, err
	}
	var edits []Edit
	for _, f := range []struct {
		path     string
		sections []section
	}{{prefix + ".netdev", netdev}, {prefix + ".network", network}, {prefix + "-port.network", port}} {
		e, errOne := made(root, f.path, formatSections(f.sections), 0o644)
		err = errors.Join(err, errOne)
		edits = append(edits, e)
	}
	return edits, err
}

// networkdNetworks divides what is said of the card between the bridge and the
// card as its port.
func networkdNetworks(all []section, card Card, bridge, file string) (network, port []section) {
	network = []section{{lines: []string{"# Made by viaduct uplink-create, of " + file + "."}}, {"Match", []string{"Name=" + bridge}}}
	port = []section{
		{lines: []string{"# Made by viaduct uplink-create."}}, {"Match", []string{"Name=" + card.Name}},
		{"Network", []string{"Bridge=" + bridge, "LinkLocalAddressing=no", "IPv6AcceptRA=no"}},
	}
	for _, sec := range all {
		switch sec.name {
		case "Match", "Bridge", "BridgeFDB", "BridgeVLAN", "BridgeMDB", "":
			continue
		case "Network":
			rest, taken := sec.without(networkdCardKeys...)
			port[2].lines = append(port[2].lines, taken...)
			sec = rest
		case "Link":
			rest, taken := sec.without(networkdLinkKeys...)
			if len(taken) > 0 {
				port = append(port, section{"Link", taken})
			}
			sec = rest
		}
		if len(trimEnd(sec.lines)) > 0 {
			network = append(network, sec)
		}
	}
	return network, port
}

// networkdSections are those of a file and of what is dropped in beside it.
func networkdSections(root fs.FS, card Card, file string) ([]section, error) {
	state, err := networkdState(root, card)
	if err != nil {
		return nil, err
	}
	dropped := strings.Fields(strings.ReplaceAll(value(state, "", "NETWORK_FILE_DROPINS"), `"`, " "))
	var all []section
	for _, f := range append([]string{file}, dropped...) {
		content, ok, err := read(root, f)
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, fmt.Errorf("%s is gone", f)
		}
		all = append(all, parseSections(content)...)
	}
	return all, nil
}

// sameClient makes the bridge the same DHCP client to servers that the card is:
// systemd-networkd makes the number of the client's interface (IAID, RFC 4361)
// of the link's name.
func sameClient(root fs.FS, card Card, network []section) ([]section, error) {
	lease, ok, err := read(root, "/run/systemd/netif/leases/"+card.index())
	if err != nil || !ok {
		return network, err
	}
	id, err := hex.DecodeString(strings.ReplaceAll(value(parseSections(lease), "", "CLIENTID"), ":", ""))
	if err != nil || len(id) < 5 || id[0] != 0xff {
		return network, nil // made of the MAC address, which the bridge has too
	}
	iaid := strconv.FormatUint(uint64(binary.BigEndian.Uint32(id[1:])), 10)
	for _, name := range []string{"DHCPv4", "DHCPv6"} {
		if value(network, name, "IAID") == "" {
			network = set(network, name, "IAID", iaid)
		}
	}
	return network, nil
}
