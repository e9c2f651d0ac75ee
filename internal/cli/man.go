package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

var docVerbs = []verb{{
	name: "man-pages", hidden: true, run: manPages,
	short:    "write the manual pages into a folder",
	operands: []operand{{name: "dir", help: "the folder"}},
}}

// manPages writes a page for the program and one for each command. It is run
// when Viaduct is installed, so that the pages cannot differ from the commands.
func manPages(c *call) error {
	dir := c.operand("dir")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make folder of manual pages: %w", err)
	}
	root := c.cmd.Root()
	pages := []*cobra.Command{root}
	for _, cmd := range root.Commands() {
		if cmd.IsAvailableCommand() && cmd.Name() != "help" {
			pages = append(pages, cmd)
		}
	}
	for _, cmd := range pages {
		if err := os.WriteFile(filepath.Join(dir, pageName(cmd)+".1"), []byte(manPage(cmd)), 0o644); err != nil {
			return fmt.Errorf("write manual page: %w", err)
		}
	}
	return nil
}

func pageName(cmd *cobra.Command) string { return strings.ReplaceAll(cmd.CommandPath(), " ", "-") }

// page collects text in man(7)'s language.
type page struct{ strings.Builder }

// line writes a line of text.
func (p *page) line(text string) {
	text = roff(text)
	if strings.HasPrefix(text, ".") || strings.HasPrefix(text, "'") {
		text = `\&` + text // no request
	}
	p.WriteString(text + "\n")
}

func (p *page) request(name string, args ...string) {
	p.WriteString("." + name)
	for _, a := range args {
		p.WriteString(` "` + strings.ReplaceAll(roff(a), `"`, `\(dq`) + `"`)
	}
	p.WriteString("\n")
}

// text writes paragraphs.
func (p *page) text(text string) {
	for i, paragraph := range strings.Split(strings.TrimSpace(text), "\n\n") {
		if i > 0 {
			p.request("PP")
		}
		for line := range strings.Lines(paragraph) {
			p.line(strings.TrimSpace(line))
		}
	}
}

// item writes an entry of a list.
func (p *page) item(term, text string) {
	p.request("TP")
	p.request("B", term)
	p.text(text)
}

// roff escapes what roff would take for itself.
func roff(text string) string {
	return strings.NewReplacer(`\`, `\e`, `-`, `\-`).Replace(text)
}

func manPage(cmd *cobra.Command) string {
	p := &page{}
	p.request("TH", strings.ToUpper(pageName(cmd)), "1", "", "viaduct "+Version(), "Viaduct")
	p.request("SH", "NAME")
	p.line(pageName(cmd) + ` - ` + cmd.Short)
	p.request("SH", "SYNOPSIS")
	p.line(cmd.UseLine())
	p.request("SH", "DESCRIPTION")
	p.text(cmd.Long)
	p.options("OPTIONS", cmd.NonInheritedFlags())
	if cmd.HasParent() {
		p.options("GLOBAL OPTIONS", cmd.InheritedFlags())
	} else {
		p.overview(cmd)
	}
	if cmd.Example != "" {
		p.request("SH", "EXAMPLE")
		p.request("EX")
		for line := range strings.Lines(cmd.Example) {
			p.line(strings.TrimRight(line, "\n"))
		}
		p.request("EE")
	}
	p.request("SH", "EXIT STATUS")
	p.line("0 on success, 1 on any error.")
	if cmd.HasParent() {
		p.request("SH", "SEE ALSO")
		p.request("BR", "viaduct", "(1)")
	}
	return p.String()
}

func (p *page) options(title string, flags *pflag.FlagSet) {
	begun := false
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		if !begun {
			p.request("SH", title)
			begun = true
		}
		value, help := pflag.UnquoteUsage(f)
		term := "--" + f.Name
		if f.Shorthand != "" {
			term = "-" + f.Shorthand + ", " + term
		}
		if value != "" {
			term += " " + value
			if f.DefValue != "" {
				help += fmt.Sprintf(" (default %s)", f.DefValue)
			}
		}
		p.item(term, help)
	})
}

// overview is what only the program's own page has.
func (p *page) overview(root *cobra.Command) {
	p.request("SH", "COMMANDS")
	p.text("Each has a page of its own, such as viaduct-net-list(1).")
	for _, cmd := range root.Commands() {
		if cmd.IsAvailableCommand() && cmd.Name() != "help" {
			p.item(cmd.Name(), cmd.Short)
		}
	}
	p.request("SH", "ENVIRONMENT")
	p.item(socketVariable, "the daemon's socket, where --socket does not say")
	p.item("VISUAL, EDITOR", "the editor of net-edit")
	p.request("SH", "FILES")
	p.item(defaultSocket, "the daemon's socket")
	p.item("/etc/viaduct/networks", "definitions, one XML file for each network")
	p.item("/etc/viaduct/bridge.conf", "which users' guests may be plugged into which bridges by viaduct-bridge-helper")
	p.item("/etc/viaduct/networks/autostart", "links to those that start with the host")
	p.item("/var/lib/viaduct", "leases")
	p.item("/run/viaduct", "what ends with the host")
}
