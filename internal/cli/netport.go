package cli

import (
	"fmt"

	"viaduct/internal/engine"
	"viaduct/internal/netdef"
)

// netPortVerbs are virsh's verbs about ports. Those without "net-" tell more,
// and can make links.
var netPortVerbs = []verb{
	{
		name: "net-port-list", virsh: true, group: groupPorts, run: netPortList,
		short: "list the UUIDs of a network's ports", operands: oneNetwork(activeNetwork),
		flags: []flag{
			{name: "uuid", help: "list uuids only"},
			{name: "table", help: "list as a table (default)"},
		},
	},
	{
		name: "net-port-create", virsh: true, group: groupPorts, run: netPortCreate,
		short: "declare a port from an XML file",
		long: "The port is for a link that another program makes with the guest's MAC address and\n" +
			"puts into the bridge. To have a link made, use port-create.\nThe file - is the standard input.",
		operands: append(oneNetwork(activeNetwork), oneFile...),
	},
	{
		name: "net-port-dumpxml", virsh: true, group: groupPorts, run: netPortXML,
		short: "print a port as XML", operands: onePort(anyPort),
	},
	{
		name: "net-port-delete", virsh: true, group: groupPorts, run: netPortDelete,
		short: "delete a port", operands: onePort(ownPort),
	},
}

func netPortList(c *call) error {
	if err := c.exclusive("table", "uuid"); err != nil {
		return err
	}
	n, err := c.network()
	if err != nil {
		return err
	}
	ports, err := c.client.Ports(c, n.UUID.String())
	if err != nil {
		return failing(err, "Failed to list network ports")
	}
	if c.output == formatJSON {
		return c.json(ports)
	}
	t := table{header: []string{"UUID"}}
	for _, p := range ports {
		if c.is("uuid") {
			fmt.Fprintln(c.out, p.UUID)
		}
		t.add(p.UUID.String())
	}
	if c.is("uuid") {
		return nil
	}
	return t.print(c.out)
}

func netPortCreate(c *call) error {
	n, err := c.network()
	if err != nil {
		return err
	}
	xml, err := c.file()
	if err != nil {
		return err
	}
	var p engine.Port
	def, err := netdef.ParsePort(xml)
	if err == nil {
		p, err = c.client.CreatePort(c, n.UUID.String(), engine.PortSpec{Port: *def})
	}
	if err != nil { // virsh says "network" here too
		return failing(err, "Failed to create network from %s", c.operand("file"))
	}
	return c.done(n, "Network port %s created from %s", p.UUID, c.operand("file"))
}

func netPortXML(c *call) error {
	n, err := c.network()
	if err != nil {
		return err
	}
	text, err := c.client.PortXML(c, n.UUID.String(), c.operand("port"))
	if err != nil {
		return failing(err, "failed to get network port '%s'", c.operand("port"))
	}
	return c.xml(text)
}

func netPortDelete(c *call) error {
	n, err := c.network()
	if err != nil {
		return err
	}
	ref := c.operand("port")
	if _, err := c.client.PortXML(c, n.UUID.String(), ref); err != nil {
		return failing(err, "failed to get network port '%s'", ref)
	}
	if err := c.client.DeletePort(c, n.UUID.String(), ref); err != nil {
		return failing(err, "Failed to delete network port %s", ref)
	}
	return c.done(n, "Network port %s deleted", ref)
}
