package kernel

import (
	"os"
	"path/filepath"
	"slices"
)

// Root is a folder that becomes a machine's file system.
type Root string

// Folders makes folders.
func (r Root) Folders(names ...string) error {
	for _, name := range names {
		if err := os.MkdirAll(filepath.Join(string(r), name), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// Copy copies a file of this machine, executable, to a path in the root.
func (r Root) Copy(to, from string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return r.Write(to, content)
}

// Tree copies a folder of this machine.
func (r Root) Tree(to, from string) error {
	return os.CopyFS(filepath.Join(string(r), to), os.DirFS(from))
}

// Write writes a file, executable, to a path in the root.
func (r Root) Write(to string, content []byte) error {
	return place(filepath.Join(string(r), to), content)
}

// Link makes a symbolic link at a path in the root.
func (r Root) Link(to, target string) error {
	to = filepath.Join(string(r), to)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.Symlink(target, to)
}

// Program copies a program to a path in the root, and the libraries that it
// needs to where the dynamic linker looks for them. Libraries that this machine
// does not have are in the folders.
func (r Root) Program(to, from string, folders ...string) error {
	needed, err := Needs(from, folders...)
	if err != nil {
		return err
	}
	if err := r.Copy(to, needed[0]); err != nil {
		return err
	}
	for _, library := range needed[1:] {
		at := library
		if slices.Contains(folders, filepath.Dir(library)) {
			at = filepath.Join("/usr/lib", filepath.Base(library))
		}
		if err := r.Copy(at, library); err != nil {
			return err
		}
	}
	return nil
}
