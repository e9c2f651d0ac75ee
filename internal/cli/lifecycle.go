package cli

import (
	"context"

	"viaduct/internal/engine"
	"viaduct/internal/httpapi"
)

var lifecycleVerbs = []verb{
	{
		name: "net-start", virsh: true, group: groupNetworks,
		short: "start an inactive network", operands: oneNetwork(inactiveNetwork),
		run:  act((*httpapi.Client).Start, (*call).started, "Network %s started", "Failed to start network %s"),
		long: "For a routed network it notes which routes the LAN's router needs.",
	},
	{
		name: "net-destroy", virsh: true, group: groupNetworks,
		short: "stop a network", operands: oneNetwork(activeNetwork),
		long: "Its guests lose their connection. A transient network is gone afterwards.",
		run:  act((*httpapi.Client).Destroy, (*call).done, "Network %s destroyed", "Failed to destroy network %s"),
	},
	{
		name: "net-undefine", virsh: true, group: groupNetworks,
		short: "forget the persistent definition of a network", operands: oneNetwork(persistentNetwork),
		long: "An active network goes on as a transient one.",
		run:  act((*httpapi.Client).Undefine, (*call).done, "Network %s has been undefined", "Failed to undefine network %s"),
	},
	{
		name: "net-autostart", virsh: true, group: groupNetworks, run: netAutostart,
		short: "start a network whenever the host starts", operands: oneNetwork(persistentNetwork),
		flags: []flag{{name: "disable", help: "no longer start it by itself"}},
	},
}

// act is a verb that does one thing to one network and then says so.
func act(do func(*httpapi.Client, context.Context, string) error, say func(*call, engine.Info, string, ...any) error, success, fail string) func(*call) error {
	return func(c *call) error {
		n, err := c.network()
		if err != nil {
			return err
		}
		if err := do(c.client, c, n.UUID.String()); err != nil {
			return failing(err, fail, n.Name)
		}
		return say(c, n, success, n.Name)
	}
}

func netAutostart(c *call) error {
	words := "marked"
	if c.is("disable") {
		words = "unmarked"
	}
	var n engine.Info
	n, err := c.network()
	if err != nil {
		return err
	}
	if err := c.client.SetAutostart(c, n.UUID.String(), !c.is("disable")); err != nil {
		mark := "mark"
		if c.is("disable") {
			mark = "unmark"
		}
		return failing(err, "failed to %s network %s as autostarted", mark, n.Name)
	}
	return c.done(n, "Network %s %s as autostarted", n.Name, words)
}
