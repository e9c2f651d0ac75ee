// Package hook runs the programs that an administrator keeps for moments in a
// network's life, as libvirt does (its docs/hooks.rst): with the same
// arguments and input, so that scripts written for libvirt can be used.
package hook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"viaduct/internal/netdef"
)

// The moments. Each comes with one fixed sub-operation.
const (
	Start       = "start"        // before a network is made; may refuse
	Started     = "started"      // when all of it is there; may refuse
	Stopped     = "stopped"      // when all of it is gone
	Updated     = "updated"      // when it was changed while active
	PortCreated = "port-created" // when a port is there; may refuse
	PortDeleted = "port-deleted" // when a port is gone
)

// sub is libvirt's sub-operation of a moment.
func sub(op string) string {
	if op == Stopped {
		return "end"
	}
	return "begin"
}

// DefaultLimit is how long a program may take.
const DefaultLimit = time.Minute

// maxOutput is how much of what a program says is kept for a message, in bytes.
const maxOutput = 4 << 10

// Runner runs the programs of a folder: the file network, and after it those
// in network.d by name.
type Runner struct {
	Dir string
	// Limit is how long each program may take; 0 for DefaultLimit.
	Limit time.Duration
	Log   *slog.Logger
}

// Run runs the programs one after the other. The first that fails is the
// error, with libvirt's code for failed hooks, and ends it. input is what they
// read.
func (r *Runner) Run(ctx context.Context, network, op, input string) error {
	if r == nil || r.Dir == "" {
		return nil
	}
	for _, path := range r.programs() {
		if err := r.run(ctx, path, []string{network, op, sub(op), "-"}, input); err != nil {
			return err
		}
	}
	return nil
}

// Any reports whether there is a program to run.
func (r *Runner) Any() bool { return r != nil && r.Dir != "" && len(r.programs()) > 0 }

// programs lists what there is now.
func (r *Runner) programs() []string {
	candidates := []string{filepath.Join(r.Dir, "network")}
	entries, err := os.ReadDir(filepath.Join(r.Dir, "network.d")) // sorted by name
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.Log.Warn("read folder of hooks", "error", err)
	}
	for _, e := range entries {
		candidates = append(candidates, filepath.Join(r.Dir, "network.d", e.Name()))
	}
	var found []string
	for _, path := range candidates {
		info, err := os.Stat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			r.Log.Warn("look for hook", "error", err)
		case !info.Mode().IsRegular():
		case info.Mode()&0o111 == 0:
			r.Log.Warn("hook is not executable", "path", path)
		default:
			found = append(found, path)
		}
	}
	return found
}

func (r *Runner) run(ctx context.Context, path string, args []string, input string) error {
	limit := r.Limit
	if limit == 0 {
		limit = DefaultLimit
	}
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	said := &head{}
	cmd := exec.CommandContext(limited, path, args...)
	cmd.Env = environment()
	cmd.Stdin = strings.NewReader(input)
	cmd.Stdout, cmd.Stderr = io.Discard, said
	// What the program has started ends with it, or it would hold our pipes.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	what := path + " " + strings.Join(args, " ")
	var exit *exec.ExitError
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay): // it has left something running
		return nil
	case limited.Err() != nil && ctx.Err() == nil:
		return failed("Child process (%s) did not end within %s", what, limit)
	case errors.As(err, &exit) && exit.Exited():
		return failed("Child process (%s) unexpected exit status %d%s", what, exit.ExitCode(), said)
	case errors.As(err, &exit):
		signal := exit.Sys().(syscall.WaitStatus).Signal()
		return failed("Child process (%s) unexpected fatal signal %d%s", what, signal, said)
	}
	return failed("cannot run %s: %v", path, err)
}

// failed is an error in libvirt's words.
func failed(format string, args ...any) error {
	return netdef.Errorf(netdef.ErrHookScriptFailed, "%s%s", netdef.ErrInternal.Prefix(), fmt.Sprintf(format, args...))
}

// environment is what of ours a program gets.
func environment() []string {
	env := []string{"LC_ALL=C"}
	for _, name := range []string{"PATH", "HOME", "USER", "LOGNAME", "TMPDIR"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// head keeps the beginning of what is written to it.
type head struct{ kept bytes.Buffer }

// Write implements io.Writer.
func (h *head) Write(b []byte) (int, error) {
	h.kept.Write(b[:min(len(b), maxOutput-h.kept.Len())])
	return len(b), nil
}

// String is the text as the end of a message.
func (h *head) String() string {
	text := strings.TrimSpace(h.kept.String())
	if text == "" {
		return ""
	}
	return ": " + text
}
