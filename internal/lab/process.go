package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// Result is how a program ended.
type Result struct {
	Stdout, Stderr string
	Code           int // exit code, -1 if a signal ended it
}

// Process is a program that runs in a node.
type Process struct {
	node *Node
	cmd  *exec.Cmd
	name string
	out  *output
	done chan struct{} // closed once it ended and all output is in
	err  error         // what Wait of os/exec said; read after done
}

// Command is a program to start, for those that need more than arguments.
type Command struct {
	Argv  []string
	Env   []string // beside PATH, LC_ALL=C and HOME=/tmp; the caller's own is not passed on
	Stdin string
	// Files become the program's file descriptors from 3 on.
	Files []*os.File
}

// detachedOutput is how long after a program's end its output may remain
// open, for a daemon that it left behind holds it forever.
const detachedOutput = 300 * time.Millisecond

// Run runs a program in the node to its end. A program that cannot start, or exits
// with anything but 0, is an error; the Result then holds what it said.
func (n *Node) Run(ctx context.Context, argv ...string) (Result, error) {
	return n.RunCommand(ctx, Command{Argv: argv})
}

// RunCommand is Run with an environment and input.
func (n *Node) RunCommand(ctx context.Context, c Command) (Result, error) {
	p, err := n.StartCommand(c)
	if err != nil {
		return Result{Code: -1}, err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		p.Kill()
		<-p.done
		return p.result(), fmt.Errorf("run %q in node %s: %w", p.name, n.Name, ctx.Err())
	}
	r := p.result()
	if r.Code != 0 {
		return r, fmt.Errorf("run %q in node %s: exit code %d: %s", p.name, n.Name, r.Code,
			strings.TrimSpace(r.Stdout+r.Stderr))
	}
	return r, nil
}

// Start starts a program in the node. It ends with the node at the latest.
func (n *Node) Start(argv ...string) *Process {
	n.lab.t.Helper()
	p, err := n.StartCommand(Command{Argv: argv})
	n.lab.check(err)
	return p
}

// StartCommand is Start with an environment and input, for callers that handle
// the error.
func (n *Node) StartCommand(c Command) (*Process, error) {
	p := &Process{node: n, name: strings.Join(c.Argv, " "), out: newOutput(), done: make(chan struct{})}
	err := n.Do(func() error {
		p.cmd = exec.Command(c.Argv[0], c.Argv[1:]...)
		p.cmd.Env = append(environment(), c.Env...)
		p.cmd.Dir = "/"
		p.cmd.ExtraFiles = c.Files
		p.cmd.Stdin = strings.NewReader(c.Stdin)
		p.cmd.Stdout, p.cmd.Stderr = p.out.stream(&p.out.stdout), p.out.stream(&p.out.stderr)
		p.cmd.WaitDelay = detachedOutput
		return p.cmd.Start()
	})
	if err != nil {
		return nil, fmt.Errorf("start %q in node %s: %w", p.name, n.Name, err)
	}
	n.goUntilEnd(func() {
		p.err = p.cmd.Wait()
		p.out.close()
		close(p.done)
	})
	return p, nil
}

// environment is what every program in a node starts with: nothing of the
// machine's settings but where to find programs and how to watch Go ones.
func environment() []string {
	env := []string{"HOME=/tmp", "LC_ALL=C"}
	for _, name := range []string{"PATH", "GOCOVERDIR", "GORACE"} {
		if value, set := os.LookupEnv(name); set {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// PID is the process's number as the lab's own process sees it.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for the program's end.
func (p *Process) Wait(ctx context.Context) (Result, error) {
	select {
	case <-p.done:
		return p.result(), nil
	case <-ctx.Done():
		return Result{Code: -1}, fmt.Errorf("wait for %q in node %s: %w; it said:\n%s", p.name, p.node.Name, ctx.Err(), p.Output())
	}
}

// Signal sends a signal; a program that has ended does not mind.
func (p *Process) Signal(sig syscall.Signal) { p.cmd.Process.Signal(sig) }

// SignalUntilEnd sends a signal again each second until the program ends, since
// some lose one that comes at a bad moment (dhcpcd, while its hooks run).
func (p *Process) SignalUntilEnd(ctx context.Context, sig syscall.Signal) (Result, error) {
	again := time.NewTicker(time.Second)
	defer again.Stop()
	for {
		p.Signal(sig)
		select {
		case <-again.C:
		case <-p.done:
			return p.Wait(ctx)
		case <-ctx.Done():
			return p.Wait(ctx)
		}
	}
}

// Kill ends the program with SIGKILL and waits until it is gone.
func (p *Process) Kill() {
	p.Signal(syscall.SIGKILL)
	<-p.done
}

// Stop ends the program with SIGTERM, or SIGKILL if ctx ends first, which is an
// error.
func (p *Process) Stop(ctx context.Context) (Result, error) {
	p.Signal(syscall.SIGTERM)
	r, err := p.Wait(ctx)
	if err != nil {
		p.Kill()
	}
	return r, err
}

// Output is what the program has said so far, both streams as they came.
func (p *Process) Output() string { return p.out.both() }

// WaitLine waits for a line of either stream that matches the pattern and
// returns it. Each call looks only at what came after the line that the last
// one returned.
func (p *Process) WaitLine(ctx context.Context, pattern string) (string, error) {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return "", err
	}
	for {
		line, found, more := p.out.find(re)
		if found {
			return line, nil
		}
		if more == nil {
			return "", fmt.Errorf("%q in node %s ended without saying %q; it said:\n%s", p.name, p.node.Name, pattern, p.Output())
		}
		select {
		case <-more:
		case <-ctx.Done():
			return "", fmt.Errorf("wait for %q of %q in node %s: %w; it said:\n%s", pattern, p.name, p.node.Name, ctx.Err(), p.Output())
		}
	}
}

func (p *Process) result() Result {
	r := Result{Code: p.cmd.ProcessState.ExitCode()}
	if p.err != nil && !isExit(p.err) {
		r.Code = -1
	}
	r.Stdout, r.Stderr = p.out.streams()
	return r
}

// isExit tells whether the error only says how the program itself ended.
func isExit(err error) bool {
	var exit *exec.ExitError
	return errors.As(err, &exit) || errors.Is(err, exec.ErrWaitDelay)
}
