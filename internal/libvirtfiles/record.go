package libvirtfiles

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"viaduct/internal/netdef"
)

// recordFormat is the version of records.
const recordFormat = 1

// Record is what libvirt knew of a network before it was taken over, so that
// it can be given back.
type Record struct {
	Format int         `json:"format"`
	BootID string      `json:"bootId"` // of the host's run in which it was made
	Name   string      `json:"name"`
	UUID   netdef.UUID `json:"uuid"`
	// Active says that it was in effect then.
	Active bool   `json:"active"`
	Bridge string `json:"bridge,omitempty"`
	// Lasting and Passing are the files, see Network.
	Lasting []File `json:"lasting"`
	Passing []File `json:"passing"`

	path string
}

// File is a file as it was.
type File struct {
	Path string      `json:"path"`
	Mode fs.FileMode `json:"mode"`
	Data []byte      `json:"data,omitempty"`
	Link string      `json:"link,omitempty"` // where a symbolic link leads
}

// BootID tells this run of the host from others.
func BootID() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id)), err
}

// Record writes down, in a folder, what libvirt knows of the network. It is on
// disk when it returns.
func (n Network) Record(dir string) (Record, error) {
	boot, err := BootID()
	if err != nil {
		return Record{}, err
	}
	r := Record{Format: recordFormat, BootID: boot, Name: n.Name, UUID: n.UUID, Active: n.Live != "", Bridge: n.Bridge, path: filepath.Join(dir, n.Name+".json")}
	for _, l := range []struct {
		paths []string
		into  *[]File
	}{{n.Lasting, &r.Lasting}, {n.Passing, &r.Passing}} {
		for _, path := range l.paths {
			f, err := keep(path)
			if err != nil {
				return Record{}, err
			}
			*l.into = append(*l.into, f)
		}
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err == nil {
		err = os.MkdirAll(dir, 0o700)
	}
	if err == nil {
		err = writeSynced(r.path, append(text, '\n'), 0o600)
	}
	return r, err
}

func keep(path string) (File, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return File{}, err
	}
	f := File{Path: path, Mode: info.Mode().Perm()}
	if info.Mode().Type() == fs.ModeSymlink {
		f.Link, err = os.Readlink(path)
	} else {
		f.Data, err = readFile(path)
	}
	return f, err
}

// writeSynced replaces a file whole, on disk.
func writeSynced(path string, data []byte, mode fs.FileMode) error {
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(tmp, path)
	}
	if err == nil {
		var dir *os.File
		if dir, err = os.Open(filepath.Dir(path)); err == nil {
			err = errors.Join(dir.Sync(), dir.Close())
		}
	}
	return err
}

// Remove removes the files by which libvirt knows the network.
func (n Network) Remove() error {
	var errs []error
	for _, path := range slices.Concat(n.Passing, n.Lasting) {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Records reads all records of a folder, sorted by name.
func Records(dir string) ([]Record, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, err
	}
	var records []Record
	for _, path := range paths {
		text, err := readFile(path)
		if err != nil {
			return nil, err
		}
		r := Record{path: path}
		if err := json.Unmarshal(text, &r); err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		if r.Format != recordFormat {
			return nil, fmt.Errorf("read %s: its format is %d, and this program knows %d", path, r.Format, recordFormat)
		}
		records = append(records, r)
	}
	return records, nil
}

// Restore makes libvirt know the network again: in effect, or only by its
// definition. Leases are what the guests hold by now.
func (r Record) Restore(p Paths, active bool, leases []netdef.Lease) error {
	files := r.Lasting
	if active {
		files = slices.Concat(files, r.Passing)
		path := p.Leases(r.Bridge)
		old, err := readFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		text, err := FormatLeases(leases, ServerDUID(old))
		if err == nil {
			err = writeSynced(path, text, 0o644)
		}
		if err != nil {
			return err
		}
	}
	for _, mark := range []string{p.definition(r.Name), p.autostart(r.Name)} {
		if err := os.Remove(mark); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for _, f := range files {
		if err := f.restore(); err != nil {
			return err
		}
	}
	return nil
}

func (f File) restore() error {
	if err := os.MkdirAll(filepath.Dir(f.Path), 0o755); err != nil {
		return err
	}
	if f.Link != "" {
		return os.Symlink(f.Link, f.Path)
	}
	return writeSynced(f.Path, f.Data, f.Mode)
}

// Forget removes the record.
func (r Record) Forget() error { return os.Remove(r.path) }
