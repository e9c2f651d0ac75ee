package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Temporary files are hidden and have an ending of their own, so that nothing
// that loads files takes one for real and Open can remove those left behind.
const (
	tempPrefix = ".viaduct-"
	tempSuffix = ".tmp"
)

func tempName(dir string) string {
	return filepath.Join(dir, tempPrefix+strconv.FormatUint(rand.Uint64(), 36)+tempSuffix)
}

func createTemp(dir string) (*os.File, error) {
	return os.OpenFile(tempName(dir), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
}

// discard closes and removes a temporary file that will not be used.
func discard(f *os.File) {
	f.Close() // nothing in it matters any more
	os.Remove(f.Name())
}

// removeTemps removes the temporary files that a killed process left in dir.
func removeTemps(dir string, log *slog.Logger) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), tempPrefix) || !strings.HasSuffix(e.Name(), tempSuffix) {
			continue
		}
		path := filepath.Join(dir, e.Name())
		if err := os.Remove(path); err != nil {
			return err
		}
		log.Info("removed a file left half written", "path", path)
	}
	return nil
}

// makeDir makes a folder and those above it, and makes sure that they outlast
// a power cut, since a synced file in a folder that is lost is lost too.
func makeDir(dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := makeDir(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(parent)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync folder %s: %w", dir, err)
	}
	return nil
}

// stage writes a file's new content beside it and returns the temporary name.
// Only a durable file is synced: one that ends with the boot need not be.
func (f faults) stage(kind, dir string, content []byte, durable bool) (string, error) {
	tmp, err := createTemp(dir)
	if err != nil {
		return "", err
	}
	err = f.around(kind, stepWrite, func() error {
		_, err := tmp.Write(content)
		return err
	})
	if err == nil && durable {
		err = f.around(kind, stepSync, tmp.Sync)
	}
	if err != nil {
		discard(tmp)
		return "", err
	}
	if err := tmp.Close(); err != nil {
		os.Remove(tmp.Name())
		return "", err
	}
	return tmp.Name(), nil
}

// rename puts a staged file in its place, or removes it if that fails.
func (f faults) rename(kind, tmp, path string) error {
	err := f.around(kind, stepRename, func() error { return os.Rename(tmp, path) })
	if err != nil {
		os.Remove(tmp)
	}
	return err
}

func (f faults) syncDir(kind, dir string) error {
	return f.around(kind, stepDirSync, func() error { return syncDir(dir) })
}

func (f faults) remove(kind, path string) error {
	return f.around(kind, stepRemove, func() error { return os.Remove(path) })
}

// readFile reads a regular file of at most max bytes. It does not wait for
// whatever a pipe of that name would say.
func readFile(path string, max int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	switch info, err := f.Stat(); {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, errors.New("not a regular file")
	}
	b, err := io.ReadAll(io.LimitReader(f, max+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > max {
		return nil, fmt.Errorf("larger than %d bytes", max)
	}
	return b, nil
}

// namedFiles lists the networks that have a file with the given ending in dir.
// Hidden files are editors' and our own temporary ones.
func namedFiles(dir, suffix string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), suffix)
		if ok && name != "" && name[0] != '.' {
			names = append(names, name)
		}
	}
	return names, nil
}
