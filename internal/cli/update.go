package cli

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"viaduct/internal/engine"
	"viaduct/internal/httpapi"
	"viaduct/internal/netdef"
)

// affectFlags say which definitions of a network a verb is about.
var affectFlags = []flag{
	{name: "config", help: "what takes effect at the next start"},
	{name: "live", help: "what is in effect now"},
	{name: "current", help: "live of an active network, config of others (default)"},
}

var updateVerbs = []verb{
	{
		name: "net-update", virsh: true, group: groupNetworks, run: netUpdate,
		short: "change a piece of a network, while it runs or for its next start",
		long: "XML is the element itself or the file that holds it. What is not about the piece\n" +
			"goes on undisturbed. To change more than this can, use net-apply.",
		operands: append(oneNetwork(anyNetwork),
			operand{name: "command", help: "add-first, add-last (add), delete or modify", complete: words(netdef.UpdateCommandNames)},
			operand{name: "section", help: "which part of the network", complete: words(netdef.SectionNames)},
			operand{name: "xml", help: "the element, or a file with it"}),
		flags:   append([]flag{{name: "parent-index", value: "N", fallback: "-1", help: "the N-th <ip>, counted from 0"}}, affectFlags...),
		example: `  viaduct net-update default add ip-dhcp-host "<host mac='52:54:00:00:00:07' ip='192.168.122.7'/>" --live --config`,
	},
	{
		name: "net-desc", virsh: true, group: groupNetworks, run: netDesc,
		short: "show or set a network's description or title",
		operands: append(oneNetwork(anyNetwork),
			operand{name: "new-desc", help: "the new text", optional: true, rest: true, complete: words(nil)}),
		flags: append([]flag{
			{name: "title", help: "the title rather than the description"},
			{name: "edit", help: "open an editor on the text"},
		}, affectFlags...),
	},
	{
		name: "net-metadata", virsh: true, group: groupNetworks, run: netMetadata,
		short: "show or set an element of a network's metadata",
		long:  "The element is known by its namespace, URI.",
		operands: append(oneNetwork(anyNetwork),
			operand{name: "uri", help: "the namespace", complete: words(nil)},
			operand{name: "key", help: "the prefix for the namespace", optional: true, complete: words(nil)},
			operand{name: "set", help: "the new element", optional: true, complete: words(nil)}),
		flags: append([]flag{
			{name: "edit", help: "open an editor on the element"},
			{name: "remove", help: "remove the element"},
		}, affectFlags...),
		example: "  viaduct net-metadata default http://example.com/owner --key o --set '<owner>alice</owner>'",
	},
}

// words offers a list to the shell, or nothing.
func words(list func() []string) func(*call) []string {
	return func(*call) []string {
		if list == nil {
			return nil
		}
		return list()
	}
}

// affect reads which definitions are meant.
func (c *call) affect() (httpapi.Affect, error) {
	for _, other := range []string{"live", "config"} {
		if err := c.exclusive("current", other); err != nil {
			return httpapi.Affect{}, err
		}
	}
	return httpapi.Affect{Live: c.is("live"), Config: c.is("config")}, nil
}

// exclusive refuses two options, or operands given by name, that make no sense together.
func (c *call) exclusive(a, b string) error {
	if c.given(a) && c.given(b) {
		return usagef("Options --%s and --%s are mutually exclusive", a, b)
	}
	return nil
}

func netUpdate(c *call) error {
	affect, err := c.affect()
	if err != nil {
		return err
	}
	n, err := c.network()
	if err != nil {
		return err
	}
	command, section := c.operand("command"), c.operand("section")
	if _, err := netdef.ParseUpdateCommand(command); err != nil {
		return usagef("unrecognized command name '%s'", command)
	}
	if _, err := netdef.ParseSection(section); err != nil {
		return usagef("unrecognized section name '%s'", section)
	}
	parent, err := strconv.ParseInt(c.text("parent-index"), 10, 32)
	if err != nil {
		return usagef("Numeric value '%s' for <parent-index> option is malformed or out of range", c.text("parent-index"))
	}
	xml := []byte(c.operand("xml"))
	if !strings.HasPrefix(string(xml), "<") {
		if xml, err = c.read(c.operand("xml")); err != nil {
			return err
		}
	}
	if err := c.client.Update(c, n.UUID.String(), command, section, int(parent), xml, affect); err != nil {
		return failing(err, "Failed to update network %s", n.Name)
	}
	affected := "persistent config"
	switch {
	case affect.Live && affect.Config:
		affected = "persistent config and live state"
	case affect.Live || !affect.Config && n.Active:
		affected = "live state"
	}
	return c.told(n, "Updated network %s %s", n.Name, affected)
}

