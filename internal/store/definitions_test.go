package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func names(defs []Definition) []string {
	var list []string
	for _, d := range defs {
		list = append(list, d.Name)
	}
	return list
}

func badNames(errs []*FileError) []string {
	var list []string
	for _, e := range errs {
		list = append(list, e.Name)
	}
	return list
}

func TestPutDefinition(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, options(dir))
	for _, name := range []string{"default", "a b", "ünïcode", "a--b-", strings.Repeat("n", maxName)} {
		for _, xml := range []string{"<network>old</network>\n", "<network>new</network>\n"} {
			check(t, s.PutDefinition(name, []byte(xml)))
			content, err := os.ReadFile(filepath.Join(dir, "config/networks", name+".xml"))
			check(t, err)
			comment, got, _ := strings.Cut(string(content), "-->\n")
			if got != xml || !strings.HasPrefix(comment, "<!--\nviaduct-format: 1\n") {
				t.Errorf("%s is %q", name, content)
			}
			if strings.Contains(comment[len("<!--"):], "--") {
				t.Errorf("%s has a comment that is no XML: %q", name, comment)
			}
			if !strings.Contains(comment, "viaduct net-edit") {
				t.Errorf("%s does not say how it is edited: %q", name, comment)
			}
		}
	}
	// What was loaded can be put as it is, header and all.
	defs, bad := s.Definitions()
	if len(bad) > 0 || len(defs) != 5 {
		t.Fatalf("definitions %v, errors %v", names(defs), bad)
	}
	for _, d := range defs {
		check(t, s.PutDefinition(d.Name, d.XML))
		content, err := os.ReadFile(d.Path)
		check(t, err)
		if diff := cmp.Diff(string(d.XML), string(content)); diff != "" {
			t.Errorf("put of the loaded file (-want +got):\n%s", diff)
		}
	}
	check(t, s.PutDefinition("declared", []byte("<?xml version='1.0'?>\n<network/>\n")))
	content, err := os.ReadFile(filepath.Join(dir, "config/networks/declared.xml"))
	check(t, err)
	if !strings.HasPrefix(string(content), "<?xml version='1.0'?>\n<!--") {
		t.Errorf("an XML declaration must stay first: %q", content)
	}
}

func TestCheckName(t *testing.T) {
	for _, name := range []string{"", ".", "..", ".hidden", "a/b", "/", "a\x00", "a\nb", "a\x7f", "\xff", strings.Repeat("n", maxName+1)} {
		if err := CheckName(name); err == nil {
			t.Errorf("name %q is accepted", name)
		}
	}
	dir := t.TempDir()
	s := openStore(t, options(dir))
	for what, err := range map[string]error{
		"put":           s.PutDefinition("../x", nil),
		"delete":        s.DeleteDefinition("../x"),
		"autostart":     s.SetAutostart("../x", false),
		"put status":    s.PutStatus(Status{Name: "../x"}),
		"delete status": s.DeleteStatus("../x"),
	} {
		if err == nil || !strings.Contains(err.Error(), "'/'") {
			t.Errorf("%s with a bad name: %v", what, err)
		}
	}
}

