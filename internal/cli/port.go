package cli

import (
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"viaduct/internal/engine"
	"viaduct/internal/netdef"
)

var portVerbs = []verb{
	{
		name: "port-create", group: groupPorts, run: portCreate,
		short: "plug a guest into a network, by a tap made for it or by a link that it has", operands: oneNetwork(activeNetwork),
		long: "The tap stays until the port is deleted, the network is gone or the host goes\n" +
			"down, so a guest can come and go. Any monitor can attach one: QEMU by\n" +
			"-netdev tap,ifname=NAME,script=no,downscript=no; Firecracker and cloud-hypervisor\n" +
			"by the name of the tap. In a network of mode bridge the tap is in the host's bridge;\n" +
			"in one on devices of the host's it is a macvtap, whose file is /dev/tap and its index.\n\n" +
			"With --link the port is an existing link, such as a container's veth or a Xen vif,\n" +
			"and ends with the link or with port-delete.\n\n" +
			"The guest is to have the MAC address that the port has.",
		example: "viaduct port-create default --tap vm1 --user alice",
		flags: []flag{
			{name: "tap", value: "NAME", help: "call the tap NAME"},
			{name: "link", value: "NAME", help: "plug in the link NAME, which exists, in place of a new tap"},
			{name: "mac", value: "MAC", help: "the guest has the address MAC (default: one is chosen)"},
			{name: "group", value: "GROUP", help: "take the settings of the port group GROUP"},
			{name: "guard", value: "WHAT", help: "drop frames in which the guest speaks as another: yes, no, or a list of\nmac, ip, arp, dhcp-server, ra and of addresses that the guest may use\n(default: what the network says)"},
			{name: "user", value: "USER", help: "let USER attach a guest without privileges (default: who runs this)"},
		},
	},
	{
		name: "port-list", group: groupPorts, run: portList,
		short: "list the ports of a network", operands: oneNetwork(activeNetwork),
		long: "Ports of origin tap were made by port-create. Plugged ones are links that\n" +
			"Viaduct was asked to take in, foreign ones were put into the bridge by others.",
		flags: []flag{{name: "verbose", letter: "v", help: "show what went over them too"}},
	},
	{
		name: "port-dumpxml", group: groupPorts, run: portXML,
		short: "show a port as XML", operands: onePort(anyPort),
		long: "Of a port whose guest is not known the link stands for the guest.",
	},
	{
		name: "port-bandwidth", group: groupPorts, run: portBandwidth,
		short: "limit a port while its guest runs", operands: onePort(ownPort),
		long: "A rate is average,peak,burst in KiB/s, KiB/s and KiB, of which only the first\n" +
			"is needed; inbound is what the guest receives, and may have a fourth number,\n" +
			"the floor that the guest is guaranteed. A direction that is not named is not\n" +
			"limited any more.",
		example: "viaduct port-bandwidth default vm1 --inbound 10240,20480,5120 --outbound 2048",
		flags: []flag{
			{name: "inbound", value: "RATE", help: "limit what the guest receives"},
			{name: "outbound", value: "RATE", help: "limit what the guest sends"},
		},
	},
	{
		name: "port-update", group: groupPorts, run: portUpdate,
		short: "change a port while its guest runs", operands: append(onePort(ownPort), oneFile...),
		long: "The file is what port-dumpxml shows, with other limits, VLANs or isolation. UUID, MAC\n" +
			"address and place stay. A guest that was given what a declared port has, as Xen's\n" +
			"are, gets the change too. The file - is the standard input.",
		example: "viaduct port-dumpxml lan $port >port.xml; $EDITOR port.xml; viaduct port-update lan $port port.xml",
		flags: []flag{
			{name: "guard", value: "WHAT", help: "drop frames in which the guest speaks as another, as with port-create\n(default: as it is)"},
		},
	},
	{
		name: "port-delete", group: groupPorts, run: portDelete,
		short: "take a port out of its network", operands: onePort(ownPort),
		long: "Its guest loses its connection. A tap that Viaduct made is removed.",
	},
}

// onePort are the operands of verbs about a port.
func onePort(fits func(engine.Port) bool) []operand {
	names := func(c *call) []string {
		args := c.cmd.Flags().Args()
		if len(args) == 0 {
			return nil
		}
		ports, err := c.client.Ports(c, args[0])
		if err != nil {
			return nil
		}
		var names []string
		for _, p := range ports {
			if fits(p) {
				names = append(names, p.Link)
			}
		}
		return names
	}
	return append(oneNetwork(anyNetwork), operand{name: "port", help: "port UUID or link name", complete: names})
}

func anyPort(engine.Port) bool   { return true }
func ownPort(p engine.Port) bool { return p.Origin != engine.OriginForeign }

