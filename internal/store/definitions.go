package store

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// definitionFormat is the version of definition files that this program writes
// and the newest it reads. A file without a version is of version 1: that is
// how administrators and their tools write them.
const definitionFormat = 1

// maxDefinition is the largest definition file that is read, in bytes: as much
// as fits into a string of libvirt's protocol.
const maxDefinition = 4 << 20

const formatWord = "viaduct-format:"

type contentSum = [sha256.Size]byte

// Definition is a definition file.
type Definition struct {
	// Name is that of the file without its ending. What name the XML gives is
	// for the caller to compare.
	Name string
	Path string
	// XML is the whole content, comments included; nil says that the file is gone.
	XML []byte
}

func (s *Store) definitionPath(name string) string {
	return filepath.Join(s.paths.networks, name+".xml")
}

// PutDefinition writes the definition of the network called name, whether or
// not there is one. xml needs no header; the file gets one. A file of a newer
// format is not replaced: the error is a *FormatError.
func (s *Store) PutDefinition(name string, xml []byte) error {
	if err := CheckName(name); err != nil {
		return err
	}
	var newer *FormatError
	if _, err := readDefinition(name, s.definitionPath(name)); errors.As(err, &newer) {
		return newer
	}
	content := withHeader(name, xml)
	tmp, err := s.fault.stage(definitionFile, s.paths.networks, content, true)
	if err != nil {
		return fmt.Errorf("write definition of %s: %w", name, err)
	}
	s.mu.Lock()
	if err = s.fault.rename(definitionFile, tmp, s.definitionPath(name)); err == nil {
		s.loaded[name] = sha256.Sum256(content)
	}
	s.mu.Unlock()
	if err == nil {
		err = s.fault.syncDir(definitionFile, s.paths.networks)
	}
	if err != nil {
		return fmt.Errorf("write definition of %s: %w", name, err)
	}
	s.watch.publish(KindDefinition, name)
	return nil
}

// DeleteDefinition removes the definition and the autostart mark of a network.
// Where there is no definition the error is fs.ErrNotExist.
func (s *Store) DeleteDefinition(name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	// The mark goes second: alone it means nothing, while a definition that has
	// lost its mark would no longer start with the host.
	s.mu.Lock()
	err := s.fault.remove(definitionFile, s.definitionPath(name))
	if err == nil {
		delete(s.loaded, name)
	}
	s.mu.Unlock()
	if err == nil {
		err = s.fault.syncDir(definitionFile, s.paths.networks)
	}
	if err == nil {
		err = s.removeMark(name)
	}
	if err != nil {
		return fmt.Errorf("delete definition of %s: %w", name, err)
	}
	s.watch.publish(KindDefinition, name)
	return nil
}

// Definitions reads all definitions, sorted by name. Files that cannot be used
// are reported beside those that can; one of a newer format as a *FormatError.
func (s *Store) Definitions() ([]Definition, []*FileError) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defs, errs := s.readDefinitions()
	clear(s.loaded)
	for _, d := range defs {
		s.loaded[d.Name] = sha256.Sum256(d.XML)
	}
	return defs, errs
}

// Changed reads the definitions whose content is not what was last loaded,
// put or accepted, so that files which somebody edited can be applied. Those
// that were removed come with XML nil. Until Accept is called for a change it
// is reported again.
func (s *Store) Changed() ([]Definition, []*FileError) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defs, errs := s.readDefinitions()
	seen := map[string]bool{}
	for _, e := range errs {
		seen[e.Name] = true
		if e.Name == "" { // the folder itself: nothing is known about what is gone
			return nil, errs
		}
	}
	var changed []Definition
	for _, d := range defs {
		seen[d.Name] = true
		if sum, ok := s.loaded[d.Name]; !ok || sum != sha256.Sum256(d.XML) {
			changed = append(changed, d)
		}
	}
	for name := range s.loaded {
		if !seen[name] {
			changed = append(changed, Definition{Name: name, Path: s.definitionPath(name)})
		}
	}
	slices.SortFunc(changed, func(a, b Definition) int { return strings.Compare(a.Name, b.Name) })
	return changed, errs
}

