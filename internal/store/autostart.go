package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

func (s *Store) markPath(name string) string {
	return filepath.Join(s.paths.autostart, name+".xml")
}

// SetAutostart says whether a network starts with the host. The network must
// have a definition, else the error is fs.ErrNotExist.
func (s *Store) SetAutostart(name string, on bool) error {
	if err := CheckName(name); err != nil {
		return err
	}
	set := s.removeMark
	if on {
		set = s.addMark
	}
	if err := set(name); err != nil {
		return fmt.Errorf("set autostart of %s: %w", name, err)
	}
	s.watch.publish(KindAutostart, name)
	return nil
}

func (s *Store) addMark(name string) error {
	if ok, err := s.exists(name); err != nil {
		return err
	} else if !ok {
		return &fs.PathError{Op: "find", Path: s.definitionPath(name), Err: fs.ErrNotExist}
	}
	tmp := tempName(s.paths.autostart)
	err := s.fault.around(autostartLink, stepWrite, func() error {
		return os.Symlink(filepath.Join("..", name+".xml"), tmp)
	})
	if err == nil {
		err = s.fault.rename(autostartLink, tmp, s.markPath(name))
	}
	if err == nil {
		err = s.fault.syncDir(autostartLink, s.paths.autostart)
	}
	return err
}

func (s *Store) removeMark(name string) error {
	switch err := s.fault.remove(autostartLink, s.markPath(name)); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	return s.fault.syncDir(autostartLink, s.paths.autostart)
}

// Autostarted lists the networks that start with the host, sorted by name.
// Marks of networks without a definition do not count.
func (s *Store) Autostarted() ([]string, error) {
	return s.marks(true)
}

// marks lists the networks that have a mark, and a definition or not.
func (s *Store) marks(defined bool) ([]string, error) {
	names, err := namedFiles(s.paths.autostart, ".xml")
	if err != nil {
		return nil, fmt.Errorf("list autostart marks: %w", err)
	}
	var marked []string
	for _, name := range names {
		ok, err := s.exists(name)
		if err != nil {
			return nil, fmt.Errorf("list autostart marks: %w", err)
		}
		if ok == defined {
			marked = append(marked, name)
		}
	}
	return marked, nil
}

// removeDanglingMarks finishes what a killed DeleteDefinition began.
func (s *Store) removeDanglingMarks() error {
	names, err := s.marks(false)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := os.Remove(s.markPath(name)); err != nil {
			return err
		}
		s.log.Warn("removed the autostart mark of a network without definition", "network", name)
	}
	return nil
}