func portCreate(c *call) error {
	want := engine.PortSpec{Link: c.text("link")}
	want.Group = c.text("group")
	if name := c.text("tap"); name != "" {
		want.Tap = &engine.TapSpec{Name: name}
	}
	if (want.Tap == nil) == (want.Link == "") {
		return usagef("command 'port-create' requires either --tap NAME or --link NAME")
	}
	if text := c.text("mac"); text != "" {
		var err error
		if want.MAC, err = netdef.ParseMAC(text); err != nil {
			return usagef("--mac: %v", err)
		}
	}
	var err error
	if text := c.text("guard"); text != "" {
		if want.Guard, err = netdef.ParseGuard(text); err != nil {
			return usagef("--guard: %v", err)
		}
	}
	if want.Tap != nil {
		if want.Tap.Owner, err = userID(c.text("user")); err != nil {
			return err
		}
	}
	n, err := c.network()
	if err != nil {
		return err
	}
	p, err := c.client.CreatePort(c, n.UUID.String(), want)
	if err != nil {
		return failing(err, "Failed to create port in network %s", n.Name)
	}
	if c.output == formatJSON {
		return c.json(p)
	}
	_, err = fmt.Fprintf(c.out, "Port %s created in network %s for a guest with MAC address %s\n", p.Link, printable(n.Name, false), p.MAC)
	return err
}

// userID is the number of the user of that name or number; of "" that of
// whoever runs this.
func userID(name string) (uint32, error) {
	if name == "" {
		return uint32(os.Getuid()), nil
	}
	text := name
	if u, err := user.Lookup(name); err == nil {
		text = u.Uid
	}
	id, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return 0, usagef("--user: there is no user '%s'", name)
	}
	return uint32(id), nil
}

func portList(c *call) error {
	n, err := c.network()
	if err != nil {
		return err
	}
	ports, err := c.client.Ports(c, n.UUID.String())
	if err != nil {
		return failing(err, "Failed to list ports of network %s", n.Name)
	}
	if c.output == formatJSON {
		return c.json(ports)
	}
	t := table{header: []string{"Link", "Origin", "State", "MAC address", "UUID"}}
	if c.is("verbose") {
		t.header = append(t.header, "Group", "From guest", "To guest")
	}
	for _, p := range ports {
		state, mac := "inactive", ""
		if p.Active {
			state = "active"
		}
		if !p.MAC.IsZero() {
			mac = p.MAC.String()
		}
		row := []string{orDash(p.Link), string(p.Origin), state, orDash(mac), p.UUID.String()}
		if c.is("verbose") {
			row = append(row, orDash(p.Group), traffic(p.FromGuest), traffic(p.ToGuest))
		}
		t.add(row...)
	}
	return t.print(c.out)
}

// traffic is what went in one direction, with losses only if there are any.
func traffic(t engine.Traffic) string {
	text := fmt.Sprintf("%d bytes, %d packets", t.Bytes, t.Packets)
	if len(t.Drops) > 0 {
		text += " (lost: " + drops(t.Drops) + ")"
	}
	return text
}

// drops lists losses by reason.
func drops(d map[string]uint64) string {
	var list []string
	for reason, n := range d {
		list = append(list, fmt.Sprintf("%d %s", n, reason))
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}

func portXML(c *call) error {
	n, err := c.network()
	if err != nil {
		return err
	}
	text, err := c.client.PortXML(c, n.UUID.String(), c.operand("port"))
	if err != nil {
		return failing(err, "failed to get port '%s'", c.operand("port"))
	}
	if c.output == formatJSON {
		return c.json(map[string]string{"xml": text})
	}
	_, err = fmt.Fprint(c.out, text)
	return err
}

func portBandwidth(c *call) error {
	n, err := c.network()
	if err != nil {
		return err
	}
	port := c.operand("port")
	if err := c.client.SetPortBandwidth(c, n.UUID.String(), port, c.text("inbound"), c.text("outbound")); err != nil {
		return failing(err, "Failed to limit port %s", port)
	}
	_, err = fmt.Fprintf(c.out, "Bandwidth of port %s set\n", printable(port, false))
	return err
}

func portUpdate(c *call) error {
	n, err := c.network()
	if err != nil {
		return err
	}
	xml, err := c.file()
	if err != nil {
		return err
	}
	var guard *netdef.Guard
	if text := c.text("guard"); text != "" {
		if guard, err = netdef.ParseGuard(text); err != nil {
			return usagef("--guard: %v", err)
		}
	}
	port := c.operand("port")
	if err := c.client.UpdatePort(c, n.UUID.String(), port, xml, guard); err != nil {
		return failing(err, "Failed to change port %s", port)
	}
	return c.done(n, "Port %s updated from %s", port, c.operand("file"))
}

func portDelete(c *call) error {
	n, err := c.network()
	if err != nil {
		return err
	}
	if err := c.client.DeletePort(c, n.UUID.String(), c.operand("port")); err != nil {
		return failing(err, "Failed to delete port %s", c.operand("port"))
	}
	return c.done(n, "Port %s deleted", c.operand("port"))
}
