package netdef

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// corpusCase is one case of libvirt's own tests.
type corpusCase struct {
	Suite, Name, Input, Expected, Update, Expect string
	Inactive                                     bool
	CommandNumber, SectionNumber, ParentIndex    int
}

// corpus runs a function for each case of a suite. The cases are libvirt's
// files and are used where they are.
func corpus(t *testing.T, suite string, run func(t *testing.T, c corpusCase, read func(string) []byte)) {
	folder := os.Getenv("VIADUCT_CORPUS")
	if folder == "" {
		t.Skip("VIADUCT_CORPUS names no folder with libvirt's test data")
	}
	folder = filepath.Join(folder, "libvirt")
	read := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	var index struct{ Cases []corpusCase }
	if err := json.Unmarshal(read("cases.json"), &index); err != nil {
		t.Fatal(err)
	}
	ran := 0
	for _, c := range index.Cases {
		if c.Suite != suite {
			continue
		}
		ran++
		t.Run(c.Name, func(t *testing.T) { run(t, c, read) })
	}
	if ran == 0 {
		t.Fatalf("no case of suite %s in %s", suite, folder)
	}
}

func TestCorpusNetwork(t *testing.T) {
	corpus(t, "networkxml2xml", func(t *testing.T, c corpusCase, read func(string) []byte) {
		n, err := Parse(read(c.Input))
		if c.Expect != "ok" {
			if err == nil {
				t.Fatal("parsed, want an error")
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(read(c.Expected)), n.Format(FormatOptions{Inactive: c.Inactive})); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	})
}

func TestCorpusPort(t *testing.T) {
	corpus(t, "virnetworkportxml2xml", func(t *testing.T, c corpusCase, read func(string) []byte) {
		p, err := ParsePort(read(c.Input))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(read(c.Expected)), p.Format()); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	})
}

func TestCorpusUpdate(t *testing.T) {
	corpus(t, "networkxml2xmlupdate", func(t *testing.T, c corpusCase, read func(string) []byte) {
		n, err := Parse(read(c.Input))
		if err != nil {
			t.Fatal(err)
		}
		before := n.Format(FormatOptions{})
		updated, err := n.Update(UpdateCommand(c.CommandNumber), Section(c.SectionNumber), c.ParentIndex, read(c.Update))
		if diff := cmp.Diff(before, n.Format(FormatOptions{})); diff != "" {
			t.Errorf("the network itself changed (-want +got)\n%s", diff)
		}
		if c.Expect != "ok" {
			if err == nil {
				t.Fatal("updated, want an error")
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(read(c.Expected)), updated.Format(FormatOptions{})); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	})
}
