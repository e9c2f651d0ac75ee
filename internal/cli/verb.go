package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"viaduct/internal/httpapi"
	"viaduct/internal/xenvif/hotplug"
)

// defaultSocket is where the daemon listens unless told otherwise.
const defaultSocket = hotplug.DefaultSocket

// socketVariable names the daemon's socket, where --socket does not.
const socketVariable = hotplug.SocketVariable

// verb is one command.
type verb struct {
	name     string
	short    string
	long     string // what short does not say; may be empty
	example  string
	operands []operand
	flags    []flag
	run      func(*call) error
	// virsh says that virsh has the verb too, with the same output.
	virsh  bool
	group  string
	hidden bool
}

// operand is something that a verb works on. As in virsh it can be given by its
// place or, as a flag, by its name.
type operand struct {
	name     string
	help     string
	optional bool
	rest     bool // takes all that is left, as words with blanks between them
	complete func(*call) []string
}

// flag is an option of a verb: a switch if value is empty.
type flag struct {
	name     string
	letter   string // its short form; may be empty
	value    string // what to call its value
	help     string
	fallback string
	choices  []string // what the shell offers
	hidden   bool     // for tests alone
}

// call is a verb being run.
type call struct {
	context.Context
	*app
	cmd      *cobra.Command
	operands map[string]string
	client   *httpapi.Client
}

func (c *call) operand(name string) string { return c.operands[name] }

func (c *call) text(flag string) string { return c.cmd.Flags().Lookup(flag).Value.String() }

func (c *call) given(flag string) bool { return c.cmd.Flags().Changed(flag) }

func (c *call) is(flag string) bool { return c.text(flag) == "true" }

// usageError is a command line that makes no sense.
type usageError string

func (e usageError) Error() string { return string(e) }

func usagef(format string, args ...any) error { return usageError(fmt.Sprintf(format, args...)) }

// The groups that help sorts verbs into.
const (
	groupNetworks = "networks"
	groupPorts    = "ports"
	groupHost     = "host"
	groupXen      = "xen"
)

func verbs() []verb {
	return slices.Concat(listVerbs, lifecycleVerbs, assistVerbs, definitionVerbs, updateVerbs, applyVerbs, eventVerbs, portVerbs, netPortVerbs, guestVerbs, xenVerbs, xenHostVerbs, libvirtVerbs, importVerbs, hostVerbs, docVerbs)
}

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "viaduct [OPTIONS] COMMAND",
		Short: "Virtual networks for a host's guests",
		Long: "Viaduct owns the virtual networks of a host: NAT, routed, isolated and open\n" +
			"networks with DHCP and DNS for virtual machines and containers. The daemon does\n" +
			"the work; the other commands ask it. Commands that virsh has too take the same\n" +
			"arguments and print the same.",
		DisableFlagsInUseLine: true,
		SilenceErrors:         true,
		SilenceUsage:          true,
		Args:                  cobra.ArbitraryArgs,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if !slices.Contains(formats, a.output) {
				bad := a.output
				a.output = formatTable
				return usagef("unknown output format '%s': it is %s", bad, strings.Join(formats, " or "))
			}
			return nil
		},
	}
	root.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		err := usagef("unknown command: '%s'", args[0])
		near := root.SuggestionsFor(args[0])
		if found, _, err := root.Find([]string{"net-" + args[0]}); err == nil && found != root {
			near = []string{found.Name()}
		}
		if len(near) == 0 {
			return &hint{err, "'viaduct help' lists the commands"}
		}
		return &hint{err, "did you mean " + strings.Join(near, " or ") + "?"}
	}
	root.SuggestionsMinimumDistance = 2
	root.Version = Version()
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	socket := os.Getenv(socketVariable)
	if socket == "" {
		socket = defaultSocket
	}
	root.PersistentFlags().StringVar(&a.socket, "socket", socket, "the daemon's `SOCKET`")
	root.PersistentFlags().StringVarP(&a.output, "output", "o", formatTable, "print `FORMAT`: table or json")
	root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp))
	root.SetFlagErrorFunc(flagError)
	root.AddGroup(&cobra.Group{ID: groupNetworks, Title: "Networks:"}, &cobra.Group{ID: groupPorts, Title: "Ports:"}, &cobra.Group{ID: groupXen, Title: "Xen:"},
		&cobra.Group{ID: groupHost, Title: "The host:"})
	root.SetHelpCommandGroupID(groupHost)
	root.SetCompletionCommandGroupID(groupHost)
	for _, v := range verbs() {
		root.AddCommand(a.command(v))
	}
	return root
}

