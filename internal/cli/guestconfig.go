package cli

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"viaduct/internal/guestconf"
	"viaduct/internal/netdef"
)

var guestVerbs = []verb{{
	name: "guest-config", group: groupNetworks, run: guestConfig,
	short: "print what a guest has to set to use a network", operands: oneNetwork(anyNetwork),
	long: "Writes the files of the guest's own network tool, which recognise the guest's\n" +
		"interface by its MAC address. Without --guest those of all guests are printed for\n" +
		"which the network reserves something.",
	example: "  viaduct guest-config default --guest alice --format netplan\n" +
		"  viaduct guest-config default --guest alice --static --root /mnt --format networkd",
	flags: []flag{
		{name: "guest", value: "GUEST", help: "the guest by name or MAC address: GUEST"},
		{name: "format", value: "FORMAT", help: "the language FORMAT: " + strings.Join(guestconf.Formats(), ", "), choices: guestconf.Formats()},
		{name: "static", help: "set the reserved addresses rather than DHCP"},
		{name: "address", value: "LIST", help: "set these addresses, such as 192.0.2.5/24,2001:db8::5/64: LIST"},
		{name: "gateway", value: "LIST", help: "by these routers rather than the network's: LIST"},
		{name: "interface", value: "NAME", help: "call the interface NAME, where a format needs a name", fallback: "net0"},
		{name: "root", value: "DIR", help: "write the files into the guest's mounted image at DIR rather than print them"},
	},
}}

func guestConfig(c *call) error {
	format := c.text("format")
	if format == "" {
		return usagef("command 'guest-config' requires --format FORMAT, one of %s", strings.Join(guestconf.Formats(), ", "))
	}
	addresses, err := list(c.text("address"), netip.ParsePrefix)
	if err != nil {
		return usagef("--address: %v", err)
	}
	gateways, err := list(c.text("gateway"), netip.ParseAddr)
	if err != nil {
		return usagef("--gateway: %v", err)
	}
	info, err := c.network()
	if err != nil {
		return err
	}
	xml, err := c.client.XML(c, info.UUID.String(), false)
	if err != nil {
		return err
	}
	n, err := netdef.Parse([]byte(xml))
	if err != nil {
		return err
	}
	guests := guestconf.Reserved(n)
	if ref := c.text("guest"); ref != "" {
		g, err := guestconf.Find(guests, ref)
		if err != nil {
			return err
		}
		guests = []guestconf.Guest{g}
	}
	switch {
	case len(guests) == 0:
		return usagef("network '%s' reserves nothing for any guest: name one by --guest", n.Name)
	case c.given("root") && len(guests) > 1:
		return usagef("--root is for one guest: name it by --guest")
	}
	var files []guestconf.File
	for _, g := range guests {
		config, err := guestconf.Of(n, g, c.is("static"), addresses...)
		if err != nil {
			return err
		}
		config.Name = c.text("interface")
		if len(gateways) > 0 {
			config.Gateways = nil
			config.SetGateways(gateways...)
		}
		more, err := config.Files(format)
		if err != nil {
			return err
		}
		files = append(files, more...)
	}
	if c.given("root") {
		return c.writeFiles(c.text("root"), files)
	}
	return c.printFiles(files)
}

// list reads what is divided by commas.
func list[T any](text string, parse func(string) (T, error)) ([]T, error) {
	var values []T
	for _, s := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' }) {
		v, err := parse(s)
		if err != nil {
			return nil, err
		}
		values = append(values, v)
	}
	return values, nil
}

func (c *call) printFiles(files []guestconf.File) error {
	if c.output == formatJSON {
		return c.json(files)
	}
	for i, f := range files {
		if i > 0 {
			fmt.Fprintln(c.out)
		}
		if _, err := fmt.Fprintf(c.out, "# %s\n%s", f.Path, f.Content); err != nil {
			return err
		}
	}
	return nil
}

// writeFiles writes below a folder and follows no link out of it: what is in a
// guest's image is the guest's.
func (c *call) writeFiles(dir string, files []guestconf.File) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, f := range files {
		if err := replaceFile(root, strings.TrimPrefix(f.Path, "/"), f.Content); err != nil {
			return fmt.Errorf("write %s in %s: %w", f.Path, dir, err)
		}
		if c.output != formatJSON {
			fmt.Fprintln(c.out, "written:", filepath.Join(dir, f.Path))
		}
	}
	if c.output == formatJSON {
		return c.json(files)
	}
	return nil
}

// replaceFile writes a file whole or not at all.
func replaceFile(root *os.Root, path, content string) error {
	if err := root.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	temporary := path + ".new"
	if err := root.Remove(temporary); err != nil && !os.IsNotExist(err) {
		return err
	}
	f, err := root.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, content)
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = root.Rename(temporary, path)
	}
	if err != nil {
		root.Remove(temporary)
	}
	return err
}
