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
	r.Format, r.BootID = uplinkFormat, s.bootID
	return s.putUplinkFile("record of uplink", s.paths.uplinks, r.Uplink.Bridge, r)
}

// DeleteUplink removes a record. It is no error if there is none.
func (s *Store) DeleteUplink(bridge string) error {
	return s.deleteUplinkFile(s.paths.uplinks, bridge)
}

// UplinkLease reads the lease of an uplink, without an address if there is none,
// and reports whether it was got since the host came up.
func (s *Store) UplinkLease(bridge string) (l uplink.Lease, sameBoot bool, err error) {
	if err := CheckName(bridge); err != nil {
		return l, false, err
	}
	path := filepath.Join(s.paths.uplinkLeases, bridge+".json")
	b, err := readFile(path, maxUplink)
	if errors.Is(err, fs.ErrNotExist) {
		return l, false, nil
	}
	if err == nil {
		err = decodeVersioned(path, b, uplinkFormat, &l)
	}
	return l, l.BootID == s.bootID, err
}

// PutUplinkLease writes the lease of an uplink. It is on disk before that returns.
func (s *Store) PutUplinkLease(bridge string, l uplink.Lease) error {
	l.Format, l.BootID = uplinkFormat, s.bootID
	return s.putUplinkFile("lease of uplink", s.paths.uplinkLeases, bridge, l)
}

// resolvingFile is longer than the name of a link can be.
const resolvingFile = "resolving-by-uplinks"

// Resolving reads how the host finds names by its uplinks, and reports whether
// that was written since the host came up.
func (s *Store) Resolving() (r uplink.Resolving, sameBoot bool, err error) {
	path := filepath.Join(s.paths.uplinkLeases, resolvingFile+".json")
	b, err := readFile(path, maxUplink)
	if errors.Is(err, fs.ErrNotExist) {
		return r, false, nil
	}
	if err == nil {
		err = decodeVersioned(path, b, uplinkFormat, &r)
	}
	return r, r.BootID == s.bootID, err
}

// PutResolving writes how the host finds names. It is on disk before that returns.
func (s *Store) PutResolving(r uplink.Resolving) error {
	r.Format, r.BootID = uplinkFormat, s.bootID
	return s.putUplinkFile("record of", s.paths.uplinkLeases, resolvingFile, r)
}

// DeleteUplinkLease forgets the lease of an uplink. It is no error if there is none.
func (s *Store) DeleteUplinkLease(bridge string) error {
	return s.deleteUplinkFile(s.paths.uplinkLeases, bridge)
}

func (s *Store) putUplinkFile(what, dir, bridge string, content any) error {
	if err := CheckName(bridge); err != nil {
		return err
	}
	b, err := json.MarshalIndent(content, "", "  ")
	if err == nil {
		var tmp string
		if tmp, err = s.fault.stage(undoFile, dir, append(b, '\n'), true); err == nil {
			err = s.fault.rename(undoFile, tmp, filepath.Join(dir, bridge+".json"))
		}
	}
	if err == nil {
		err = s.fault.syncDir(undoFile, dir)
	}
	if err != nil {
		return fmt.Errorf("write %s %s: %w", what, bridge, err)
	}
	return nil
}

func (s *Store) deleteUplinkFile(dir, bridge string) error {
	if err := CheckName(bridge); err != nil {
		return err
	}
	err := s.fault.remove(undoFile, filepath.Join(dir, bridge+".json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = s.fault.syncDir(undoFile, dir)
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
