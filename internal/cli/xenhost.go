package cli

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"viaduct/internal/netdef"
	"viaduct/internal/xenhost"
	"viaduct/internal/xenvif/xenstore"
)

var xenHostVerbs = []verb{
	{
		name: "xen-list", group: groupXen, run: xenList,
		short: "list the interfaces of Xen's guests",
		long: "Shows for each interface which domain has it, its link in this domain, and the\n" +
			"network that it is a port of, with the addresses that the guest was given there\n" +
			"or is allowed by ip=. The rate is what netback lets the guest send.",
		operands: []operand{{name: "domain", help: "only this domain's, by name, id or UUID", optional: true}},
	},
	{
		name: "xen-install", group: groupXen, run: xenInstall,
		short: "make Viaduct the hotplug script of this Xen host",
		long: "Puts links named " + strings.Join(xenhost.ScriptNames, ", ") + " into Xen's folder of\n" +
			"scripts and makes the first of them xl's default. Scripts that were there are kept\n" +
			"beside, and xl.conf keeps its other lines; --remove puts everything back.",
		flags: []flag{
			{name: "dry-run", help: "only print what would change"},
			{name: "remove", help: "take the installation back"},
			{name: "enforce-rate", help: "have the host enforce rate= in both directions, where no network says otherwise"},
			{name: "root", value: "DIR", help: "the host's files are in DIR", fallback: "/"},
		},
	},
	{
		name: "import-xen", group: groupXen, run: importXen,
		short: "define networks for what a Xen host's files say",
		long: "Reads xl.conf, xend-config.sxp, the guests' configurations in /etc/xen and the\n" +
			"bridges in /etc/network/interfaces. Prints what was understood (+) and what is\n" +
			"left to do (?), and defines networks of the names that guests' lines use. Networks\n" +
			"that are defined already stay as they are, and so do all of the files.",
		flags: []flag{
			{name: "dry-run", help: "print the definitions and define nothing"},
			{name: "root", value: "DIR", help: "the host's files are in DIR", fallback: "/"},
		},
	},
}

// xenPort is an interface with what the daemon knows of its port.
type xenPort struct {
	xenhost.Vif
	Network   string   `json:"network,omitempty"`
	Addresses []string `json:"addresses,omitempty"`
}

func xenList(c *call) error {
	store, err := xenstore.Open(c, os.Getenv)
	if err != nil {
		return err
	}
	defer store.Close()
	vifs, err := xenhost.List(c, store)
	if err != nil {
		return err
	}
	ports := []xenPort{}
	for _, v := range vifs {
		if d := c.operand("domain"); d == "" || d == v.Domain || d == strconv.Itoa(v.ID) || d == v.UUID.String() {
			ports = append(ports, xenPort{Vif: v, Addresses: strings.FieldsFunc(v.IPs, func(r rune) bool { return r == ' ' || r == ',' })})
		}
	}
	// What xenstore knows is worth showing also where no daemon runs.
	if err := c.findPorts(ports); err != nil {
		fmt.Fprintln(c.errs, "networks are not shown:", err)
	}
	if c.output == formatJSON {
		return c.json(ports)
	}
	t := table{header: []string{"Domain", "Id", "Link", "MAC address", "Network", "Bridge", "Addresses", "Rate", "State"}}
	for _, p := range ports {
		rate := "-"
		if p.Rate != nil {
			rate = fmt.Sprintf("%.4g Mb/s", float64(p.Rate.BytesPerSecond())*8/1e6)
		}
		t.add(dash(p.Domain), strconv.Itoa(p.ID), p.Link, p.MAC.String(), dash(p.Network), dash(p.Bridge),
			dash(strings.Join(p.Addresses, " ")), rate, strings.TrimSuffix(p.State+": "+p.Trouble, ": "))
	}
	return t.print(c.out)
}

func dash(text string) string { return cmp.Or(text, "-") }

