package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// viaduct is the package of the program under test.
const viaduct = "viaduct/cmd/viaduct"

// Build builds a package of ours as a static program, called name, into a
// folder, and returns its path.
func Build(dir, pkg, name string) (string, error) {
	path := filepath.Join(dir, name)
	cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", path, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	return path, nil
}

// BuildForTests builds the program under test into a new folder for tests of
// that name, which is the caller's to remove. It ends the process if it cannot.
func BuildForTests(tests string) (dir, binary string) {
	dir, err := os.MkdirTemp("", tests)
	if err == nil {
		if binary, err = Build(dir, viaduct, "viaduct"); err == nil {
			return dir, binary
		}
		os.RemoveAll(dir)
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
	return "", ""
}
