package dnsmasq

import (
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"

	"viaduct/internal/netdef"
)

// Config says what a dnsmasq is to serve. Equal configurations are
// reflect.DeepEqual, also after they have been kept as JSON.
type Config struct {
	// Network is the UUID of the network, Name its name.
	Network netdef.UUID
	Name    string
	Bridge  string
	// Dir is the folder of the files that it runs with. It is the network's own.
	Dir string
	Rendering
	// Subnets are those whose guests are served.
	Subnets []netip.Prefix
}

// The files of a Config.Dir.
const (
	fileConf   = "conf"
	fileHosts  = "hosts"
	fileNames  = "names"
	fileLeases = "leases"
	filePID    = "pid"
	fileState  = "state.json"
)

// Settings are what a Config needs beside the network.
type Settings struct {
	// Dir is where the folders of all networks are.
	Dir string
	// ResolvConf lists the host's resolvers.
	ResolvConf string
	// DNSPort is the port that names are resolved at.
	DNSPort uint16
}

// The values that dnsmasq takes by itself.
const (
	usualResolvConf = "/etc/resolv.conf"
	usualDNSPort    = 53
)

// ConfigOf makes the configuration of a network's dnsmasq.
func ConfigOf(n *netdef.Network, s Settings) (Config, error) {
	c := Config{Network: n.UUID, Name: n.Name, Bridge: n.Bridge.Name, Dir: filepath.Join(s.Dir, n.UUID.String())}
	for _, ip := range n.IPs {
		c.Subnets = append(c.Subnets, ip.Subnet())
	}
	also := []string{"dhcp-leasefile=" + c.file(fileLeases)}
	if s.ResolvConf != "" && s.ResolvConf != usualResolvConf {
		also = append(also, "resolv-file="+s.ResolvConf)
	}
	if s.DNSPort != usualDNSPort && n.DNS.Enable != netdef.No {
		also = append(also, "port="+strconv.Itoa(int(s.DNSPort)))
	}
	var err error
	c.Rendering, err = Render(n, Paths{PID: c.file(filePID), DHCPHosts: c.file(fileHosts), DNSHosts: c.file(fileNames), Also: also})
	return c, err
}

func (c Config) file(name string) string { return filepath.Join(c.Dir, name) }

// String is the configuration on one line, as a plan shows it.
func (c Config) String() string {
	var s strings.Builder
	s.WriteString("on " + c.Bridge)
	for _, part := range []struct{ word, text string }{{"conf", c.Conf}, {"hosts", c.DHCPHosts}, {"names", c.DNSHosts}} {
		var lines []string
		for line := range strings.Lines(part.text) {
			if !strings.HasPrefix(line, "##") {
				lines = append(lines, strings.ReplaceAll(strings.TrimSpace(line), "\t", " "))
			}
		}
		if len(lines) > 0 {
			s.WriteString(" " + part.word + " { " + strings.Join(lines, "; ") + " }")
		}
	}
	return s.String()
}