// told is done for what virsh prints without ending the line.
func (c *call) told(n engine.Info, format string, args ...any) error {
	if c.output == formatJSON {
		return c.done(n, format, args...)
	}
	_, err := io.WriteString(c.out, printable(fmt.Sprintf(format, args...), true))
	return err
}

func netDesc(c *call) error {
	affect, err := c.affect()
	if err != nil {
		return err
	}
	n, err := c.network()
	if err != nil {
		return err
	}
	t := netdef.MetadataDescription
	if c.is("title") {
		t = netdef.MetadataTitle
	}
	text, err := c.client.Metadata(c, n.UUID.String(), t, "", affect)
	if err != nil && netdef.CodeOf(err) != netdef.ErrNoNetworkMetadata {
		return failing(err, "failed to get the %s of network %s", t, n.Name)
	}
	given, isGiven := c.operands["new-desc"]
	switch {
	case !isGiven && !c.is("edit") && c.output == formatJSON:
		return c.json(map[string]string{t.String(): text})
	case !isGiven && !c.is("edit") && text != "":
		_, err := io.WriteString(c.out, printable(text, true))
		return err
	case !isGiven && !c.is("edit"):
		return c.told(n, "No %s for network: %s", t, n.Name)
	}
	next := given
	if c.is("edit") {
		if !isGiven {
			given = text
		}
		if next, err = c.editText(given); err != nil {
			return err
		}
		next = strings.TrimRight(next, "\n") // editors end the last line
		if next == text {
			return c.told(n, "Network %s not changed", t)
		}
	}
	if err := c.client.SetMetadata(c, n.UUID.String(), t, next, "", "", affect); err != nil {
		return failing(err, "Failed to set new network %s", t)
	}
	return c.told(n, "Network %s updated successfully", t)
}

// editText lets somebody change a text in an editor.
func (c *call) editText(text string) (string, error) {
	path, err := temporaryCopy(text)
	if err != nil {
		return "", err
	}
	defer os.Remove(path)
	if err := c.openEditor(path); err != nil {
		return "", err
	}
	after, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read edited text: %w", err)
	}
	return string(after), nil
}

func netMetadata(c *call) error {
	affect, err := c.affect()
	if err != nil {
		return err
	}
	for _, pair := range [][2]string{{"edit", "set"}, {"remove", "set"}, {"remove", "edit"}} {
		if err := c.exclusive(pair[0], pair[1]); err != nil {
			return err
		}
	}
	n, err := c.network()
	if err != nil {
		return err
	}
	uri, key := c.operand("uri"), c.operand("key")
	set, isSet := c.operands["set"]
	if (isSet || c.is("edit")) && key == "" {
		return usagef("namespace key is required when modifying metadata")
	}
	change := func(value, said string) error {
		if err := c.client.SetMetadata(c, n.UUID.String(), netdef.MetadataElement, value, key, uri, affect); err != nil {
			return err
		}
		return c.done(n, "%s", said)
	}
	switch {
	case isSet:
		return change(set, "Metadata modified")
	case c.is("remove"):
		return change("", "Metadata removed")
	}
	text, err := c.client.Metadata(c, n.UUID.String(), netdef.MetadataElement, uri, affect)
	if !c.is("edit") {
		if err != nil {
			return err
		}
		return c.xml(text + "\n")
	}
	if err != nil && netdef.CodeOf(err) != netdef.ErrNoNetworkMetadata {
		return err
	}
	after, err := c.editText(text + "\n")
	if err != nil {
		return err
	}
	if strings.TrimSpace(after) == text {
		return c.done(n, "Metadata not changed")
	}
	return change(strings.TrimSpace(after), "Metadata modified")
}