// TestOneBadFileStopsNoOther: everything odd that may lie in the folder.
func TestOneBadFileStopsNoOther(t *testing.T) {
	dir := t.TempDir()
	networks := filepath.Join(dir, "config/networks")
	write := func(name, content string) { writeFile(t, filepath.Join(networks, name), []byte(content)) }
	write("admin.xml", "<network><name>admin</name></network>")
	write("commented.xml", "\n<!-- by ansible -->\n<network/>")
	write("declared.xml", "\uFEFF<?xml version='1.0'?>\n<!--\nviaduct-format: 1\n-->\n<network/>")
	write("newer.xml", "<!--\nviaduct-format: 2\n-->\n<network/>")
	write("unversioned.xml", "<!--\nviaduct-format: many\n-->\n<network/>")
	write("empty.xml", "") // for the XML parser to complain about
	write("notes.txt", "ignored")
	write("admin.xml~", "ignored")
	write(".admin.xml.swp", "ignored")
	write(".#admin.xml", "ignored")
	write(tempPrefix+"1"+tempSuffix, "left by a kill")
	write("\xff.xml", "<network/>")
	check(t, os.Mkdir(filepath.Join(networks, "folder.xml"), 0o755))
	check(t, syscall.Mkfifo(filepath.Join(networks, "pipe.xml"), 0o644))
	check(t, os.Symlink("nowhere", filepath.Join(networks, "dangling.xml")))
	check(t, os.Symlink("admin.xml", filepath.Join(networks, "linked.xml")))
	check(t, os.WriteFile(filepath.Join(networks, "huge.xml"), nil, 0o644))
	check(t, os.Truncate(filepath.Join(networks, "huge.xml"), maxDefinition+1))

	s := openStore(t, options(dir))
	defs, bad := s.Definitions()
	if diff := cmp.Diff([]string{"admin", "commented", "declared", "empty", "linked"}, names(defs)); diff != "" {
		t.Errorf("loaded (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"dangling", "folder", "huge", "newer", "pipe", "unversioned", "\xff"}, badNames(bad)); diff != "" {
		t.Errorf("refused (-want +got):\n%s", diff)
	}
	for _, e := range bad {
		if !strings.Contains(e.Error(), e.Path) {
			t.Errorf("error does not name the file: %v", e)
		}
		if e.Name == "newer" && !isFormatError(e, filepath.Join(networks, "newer.xml"), 2) {
			t.Errorf("newer file: %v", e)
		}
	}
	if string(defs[0].XML) != "<network><name>admin</name></network>" {
		t.Errorf("content is %q", defs[0].XML)
	}
	noTemps(t, dir)
}

func TestDeleteDefinition(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, options(dir))
	if err := s.DeleteDefinition("a"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("delete of nothing: %v", err)
	}
	check(t, s.PutDefinition("a", []byte("<network/>")))
	check(t, s.SetAutostart("a", true))
	check(t, s.DeleteDefinition("a"))
	check(t, s.PutDefinition("a", []byte("<network/>")))
	if marked, err := s.Autostarted(); err != nil || len(marked) != 0 {
		t.Errorf("the mark outlived its definition: %v, %v", marked, err)
	}
}

func TestAutostart(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, options(dir))
	for _, name := range []string{"b", "a", "c"} {
		check(t, s.PutDefinition(name, []byte("<network/>")))
		check(t, s.SetAutostart(name, true))
		check(t, s.SetAutostart(name, true))
	}
	check(t, s.SetAutostart("c", false))
	check(t, s.SetAutostart("c", false))
	if err := s.SetAutostart("nobody", true); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("mark without definition: %v", err)
	}
	target, err := os.Readlink(filepath.Join(dir, "config/networks/autostart/a.xml"))
	if err != nil || target != "../a.xml" {
		t.Errorf("the mark points to %q, %v", target, err)
	}
	check(t, os.Remove(filepath.Join(dir, "config/networks/b.xml"))) // behind our back
	marked, err := s.Autostarted()
	if diff := cmp.Diff([]string{"a"}, marked); err != nil || diff != "" {
		t.Errorf("autostarted (-want +got):\n%s%v", diff, err)
	}
	check(t, s.Close())
	openStore(t, options(dir))
	if _, err := os.Lstat(filepath.Join(dir, "config/networks/autostart/b.xml")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the dangling mark is still there: %v", err)
	}
}

