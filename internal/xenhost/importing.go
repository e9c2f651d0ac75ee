package xenhost

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"viaduct/internal/netdef"
	"viaduct/internal/xenvif/vifspec"
)

// Found is what the files of a Xen host mean for Viaduct.
type Found struct {
	// Networks are definitions that give guests the bridges which their lines
	// name.
	Networks []*netdef.Network
	// Understood and Open are sentences for an admin: what was read, and what is
	// left to do or could not be understood.
	Understood []string
	Open       []string
}

func (f *Found) understood(format string, args ...any) {
	f.Understood = append(f.Understood, fmt.Sprintf(format, args...))
}

func (f *Found) open(format string, args ...any) {
	f.Open = append(f.Open, fmt.Sprintf(format, args...))
}

// unnamed is the bridge that libxl takes where neither a line nor xl.conf names
// one.
const unnamed = "xenbr0"

// Import reads the files of a Xen host: xl.conf, xend-config.sxp, the domains'
// configurations in etc/xen and etc/xen/auto, and bridges of ifupdown's.
func Import(root fs.FS) (*Found, error) {
	f := &Found{}
	bridges, err := f.bridges(root)
	if err != nil {
		return nil, err
	}
	conf, err := f.xl(root)
	if err != nil {
		return nil, err
	}
	if err := f.xend(root, &bridges); err != nil {
		return nil, err
	}
	used, err := f.guests(root, conf)
	if err != nil {
		return nil, err
	}
	for _, b := range bridges {
		f.bridge(b.Name)
	}
	for _, n := range f.Networks {
		delete(used, n.Name)
	}
	for _, name := range slices.Sorted(maps.Keys(used)) {
		if name == unnamed {
			f.open("no file has a bridge %s: guests whose lines name none are put into the network 'default'", name)
			continue
		}
		f.open("no file has a bridge %s, which guest %s is to be in: define a network of that name, or make the bridge by viaduct uplink-create", name, strings.Join(used[name], ", "))
	}
	return f, nil
}

// read reads a file that may not be there.
func read(root fs.FS, name string) (string, bool, error) {
	info, err := fs.Stat(root, name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", false, nil
	}
	if err == nil && info.Size() > maxConfig {
		err = fmt.Errorf("it is larger than %d bytes", maxConfig)
	}
	if err != nil {
		return "", false, fmt.Errorf("read /%s: %w", name, err)
	}
	if !info.Mode().IsRegular() {
		return "", false, nil
	}
	text, err := fs.ReadFile(root, name)
	return string(text), err == nil, err
}

func (f *Found) bridges(root fs.FS) ([]Bridge, error) {
	const main = "etc/network/interfaces"
	text, there, err := read(root, main)
	if err != nil || !there {
		return nil, err
	}
	bridges, sources := ParseInterfaces(text)
	for _, source := range sources {
		pattern := strings.TrimPrefix(source, "/")
		if !strings.HasPrefix(source, "/") {
			pattern = path.Join(path.Dir(main), source)
		}
		if info, err := fs.Stat(root, pattern); err == nil && info.IsDir() {
			pattern += "/*"
		}
		names, err := fs.Glob(root, pattern)
		if err != nil {
			f.open("/%s: source %s cannot be understood", main, source)
			continue
		}
		for _, name := range names {
			text, _, err := read(root, name)
			if err != nil {
				return nil, err
			}
			more, _ := ParseInterfaces(text)
			bridges = append(bridges, more...)
		}
	}
	for _, b := range bridges {
		if len(b.Ports) == 0 {
			f.understood("bridge %s of /%s is the guests' alone", b.Name, main)
		} else {
			f.understood("bridge %s of /%s has %s", b.Name, main, strings.Join(b.Ports, ", "))
		}
	}
	return bridges, nil
}

func (f *Found) xl(root fs.FS) (XLConf, error) {
	text, there, err := read(root, xlConf)
	if err != nil || !there {
		return XLConf{}, err
	}
	c := ParseXLConf(text)
	for _, s := range []struct{ what, value string }{
		{"script", c.Script}, {"bridge", c.Bridge}, {"gatewaydev", c.GatewayDev}, {"backend", c.Backend},
	} {
		if s.value != "" {
			f.understood("/%s: the default %s of interfaces is %s", xlConf, s.what, s.value)
		}
	}
	if c.NoScripts {
		f.open("/%s: run_hotplug_scripts=0 has xl run no scripts: remove it", xlConf)
	}
	return c, nil
}

