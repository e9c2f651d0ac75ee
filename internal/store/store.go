// Package store keeps what must survive: the definitions of networks and
// which of them start with the host, the leases of guests, and for the time
// that the host is up the state of active networks and what the kernel cannot
// tell about the changes made to it.
//
// Whatever a call has acknowledged is there after the process was killed at
// any moment, and everything but the run state after the power was cut.
// Nothing is ever half there: files are replaced whole, by rename, and leases
// are lines with a checksum. Every file carries the version of its format, and
// one that is newer than this program knows is refused by name, never guessed at.
package store

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"viaduct/internal/netdef"
)

// Options say where a Store keeps its files.
type Options struct {
	// ConfigDir holds networks/NAME.xml, networks/autostart/NAME.xml, nwfilter/NAME.xml and uplinks/BRIDGE.json.
	ConfigDir string
	// StateDir holds leases/leases.journal, undo/ID.json and started.
	StateDir string
	// RunDir holds networks/NAME.json, host.json and engine.lock. It should
	// vanish when the host goes down.
	RunDir string
	// Fault, if set, is called before and after every write with one of
	// FaultPoints, from any goroutine. It is for tests that kill the process there.
	Fault func(point string)
	// Log takes what is worth knowing but no error; nil discards it.
	Log *slog.Logger
	// BootID tells one run of the host from the next; "" asks the kernel.
	BootID string
}

// Store is the kept state of one engine. Its methods may be called concurrently.
type Store struct {
	paths  paths
	fault  faults
	log    *slog.Logger
	bootID string
	lock   *engineLock
	watch  watchers

	// mu orders renames with the bookkeeping about them; slow writes happen outside.
	mu     sync.Mutex
	loaded map[string]contentSum // of the definitions, by name, as last loaded or put
	host   HostState
}

// paths are the folders and files of a Store.
type paths struct {
	networks, uplinks, filters, autostart, state, leases, uplinkLeases, undo, run, status, host string
}

// Open locks the run folder, makes what is missing of the layout and removes
// what a killed process left half done. A running engine is reported as a
// *LockedError.
func Open(o Options) (*Store, error) {
	s := &Store{
		paths: paths{
			networks:     filepath.Join(o.ConfigDir, "networks"),
			uplinks:      filepath.Join(o.ConfigDir, "uplinks"),
			filters:      filepath.Join(o.ConfigDir, "nwfilter"),
			autostart:    filepath.Join(o.ConfigDir, "networks", "autostart"),
			state:        o.StateDir,
			leases:       filepath.Join(o.StateDir, "leases"),
			uplinkLeases: filepath.Join(o.StateDir, "uplinks"),
			undo:         filepath.Join(o.StateDir, "undo"),
			run:          o.RunDir,
			status:       filepath.Join(o.RunDir, "networks"),
			host:         filepath.Join(o.RunDir, "host.json"),
		},
		fault:  o.Fault,
		log:    o.Log,
		bootID: o.BootID,
		loaded: map[string]contentSum{},
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.bootID == "" {
		id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
		if err != nil {
			return nil, fmt.Errorf("read boot id: %w", err)
		}
		s.bootID = strings.TrimSpace(string(id))
	}
	if err := s.open(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Store) open() (err error) {
	if err := makeDir(s.paths.run); err != nil {
		return err
	}
	if s.lock, err = lockEngine(filepath.Join(s.paths.run, "engine.lock")); err != nil {
		return err
	}
	for _, dir := range []string{s.paths.networks, s.paths.uplinks, s.paths.filters, s.paths.autostart, s.paths.leases, s.paths.uplinkLeases, s.paths.undo, s.paths.status} {
		if err := makeDir(dir); err != nil {
			return err
		}
	}
	for _, dir := range []string{s.paths.networks, s.paths.uplinks, s.paths.filters, s.paths.autostart, s.paths.state, s.paths.uplinkLeases, s.paths.undo, s.paths.run, s.paths.status} {
		if err := removeTemps(dir, s.log); err != nil {
			return err
		}
	}
	if err := s.removeDanglingMarks(); err != nil {
		return err
	}
	if err := s.dropOldStatuses(); err != nil {
		return err
	}
	return s.loadHost()
}

// Close ends all watches and lets another engine open the store. The files stay.
func (s *Store) Close() error {
	s.watch.close()
	if s.lock == nil {
		return nil
	}
	return s.lock.release()
}

// OpenLeases opens the journal of leases of this store, see OpenJournal. Fault
// and Log are the store's own.
func (s *Store) OpenLeases(o JournalOptions) (*Journal, []netdef.Lease, error) {
	o.Fault, o.Log = s.fault, s.log
	return OpenJournal(filepath.Join(s.paths.leases, "leases.journal"), o)
}

// maxName is the longest name whose files still have legal names, in bytes.
const maxName = 255 - len(".json")

// CheckName refuses names of networks that cannot be names of files.
func CheckName(name string) error {
	switch {
	case name == "":
		return netdef.Errorf(netdef.ErrNoName, "missing name information")
	case len(name) > maxName:
		return netdef.Errorf(netdef.ErrXML, "name '%s' is %d bytes long, at most %d are possible", name, len(name), maxName)
	case strings.Contains(name, "/"):
		return netdef.Errorf(netdef.ErrXML, "name %s cannot contain '/'", name)
	case name[0] == '.':
		return netdef.Errorf(netdef.ErrXML, "name %s cannot start with '.'", name)
	}
	for _, r := range name {
		if r < ' ' || r == 0x7f || r == '\uFFFD' {
			return netdef.Errorf(netdef.ErrXMLDetail, "invalid char in name: %q", name)
		}
	}
	return nil
}
