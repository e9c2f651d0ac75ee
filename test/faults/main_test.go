// Package faults kills the daemon at every point where it is about to change
// something, or just has, and looks at what its successor makes of it: whatever
// a client was told is so, no network is half there, and when all networks are
// stopped the host is as it was.
package faults

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"viaduct/internal/lab"
)

// binary is the program under test.
var binary string

func TestMain(m *testing.M) {
	lab.Init()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "faults")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "viaduct")
	build := exec.Command("go", "build", "-o", binary, "viaduct/cmd/viaduct")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build viaduct: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}
