package xen

import (
	"bufio"
	"io"
	"os"
	"strings"
	"testing"
	"time"
)

// lifetime ends a machine that hangs.
const lifetime = 14 * time.Minute

// shown is how many of the console's last lines a failed test shows.
const shown = 60

// TestXen starts Xen once, and has as subtests what the program inside does
// there, step by step.
func TestXen(t *testing.T) {
	need(t)
	dir := t.TempDir()
	p := build(t, dir)
	var env []string
	if only := os.Getenv("XEN_STEPS"); only != "" {
		env = append(env, "steps="+only)
	}
	cmd := p.command(env...)
	console, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var errs strings.Builder
	cmd.Stderr = &errs
	began := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(lifetime, func() { cmd.Process.Kill() })
	defer timer.Stop()

	steps, tail := follow(t, console, began)
	cmd.Process.Kill()
	cmd.Wait()
	for _, s := range steps {
		t.Run(s.name, func(t *testing.T) {
			t.Logf("%s s", s.seconds)
			if !s.passed {
				t.Error(strings.Join(s.log, "\n"))
			}
		})
	}
	if !tail.complete || t.Failed() {
		t.Errorf("the machine's console ends so:\n%s%s", strings.Join(tail.lines, "\n"), &errs)
	}
	t.Logf("the machine ran for %.0f s", time.Since(began).Seconds())
}

// step is what the program inside did, and told.
type step struct {
	name, seconds string
	passed        bool
	log           []string
}

// end is the end of the console.
type end struct {
	lines    []string
	complete bool // the program inside came to its end
}

// follow reads the console until the machine is done.
func follow(t *testing.T, console io.Reader, began time.Time) (steps []*step, tail end) {
	for r := bufio.NewReader(console); ; {
		line, err := r.ReadString('\n')
		line = strings.TrimSpace(line)
		if line != "" {
			tail.lines = append(tail.lines, line)
			tail.lines = tail.lines[max(0, len(tail.lines)-shown):]
		}
		if os.Getenv("XEN_CONSOLE") != "" && line != "" {
			t.Logf("%6.1f %s", time.Since(began).Seconds(), line)
		}
		if at := strings.Index(line, "@@ "); at >= 0 {
			word, rest, _ := strings.Cut(line[at+len("@@ "):], " ")
			if word == "STEP" {
				steps = append(steps, &step{name: rest})
			} else if word == "DONE" {
				tail.complete = true
				return steps, tail
			} else if len(steps) > 0 {
				steps[len(steps)-1].note(word, rest)
			}
		}
		if err != nil {
			return steps, tail
		}
	}
}

// note adds what was told of a step.
func (s *step) note(word, rest string) {
	switch word {
	case "PASSED", "FAILED":
		s.passed = word == "PASSED"
		s.seconds, _, _ = strings.Cut(rest, " ")
	case "LOG":
		s.log = append(s.log, rest)
	}
}
