package nft

import (
	"errors"
	"maps"
	"slices"
	"sync"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"viaduct/internal/host/nl"
	"viaduct/internal/hoststate"
)

// mirror is what our tables contain. The writer alone changes it.
type mirror struct {
	port uint32 // of the writer's socket

	mu      sync.RWMutex
	objects hoststate.State
	tables  map[hoststate.TableRef]table
}

func newMirror(port uint32) *mirror {
	return &mirror{port: port, objects: hoststate.State{}, tables: map[hoststate.TableRef]table{}}
}

// observe returns those of the objects that exist.
func (m *mirror) observe(keys []hoststate.Key) hoststate.State {
	m.mu.RLock()
	defer m.mu.RUnlock()
	s := hoststate.State{}
	for _, k := range keys {
		if o, ok := m.objects[k]; ok {
			s[k] = o
		}
	}
	return s
}

// all returns all that is in our tables.
func (m *mirror) all() hoststate.State {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return maps.Clone(m.objects)
}

// replace puts what was just read of the given tables into the mirror and
// returns the keys of what was different.
func (m *mirror) replace(read []hoststate.TableRef, objects hoststate.State, tables map[hoststate.TableRef]table) []hoststate.Key {
	m.mu.Lock()
	defer m.mu.Unlock()
	var differ []hoststate.Key
	for k, have := range m.objects {
		if !slices.Contains(read, tableOf(have)) {
			continue
		}
		now, exists := objects[k]
		if !exists {
			delete(m.objects, k)
		}
		if !exists || !hoststate.Equal(have, now) {
			differ = append(differ, k)
		}
	}
	for k, now := range objects {
		if _, known := m.objects[k]; !known {
			differ = append(differ, k)
		}
		m.objects[k] = now
	}
	m.tables = tables
	return differ
}

// load reads all of our tables into the mirror.
func (a *Applier) load() error {
	_, err := a.read(a.names)
	return err
}

// refresh reads those tables again that others have changed, and reports what
// is different.
func (a *Applier) refresh() {
	changed := a.dirty.take()
	if len(changed) == 0 {
		return
	}
	differ, err := a.read(changed)
	if err != nil {
		a.log.Error("read nftables after a foreign change", "error", err)
		a.changes.Add() // anything may have changed
		return
	}
	if len(differ) > 0 {
		a.log.Warn("nftables changed by somebody else", "objects", len(differ), "first", differ[0].String())
		a.changes.Add(differ...)
	}
}

// read reads tables into the mirror and returns the keys of what differed.
func (a *Applier) read(refs []hoststate.TableRef) ([]hoststate.Key, error) {
	tables, err := a.listTables()
	if err != nil {
		return nil, err
	}
	objects := hoststate.State{}
	for _, t := range refs {
		info, exists := tables[t]
		if !exists {
			continue
		}
		// A dormant table does nothing, so it counts as none: making it wakes it.
		if info.flags&nftables.TableFlagDormant == 0 {
			objects.Add(hoststate.Table{Ref: t})
		}
		contents, err := a.socket.readTable(t)
		if err != nil {
			return nil, err
		}
		maps.Copy(objects, contents)
	}
	return a.mirror.replace(refs, objects, tables), nil
}

// listTables lists those of our tables that exist.
func (a *Applier) listTables() (map[hoststate.TableRef]table, error) {
	var tables map[hoststate.TableRef]table
	err := a.socket.dump(message{typ: unix.NFT_MSG_GETTABLE}, func(family uint8, b []byte) {
		if b == nil {
			tables = map[hoststate.TableRef]table{}
			return
		}
		name, flags, owner := decodeTable(b)
		for _, t := range a.names {
			if families[t.Family] == family && t.Name == name {
				tables[t] = table{flags, owner}
			}
		}
	})
	return tables, err
}

// readTable reads all that is in a table.
func (s *socket) readTable(t hoststate.TableRef) (hoststate.State, error) {
	chains, err := s.readChains(t)
	if err != nil {
		return nil, err
	}
	objects := hoststate.State{}
	for _, c := range chains {
		objects.Add(c)
	}
	sets, err := s.readSets(t)
	if err != nil {
		return nil, err
	}
	for _, set := range sets {
		objects.Add(set)
		if len(set.Fields) == 0 || set.Dynamic {
			continue // not ours, or filled by packets
		}
		elements, err := s.readElements(set)
		if err != nil {
			return nil, err
		}
		for _, e := range elements {
			objects.Add(e)
		}
	}
	return objects, nil
}

func (s *socket) readChains(t hoststate.TableRef) (map[string]hoststate.Chain, error) {
	var chains map[string]hoststate.Chain
	err := s.dump(named(unix.NFT_MSG_GETCHAIN, t, 0, ""), func(_ uint8, b []byte) {
		if b == nil {
			chains = map[string]hoststate.Chain{}
		} else if nl.String(b, unix.NFTA_CHAIN_TABLE) == t.Name { // the kernel lists those of all tables
			c := decodeChain(t, b)
			chains[c.Name] = c
		}
	})
	if err != nil {
		return nil, err
	}
	var rules map[string][]hoststate.Rule
	err = s.dump(named(unix.NFT_MSG_GETRULE, t, 0, ""), func(_ uint8, b []byte) {
		if b == nil {
			rules = map[string][]hoststate.Rule{}
			return
		}
		chain, rule := decodeRuleMessage(t, b)
		rules[chain] = append(rules[chain], rule)
	})
	for name, c := range chains {
		c.Rules = rules[name]
		chains[name] = c
	}
	return chains, err
}

func (s *socket) readSets(t hoststate.TableRef) (map[string]hoststate.Set, error) {
	var sets map[string]hoststate.Set
	err := s.dump(named(unix.NFT_MSG_GETSET, t, 0, ""), func(_ uint8, b []byte) {
		if b == nil {
			sets = map[string]hoststate.Set{}
		} else if set, ok := decodeSet(t, b); ok {
			sets[set.Name] = set
		}
	})
	return sets, err
}

// Collected reads a dynamic set, of which the mirror has no elements, on a
// socket of its own: the writer's is busy. A set that is not there has none.
func Collected(set hoststate.Set) ([]hoststate.Element, error) {
	s, err := openSocket(nil)
	if err != nil {
		return nil, err
	}
	elements, err := s.readElements(set)
	if errors.Is(err, unix.ENOENT) {
		err = nil
	}
	return elements, errors.Join(err, s.close())
}

func (s *socket) readElements(set hoststate.Set) ([]hoststate.Element, error) {
	var elements []hoststate.Element
	err := s.dump(named(unix.NFT_MSG_GETSETELEM, set.Table, unix.NFTA_SET_ELEM_LIST_SET, set.Name), func(_ uint8, b []byte) {
		if b == nil {
			elements = nil
		} else {
			elements = append(elements, decodeElements(set, b)...)
		}
	})
	return elements, err
}
