package engine

import (
	"fmt"

	"viaduct/internal/netdef"
	"viaduct/internal/store"
)

// leftAside names the networks whose definitions could not be taken in; "" is
// the folder itself, when none could be read.
type leftAside map[string]bool

func (l leftAside) has(name string) bool { return l[name] || l[""] }

// load reads the definitions. What cannot be taken in is left aside and told.
// It returns the names of the files left aside, and whether the default
// network is to be made.
func (e *Engine) load(active []adopted) (aside leftAside, first bool) {
	defs, errs := e.Store.Definitions()
	aside = leftAside{}
	for _, bad := range errs {
		e.Log.Error("definition left aside", "file", bad.Path, "error", bad.Err)
		aside[bad.Name] = true
	}
	for _, d := range defs {
		if err := e.loadOne(d); err != nil {
			e.Log.Error("definition left aside", "file", d.Path, "error", err)
			e.Store.Reject(d)
			aside[d.Name] = true
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, a := range active {
		if a.config == nil && a.persistent && aside.has(a.name) {
			a.config = a.live // it does not become transient by a typing error
		}
	}
	marks, err := e.Store.Autostarted()
	if err != nil {
		e.Log.Error("read autostart marks", "error", err)
	}
	for _, name := range marks {
		if n := e.names[name]; n != nil && n.config != nil {
			n.autostart = true
		}
	}
	return aside, e.isFirst(defs, errs)
}

// isFirst reports whether the default network is to be made: at the first
// start, unless there are networks already.
func (e *Engine) isFirst(defs []store.Definition, errs []*store.FileError) bool {
	if !e.Default || !e.Store.FirstStart() {
		return false
	}
	// A first start that was cut short may have left its default network.
	if len(errs) == 0 && (len(defs) == 0 || len(defs) == 1 && defs[0].Name == defaultName) {
		return true
	}
	if len(defs) > 0 {
		if err := e.Store.MarkStarted(); err != nil {
			e.Log.Error("remember the first start", "error", err)
		}
	}
	return false
}

// loadOne takes a definition file in. One written by hand may leave out what
// is chosen at definition; it is then written back complete.
func (e *Engine) loadOne(d store.Definition) error {
	def, err := e.readFile(d)
	if err != nil {
		return err
	}
	given := *def
	n, err := e.admitFile(def)
	if err != nil {
		return err
	}
	defer e.dismiss(n)
	if n.config != nil {
		return fmt.Errorf("network '%s' is defined in another file too", def.Name)
	}
	if incomplete(&given, def) {
		return e.persist(n, def)
	}
	e.mu.Lock()
	n.config = def
	e.mu.Unlock()
	return nil
}

// readFile reads a definition from a file, whose name has to be the network's.
func (e *Engine) readFile(d store.Definition) (*netdef.Network, error) {
	def, err := e.read(d.XML)
	if err != nil {
		return nil, err
	}
	if def.Name != d.Name {
		return nil, fmt.Errorf("file is named %s.xml but defines network '%s'", d.Name, def.Name)
	}
	return def, nil
}

// admitFile is admit for a definition from a file: one that gives no UUID is
// about the network of its name.
func (e *Engine) admitFile(def *netdef.Network) (*network, error) {
	e.mu.Lock()
	if n := e.names[def.Name]; n != nil && def.UUID.IsZero() {
		def.UUID = n.id
	}
	e.mu.Unlock()
	return e.admit(def)
}

// incomplete reports whether a file leaves out what was chosen for it.
func incomplete(given, chosen *netdef.Network) bool {
	return given.UUID != chosen.UUID || given.MAC != chosen.MAC || given.Bridge.Name != chosen.Bridge.Name
}
