package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// alone marks the process that RunAlone has put into a network of its own.
const alone = "VIADUCT_TEST_NETNS"

// RunAlone runs a package's tests in a network namespace of their own, by
// starting the test program again, and ends with its exit code. Where no
// namespace can be made it says why and skips them, unless Strict.
func RunAlone(tests func()) {
	if os.Getenv(alone) != "" {
		tests()
		return
	}
	BecomeRoot()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), alone+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
	case errors.As(err, &exit):
		os.Exit(exit.ExitCode())
	case Strict():
		fmt.Fprintln(os.Stderr, "cannot make a network namespace:", err)
		os.Exit(1)
	default:
		fmt.Fprintln(os.Stderr, "skipped: cannot make a network namespace:", err)
	}
}
