package cli

import (
	"errors"
	"fmt"
	"io"
	"strconv"

	"viaduct/internal/xenvif/vifspec"
)

var xenVerbs = []verb{
	{
		name: "xen-vif-check", group: groupXen, run: xenVifCheck,
		short: "explain a line of vif = [ ... ] of a Xen guest's configuration",
		long: "Tells what each setting means, what is wrong with it, and what xl, which reads\n" +
			"more loosely, would make of it. It looks at the text alone and asks no daemon.\n" +
			"The exit status is 1 if the line cannot be used.",
		example:  "  viaduct xen-vif-check 'mac=00:16:3e:4f:94:a9,bridge=default,rate=100Mb/s@20ms'",
		operands: []operand{{name: "line", help: "what stands between the quotes"}},
	},
	{
		name: "xen-mac", group: groupXen, run: xenMAC,
		short: "make a MAC address for a Xen guest",
		long: "The address is one of Xen's (00:16:3e). With --guest it is made of the guest's\n" +
			"name or UUID, and so is the same each time.",
		flags: []flag{
			{name: "guest", value: "NAME", help: "make the address of this guest, by NAME or UUID"},
			{name: "index", value: "N", help: "of its interface number N", fallback: "0"},
		},
	},
}

func xenMAC(c *call) error {
	index, err := strconv.Atoi(c.text("index"))
	if err != nil || index < 0 {
		return usagef("'%s' is no number of an interface", c.text("index"))
	}
	mac := vifspec.GenerateMAC()
	if c.given("guest") {
		mac = vifspec.StableMAC(c.text("guest"), index)
	}
	if c.output == formatJSON {
		return c.json(map[string]any{"mac": mac})
	}
	_, err = fmt.Fprintln(c.out, mac)
	return err
}

func xenVifCheck(c *call) error {
	vif, findings := vifspec.Parse(c.operand("line"))
	var err error
	if c.output == formatJSON {
		err = c.json(map[string]any{"vif": vif, "findings": findings})
	} else {
		err = printVif(c.out, vif, findings)
	}
	for _, f := range findings {
		if f.Severity == vifspec.Wrong {
			return errors.Join(err, errors.New("the line cannot be used"))
		}
	}
	return err
}

// printVif prints the settings with what they mean, and then what is to be said of them.
func printVif(w io.Writer, vif vifspec.Vif, findings []vifspec.Finding) error {
	t := table{header: []string{"Setting", "Value", "Meaning"}}
	for _, s := range vif.Settings() {
		t.add(s.Name, s.Value, s.Meaning)
	}
	if len(t.rows) > 0 {
		if err := t.print(w); err != nil {
			return err
		}
	}
	for _, f := range findings {
		text := f.Text
		if f.Key != "" {
			text = f.Key + ": " + text
		}
		if _, err := fmt.Fprintf(w, "%s: %s\n", f.Severity, printable(text, false)); err != nil {
			return err
		}
	}
	return nil
}
