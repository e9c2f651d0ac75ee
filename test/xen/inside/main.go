// Command inside is the first process of Xen's dom0. It starts Xen's daemons
// and Viaduct's, has real guests started by xl, looks at what they live
// through, and tells on the console how each step went. Lines for the test
// begin with the mark "@@".
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"viaduct/internal/lab"
	"viaduct/internal/xenvif/xenstore"
)

// steps are done one after the other on one host. They leave it as they found
// it, but for what the steps with guests that stay do.
var steps = []struct {
	name string
	do   func(*world)
}{
	{"boot", boot},
	{"bridged guest", bridgedGuest},
	{"four guests at once", fourGuests},
	{"reboot", reboot},
	{"network-attach and network-detach", attachDetach},
	{"rate", rate},
	{"daemon killed under traffic", daemonKilled},
	{"spoofing, while the daemon hangs", spoofing},
	{"script fails", scriptFails},
	{"guests leave nothing", leave},
	{"NAT, routes and a VLAN", otherKinds},
	{"import-xen", importXen},
	{"xen-install taken back", takeBack},
}

func main() {
	w := &world{}
	for _, s := range steps {
		if !chosen(s.name) {
			continue
		}
		tell("STEP", s.name)
		began := time.Now()
		ended := "FAILED"
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer func() {
				if p := recover(); p != nil {
					tell("LOG", fmt.Sprint(p), string(debug.Stack()))
				}
				w.cleanUp()
			}()
			s.do(w)
			if !w.failed {
				ended = "PASSED"
			}
		}()
		<-done
		if w.failed {
			ended = "FAILED"
			w.explain()
		}
		broken := w.failed && s.name == steps[0].name
		w.failed = false
		tell(ended, fmt.Sprintf("%.1f %s", time.Since(began).Seconds(), s.name))
		if broken {
			break
		}
	}
	tell("DONE", "")
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

// chosen reports whether to do a step: one that the variable "steps" has a word
// of, if there is that.
func chosen(name string) bool {
	only := os.Getenv("steps")
	if only == "" || name == "boot" {
		return true
	}
	for word := range strings.SplitSeq(only, ":") {
		if strings.Contains(name, word) {
			return true
		}
	}
	return false
}

// tell prints lines for the test.
func tell(word string, texts ...string) {
	for _, text := range texts {
		for line := range strings.Lines(text + "\n") {
			fmt.Println("@@", word, strings.TrimRight(line, "\r\n"))
		}
	}
}

// world is the host and all around it. It is the lab's idea of a test.
type world struct {
	store   *xenstore.Client
	daemon  *exec.Cmd
	gone    chan struct{} // closed when the daemon has ended
	outside int           // the process in whose namespace the outside is
	// Guests that live from the step that creates them to the one that destroys
	// them, and the host before that.
	alice, bob, carol, dave *guest
	before                  string
	untouched               string // Xen's own files before Viaduct's are there

	failed   bool
	cleanups []func()
}

// Helper and the others make a lab.T.
func (w *world) Helper() {}

// Logf tells the test something that is printed with the step.
func (w *world) Logf(format string, args ...any) { tell("LOG", fmt.Sprintf(format, args...)) }

// Errorf lets the step fail and go on.
func (w *world) Errorf(format string, args ...any) {
	w.failed = true
	w.Logf(format, args...)
}

// Fatalf ends the step.
func (w *world) Fatalf(format string, args ...any) {
	w.Errorf(format, args...)
	runtime.Goexit()
}

// Skipf is Fatalf: the host has what it has.
func (w *world) Skipf(format string, args ...any) { w.Fatalf(format, args...) }

// Cleanup calls at the end of the step.
func (w *world) Cleanup(do func()) { w.cleanups = append(w.cleanups, do) }

func (w *world) cleanUp() {
	for len(w.cleanups) > 0 {
		last := w.cleanups[len(w.cleanups)-1]
		w.cleanups = w.cleanups[:len(w.cleanups)-1]
		last()
	}
}

func (w *world) must(err error) {
	if err != nil {
		w.Fatalf("%v", err)
	}
}

// limit is how long anything may take. The machine is emulated, and there
// may be others on the one that emulates it.
const limit = 100 * time.Second

// eventually waits for what announces itself to nobody.
func (w *world) eventually(check func() error) { lab.Eventually(w, limit, check) }

// try runs a program and returns all that it printed.
func try(argv ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	// A child that goes on in the background keeps the output open.
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	if err != nil {
		return string(out), fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, out)
	}
	return string(out), nil
}

// run runs a program that must succeed.
func (w *world) run(argv ...string) string {
	out, err := try(argv...)
	w.must(err)
	return out
}

// explain tells what a reader of a failed step wants to know.
func (w *world) explain() {
	logs, _ := filepath.Glob("/var/log/xen/xl-*.log")
	for _, path := range append(logs, daemonLog) {
		if content, err := os.ReadFile(path); err == nil {
			w.Logf("--- the end of %s:", path)
			for line := range strings.Lines(lastLines(string(content), 8)) {
				w.Logf("%.400s", line)
			}
		}
	}
	for _, argv := range [][]string{{"xl", "list"}, {"ip", "-br", "addr"}, {"ip", "route"}} {
		out, _ := try(argv...)
		w.Logf("--- %s:\n%s", strings.Join(argv, " "), out)
	}
}

func lastLines(text string, count int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-count):], "\n")
}
