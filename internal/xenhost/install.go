package xenhost

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"viaduct/internal/netdef"
)

// ScriptNames are the names under which the binary is a hotplug script: its own,
// and those of Xen's scripts, which lines of guests' configurations may name.
var ScriptNames = []string{DefaultScript, "vif-bridge", "vif-route", "vif-nat"}

// savedSuffix is appended to the name of a script that ours is in place of.
const savedSuffix = ".before-viaduct"

// Paths below the root of a Xen host.
const (
	scriptsDir  = "etc/xen/scripts"
	xlConf      = "etc/xen/xl.conf"
	settingsDoc = "etc/viaduct/xen.xml"
)

// Change is something that Install or Remove does.
type Change struct {
	Path string `json:"path"` // below the root, absolute
	What string `json:"what"`
	do   func() error
}

// enforceRate is a document with the settings of networks that the script makes.
const enforceRate = "<viaduct:settings xmlns:viaduct='" + netdef.SettingsSpace + "'>\n  <viaduct:rate enforce='yes'/>\n</viaduct:settings>\n"

// Installer puts the hotplug script in place. Root is the folder that stands for
// "/", and Binary what the links point to. A link to Also is ours too.
type Installer struct {
	Root, Binary, Also string
	// EnforceRate has the host enforce rate= in the networks that the script makes.
	EnforceRate bool
}

// Install returns what has to be changed so that xl runs our script for all
// interfaces: nothing if that was done already.
func (i Installer) Install() ([]Change, error) {
	if _, err := os.Stat(i.path(scriptsDir)); err != nil {
		return nil, fmt.Errorf("find Xen's scripts: %w", err)
	}
	var changes []Change
	for _, name := range ScriptNames {
		path := filepath.Join(scriptsDir, name)
		kind, err := i.kind(path)
		switch {
		case err != nil:
			return nil, err
		case kind == ours:
			continue
		case kind == foreign:
			if saved, err := i.kind(path + savedSuffix); err != nil || saved != nothing {
				return nil, errors.Join(err, fmt.Errorf("save %s: /%s is there already", name, path+savedSuffix))
			}
			changes = append(changes, i.change(path, "kept as "+name+savedSuffix, func(p string) error { return os.Rename(p, p+savedSuffix) }))
		}
		changes = append(changes, i.change(path, "link to "+i.Binary, func(p string) error { return os.Symlink(i.Binary, p) }))
	}
	if i.EnforceRate {
		switch text, there, err := i.settings(); {
		case err != nil:
			return nil, err
		case !there:
			changes = append(changes, i.change(settingsDoc, "rate= is enforced in both directions", func(p string) error { return replace(p, enforceRate) }))
		case text != enforceRate:
			return nil, fmt.Errorf("enforce rates: /%s is there already; if it does not say so: <viaduct:rate enforce='yes'/>", settingsDoc)
		}
	}
	return i.conf(changes, "vif.default.script is \""+DefaultScript+"\"", SetDefaultScript)
}

// settings is the document of settings, and whether it is there.
func (i Installer) settings() (string, bool, error) {
	text, err := os.ReadFile(i.path(settingsDoc))
	if errors.Is(err, fs.ErrNotExist) {
		return "", false, nil
	}
	return string(text), err == nil, err
}

// Remove returns what takes Install back.
func (i Installer) Remove() ([]Change, error) {
	var changes []Change
	for _, name := range ScriptNames {
		path := filepath.Join(scriptsDir, name)
		kind, err := i.kind(path)
		if err != nil {
			return nil, err
		}
		saved, err := i.kind(path + savedSuffix)
		if err != nil {
			return nil, err
		}
		if kind == ours {
			changes = append(changes, i.change(path, "link removed", os.Remove))
			kind = nothing
		}
		if saved != nothing {
			if kind != nothing {
				return nil, fmt.Errorf("put %s back: /%s is another file now", name+savedSuffix, path)
			}
			changes = append(changes, i.change(path, "put back", func(p string) error { return os.Rename(p+savedSuffix, p) }))
		}
	}
	text, _, err := i.settings()
	if err != nil {
		return nil, err
	}
	if text == enforceRate {
		changes = append(changes, i.change(settingsDoc, "removed", os.Remove))
	}
	return i.conf(changes, "vif.default.script is what it was", UnsetDefaultScript)
}

// Carry makes the changes, in order. Those before one that fails stay, and
// another Install or Remove goes on from there.
func Carry(changes []Change) error {
	for _, c := range changes {
		if err := c.do(); err != nil {
			return fmt.Errorf("change %s: %w", c.Path, err)
		}
	}
	return nil
}

func (i Installer) path(p string) string { return filepath.Join(i.Root, p) }

func (i Installer) change(path, what string, do func(path string) error) Change {
	return Change{Path: "/" + path, What: what, do: func() error { return do(i.path(path)) }}
}

// kind is what is at a path.
type kind int

const (
	nothing kind = iota
	ours
	foreign
)

func (i Installer) kind(path string) (kind, error) {
	info, err := os.Lstat(i.path(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nothing, nil
	}
	if err != nil {
		return nothing, err
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		if to, err := os.Readlink(i.path(path)); err == nil && (to == i.Binary || to == i.Also) {
			return ours, nil
		}
	}
	return foreign, nil
}

// conf appends the change of xl.conf, if there is any.
func (i Installer) conf(changes []Change, what string, edit func(string) string) ([]Change, error) {
	old, err := os.ReadFile(i.path(xlConf))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	text := edit(string(old))
	if text == string(old) {
		return changes, nil
	}
	return append(changes, i.change(xlConf, what, func(p string) error { return replace(p, text) })), nil
}

// replace writes a file whole or not at all. It keeps the mode.
func replace(path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	mode := fs.FileMode(0o644)
	if info, err := os.Stat(path); err == nil {
		mode = info.Mode().Perm()
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".viaduct-")
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}