// findPorts fills in the networks of interfaces, and the addresses that guests
// have leased there.
func (c *call) findPorts(list []xenPort) error {
	networks, err := c.client.Networks(c)
	if err != nil {
		return err
	}
	for _, n := range networks {
		if !n.Active {
			continue
		}
		ports, err := c.client.Ports(c, n.UUID.String())
		if err != nil {
			return err
		}
		leases, err := c.client.Leases(c, n.UUID.String(), "")
		if err != nil {
			return err
		}
		for _, p := range ports {
			for i := range list {
				v := &list[i]
				if v.Link != p.Link {
					continue
				}
				v.Network, v.Bridge = n.Name, n.Bridge
				for _, l := range leases {
					if address := l.IP.String(); l.MAC == v.MAC && !containsAddress(v.Addresses, address) {
						v.Addresses = append(v.Addresses, address)
					}
				}
			}
		}
	}
	return nil
}

// containsAddress looks for an address among addresses and networks as ip= has
// them.
func containsAddress(list []string, address string) bool {
	for _, a := range list {
		if host, _, _ := strings.Cut(a, "/"); host == address {
			return true
		}
	}
	return false
}

func xenInstall(c *call) error {
	binary, err := os.Executable()
	if err == nil {
		binary, err = filepath.EvalSymlinks(binary)
	}
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	i := xenhost.Installer{Root: c.text("root"), Binary: binary, Also: binary, EnforceRate: c.is("enforce-rate")}
	// This program is the script too, but takes longer to start.
	if brief := filepath.Join(filepath.Dir(binary), "viaduct-vif"); isFile(brief) {
		i.Binary = brief
	}
	find := i.Install
	if c.is("remove") {
		find = i.Remove
	}
	changes, err := find()
	if err != nil {
		return err
	}
	if !c.is("dry-run") {
		if err := xenhost.Carry(changes); err != nil {
			return err
		}
	}
	if c.output == formatJSON {
		return c.json(changes)
	}
	if len(changes) == 0 {
		fmt.Fprintln(c.out, "nothing to change")
	}
	for _, change := range changes {
		fmt.Fprintf(c.out, "%s: %s\n", change.Path, change.What)
	}
	return nil
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

func importXen(c *call) error {
	found, err := xenhost.Import(os.DirFS(c.text("root")))
	if err != nil {
		return err
	}
	type result struct {
		Understood []string `json:"understood"`
		Open       []string `json:"open"`
		Networks   []string `json:"networks"` // their XML
	}
	r := result{Understood: found.Understood, Open: found.Open}
	if c.output != formatJSON {
		if len(found.Understood)+len(found.Open)+len(found.Networks) == 0 {
			fmt.Fprintln(c.out, "nothing of Xen was found below", filepath.Join(c.text("root"), "etc"))
		}
		for _, s := range found.Understood {
			fmt.Fprintln(c.out, "+", s)
		}
		for _, s := range found.Open {
			fmt.Fprintln(c.out, "?", s)
		}
	}
	for _, n := range found.Networks {
		xml := n.Format(netdef.FormatOptions{})
		r.Networks = append(r.Networks, xml)
		if c.is("dry-run") {
			if c.output != formatJSON {
				fmt.Fprint(c.out, "\n", xml)
			}
			continue
		}
		said := "defined"
		_, err := c.client.Lookup(c, n.Name)
		var coded *netdef.Error
		switch {
		case err == nil:
			said = "defined already, and kept"
		case !errors.As(err, &coded) || coded.Code != netdef.ErrNoNetwork:
			return err
		default:
			if _, err := c.client.Define(c, []byte(xml)); err != nil {
				return err
			}
			if err := c.client.SetAutostart(c, n.Name, true); err != nil {
				return err
			}
		}
		if c.output != formatJSON {
			fmt.Fprintf(c.out, "network %s: %s\n", n.Name, said)
		}
	}
	if c.output == formatJSON {
		return c.json(r)
	}
	return nil
}
