package cli

import (
	"context"
	"fmt"

	"viaduct/internal/engine"
	"viaduct/internal/httpapi"
	"viaduct/internal/libvirtrpc/attach"
)

var libvirtVerbs = []verb{
	{
		name: "libvirt-attach", group: groupHost, run: libvirtAttach,
		short: "make the networks known to a libvirtd that has networks of its own",
		long: "For hosts on which libvirtd is one process, as on Debian and Ubuntu: it asks no\n" +
			"other daemon about networks. From now on it has one of the same name for each\n" +
			"network here, which names the bridge and nothing else; guests' definitions stay\n" +
			"as they are. Its own networks are left alone and named.",
		flags: []flag{
			{name: "dry-run", help: "only show what would be done"},
			{name: "remove", help: "take back what was put there, and let libvirtd be"},
		},
	},
}

func libvirtAttach(c *call) error {
	do := c.client.AttachLibvirtd
	if c.is("remove") {
		do = c.client.DetachLibvirtd
	}
	steps, err := do(c, c.is("dry-run"))
	if err != nil {
		return failing(err, "Failed to attach libvirtd")
	}
	if c.output == formatJSON {
		return c.json(steps)
	}
	for _, s := range steps {
		line := fmt.Sprintf("Network %s: %s", s.Network, s.Action)
		if s.Reason != "" {
			line += ": " + s.Reason
		}
		fmt.Fprintln(c.out, printable(line, false))
	}
	if len(steps) == 0 {
		fmt.Fprintln(c.out, "There is nothing to do in libvirtd")
	}
	return nil
}

// attacher gives the API the libvirtd of an engine.
type attacher struct {
	*attach.Libvirtd
	networks *engine.Engine
}

func (a attacher) Attach(ctx context.Context, plan bool) ([]httpapi.AttachStep, error) {
	return stepsOf(a.Libvirtd.Attach(ctx, a.networks, plan))
}

func (a attacher) Detach(ctx context.Context, plan bool) ([]httpapi.AttachStep, error) {
	return stepsOf(a.Libvirtd.Remove(ctx, plan))
}

func stepsOf(steps []attach.Step, err error) ([]httpapi.AttachStep, error) {
	var wire []httpapi.AttachStep
	for _, s := range steps {
		wire = append(wire, httpapi.AttachStep{Network: s.Network, Action: string(s.Action), Reason: s.Reason})
	}
	return wire, err
}
