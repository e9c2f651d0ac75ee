package uplink

import (
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
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

// What netplan is told of a card it is told of the bridge, but for what is the
// card's own, and of all else the same, by another reader of YAML than ours.
func FuzzNetplan(f *testing.F) {
	cases, _ := filepath.Glob("testdata/netplan*.host")
	for _, c := range cases {
		for name, file := range host(f, c) {
			if strings.HasPrefix(name, "etc/netplan/") {
				f.Add(string(file.Data))
			}
		}
	}
	f.Fuzz(checkNetplan)
}

func checkNetplan(t *testing.T, content string) {
	t.Helper()
	if len(content) > 1<<12 {
		return
	}
	edits, err := planNetplan(fstest.MapFS{"etc/netplan/a.yaml": &fstest.MapFile{Data: []byte(content)}}, eth0, "xenbr0")
	if err != nil {
		return
	}
	var old, now map[string]any
	if err := yaml.Unmarshal([]byte(content), &old); err != nil {
		t.Fatalf("%v in\n%s", err, content)
	}
	if err := yaml.Unmarshal([]byte(*edits[0].New), &now); err != nil {
		t.Fatalf("%v in\n%s", err, *edits[0].New)
	}
	below := func(tree map[string]any, key string) map[string]any {
		m, _ := tree[key].(map[string]any)
		return m
	}
	for _, kind := range netplanKinds {
		card, had := below(below(old, "network"), kind)["eth0"]
		if !had {
			continue
		}
		bridge := below(below(below(now, "network"), "bridges"), "xenbr0")
		port := below(below(below(now, "network"), kind), "eth0")
		def, _ := card.(map[string]any)
		for key, value := range def {
			owner := bridge
			if slices.Contains(netplanCardKeys, key) {
				owner = port
			}
			if diff := cmp.Diff(value, owner[key], cmpopts.EquateNaNs()); diff != "" {
				t.Errorf("%s: %s", key, diff)
			}
		}
		delete(below(below(old, "network"), kind), "eth0")
		delete(below(below(now, "network"), kind), "eth0")
		delete(below(below(now, "network"), "bridges"), "xenbr0")
		for _, tree := range []map[string]any{old, now} {
			if len(below(below(tree, "network"), "bridges")) == 0 {
				delete(below(tree, "network"), "bridges")
			}
		}
		if diff := cmp.Diff(old, now, cmpopts.EquateNaNs()); diff != "" {
			t.Errorf("the rest: %s", diff)
		}
		return
	}
	t.Errorf("a card that is not there was found in\n%s", content)
}

// What nobody could have meant is an error at most, and what is planned for one
// card leaves the others' lines as they are. One of a host's files is another.
func FuzzPlans(f *testing.F) {
	cases, _ := filepath.Glob("testdata/*.host")
	var hosts []fstest.MapFS
	for i, c := range cases {
		hosts = append(hosts, host(f, c))
		for name, file := range hosts[i] {
			f.Add(uint8(i), name, string(file.Data))
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, name, content string) {
		if !fs.ValidPath(name) || name == "." || len(content) > 1<<12 {
			return
		}
		root := maps.Clone(hosts[int(which)%len(hosts)])
		root[name] = &fstest.MapFile{Data: []byte(content)}
		_, _ = Detect(root, eth0)
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
