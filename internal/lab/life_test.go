package lab_test

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"viaduct/internal/lab"
)

// program is a lab.T outside of a test.
type program struct{}

func (program) Helper()                         {}
func (program) Cleanup(func())                  {}
func (program) Logf(format string, args ...any) {}
func (program) Skipf(format string, args ...any) {
	fmt.Printf(format+"\n", args...)
	os.Exit(1)
}
func (p program) Fatalf(format string, args ...any) { p.Skipf(format, args...) }

// playDoomed builds a lab with busy nodes and waits to be killed.
func playDoomed() {
	l := lab.New(program{})
	h := l.NewHost(lab.HostOptions{})
	h.AddBridge("br0")
	g := l.PlugGuest(h.Node, "br0", "vnet0")
	g.Start("sleep", "1000")
	// A daemon: its parent ends, it ignores what it can.
	h.Start("setsid", "sh", "-c", "trap '' HUP TERM INT; (trap '' HUP TERM; sleep 1000) & echo started").WaitLine(
		doomedContext(), "started")
	fmt.Println("standing")
	select {}
}

func TestNothingOutlivesAKilledParent(t *testing.T) {
	lab.Need(t)
	before := machine(t)
	cmd := exec.Command("/proc/self/exe", "doomed")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if line != "standing\n" {
		t.Fatalf("the lab says %q, %v", line, err)
	}
	watched := make(map[int]int) // descriptor by process
	for _, pid := range descendants(t, cmd.Process.Pid) {
		fd, err := unix.PidfdOpen(pid, 0)
		if errors.Is(err, unix.ESRCH) {
			continue // a shell that has done its work
		}
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		watched[pid] = fd
	}
	// Three holders and the two sleepers at least.
	if len(watched) < 5 {
		t.Errorf("only %d processes belong to the lab", len(watched))
	}

	cmd.Process.Kill()
	for pid, fd := range watched {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		for {
			n, err := unix.Poll(poll, 10000)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if n != 1 || err != nil {
				t.Errorf("process %d lives on", pid)
			}
			break
		}
	}
	if diff := cmp.Diff(before, machine(t)); diff != "" {
		t.Errorf("the machine has changed (-before +after):\n%s", diff)
	}
}

// machine notes what a lab could leave behind: links and mounts.
func machine(t *testing.T) map[string][]string {
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	state := make(map[string][]string)
	for _, l := range links {
		state["links"] = append(state["links"], l.Name)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, "lab") {
			state["mounts"] = append(state["mounts"], line)
		}
	}
	return state
}

// descendants are all processes below one.
func descendants(t *testing.T, root int) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	children := make(map[int][]int)
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		if err != nil {
			continue // it has just ended
		}
		// The fields after the name, which may hold anything: state, parent.
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		parent, _ := strconv.Atoi(fields[1])
		children[parent] = append(children[parent], pid)
	}
	var below func(pid int) []int
	below = func(pid int) []int {
		var all []int
		for _, child := range children[pid] {
			all = append(append(all, child), below(child)...)
		}
		return all
	}
	return below(root)
}

func TestLabEndsWithItsTest(t *testing.T) {
	lab.Need(t)
	var holders []int
	t.Run("inner", func(t *testing.T) {
		l := lab.New(t)
		h := l.NewHost(lab.HostOptions{})
		h.Start("sleep", "1000")
		holders = descendants(t, os.Getpid())
		if len(holders) < 3 {
			t.Errorf("only %d processes belong to the lab", len(holders))
		}
	})
	if left := descendants(t, os.Getpid()); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
}

func TestClosedNodeRefusesWork(t *testing.T) {
	n := lab.New(t).Node("alpha")
	p := n.Start("sleep", "1000")
	n.Close()
	n.Close()
	if r, err := p.Wait(within(t, 5*time.Second)); err != nil || r.Code != -1 {
		t.Errorf("the process ended with %+v, %v", r, err)
	}
	if err := n.Do(func() error { return nil }); err == nil {
		t.Error("a closed node does work")
	}
}
