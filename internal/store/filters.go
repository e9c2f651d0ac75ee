package store

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
)

// Filters are definitions of packet filters. They are files like those of
// networks, in a folder of their own.

func (s *Store) filterPath(name string) string { return filepath.Join(s.paths.filters, name+".xml") }

// PutFilter writes the definition of the filter called name.
func (s *Store) PutFilter(name string, xml []byte) error {
	if err := CheckName(name); err != nil {
		return err
	}
	tmp, err := s.fault.stage(definitionFile, s.paths.filters, xml, true)
	if err == nil {
		err = s.fault.rename(definitionFile, tmp, s.filterPath(name))
	}
	if err == nil {
		err = s.fault.syncDir(definitionFile, s.paths.filters)
	}
	if err != nil {
		return fmt.Errorf("write filter %s: %w", name, err)
	}
	return nil
}

// DeleteFilter removes the definition of a filter.
func (s *Store) DeleteFilter(name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	err := s.fault.remove(definitionFile, s.filterPath(name))
	if err == nil {
		err = s.fault.syncDir(definitionFile, s.paths.filters)
	}
	if err != nil {
		return fmt.Errorf("delete filter %s: %w", name, err)
	}
	return nil
}

// Filters reads all filters, sorted by name. Files that cannot be used are
// reported beside those that can.
func (s *Store) Filters() ([]Definition, []*FileError) {
	names, err := namedFiles(s.paths.filters, ".xml")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, []*FileError{{Path: s.paths.filters, Err: err}}
	}
	return readNamed(names, s.filterPath)
}
