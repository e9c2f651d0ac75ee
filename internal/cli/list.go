package cli

import (
	"cmp"
	"fmt"
	"slices"

	"viaduct/internal/engine"
	"viaduct/internal/httpapi"
)

var listVerbs = []verb{
	{
		name: "net-list", virsh: true, group: groupNetworks, run: netList,
		short: "list networks",
		long:  "Without options the active ones are listed.",
		flags: []flag{
			{name: "inactive", help: "list inactive networks"},
			{name: "all", help: "list inactive and active networks"},
			{name: "persistent", help: "list persistent networks"},
			{name: "transient", help: "list transient networks"},
			{name: "autostart", help: "list networks with autostart enabled"},
			{name: "no-autostart", help: "list networks with autostart disabled"},
			{name: "uuid", help: "list uuids only"},
			{name: "name", help: "list names only"},
			{name: "table", help: "list as a table (default)"},
			{name: "title", help: "show titles too"},
		},
	},
	{
		name: "net-info", virsh: true, group: groupNetworks, run: netInfo,
		short: "show basic information about a network", operands: oneNetwork(anyNetwork),
		flags: []flag{{name: "verbose", letter: "v", help: "show what went over it too"}},
	},
	{
		name: "net-name", virsh: true, group: groupNetworks, run: netName,
		short: "convert a network UUID to its name", operands: oneNetwork(anyNetwork),
	},
	{
		name: "net-uuid", virsh: true, group: groupNetworks, run: netUUID,
		short: "convert a network name to its UUID", operands: oneNetwork(anyNetwork),
	},
	{
		name: "net-dhcp-leases", virsh: true, group: groupNetworks, run: netLeases,
		short: "print the DHCP leases of a network",
		operands: append(oneNetwork(activeNetwork),
			operand{name: "mac", help: "MAC address of one guest", optional: true, complete: func(*call) []string { return nil }}),
	},
}

// network finds the network that a verb is about.
func (c *call) network() (engine.Info, error) {
	ref := c.operand("network")
	if ref == "" {
		return engine.Info{}, usagef("Failed to get option 'network': Option argument is empty")
	}
	n, err := c.client.Lookup(c, ref)
	return n, failing(err, "failed to get network '%s'", ref)
}

func netList(c *call) error {
	forms := 0
	for _, f := range []string{"table", "name", "uuid"} {
		if c.is(f) {
			forms++
		}
	}
	if forms > 1 {
		return usagef("Only one argument from --table, --name and --uuid may be specified.")
	}
	all, err := c.client.Networks(c)
	if err != nil {
		return failing(err, "Failed to list networks")
	}
	networks := slices.DeleteFunc(all, func(n engine.Info) bool { return !c.listed(n) })
	if c.output == formatJSON {
		return c.json(networks)
	}
	t := table{header: []string{"Name", "State", "Autostart", "Persistent"}}
	if c.is("title") {
		t.header = append(t.header, "Title")
	}
	for _, n := range networks {
		switch {
		case c.is("name"):
			fmt.Fprintln(c.out, printable(n.Name, false))
		case c.is("uuid"):
			fmt.Fprintln(c.out, n.UUID)
		case c.is("title"):
			t.add(n.Name, state(n), yesNo(n.Autostart), yesNo(n.Persistent), n.Title)
		default:
			t.add(n.Name, state(n), yesNo(n.Autostart), yesNo(n.Persistent))
		}
	}
	if c.is("name") || c.is("uuid") {
		return nil
	}
	return t.print(c.out)
}

func state(n engine.Info) string {
	if n.Active {
		return "active"
	}
	return "inactive"
}

// listed reports whether net-list's options leave the network in. Of each pair
// of opposites, both together let everything through, as none does.
func (c *call) listed(n engine.Info) bool {
	pass := func(yes, no string, is bool) bool {
		return c.is(yes) == c.is(no) || c.is(yes) == is
	}
	return (c.is("all") || c.is("inactive") != n.Active) &&
		pass("persistent", "transient", n.Persistent) &&
		pass("autostart", "no-autostart", n.Autostart)
}

func netInfo(c *call) error {
	n, err := c.network()
	if err != nil {
		return err
	}
	warnings, err := c.client.Warnings(c, n.UUID.String())
	if err != nil {
		return failing(err, "failed to get warnings of network '%s'", n.Name)
	}
	var counters *engine.NetworkCounters
	if c.is("verbose") && n.Active {
		read, err := c.client.Counters(c, n.UUID.String())
		if err != nil {
			return failing(err, "failed to read counters of network '%s'", n.Name)
		}
		counters = &read
	}
	if c.output == formatJSON {
		return c.json(struct {
			engine.Info
			Warnings []string                `json:"warnings,omitempty"`
			Counters *engine.NetworkCounters `json:"counters,omitempty"`
		}{n, warnings, counters})
	}
	lines := [][2]string{
		{"Name:", n.Name}, {"UUID:", n.UUID.String()}, {"Active:", yesNo(n.Active)},
		{"Persistent:", yesNo(n.Persistent)}, {"Autostart:", yesNo(n.Autostart)}, {"Bridge:", n.Bridge},
	}
	if n.Bridge == "" {
		lines = lines[:len(lines)-1]
	}
	if counters != nil {
		lines = append(lines, [][2]string{
			{"From guests:", traffic(counters.FromGuests)}, {"To guests:", traffic(counters.ToGuests)},
			{"To host:", traffic(counters.ToHost)}, {"From host:", traffic(counters.FromHost)},
		}...)
		if len(counters.Refused) > 0 {
			lines = append(lines, [2]string{"Refused:", drops(counters.Refused)})
		}
	}
	for _, w := range warnings {
		lines = append(lines, [2]string{"Warning:", w})
	}
	for _, l := range lines {
		fmt.Fprintf(c.out, "%-15s %s\n", l[0], printable(l[1], false))
	}
	return nil
}

func netName(c *call) error {
	n, err := c.network()
	if err != nil {
		return err
	}
	return c.value("name", n.Name)
}

func netUUID(c *call) error {
	n, err := c.network()
	if err != nil {
		return err
	}
	return c.value("uuid", n.UUID.String())
}

// value prints one value alone.
func (c *call) value(name, value string) error {
	if c.output == formatJSON {
		return c.json(map[string]string{name: value})
	}
	_, err := fmt.Fprintln(c.out, printable(value, false))
	return err
}

func netLeases(c *call) error {
	n, err := c.network()
	if err != nil {
		return err
	}
	leases, err := c.client.Leases(c, n.UUID.String(), c.operand("mac"))
	if err != nil {
		return failing(err, "Failed to get leases info for %s", c.operand("network"))
	}
	slices.SortStableFunc(leases, func(a, b httpapi.Lease) int {
		return cmp.Or(cmp.Compare(a.MAC.String(), b.MAC.String()), a.IP.Compare(b.IP))
	})
	if c.output == formatJSON {
		return c.json(leases)
	}
	t := table{header: []string{"Expiry Time", "MAC address", "Protocol", "IP address", "Hostname", "Client ID or DUID"}}
	for _, l := range leases {
		t.add(expiry(l), l.MAC.String(), protocol(l), fmt.Sprintf("%s/%d", l.IP, l.Prefix), orDash(l.Hostname), orDash(l.ClientID))
	}
	return t.print(c.out)
}

func expiry(l httpapi.Lease) string {
	if l.Expiry == nil {
		return "never"
	}
	return l.Expiry.Local().Format("2006-01-02 15:04:05")
}

func protocol(l httpapi.Lease) string {
	if l.IP.Is4() {
		return "ipv4"
	}
	return "ipv6"
}
