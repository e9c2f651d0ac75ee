package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"viaduct/internal/engine"
	"viaduct/internal/guestsvc/dnsmasq"
	"viaduct/internal/httpapi"
	"viaduct/internal/netdef"
	"viaduct/internal/plan"
)

var definitionVerbs = []verb{
	{
		name: "net-define", virsh: true, group: groupNetworks, operands: oneFile, flags: schemaFlag,
		short: "define a persistent network, or change one, from an XML file",
		long:  "A change to an active network is kept for its next start.\nThe file - is the standard input.",
		run: func(c *call) error {
			xml, err := c.file()
			if err != nil {
				return err
			}
			n, err := c.make(c.client.Define, xml)
			if err != nil {
				return failing(err, "Failed to define network from %s", c.operand("file"))
			}
			return c.done(n, "Network %s defined from %s", n.Name, c.operand("file"))
		},
	},
	{
		name: "net-create", virsh: true, group: groupNetworks, operands: oneFile, flags: schemaFlag,
		short: "create and start a transient network from an XML file",
		long:  "It ends when it is stopped or the host restarts.\nThe file - is the standard input.",
		run: func(c *call) error {
			xml, err := c.file()
			if err != nil {
				return err
			}
			n, err := c.make(c.client.Create, xml)
			if err != nil {
				return failing(err, "Failed to create network from %s", c.operand("file"))
			}
			return c.started(n, "Network %s created from %s", n.Name, c.operand("file"))
		},
	},
	{
		name: "net-dumpxml", virsh: true, group: groupNetworks, run: netDumpXML,
		short: "print the definition of a network as XML", operands: oneNetwork(anyNetwork),
		flags: []flag{{name: "inactive", help: "print what takes effect at the next start"}},
	},
	{
		name: "net-edit", virsh: true, group: groupNetworks, run: netEdit,
		short: "edit the definition of a network", operands: oneNetwork(anyNetwork),
		long: "Opens the XML in $VISUAL, $EDITOR or vi. What comes out is checked before it\n" +
			"replaces anything, and takes effect at the network's next start.",
	},
	{
		name: "net-validate", group: groupNetworks, operands: oneFile, run: netValidate,
		short: "check a definition without touching anything",
		long: "Prints the definition in its canonical form, or the line and element that is\n" +
			"wrong. With --format dnsmasq it prints what libvirt would have dnsmasq do; its\n" +
			"files of hosts are in the JSON form. Needs no daemon. The file - is the standard\n" +
			"input.",
		flags: []flag{{name: "format", value: "FORMAT", help: "print FORMAT: xml or dnsmasq", fallback: formatXML, choices: validateFormats}},
	},
}

// schemaFlag is virsh's option for definitions that are to be held to libvirt's
// schema.
var schemaFlag = []flag{{name: "validate", help: "refuse elements and attributes that libvirt's schema does not know"}}

// make defines or creates a network as the options want it.
func (c *call) make(how func(context.Context, []byte) (engine.Info, error), xml []byte) (engine.Info, error) {
	if c.is(schemaFlag[0].name) {
		if err := netdef.ValidateNetwork(xml); err != nil {
			return engine.Info{}, err
		}
	}
	return how(c, xml)
}

var oneFile = []operand{{name: "file", help: "file with a network's XML"}}

// file reads the file that a verb is about.
func (c *call) file() ([]byte, error) { return c.read(c.operand("file")) }

// read reads a file as far as a definition may reach; - is the standard input.
func (c *call) read(path string) ([]byte, error) {
	in := c.in
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, openError(path, err)
		}
		defer f.Close()
		in = f
	}
	xml, err := io.ReadAll(io.LimitReader(in, httpapi.MaxBody+1))
	if err != nil {
		return nil, openError(path, err)
	}
	if len(xml) > httpapi.MaxBody {
		return nil, fmt.Errorf("file '%s' is larger than %d octets", path, httpapi.MaxBody)
	}
	return xml, nil
}

func netDumpXML(c *call) error {
	n, err := c.network()
	if err != nil {
		return err
	}
	xml, err := c.client.XML(c, n.UUID.String(), c.is("inactive"))
	if err != nil {
		return err
	}
	return c.xml(xml)
}

// xml prints a definition.
func (c *call) xml(text string) error {
	if c.output == formatJSON {
		return c.json(map[string]string{"xml": text})
	}
	_, err := io.WriteString(c.out, text)
	return err
}

// parse reads a definition and holds it to the rules.
func parse(xml []byte) (*netdef.Network, error) {
	n, err := netdef.Parse(xml)
	if err != nil {
		return nil, err
	}
	return n, n.Validate()
}

// check reads a definition as the daemon would, but forgives no element that
// nobody knows: most of them are slips.
func check(xml []byte) (*netdef.Network, error) {
	n, err := parse(xml)
	if err == nil {
		err = plan.Check(n)
	}
	if err == nil {
		err = netdef.ValidateNetwork(xml) // the schema says least of what is wrong
	}
	return n, err
}

// What net-validate prints.
const (
	formatXML     = "xml"
	formatDnsmasq = "dnsmasq"
)

var validateFormats = []string{formatXML, formatDnsmasq}

func netValidate(c *call) error {
	format := c.text("format")
	if !slices.Contains(validateFormats, format) {
		return usagef("unknown --format '%s': it is %s", format, strings.Join(validateFormats, " or "))
	}
	xml, err := c.file()
	if err != nil {
		return err
	}
	if err := c.validate(xml, format); err != nil {
		return failing(err, "Failed to validate network from %s", c.operand("file"))
	}
	return nil
}

func (c *call) validate(xml []byte, format string) error {
	if format == formatXML {
		n, err := check(xml)
		if err != nil {
			return err
		}
		return c.xml(n.Format(netdef.FormatOptions{Inactive: true}))
	}
	n, err := parse(xml)
	if err != nil {
		return err
	}
	r, err := dnsmasq.Render(n, dnsmasq.LibvirtPaths(n.Name))
	if err != nil {
		return err
	}
	if c.output == formatJSON {
		return c.json(map[string]string{"conf": r.Conf, "hostsfile": r.DHCPHosts, "addnhosts": r.DNSHosts})
	}
	_, err = io.WriteString(c.out, r.Conf)
	return err
}
