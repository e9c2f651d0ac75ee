package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	"viaduct/internal/engine"
)

// The forms in which commands print.
const (
	formatTable = "table"
	formatJSON  = "json"
)

var formats = []string{formatTable, formatJSON}

func (c *call) json(v any) error {
	e := json.NewEncoder(c.out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// done is what a verb prints that has changed something.
type done struct {
	Message string `json:"message"`
	Network string `json:"network"`
	UUID    string `json:"uuid"`
	// Notes tell what is missing, and what is left to do elsewhere.
	Notes []string `json:"notes,omitempty"`
}

func (c *call) done(n engine.Info, format string, args ...any) error {
	return c.doneNoting(n, nil, format, args...)
}

// doneNoting is done with notes, which go to the error output: what virsh
// prints too stays as it is.
func (c *call) doneNoting(n engine.Info, notes []string, format string, args ...any) error {
	message := fmt.Sprintf(format, args...)
	if c.output == formatJSON {
		return c.json(done{message, n.Name, n.UUID.String(), notes})
	}
	_, err := fmt.Fprintln(c.out, printable(message, true))
	for _, note := range notes {
		fmt.Fprintln(c.errs, "note: "+printable(note, false))
	}
	return err
}

// started is done for a network that has been started, with what is missing and
// what is to be done elsewhere.
func (c *call) started(n engine.Info, format string, args ...any) error {
	warnings, err := c.client.Warnings(c, n.UUID.String())
	if err != nil {
		return failing(err, "failed to get warnings of network '%s'", n.Name)
	}
	notes, err := c.client.Notes(c, n.UUID.String())
	if err != nil {
		return failing(err, "failed to get notes about network '%s'", n.Name)
	}
	return c.doneNoting(n, append(warnings, notes...), format, args...)
}

// table is printed in virsh's layout: columns as wide as their widest cell,
// three blanks between them, and a rule under the header.
type table struct {
	header []string
	rows   [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) print(w io.Writer) error {
	const gap = 3
	all := append([][]string{t.header}, t.rows...)
	width := make([]int, len(t.header))
	for _, row := range all {
		for i := range row {
			row[i] = printable(row[i], false)
			width[i] = max(width[i], utf8.RuneCountInString(row[i]))
		}
	}
	total := 0
	for _, n := range width {
		total += n + gap
	}
	var out strings.Builder
	for i, row := range all {
		var line strings.Builder
		for j, cell := range row {
			line.WriteString(" " + cell + strings.Repeat(" ", width[j]-utf8.RuneCountInString(cell)+gap-1))
		}
		out.WriteString(strings.TrimRight(line.String(), " ") + "\n")
		if i == 0 {
			out.WriteString(strings.Repeat("-", total) + "\n")
		}
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// printable replaces what could do something to a terminal: host names and
// titles come from guests and other people. lines allows line breaks.
func printable(s string, lines bool) string {
	clean := func(r rune) bool { return unicode.IsPrint(r) || lines && r == '\n' }
	if strings.IndexFunc(s, func(r rune) bool { return !clean(r) || r == utf8.RuneError }) < 0 {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		if clean(r) && (r != utf8.RuneError || size > 1) {
			b.WriteString(s[:size])
		} else {
			for _, octet := range []byte(s[:size]) {
				fmt.Fprintf(&b, `\x%02x`, octet)
			}
		}
		s = s[size:]
	}
	return b.String()
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// orDash is how virsh shows that there is nothing.
func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
