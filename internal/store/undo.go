package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"viaduct/internal/netdef"
)

// undoFormat is the version of the records of what can be taken back.
const undoFormat = 1

// maxUndo is the largest such record that is read, in bytes.
const maxUndo = 64 << 20

// Undo is what networks were before a change that is to be taken back: one that
// is under way, should it be cut short, or one that nobody confirms in time.
// Unlike a status it outlives the host.
type Undo struct {
	// Format is filled in by PutUndo.
	Format int `json:"format"`
	// ID names the record.
	ID netdef.UUID `json:"id"`
	// BootID is that of the host's run in which the record was written. After
	// another start of the host no network is active that was so before.
	BootID string `json:"bootId"`
	// Deadline is when the change is taken back; zero while it is under way.
	// Within is how long there was until then, so that a clock that was set back
	// does not make it wait for years.
	Deadline time.Time     `json:"deadline,omitzero"`
	Within   time.Duration `json:"within,omitempty"`
	Networks []Before      `json:"networks"`
}

// Before is what one network was.
type Before struct {
	Name string      `json:"name"`
	UUID netdef.UUID `json:"uuid"`
	// Live and Config are its definitions as XML, "" where it had none.
	Live      string `json:"live,omitempty"`
	Config    string `json:"config,omitempty"`
	Autostart bool   `json:"autostart,omitempty"`
}

// ThisBoot reports whether the record was written since the host came up.
func (s *Store) ThisBoot(u Undo) bool { return u.BootID == s.bootID }

func (s *Store) undoPath(id netdef.UUID) string {
	return filepath.Join(s.paths.undo, id.String()+".json")
}

// PutUndo writes a record, or replaces the one of its ID.
func (s *Store) PutUndo(u Undo) error {
	u.Format, u.BootID = undoFormat, s.bootID
	b, err := json.Marshal(u)
	if err != nil {
		return fmt.Errorf("write what can be taken back: %w", err)
	}
	tmp, err := s.fault.stage(undoFile, s.paths.undo, b, true)
	if err == nil {
		err = s.fault.rename(undoFile, tmp, s.undoPath(u.ID))
	}
	if err == nil {
		err = s.fault.syncDir(undoFile, s.paths.undo)
	}
	if err != nil {
		return fmt.Errorf("write what can be taken back: %w", err)
	}
	return nil
}

// DeleteUndo removes a record. It is no error if there is none.
func (s *Store) DeleteUndo(id netdef.UUID) error {
	err := s.fault.remove(undoFile, s.undoPath(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = s.fault.syncDir(undoFile, s.paths.undo)
	}
	if err != nil {
		return fmt.Errorf("forget what can be taken back: %w", err)
	}
	return nil
}

// Undos reads all records. Those that cannot be used are reported beside them.
func (s *Store) Undos() ([]Undo, []*FileError) {
	names, err := namedFiles(s.paths.undo, ".json")
	if err != nil {
		return nil, []*FileError{{Path: s.paths.undo, Err: err}}
	}
	var all []Undo
	var errs []*FileError
	for _, name := range names {
		path := filepath.Join(s.paths.undo, name+".json")
		var u Undo
		b, err := readFile(path, maxUndo)
		if err == nil {
			err = decodeVersioned(path, b, undoFormat, &u)
		}
		if err == nil && u.ID.String() != name {
			err = errors.New("it is not named after its id")
		}
		if err != nil {
			errs = append(errs, &FileError{Path: path, Name: name, Err: err})
			continue
		}
		all = append(all, u)
	}
	return all, errs
}

// SetAsideUndo keeps a record that cannot be used out of the way.
func (s *Store) SetAsideUndo(bad *FileError) error { return os.Rename(bad.Path, bad.Path+".damaged") }
