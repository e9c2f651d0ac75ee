// Command demo shows Viaduct at work in a small world of its own: a host with the
// default network, two guests, and a machine outside. It says what it does
// as it goes, and exits with 0 only if all of it held.
//
// It needs no privilege where the kernel lets users have namespaces, and changes
// nothing on the machine:
//
//	go run ./test/demo bin/viaduct
package main

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"

	"viaduct/internal/lab"
)

func main() {
	lab.Init()
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: demo VIADUCT-BINARY")
		os.Exit(2)
	}
	lab.BecomeRoot()
	teller := &teller{}
	if !teller.tell(func() { story(teller, os.Args[1]) }) {
		os.Exit(1)
	}
}

// teller prints the story and is the lab's idea of a test: it fails where a
// step does.
type teller struct {
	steps   int
	atEnd   []func()
	failure string
}

// tell runs a story to its end, or to the step that fails.
func (t *teller) tell(story func()) (held bool) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		story()
	}()
	<-done
	for _, f := range slices.Backward(t.atEnd) {
		f()
	}
	if t.failure != "" {
		t.end("FAILED: %s", t.failure)
	}
	return t.failure == ""
}

// step begins a part of the story.
func (t *teller) step(title string) {
	t.steps++
	fmt.Printf("\n%d. %s\n", t.steps, title)
}

// say prints one or more lines of the story.
func (t *teller) say(format string, args ...any) {
	text := strings.TrimRight(fmt.Sprintf(format, args...), "\n")
	for line := range strings.Lines(text) {
		fmt.Println("  ", strings.TrimRight(line, "\n"))
	}
}

// end prints the story's last words.
func (t *teller) end(format string, args ...any) { fmt.Printf("\n"+format+"\n", args...) }

// held states what must be true for the demo to succeed.
func (t *teller) held(ok bool, format string, args ...any) {
	statement := fmt.Sprintf(format, args...)
	if !ok {
		t.Fatalf("it is not so that %s", statement)
	}
	t.say("ok: %s", statement)
}

func (t *teller) Helper() {}

func (t *teller) Logf(format string, args ...any) { t.say(format, args...) }

func (t *teller) Cleanup(f func()) { t.atEnd = append(t.atEnd, f) }

// Skipf fails: a demo that shows nothing has not held.
func (t *teller) Skipf(format string, args ...any) { t.Fatalf(format, args...) }

func (t *teller) Fatalf(format string, args ...any) {
	t.failure = fmt.Sprintf(format, args...)
	runtime.Goexit()
}
