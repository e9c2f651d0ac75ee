package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// startedFile marks, in the folder for what survives a reboot, that a daemon
// has made the default network once: who undefines it does not want it back.
const startedFile = "started"

// FirstStart reports whether MarkStarted was never called.
func (s *Store) FirstStart() bool {
	_, err := os.Stat(filepath.Join(filepath.Dir(s.paths.leases), startedFile))
	return errors.Is(err, fs.ErrNotExist)
}

// MarkStarted remembers that this host has had its first start.
func (s *Store) MarkStarted() error {
	path := filepath.Join(filepath.Dir(s.paths.leases), startedFile)
	if err := os.WriteFile(path, []byte("format 1\n"), 0o644); err != nil {
		return fmt.Errorf("mark first start: %w", err)
	}
	return nil
}
