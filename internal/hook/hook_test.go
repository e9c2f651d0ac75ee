package hook

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"viaduct/internal/netdef"
)

// folder makes a folder of hooks; the programs may use $OUT, where they say
// what they were called with.
func folder(t *testing.T, scripts map[string]string) (r *Runner, out string) {
	t.Helper()
	dir := t.TempDir()
	out = filepath.Join(dir, "out")
	for name, script := range scripts {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("#!/bin/sh\nOUT="+out+"\n"+script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return &Runner{Dir: dir, Log: slog.New(slog.DiscardHandler)}, out
}

func TestRun(t *testing.T) {
	r, out := folder(t, map[string]string{
		"network":        `echo "first $*" >>$OUT; cat >>$OUT`,
		"network.d/20-b": `echo "third $2 $3" >>$OUT`,
		"network.d/10-a": `echo "second $2 $3" >>$OUT`,
	})
	if err := os.WriteFile(filepath.Join(r.Dir, "network.d/15-off"), []byte("#!/bin/sh\nexit 1"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, op := range []string{Start, Stopped} {
		if err := r.Run(t.Context(), "a net", op, "<x/>\n"); err != nil {
			t.Fatal(err)
		}
	}
	got, _ := os.ReadFile(out)
	want := "first a net start begin -\n<x/>\nsecond start begin\nthird start begin\n" +
		"first a net stopped end -\n<x/>\nsecond stopped end\nthird stopped end\n"
	if string(got) != want {
		t.Errorf("got:\n%swant:\n%s", got, want)
	}
}

func TestFailures(t *testing.T) {
	for _, c := range []struct{ script, want string }{
		{"echo no room >&2; exit 3", "unexpected exit status 3: no room"},
		{"kill -9 $$", "unexpected fatal signal 9"},
		{"sleep 100", "did not end within 100ms"},
		{"sleep 100 & echo bad >&2; exit 1", "unexpected exit status 1: bad"},
		{"exec 0<&-; exit 0", ""},
		{"head -c 100000 /dev/zero | tr '\\0' x >&2; exit 1", strings.Repeat("x", 100)},
	} {
		r, out := folder(t, map[string]string{"network": c.script, "network.d/x": "touch $OUT"})
		r.Limit = 100 * time.Millisecond
		if !strings.Contains(c.want, "100ms") {
			r.Limit = time.Minute
		}
		err := r.Run(t.Context(), "n", Started, strings.Repeat("<x/>", 100000))
		_, ran := os.Stat(out)
		switch {
		case c.want == "":
			if err != nil || ran != nil {
				t.Errorf("%s: %v", c.script, err)
			}
		case err == nil || netdef.CodeOf(err) != netdef.ErrHookScriptFailed || !strings.Contains(err.Error(), c.want) ||
			!strings.HasPrefix(err.Error(), "Hook script execution failed: internal error: "):
			t.Errorf("%s: %v, want %s", c.script, err, c.want)
		case ran == nil:
			t.Errorf("%s: the next hook ran", c.script)
		case len(err.Error()) > 2*maxOutput:
			t.Errorf("%s: error of %d bytes", c.script, len(err.Error()))
		}
	}
}

// No folder, no hooks.
func TestNone(t *testing.T) {
	var none *Runner
	for _, r := range []*Runner{none, {}, {Dir: "/nonexistent", Log: slog.New(slog.DiscardHandler)}} {
		if err := r.Run(t.Context(), "n", Start, ""); err != nil || r.Any() {
			t.Error(err)
		}
	}
}