// TestChanged: edits are reported until accepted, our own writes never.
func TestChanged(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, options(dir))
	path := func(name string) string { return filepath.Join(dir, "config/networks", name+".xml") }
	expect := func(wantChanged, wantBad []string) []Definition {
		t.Helper()
		changed, bad := s.Changed()
		if diff := cmp.Diff(wantChanged, names(changed)); diff != "" {
			t.Fatalf("changed (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(wantBad, badNames(bad)); diff != "" {
			t.Fatalf("bad (-want +got):\n%s", diff)
		}
		return changed
	}
	for _, name := range []string{"a", "b", "c", "d"} {
		check(t, s.PutDefinition(name, []byte("<network/>")))
	}
	expect(nil, nil)
	s.Definitions()
	expect(nil, nil)
	same, err := os.ReadFile(path("d"))
	check(t, err)
	writeFile(t, path("d"), same)
	writeFile(t, path("a"), []byte("<network>edited</network>"))
	check(t, os.Remove(path("b")))
	writeFile(t, path("c"), []byte("<!-- viaduct-format: 9 -->"))
	writeFile(t, path("e"), []byte("<network>new</network>"))
	expect([]string{"a", "b", "e"}, []string{"c"})
	changed := expect([]string{"a", "b", "e"}, []string{"c"})
	if changed[1].XML != nil || changed[0].XML == nil {
		t.Errorf("what is gone and what is not: %v", changed)
	}
	s.Accept(changed[0])
	s.Accept(changed[1])
	expect([]string{"e"}, []string{"c"})
	check(t, s.PutDefinition("e", []byte("<network/>")))
	check(t, s.DeleteDefinition("a"))
	expect(nil, []string{"c"})
	check(t, os.Remove(path("c")))
	expect([]string{"c"}, nil)
}

func TestWatch(t *testing.T) {
	s := openStore(t, options(t.TempDir()))
	check(t, s.PutDefinition("before", []byte("<network/>")))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ch := s.Watch(ctx)
	want := []Change{{2, KindDefinition, "a"}, {3, KindAutostart, "a"}, {4, KindStatus, "a"}, {5, KindHost, ""}, {6, KindStatus, "a"}, {7, KindDefinition, "a"}}
	for i, do := range []func() error{
		func() error { return s.PutDefinition("a", []byte("<network/>")) },
		func() error { return s.SetAutostart("a", true) },
		func() error { return s.PutStatus(Status{Name: "a"}) },
		func() error { return s.MarkAutostarted() },
		func() error { return s.DeleteStatus("a") },
		func() error { return s.DeleteDefinition("a") },
	} {
		check(t, do())
		if got := <-ch; got != want[i] {
			t.Errorf("change is %v, want %v", got, want[i])
		}
	}
	if got := s.Revision(); got != 7 {
		t.Errorf("revision is %d, want 7", got)
	}
	cancel()
	if c, ok := <-ch; ok {
		t.Errorf("after the end came %v", c)
	}
}

// TestWatchMerges: a slow reader gets the newest of each, or one for all.
func TestWatchMerges(t *testing.T) {
	s := openStore(t, options(t.TempDir()))
	slow := s.Watch(t.Context())
	s.watch.publish(KindStatus, "first")
	<-slow // from here on changes wait
	for range 3 {
		s.watch.publish(KindStatus, "blocks the reader's goroutine")
		for _, name := range []string{"a", "b", "a"} {
			s.watch.publish(KindStatus, name)
		}
	}
	var last uint64
	newest := map[string]uint64{}
	for last < s.Revision() {
		c := <-slow
		if c.Rev <= last {
			t.Errorf("revision %d came after %d", c.Rev, last)
		}
		last = c.Rev
		newest[c.Name] = c.Rev
	}
	if newest["a"] != 13 || newest["b"] != 12 {
		t.Errorf("newest revisions are %v", newest)
	}
	for i := range 10 * maxPending {
		s.watch.publish(KindStatus, fmt.Sprint(i))
	}
	count := 0
	var c Change
	for c.Rev < s.Revision() {
		c = <-slow
		count++
	}
	if c.Kind != KindAll || count > maxPending+1 {
		t.Errorf("very many changes came as %d, the last %v", count, c)
	}
	check(t, s.Close())
	if c, ok := <-slow; ok {
		t.Errorf("after the close came %v", c)
	}
	if c, ok := <-s.Watch(t.Context()); ok {
		t.Errorf("a watch of a closed store brought %v", c)
	}
}
