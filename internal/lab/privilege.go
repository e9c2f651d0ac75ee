package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// canMakeNamespaces is nil if this process may have namespaces. Being root is
// not enough in a container.
var canMakeNamespaces = sync.OnceValue(func() (err error) {
	onOwnThread(func() { err = unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS) })
	return err
})

// becameRoot is set in the environment of the process that BecomeRoot starts.
const becameRoot = "VIADUCT_LAB_ROOT"

// BecomeRoot lets an unprivileged user's program use the lab: if it may not make
// namespaces it runs itself again as root of a new user namespace, passes on what
// that run exits with, and does not return. Programs that switch to another user,
// such as dhcpcd and systemd-networkd, do not work in such a lab.
func BecomeRoot() {
	if os.Getenv(becameRoot) != "" || canMakeNamespaces() == nil {
		return
	}
	runtime.LockOSThread() // Pdeathsig is about the thread
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), becameRoot+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   unix.SIGKILL,
	}
	err := cmd.Run()
	if cmd.ProcessState == nil {
		fmt.Fprintf(os.Stderr, "cannot become root of a user namespace: %v\nrun as root, or allow user namespaces\n", err)
		os.Exit(1)
	}
	os.Exit(cmd.ProcessState.ExitCode())
}

// Strict tells that a test must not be skipped for want of a tool: on the
// project's own machines (CI=true, or VIADUCT_REQUIRE_LANES=1) all of them are there.
func Strict() bool {
	return os.Getenv("CI") == "true" || os.Getenv("VIADUCT_REQUIRE_LANES") == "1"
}

// Need skips the test, saying why, where the machine lacks the privilege to make
// namespaces or one of the programs; on a strict machine the test fails.
func Need(t T, tools ...string) {
	t.Helper()
	if err := canMakeNamespaces(); err != nil {
		lack(t, "needs root, to make namespaces: %v", err)
	}
	NeedTools(t, tools...)
}

// NeedTools is Need for a test that makes no namespaces.
func NeedTools(t T, tools ...string) {
	t.Helper()
	if missing := Missing(tools...); len(missing) > 0 {
		lack(t, "needs %q, which is not installed", missing)
	}
}

func lack(t T, format string, args ...any) {
	t.Helper()
	if Strict() {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// Missing returns those of the programs that are not installed.
func Missing(tools ...string) []string {
	var missing []string
	for _, tool := range tools {
		if filepath.IsAbs(tool) {
			if _, err := os.Stat(tool); err != nil {
				missing = append(missing, tool)
			}
		} else if _, err := exec.LookPath(tool); err != nil {
			missing = append(missing, tool)
		}
	}
	return missing
}
