package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"viaduct/internal/httpapi"
)

// The types of events, as virsh calls them.
const (
	lifecycle      = "lifecycle"
	metadataChange = "metadata-change"
)

var eventTypes = []string{lifecycle, metadataChange}

var eventVerbs = []verb{{
	name: "net-event", virsh: true, group: groupNetworks, run: netEvent,
	short: "wait for something to happen to a network",
	long:  "Ends after the first event, unless told otherwise. Without a network it tells of all.",
	operands: []operand{
		{name: "network", help: "only this network: name or uuid", optional: true, complete: networkNames(anyNetwork)},
		{name: "event", help: "which type of event", optional: true, complete: words(func() []string { return eventTypes })},
	},
	flags: []flag{
		{name: "loop", help: "go on until the timeout or an interrupt"},
		{name: "timeout", value: "SECONDS", help: "end after SECONDS"},
		{name: "list", help: "list the types of events"},
		{name: "timestamp", help: "show when each event happened"},
	},
	example: "  viaduct net-event --event lifecycle --loop --timestamp",
}}

var errTimeout = errors.New("event loop timed out")

func netEvent(c *call) error {
	switch kind := c.operand("event"); {
	case c.is("list") && c.output == formatJSON:
		return c.json(eventTypes)
	case c.is("list"):
		_, err := fmt.Fprintln(c.out, strings.Join(eventTypes, "\n"))
		return err
	case kind == "":
		return usagef("either --list or --event <type> is required")
	case !slices.Contains(eventTypes, kind):
		return usagef("unknown event type %s", kind)
	}
	ctx := c.Context
	if c.given("timeout") {
		seconds, err := strconv.ParseUint(c.text("timeout"), 10, 31)
		if err != nil || seconds == 0 {
			return usagef("Numeric value '%s' for <timeout> option is malformed or out of range", c.text("timeout"))
		}
		limited, cancel := context.WithTimeoutCause(ctx, time.Duration(seconds)*time.Second, errTimeout)
		defer cancel()
		ctx = limited
	}
	ref := ""
	if c.operand("network") != "" {
		n, err := c.network()
		if err != nil {
			return err
		}
		ref = n.UUID.String()
	}
	received := 0
	err := c.client.Events(ctx, ref, func() {}, func(e httpapi.Event) bool {
		if (e.Event == httpapi.MetadataChange) != (c.operand("event") == metadataChange) {
			return true
		}
		received++
		c.printEvent(e)
		return c.is("loop")
	})
	return c.endEvents(ctx, received, err)
}

func (c *call) printEvent(e httpapi.Event) {
	if c.output == formatJSON {
		json.NewEncoder(c.out).Encode(e) // one a line, so that they can be read as they come
		return
	}
	if c.is("timestamp") {
		fmt.Fprint(c.out, e.Time.UTC().Format("2006-01-02 15:04:05.000+0000: "))
	}
	if e.Event == httpapi.MetadataChange {
		uri := e.URI
		if uri == "" {
			uri = "(null)"
		}
		fmt.Fprintf(c.out, "event 'metadata-change' for network %s: type %s, uri %s\n", printable(e.Name, false), e.Metadata, printable(uri, false))
		return
	}
	fmt.Fprintf(c.out, "event 'lifecycle' for network %s: %s\n", printable(e.Name, false), e.Event)
}

// endEvents says why the waiting ended. As with virsh that is an error only if
// nothing came.
func (c *call) endEvents(ctx context.Context, received int, err error) error {
	why := ""
	switch {
	case errors.Is(context.Cause(ctx), errTimeout):
		why = errTimeout.Error()
	case ctx.Err() != nil:
		why = "event loop interrupted"
	case err != nil:
		return err
	}
	if c.output == formatTable {
		if why != "" {
			fmt.Fprintln(c.out, why)
		}
		fmt.Fprintf(c.out, "events received: %d\n", received)
	}
	if received == 0 {
		return errSilent
	}
	return nil
}
