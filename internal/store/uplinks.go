package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"viaduct/internal/uplink"
)

// uplinkFormat is the version of the records of uplinks.
const uplinkFormat = 1

// maxUplink is the largest such record that is read, in bytes.
const maxUplink = 16 << 20

func (s *Store) uplinkPath(bridge string) string {
	return filepath.Join(s.paths.uplinks, bridge+".json")
}

// SameBoot reports whether the record was written since the host came up.
func (s *Store) SameBoot(r uplink.Record) bool { return r.BootID == s.bootID }

// PutUplink writes the record of an uplink. It is on disk before that returns.
func (s *Store) PutUplink(r uplink.Record) error {
	if err := CheckName(r.Uplink.Bridge); err != nil {
		return err
	}
	r.Format, r.BootID = uplinkFormat, s.bootID
	b, err := json.MarshalIndent(r, "", "  ")
	if err == nil {
		var tmp string
		if tmp, err = s.fault.stage(undoFile, s.paths.uplinks, append(b, '\n'), true); err == nil {
			err = s.fault.rename(undoFile, tmp, s.uplinkPath(r.Uplink.Bridge))
		}
	}
	if err == nil {
		err = s.fault.syncDir(undoFile, s.paths.uplinks)
	}
	if err != nil {
		return fmt.Errorf("write record of uplink %s: %w", r.Uplink.Bridge, err)
	}
	return nil
}

// DeleteUplink removes a record. It is no error if there is none.
func (s *Store) DeleteUplink(bridge string) error {
	if err := CheckName(bridge); err != nil {
		return err
	}
	err := s.fault.remove(undoFile, s.uplinkPath(bridge))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = s.fault.syncDir(undoFile, s.paths.uplinks)
	}
	if err != nil {
		return fmt.Errorf("forget uplink %s: %w", bridge, err)
	}
	return nil
}

// Uplinks reads all records. Those that cannot be used are reported beside them.
func (s *Store) Uplinks() ([]uplink.Record, []*FileError) {
	names, err := namedFiles(s.paths.uplinks, ".json")
	if err != nil {
		return nil, []*FileError{{Path: s.paths.uplinks, Err: err}}
	}
	var all []uplink.Record
	var errs []*FileError
	for _, name := range names {
		path := s.uplinkPath(name)
		var r uplink.Record
		b, err := readFile(path, maxUplink)
		if err == nil {
			err = decodeVersioned(path, b, uplinkFormat, &r)
		}
		if err == nil && r.Uplink.Bridge != name {
			err = fmt.Errorf("it is the record of uplink '%s'", r.Uplink.Bridge)
		}
		if err != nil {
			errs = append(errs, &FileError{Path: path, Name: name, Err: err})
			continue
		}
		all = append(all, r)
	}
	return all, errs
}
