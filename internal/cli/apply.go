package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"viaduct/internal/engine"
	"viaduct/internal/httpapi"
)

var applyVerbs = []verb{
	{
		name: "net-apply", group: groupNetworks, run: netApply, operands: oneFile,
		short: "make a network equal to a file, while it runs",
		long: "Whatever the file says differently is changed in place: addresses, DHCP, DNS, forward\n" +
			"mode, the bridge's name; guests keep their connections where it permits. An inactive\n" +
			"network is only defined anew, an unknown one is defined and started.\n" +
			"The file - is the standard input.",
		example: "  viaduct net-apply lab.xml --confirm 60s && viaduct net-confirm lab",
		flags: []flag{
			{name: "plan", help: "only show the operations on the host"},
			{name: "confirm", value: "DURATION", help: "take it back after DURATION, such as 60s, unless net-confirm follows"},
		},
	},
	{
		name: "net-confirm", group: groupNetworks, run: netConfirm,
		short: "keep what net-apply --confirm has changed", operands: oneNetwork(anyNetwork),
		flags: []flag{{name: "undo", help: "take it back at once instead"}},
	},
	{
		name: "apply", group: groupNetworks, run: applyDir, operands: []operand{{name: "dir", help: "folder with networks' XML files"}},
		short: "make the host's networks equal to the files in a folder",
		long: "Each *.xml file is applied as by net-apply, all of them or none: if one fails, the\n" +
			"networks before it become again what they were, also if the daemon dies in between.",
		flags: []flag{
			{name: "plan", help: "only show the operations on the host"},
			{name: "prune", help: "remove persistent networks that no file describes"},
		},
	},
}

func netApply(c *call) error {
	path := c.operand("file")
	xml, err := c.file()
	if err != nil {
		return err
	}
	a := httpapi.Apply{Files: []engine.File{{XML: string(xml)}}, Plan: c.is("plan"), Confirm: c.text("confirm")}
	if c.given("confirm") {
		if _, err := time.ParseDuration(a.Confirm); err != nil {
			return usagef("'%s' is not a duration for --confirm, such as 60s", a.Confirm)
		}
	}
	report, err := c.client.Apply(c, a)
	if err != nil {
		return failing(err, "Failed to apply network from %s", path)
	}
	return c.applied(report)
}

func applyDir(c *call) error {
	dir := c.operand("dir")
	a := httpapi.Apply{Files: []engine.File{}, Plan: c.is("plan"), Prune: c.is("prune")}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return openError(dir, err)
	}
	for _, e := range entries {
		if e.IsDir() || !strings.HasSuffix(e.Name(), ".xml") || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		xml, err := c.read(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		a.Files = append(a.Files, engine.File{Name: e.Name(), XML: string(xml)})
	}
	if len(a.Files) == 0 && a.Prune {
		return usagef("folder '%s' has no *.xml file; to remove all networks use net-undefine", dir)
	}
	report, err := c.client.Apply(c, a)
	if err != nil {
		return failing(err, "Failed to apply networks from %s; all are as before", dir)
	}
	return c.applied(report)
}

// applied prints what became, or would become, of networks.
func (c *call) applied(r engine.ApplyReport) error {
	if c.output == formatJSON {
		return c.json(r)
	}
	for _, n := range r.Networks {
		fmt.Fprintf(c.out, "Network %s %s\n", printable(n.Name, false), n.Result)
		for _, op := range n.Operations {
			fmt.Fprintln(c.out, printable("  "+op, false))
		}
	}
	if len(r.Networks) == 0 {
		fmt.Fprintln(c.out, "There is no network to apply")
	}
	if r.Deadline != nil {
		name := printable(r.Networks[0].Name, false)
		fmt.Fprintf(c.out, "It is taken back at %s unless 'viaduct net-confirm %s' follows\n", r.Deadline.Local().Format(time.TimeOnly), name)
	}
	return nil
}

func netConfirm(c *call) error {
	n, err := c.network()
	if err != nil {
		return err
	}
	if err := c.client.Confirm(c, n.UUID.String(), c.is("undo")); err != nil {
		return failing(err, "Failed to confirm the change of network %s", n.Name)
	}
	if c.is("undo") {
		return c.done(n, "The change of network %s was taken back", n.Name)
	}
	return c.done(n, "The change of network %s is confirmed", n.Name)
}