// Accept takes a definition that Changed returned as the one in use.
func (s *Store) Accept(d Definition) {
	s.mu.Lock()
	if d.XML == nil {
		delete(s.loaded, d.Name)
	} else {
		s.loaded[d.Name] = sha256.Sum256(d.XML)
	}
	s.mu.Unlock()
	s.watch.publish(KindDefinition, d.Name)
}

// Reject takes back that a definition was loaded: until Accept is called for
// it, Changed reports it.
func (s *Store) Reject(d Definition) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.loaded, d.Name)
}

func (s *Store) readDefinitions() ([]Definition, []*FileError) {
	names, err := namedFiles(s.paths.networks, ".xml")
	if err != nil {
		return nil, []*FileError{{Path: s.paths.networks, Err: err}}
	}
	return readNamed(names, s.definitionPath)
}

// readNamed reads definitions by their names, whose files have the paths that
// pathOf says.
func readNamed(names []string, pathOf func(name string) string) ([]Definition, []*FileError) {
	var defs []Definition
	var errs []*FileError
	for _, name := range names {
		path := pathOf(name)
		xml, err := readDefinition(name, path)
		if err != nil {
			errs = append(errs, &FileError{Path: path, Name: name, Err: err})
			continue
		}
		defs = append(defs, Definition{Name: name, Path: path, XML: xml})
	}
	return defs, errs
}

func readDefinition(name, path string) ([]byte, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	xml, err := readFile(path, maxDefinition)
	if err != nil {
		return nil, err
	}
	switch version, err := formatOf(xml); {
	case err != nil:
		return nil, err
	case version > definitionFormat:
		return nil, &FormatError{Path: path, Version: version, Known: definitionFormat}
	}
	return xml, nil
}

// withHeader puts the header before the XML, behind its declaration if it has one.
func withHeader(name string, xml []byte) []byte {
	declaration, rest := cutDeclaration(xml)
	if comment, after, ok := cutComment(rest); ok && bytes.Contains(comment, []byte(formatWord)) {
		rest = bytes.TrimPrefix(after, []byte("\n")) // it has one from the last time
	}
	command := "viaduct net-edit " + name
	if strings.Contains(name, "--") { // must not occur in a comment
		command = "viaduct net-edit"
	}
	var b bytes.Buffer
	b.Write(declaration)
	fmt.Fprintf(&b, "<!--\n%s %d\nThis file is written by viaduct; change it with: %s\n-->\n",
		formatWord, definitionFormat, command)
	b.Write(rest)
	return b.Bytes()
}

// cutDeclaration splits what must come first in an XML file, a byte order mark
// and the declaration, from the rest.
func cutDeclaration(xml []byte) (declaration, rest []byte) {
	mark := len(xml) - len(bytes.TrimPrefix(xml, []byte("\uFEFF")))
	if !bytes.HasPrefix(xml[mark:], []byte("<?xml")) {
		return xml[:mark], xml[mark:]
	}
	end := bytes.Index(xml, []byte("?>"))
	if end < 0 {
		return nil, xml // the parser will say what is wrong with it
	}
	end += len("?>")
	for end < len(xml) && (xml[end] == '\n' || xml[end] == '\r') {
		end++
	}
	return xml[:end], xml[end:]
}

// cutComment splits a comment that xml begins with from what follows it.
func cutComment(xml []byte) (comment, after []byte, ok bool) {
	body, ok := bytes.CutPrefix(bytes.TrimLeft(xml, " \t\r\n"), []byte("<!--"))
	if !ok {
		return nil, xml, false
	}
	return bytes.Cut(body, []byte("-->"))
}

// formatOf reads the format version from the first comment of a definition file.
func formatOf(xml []byte) (int, error) {
	_, rest := cutDeclaration(xml)
	comment, _, _ := cutComment(rest)
	for line := range strings.Lines(string(comment)) {
		value, ok := strings.CutPrefix(strings.TrimSpace(line), formatWord)
		if !ok {
			continue
		}
		version, err := strconv.Atoi(strings.TrimSpace(value))
		if err != nil || version < 1 {
			return 0, fmt.Errorf("%s '%s' is not a version", formatWord, strings.TrimSpace(value))
		}
		return version, nil
	}
	return 1, nil
}

// exists reports whether the network has a definition file.
func (s *Store) exists(name string) (bool, error) {
	_, err := os.Stat(s.definitionPath(name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
