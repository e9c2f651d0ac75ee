// Package cli is the command line. Its verbs for networks take what virsh
// takes and print what virsh prints, so that people and scripts find what they
// know; it decides nothing itself, but asks the daemon.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"viaduct/internal/httpapi"
	"viaduct/internal/xenvif/hotplug"
)

// program is a face that the binary shows under a name of its own.
type program func(args []string) int

// programs are the names other than viaduct that the binary answers to.
var programs = func() map[string]program {
	faces := map[string]program{"viaduct-bridge-helper": bridgeHelper}
	for _, name := range hotplug.Faces {
		faces[name] = vifScript
	}
	return faces
}()

// Main runs the program that args[0] names, and returns its exit status.
func Main(args []string) int {
	if p, ok := programs[filepath.Base(args[0])]; ok {
		return p(args)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	a := &app{in: os.Stdin, out: os.Stdout, errs: os.Stderr}
	return a.run(ctx, args[1:])
}

// app is one run of the command line.
type app struct {
	in        io.Reader
	out, errs io.Writer

	socket string
	output string // one of formats
	// ran says that a verb of virsh's got to its work. virsh ends what it
	// prints then with an empty line.
	ran bool
}

func (a *app) run(ctx context.Context, args []string) int {
	root := a.rootCommand()
	root.SetArgs(args)
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.errs)
	err := root.ExecuteContext(ctx)
	var unreachable *httpapi.UnreachableError
	if a.ran && a.output == formatTable && !errors.As(err, &unreachable) {
		fmt.Fprintln(a.out)
	}
	if err != nil {
		a.report(err)
		return 1
	}
	return 0
}
