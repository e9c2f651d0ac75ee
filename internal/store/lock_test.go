package store

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"
)

// lockChild holds the store open until its input ends.
func lockChild() {
	_, err := Open(options("."))
	childCheck(err)
	fmt.Println("open")
	io.Copy(io.Discard, os.Stdin)
}

// TestLock: a second engine is told who the first is, and may start the moment
// the first was killed.
func TestLock(t *testing.T) {
	dir := t.TempDir()
	cmd := child("lock", dir)
	stdin, err := cmd.StdinPipe()
	check(t, err)
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "open\n" {
		t.Fatalf("child said %q, %v", line, err)
	}
	_, err = Open(options(dir))
	var locked *LockedError
	if !errors.As(err, &locked) || locked.PID != cmd.Process.Pid || !strings.Contains(err.Error(), strconv.Itoa(cmd.Process.Pid)) {
		t.Errorf("second open: %v, want the lock of %d", err, cmd.Process.Pid)
	}
	check(t, cmd.Process.Kill())
	cmd.Wait() // it was killed
	check(t, openStore(t, options(dir)).Close())
}
