package cli

import (
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"

	"viaduct/internal/httpapi"
)

// version is set when a release is built.
var version string

// Version is that of this program.
func Version() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

var hostVerbs = slices.Concat(uplinkVerbs, []verb{
	{
		name: "plan", group: groupNetworks, run: showPlan,
		short: "show what starting or healing a network would change on the host", operands: oneNetwork(anyNetwork),
		long: "Changes nothing. There is a line for each operation, in the order in which they\n" +
			"would be carried out: + makes something, ~ changes it, - removes it.",
	},
	{
		name: "reload", group: groupHost, run: reload,
		short: "reread the definition files and apply what changed",
		long: "Active networks change in place. A file that does not parse changes nothing: its\n" +
			"network goes on as it was. Fails if there is any such file.",
	},
	{
		name: "daemon", group: groupHost, run: runDaemon, flags: daemonFlags,
		short: "run the daemon that owns this host's networks",
		long: "Adopts what an earlier daemon left, starts the networks that are marked for it,\n" +
			"and serves until SIGTERM or SIGINT, which leave the networks running. SIGHUP\n" +
			"rereads the definition files.\n\n" +
			"Several daemons can run on one machine, each in a network namespace of its own\n" +
			"and with folders of its own.",
	},
	{
		name: "version", group: groupHost, run: showVersion,
		short: "show the versions of this program and of the daemon",
	},
})

func showPlan(c *call) error {
	n, err := c.network()
	if err != nil {
		return err
	}
	p, err := c.client.Plan(c, n.UUID.String())
	if err != nil {
		return failing(err, "Failed to plan network %s", n.Name)
	}
	if c.output == formatJSON {
		return c.json(p)
	}
	for _, op := range p.Operations {
		fmt.Fprintln(c.out, printable(op, false))
	}
	if len(p.Operations) == 0 {
		fmt.Fprintf(c.out, "Network %s: nothing to change\n", printable(n.Name, false))
	}
	return nil
}

func reload(c *call) error {
	r, err := c.client.Reload(c)
	if err != nil {
		return failing(err, "Failed to reload")
	}
	if c.output == formatJSON {
		if err := c.json(r); err != nil {
			return err
		}
	} else {
		for _, l := range []struct {
			did   string
			names []string
		}{{"added", r.Added}, {"changed", r.Changed}, {"removed", r.Removed}} {
			for _, name := range l.names {
				fmt.Fprintf(c.out, "Network %s %s\n", printable(name, false), l.did)
			}
		}
		if len(r.Added)+len(r.Changed)+len(r.Removed)+len(r.Failed) == 0 {
			fmt.Fprintln(c.out, "No definition file has changed")
		}
	}
	var failures []string
	for _, f := range r.Failed {
		failures = append(failures, f.File+": "+f.Error)
	}
	if failures != nil {
		return failing(errors.New(strings.Join(failures, "\n")), "some files were not taken over; what they describe goes on as it was")
	}
	return nil
}

func showVersion(c *call) error {
	daemon, err := c.client.Version(c)
	var unreachable *httpapi.UnreachableError
	if err != nil && !errors.As(err, &unreachable) {
		return err
	}
	if c.output == formatJSON {
		versions := map[string]any{"version": Version()}
		if err == nil {
			versions["daemon"] = daemon
		}
		return c.json(versions)
	}
	fmt.Fprintf(c.out, "viaduct %s\n", Version())
	if err != nil {
		fmt.Fprintf(c.out, "daemon: not reachable at %s\n", c.socket)
	} else {
		fmt.Fprintf(c.out, "daemon %s, API version %d\n", daemon.Version, daemon.API)
	}
	return nil
}
