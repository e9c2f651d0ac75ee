package lab

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// Snapshot is the state of a tree of files: for each path what it is, with a
// hash of a file's content.
type Snapshot map[string]string

// EtcSnapshot notes the machine's whole /etc, to see that a test left it alone.
func EtcSnapshot() Snapshot { return TreeSnapshot("/etc") }

// TreeSnapshot notes a folder and all below it. What cannot be read is noted
// with the reason.
func TreeSnapshot(root string) Snapshot {
	s := make(Snapshot)
	filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			s[path] = err.Error()
			return nil
		}
		s[path] = describeFile(path)
		return nil
	})
	return s
}

func describeFile(path string) string {
	info, err := os.Lstat(path)
	if err != nil {
		return err.Error()
	}
	switch {
	case info.Mode().IsRegular():
		content, err := os.ReadFile(path)
		if err != nil {
			return fmt.Sprint(info.Mode(), " ", err)
		}
		return fmt.Sprintf("%v %x", info.Mode(), sha256.Sum256(content))
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(path)
		return fmt.Sprint(info.Mode(), " ", target, err)
	}
	return info.Mode().String()
}

// Diff lists what differs from an earlier snapshot, by path: "+" for new, "-" for
// gone, "~" for changed.
func (s Snapshot) Diff(before Snapshot) []string {
	all := maps.Clone(before)
	maps.Copy(all, s)
	var diff []string
	for _, path := range slices.Sorted(maps.Keys(all)) {
		was, existed := before[path]
		is, exists := s[path]
		switch {
		case !existed:
			diff = append(diff, "+"+path)
		case !exists:
			diff = append(diff, "-"+path)
		case was != is:
			diff = append(diff, "~"+path)
		}
	}
	return diff
}
