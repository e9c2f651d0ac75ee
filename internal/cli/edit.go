package cli

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"viaduct/internal/engine"
)

// netEdit lets somebody change a copy of the definition until it is a good one.
// Edits that were not taken over stay in their file, unless thrown away.
func netEdit(c *call) error {
	n, err := c.network()
	if err != nil {
		return err
	}
	before, err := c.client.XML(c, n.UUID.String(), true)
	if err != nil {
		return err
	}
	path, err := temporaryCopy(before)
	if err != nil {
		return err
	}
	for {
		if err := c.openEditor(path); err != nil {
			os.Remove(path)
			return err
		}
		after, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read edited definition: %w", err)
		}
		if string(after) == before {
			os.Remove(path)
			return c.done(n, "Network %s XML configuration not changed.", n.Name)
		}
		edited, err := c.replace(n, before, after)
		if err == nil {
			os.Remove(path)
			return c.done(edited, "Network %s XML configuration edited.", edited.Name)
		}
		err = failing(err, "Failed to edit network %s", n.Name)
		if !c.interactive() {
			return &hint{err, "the edited definition is kept in " + path}
		}
		c.report(err)
		switch c.askAgain() {
		case again:
		case discard:
			os.Remove(path)
			return errors.New("the changes were thrown away")
		case giveUp:
			return errors.New("the edited definition is kept in " + path)
		}
	}
}

func temporaryCopy(xml string) (path string, err error) {
	f, err := os.CreateTemp("", "viaduct-*.xml")
	if err != nil {
		return "", fmt.Errorf("make temporary copy: %w", err)
	}
	_, err = f.WriteString(xml)
	if err = errors.Join(err, f.Close()); err != nil {
		os.Remove(f.Name())
		return "", fmt.Errorf("write temporary copy: %w", err)
	}
	return f.Name(), nil
}

// openEditor runs the editor. What $VISUAL or $EDITOR hold may have arguments,
// so the shell splits it.
func (c *call) openEditor(path string) error {
	editor := "vi"
	for _, name := range []string{"EDITOR", "VISUAL"} {
		if v := os.Getenv(name); v != "" {
			editor = v
		}
	}
	cmd := exec.CommandContext(c, "sh", "-c", editor+` "$1"`, "sh", path)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.in, c.out, c.errs
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("run editor '%s': %w", editor, err)
	}
	return nil
}

// replace takes the edited definition over, unless it is wrong or somebody
// else was faster.
func (c *call) replace(n engine.Info, before string, after []byte) (engine.Info, error) {
	if _, err := check(after); err != nil {
		return n, err
	}
	now, err := c.client.XML(c, n.UUID.String(), true)
	if err != nil {
		return n, err
	}
	if now != before {
		return n, errors.New("the XML configuration was changed by another user")
	}
	return c.client.Define(c, bytes.TrimSpace(after))
}

// interactive reports whether there is somebody to ask.
func (c *call) interactive() bool {
	f, ok := c.in.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// What somebody wants to do about an edit that failed.
type answer int

const (
	again answer = iota
	discard
	giveUp // there is no answer: nothing is thrown away
)

func (c *call) askAgain() answer {
	in := bufio.NewScanner(c.in)
	for {
		fmt.Fprint(c.errs, "Failed. Try again? [y,n,?]: ")
		if !in.Scan() {
			fmt.Fprintln(c.errs)
			return giveUp
		}
		switch strings.TrimSpace(in.Text()) {
		case "y":
			return again
		case "n":
			return discard
		default:
			fmt.Fprint(c.errs, "y - yes, start editor again\nn - no, throw away my changes\n? - print this help\n")
		}
	}
}
