package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// startedPath marks, in the folder for what survives a reboot, that a daemon
// has made the default network once: who undefines it does not want it back.
func (s *Store) startedPath() string { return filepath.Join(s.paths.state, "started") }

// FirstStart reports whether MarkStarted was never called.
func (s *Store) FirstStart() bool {
	_, err := os.Stat(s.startedPath())
	return errors.Is(err, fs.ErrNotExist)
}

// MarkStarted remembers that this host has had its first start.
func (s *Store) MarkStarted() error {
	tmp, err := s.fault.stage(startedFile, s.paths.state, []byte("format 1\n"), true)
	if err == nil {
		err = s.fault.rename(startedFile, tmp, s.startedPath())
	}
	if err == nil {
		err = s.fault.syncDir(startedFile, s.paths.state)
	}
	if err != nil {
		return fmt.Errorf("mark first start: %w", err)
	}
	return nil
}
