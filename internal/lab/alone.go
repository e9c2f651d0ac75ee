package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
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

// IP runs ip(8) in the network that the tests have for themselves, and returns
// what it printed.
func IP(t T, args string) string {
	t.Helper()
	Need(t, "ip")
	out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %s: %v\n%s", args, err, out)
	}
	return string(out)
}

// ForeignLink makes a link by another's hand than ours. It goes when the test ends.
func ForeignLink(t T, name, rest string) {
	t.Helper()
	IP(t, "link add "+name+" "+rest)
	t.Cleanup(func() { exec.Command("ip", "link", "del", name).Run() })
}

// Cable makes two links that are the ends of one cable.
func Cable(t T) (guest, server string) {
	t.Helper()
	const a, b = "wguest", "wserver"
	ForeignLink(t, a, "type veth peer name "+b)
	for _, end := range []string{a, b} {
		IP(t, "link set "+end+" up")
	}
	AwaitCarrier(t, a)
	AwaitCarrier(t, b)
	return a, b
}

// AwaitCarrier waits until the kernel has noticed that a link can send, which it
// does in the background.
func AwaitCarrier(t T, link string) {
	t.Helper()
	Eventually(t, 5*time.Second, func() error {
		if state := IP(t, "-o link show "+link); !strings.Contains(state, "state UP") {
			return errors.New(state)
		}
		return nil
	})
}