func (a *app) command(v verb) *cobra.Command {
	use := v.name
	cmd := &cobra.Command{
		Short: v.short, Long: strings.TrimSpace(upperFirst(v.short) + ".\n\n" + v.long), Example: v.example,
		GroupID: v.group, Hidden: v.hidden, Args: cobra.ArbitraryArgs, DisableFlagsInUseLine: true,
	}
	if len(v.flags) > 0 {
		use += " [OPTIONS]"
	}
	for _, o := range v.operands {
		cmd.Flags().String(o.name, "", o.help)
		cmd.Flags().MarkHidden(o.name)
		if o.optional {
			use += " [" + strings.ToUpper(o.name) + "]"
		} else {
			use += " " + strings.ToUpper(o.name)
		}
	}
	cmd.Use = use
	for _, f := range v.flags {
		if f.value == "" {
			cmd.Flags().BoolP(f.name, f.letter, false, f.help)
			if f.hidden {
				cmd.Flags().MarkHidden(f.name)
			}
			continue
		}
		cmd.Flags().StringP(f.name, f.letter, f.fallback, strings.Replace(f.help, f.value, "`"+f.value+"`", 1))
		if f.choices != nil {
			cmd.RegisterFlagCompletionFunc(f.name, cobra.FixedCompletions(f.choices, cobra.ShellCompDirectiveNoFileComp))
		}
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c := &call{Context: cmd.Context(), app: a, cmd: cmd, client: httpapi.NewClient(a.socket)}
		defer c.client.Close()
		var err error
		if c.operands, err = operandValues(cmd, v.operands, args); err != nil {
			return err
		}
		a.ran = v.virsh
		return v.run(c)
	}
	cmd.ValidArgsFunction = a.completion(v)
	return cmd
}

// operandValues assigns arguments to the operands that are not given by name.
func operandValues(cmd *cobra.Command, operands []operand, args []string) (map[string]string, error) {
	values := map[string]string{}
	for _, o := range operands {
		value := cmd.Flags().Lookup(o.name)
		switch {
		case value.Changed:
			values[o.name] = value.Value.String()
		case len(args) > 0 && o.rest:
			values[o.name], args = strings.Join(args, " "), nil
		case len(args) > 0:
			values[o.name], args = args[0], args[1:]
		case !o.optional:
			return nil, usagef("command '%s' requires <%s> option", cmd.Name(), o.name)
		}
	}
	if len(args) > 0 {
		return nil, usagef("unexpected data '%s'", args[0])
	}
	return values, nil
}

// flagError is an error about flags in virsh's words.
func flagError(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	var lacking *pflag.ValueRequiredError
	var invalid *pflag.InvalidValueError
	switch {
	case errors.As(err, &unknown):
		dashes := "--"
		if unknown.GetSpecifiedShortnames() != "" {
			dashes = "-"
		}
		return usagef("command '%s' doesn't support option %s%s", cmd.Name(), dashes, unknown.GetSpecifiedName())
	case errors.As(err, &lacking):
		return usagef("expected syntax: --%s <string>", lacking.GetFlag().Name)
	case errors.As(err, &invalid):
		return usagef("invalid '=' after option --%s", invalid.GetFlag().Name)
	}
	return usageError(err.Error())
}

func upperFirst(s string) string { return strings.ToUpper(s[:1]) + s[1:] }
