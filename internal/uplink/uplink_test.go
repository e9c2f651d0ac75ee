package uplink

import (
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
)

var update = flag.Bool("update", false, "write the golden files anew")

var eth0 = Card{Name: "eth0", Index: 2, MAC: "52:54:00:aa:bb:cc"}

// host reads a test case: files one after the other, each with its path behind "==> ".
func host(t testing.TB, path string) fstest.MapFS {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	root := fstest.MapFS{}
	for _, part := range strings.Split("\n"+string(b), "\n==> ")[1:] {
		name, content, _ := strings.Cut(part, "\n")
		root[strings.TrimPrefix(name, "/")] = &fstest.MapFile{Data: []byte(strings.TrimSuffix(content, "\n") + "\n")}
	}
	return root
}

// Each testdata/*.host is a host's files; the .golden beside it what becomes of
// them, or why nothing does.
func TestPlans(t *testing.T) {
	cases, err := filepath.Glob("testdata/*.host")
	if err != nil || len(cases) < 8 {
		t.Fatalf("%d cases: %v", len(cases), err)
	}
	for _, c := range cases {
		t.Run(filepath.Base(c), func(t *testing.T) {
			root := host(t, c)
			m, err := Detect(root, eth0)
			if err != nil {
				t.Fatal(err)
			}
			out := fmt.Sprintf("manager: %s\n", m)
			edits, err := Plan(m, root, eth0, "xenbr0")
			if err != nil {
				out += "error: " + err.Error() + "\n"
			}
			for _, e := range edits {
				out += e.Diff()
			}
			golden := strings.TrimSuffix(c, ".host") + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(out), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil || string(want) != out {
				t.Errorf("%v, got\n%s", err, out)
			}
		})
	}
}

// What nobody could have meant is an error at most, and what is planned for one
// card leaves the others' lines as they are.
func FuzzPlans(f *testing.F) {
	cases, _ := filepath.Glob("testdata/*.host")
	for _, c := range cases {
		for name, file := range host(f, c) {
			f.Add(name, string(file.Data))
		}
	}
	f.Fuzz(func(t *testing.T, name, content string) {
		if !fs.ValidPath(name) || name == "." || len(content) > 1<<12 {
			return
		}
		root := fstest.MapFS{name: &fstest.MapFile{Data: []byte(content)}}
		for _, m := range managers {
			edits, err := Plan(m.name, root, eth0, "xenbr0")
			if err != nil {
				continue
			}
			for _, e := range edits {
				_ = e.Diff()
				if e.Path == "/etc/network/interfaces" && strings.Contains(content, "eth0") {
					again := parseStanzas(*e.New)
					for _, st := range again {
						if st.isIface("eth0") && len(st.head) > 3 && st.head[3] != "manual" && st.head[1] == "eth0" {
							t.Errorf("eth0 is still configured:\n%s", *e.New)
						}
					}
				}
			}
		}
	})
}
