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

// Main is what TestMain does for tests of the program itself: it builds the
// program into a folder that lasts as long as the tests, says where it is, and
// exits with what run, which runs them, returns.
func Main(tests string, binary *string, run func() int) {
	InScratch(tests, func(dir string) (code int) {
		var err error
		if *binary, err = Build(dir, viaduct, "viaduct"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return run()
	})
}

// InScratch is what TestMain does for tests that share a folder, which lasts as
// long as they do: it exits with what run, which runs them, returns.
func InScratch(tests string, run func(dir string) int) {
	Init()
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", tests)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		return run(dir)
	}())
}
