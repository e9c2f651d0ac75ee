package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"viaduct/internal/engine"
	"viaduct/internal/httpapi"
)

// completionTimeout is how long a shell waits for the daemon while somebody types.
const completionTimeout = time.Second

// completion offers what can stand at the next place, such as the networks' names.
func (a *app) completion(v verb) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= len(v.operands) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		o := v.operands[len(args)]
		if o.complete == nil {
			return nil, cobra.ShellCompDirectiveDefault
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTimeout)
		defer cancel()
		c := &call{Context: ctx, app: a, cmd: cmd, client: httpapi.NewClient(a.socket)}
		defer c.client.Close()
		return o.complete(c), cobra.ShellCompDirectiveNoFileComp
	}
}

// networkNames offers the networks that fit.
func networkNames(fits func(engine.Info) bool) func(*call) []string {
	return func(c *call) []string {
		networks, err := c.client.Networks(c)
		if err != nil {
			return nil
		}
		var names []string
		for _, n := range networks {
			if fits(n) {
				names = append(names, n.Name)
			}
		}
		return names
	}
}

func anyNetwork(engine.Info) bool          { return true }
func activeNetwork(n engine.Info) bool     { return n.Active }
func inactiveNetwork(n engine.Info) bool   { return !n.Active }
func persistentNetwork(n engine.Info) bool { return n.Persistent }

// oneNetwork is the operand of most verbs.
func oneNetwork(fits func(engine.Info) bool) []operand {
	return []operand{{name: "network", help: "network name or uuid", complete: networkNames(fits)}}
}