// xend understands the scripts that xend ran for the host's own network.
func (f *Found) xend(root fs.FS, bridges *[]Bridge) error {
	const name = "etc/xen/xend-config.sxp"
	text, there, err := read(root, name)
	if err != nil || !there {
		return err
	}
	c := ParseXend(text)
	nic := c.Network.Args["netdev"]
	switch script := c.Network.Script; script {
	case "", "true", "network-dummy":
		f.understood("/%s: xend makes no network", name)
	case "network-bridge", "network":
		bridge := c.Network.Args["bridge"]
		if nic == "" {
			nic = "eth0"
		}
		if bridge == "" {
			bridge = nic
		}
		// Since Xen 3.2 the bridge took the name of the NIC, which keeps its own now.
		device := bridge
		if bridge == nic {
			device = "xenbr" + nic[strings.LastIndexFunc(nic, func(r rune) bool { return r < '0' || r > '9' })+1:]
		}
		f.understood("/%s: network-bridge puts %s into bridge %s", name, nic, bridge)
		if !slices.ContainsFunc(*bridges, func(b Bridge) bool { return b.Name == device }) {
			f.open("nothing makes the bridge at boot any more: viaduct uplink-create %s --nic %s", device, nic)
			*bridges = append(*bridges, Bridge{Name: device, Ports: []string{nic}})
		}
		if bridge != device {
			f.Networks = append(f.Networks, hostBridge(bridge, device))
		}
		if c.Network.Args["antispoof"] == "yes" {
			f.open("/%s: antispoof=yes is no longer for the whole host: guests with ip= are checked each by itself", name)
		}
	case "network-nat":
		f.understood("/%s: network-nat translates guests' addresses", name)
		f.open("guests behind NAT need script=vif-nat in their lines, or vif.default.script in /%s; their network is made with the first of them, "+
			"and dhcpd.conf is not needed", xlConf)
	case "network-route":
		f.understood("/%s: network-route routes to guests", name)
		f.open("routed guests need script=vif-route in their lines, or vif.default.script in /%s; proxy ARP is switched on while they run", xlConf)
	default:
		f.open("/%s: network-script %s is not one of Xen's: what it does has to be done by hand", name, script)
	}
	if s := c.Vif.Script; s != "" {
		f.understood("/%s: the default script of interfaces is %s", name, s)
		if !slices.Contains(ScriptNames, s) {
			f.open("/%s: vif-script %s is not one of Xen's bridge, route and nat", name, s)
		}
	}
	return nil
}

// guests reads the domains' configurations. It returns the bridges that their
// lines name, each with the guests.
func (f *Found) guests(root fs.FS, conf XLConf) (map[string][]string, error) {
	used := map[string][]string{}
	var names []string
	for _, pattern := range []string{"etc/xen/*.cfg", "etc/xen/auto/*"} {
		more, err := fs.Glob(root, pattern)
		if err != nil {
			return nil, err
		}
		names = append(names, more...)
	}
	macs := map[netdef.MAC]string{}
	seen := map[string]bool{}
	for _, name := range names {
		text, there, err := read(root, name)
		if err != nil {
			return nil, err
		}
		if !there || seen[text] { // links in auto name files above
			continue
		}
		seen[text] = true
		g, odd := ParseGuest(text)
		if g.Name == "" {
			g.Name = strings.TrimSuffix(path.Base(name), ".cfg")
		}
		for _, o := range odd {
			f.open("/%s: %s", name, o)
		}
		for i, line := range g.Vifs {
			vif, findings := vifspec.Parse(line)
			for _, finding := range findings {
				if finding.Severity != vifspec.Note {
					f.open("guest %s, interface %d: %s", g.Name, i, strings.TrimPrefix(finding.Key+": "+finding.Text, ": "))
				}
			}
			if vif.MAC.IsZero() {
				f.open("guest %s, interface %d has no mac=, so that it has another address at each start: viaduct xen-mac --guest %s --index %d", g.Name, i, g.Name, i)
			} else if other, taken := macs[vif.MAC]; taken && other != g.Name {
				f.open("guests %s and %s both have the MAC address %s", other, g.Name, vif.MAC)
			}
			macs[vif.MAC] = g.Name
			script, bridge := vif.Script, vif.Bridge
			if script == "" {
				script = conf.Script
			}
			if bridge == "" {
				bridge = conf.Bridge
			}
			if bridge == "" {
				bridge = unnamed
			}
			script = path.Base(script)
			switch script {
			case "vif-nat", "vif-route":
				f.understood("guest %s, interface %d: %s", g.Name, i, script)
			case ".", "vif-bridge", DefaultScript:
				f.understood("guest %s, interface %d: bridge %s", g.Name, i, bridge)
				if !slices.Contains(used[bridge], g.Name) {
					used[bridge] = append(used[bridge], g.Name)
				}
			default:
				f.open("guest %s, interface %d: script %s is none that Viaduct stands in for", g.Name, i, script)
			}
		}
	}
	return used, nil
}

// bridge adds a network on a bridge of the host's, of the same name, unless there
// is one on it.
func (f *Found) bridge(name string) {
	if !slices.ContainsFunc(f.Networks, func(n *netdef.Network) bool { return n.Name == name || n.Bridge.Name == name }) {
		f.Networks = append(f.Networks, hostBridge(name, name))
	}
}

func hostBridge(name, device string) *netdef.Network {
	n := &netdef.Network{Name: name, Forward: netdef.Forward{Mode: netdef.ModeBridge}}
	n.Bridge.Name = device
	return n
}
