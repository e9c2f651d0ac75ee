package hotplug

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"viaduct/internal/xenvif/xenstore"
)

// hookFiles are what an admin has put there for Xen's own scripts to source when
// they have done their work. Those that nobody may execute do not count.
const hookFiles = "/etc/xen/scripts/vif-post.d/*.hook"

// hookShell sources hooks: Xen's scripts are bash's, and so hooks may be. Where
// there is none it is plainShell.
const hookShell, plainShell = "/bin/bash", "/bin/sh"

// sourcing is what a shell does with a hook, the first argument.
const sourcing = `set -e; . "$1"`

// hookDelay is how long the output of a hook is read that has ended.
const hookDelay = 100 * time.Millisecond

// findHooks lists the hooks, in the order of their names.
func findHooks() []string {
	files, _ := filepath.Glob(hookFiles)
	return slices.DeleteFunc(files, func(path string) bool {
		info, err := os.Stat(path)
		return err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0
	})
}

// reread is what the store has of an interface that goes, for hooks.
func (s Script) reread(c Call, deadline time.Time) Request {
	gone := Request{Call: c, Hooked: true}
	store, err := xenstore.OpenBrief(s.Getenv, deadline)
	if err != nil {
		return gone
	}
	defer store.Close()
	r, err := s.read(store, c)
	if err != nil {
		return gone
	}
	r.Hooked = true
	return r
}

// runHooks runs hooks one after the other, with the variables that they find in
// Xen's scripts. The first that fails ends it.
func (s Script) runHooks(files []string, r Request, got Answer, deadline time.Time) error {
	if len(files) == 0 {
		return nil
	}
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	name := strings.TrimSpace(r.Keys["vifname"])
	if name != "" && r.Kind == KindTap {
		name += TapSuffix
	}
	environment := append(os.Environ(),
		"command="+r.Command, "type_if="+r.Kind, "dev="+cmp.Or(name, r.Link), "vif="+r.Link, "vifname="+name, "bridge="+got.Bridge,
		"mac="+r.Keys["mac"], "ip="+r.Keys["ip"], "netdev="+r.Netdev, "main_ip="+got.Gateway, "XENBUS_PATH="+r.Path)
	shell := hookShell
	if _, err := os.Stat(shell); err != nil {
		shell = plainShell
	}
	for _, path := range files {
		cmd := exec.CommandContext(ctx, shell, "-c", sourcing, s.Args[0], path)
		cmd.Env = environment
		var said strings.Builder
		cmd.Stdout, cmd.Stderr = &said, &said
		// What a hook has left running does not keep the guest waiting.
		cmd.WaitDelay = hookDelay
		err := cmd.Run()
		if errors.Is(err, exec.ErrWaitDelay) {
			err = nil
		}
		if said.Len() > 0 {
			fmt.Fprint(s.Errs, said.String())
		}
		if err != nil {
			return fmt.Errorf("run hook %s: %w: %s", path, err, strings.TrimSpace(said.String()))
		}
	}
	return nil
}
