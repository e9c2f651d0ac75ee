package cli

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"viaduct/internal/engine"
)

var uplinkOperand = []operand{{name: "bridge", help: "the bridge", complete: uplinkNames}}

var uplinkVerbs = []verb{
	{
		name: "uplink-create", group: groupHost, run: uplinkCreate,
		short:    "put a bridge in front of a network card, so that guests are hosts of its LAN",
		operands: []operand{{name: "bridge", help: "what to call the bridge", optional: true}},
		long: "The card keeps its name and becomes a port of the bridge; the addresses, routes and\n" +
			"name servers that the host has on the card move to the bridge in one step. The\n" +
			"configuration of whatever program manages the card is changed to match; where there\n" +
			"is none, Viaduct keeps the bridge. If afterwards a gateway that answered before, or\n" +
			"the peer, does not answer, or nobody confirms in time, all becomes again as it was,\n" +
			"also if the daemon dies in between. Without arguments it shows what there is, and what\n" +
			"could be.",
		example: "  viaduct uplink-create xenbr0 --nic eth0 --confirm 60s && viaduct uplink-confirm xenbr0",
		flags: []flag{
			{name: "nic", value: "NIC", help: "the network card NIC, a bond or a VLAN device; none for a bridge without"},
			{name: "confirm", value: "DURATION", help: "take it back after DURATION, such as 60s, unless uplink-confirm follows"},
			{name: "peer", value: "ADDRESS", help: "who has to answer a ping, before and after"},
			{name: "mtu", value: "BYTES", help: "MTU of the card and the bridge, such as 1496 for cards that know no VLANs"},
			{name: "tx-checksum", value: "off", help: "off: the host computes the checksums of what it sends", choices: []string{"off"}},
			{name: "dhcp", help: "get an address by DHCP, where no other program configures the card"},
			{name: "dry-run", help: "only show what would be done"},
		},
	},
	{
		name: "uplink-confirm", group: groupHost, run: uplinkConfirm, operands: uplinkOperand,
		short: "keep what uplink-create --confirm has made",
		flags: []flag{{name: "undo", help: "take it back at once instead"}},
	},
	{
		name: "uplink-delete", group: groupHost, run: uplinkDelete, operands: uplinkOperand,
		short: "give a network card back what uplink-create took from it",
	},
}

func uplinkNames(c *call) []string {
	all, err := c.client.Uplinks(c)
	if err != nil {
		return nil
	}
	var names []string
	for _, u := range all.Uplinks {
		names = append(names, u.Bridge)
	}
	return names
}

func uplinkCreate(c *call) error {
	bridge := c.operand("bridge")
	if bridge == "" {
		if c.given("nic") {
			return usagef("which bridge is to be in front of %s?", c.text("nic"))
		}
		return uplinkShow(c)
	}
	spec := engine.UplinkSpec{Bridge: bridge, NIC: c.text("nic"), Plan: c.is("dry-run"), DHCP: c.is("dhcp")}
	var err error
	switch spec.NIC {
	case "":
		return usagef("command 'uplink-create' requires --nic: a network card, or none")
	case "none":
		if spec.DHCP {
			return usagef("a bridge without a card has nobody to ask for an address: --dhcp needs one")
		}
		spec.NIC = ""
	}
	if c.given("confirm") {
		if spec.Confirm, err = time.ParseDuration(c.text("confirm")); err != nil || spec.Confirm <= 0 {
			return usagef("'%s' is not a duration for --confirm, such as 60s", c.text("confirm"))
		}
	}
	if c.given("peer") {
		if spec.Peer, err = netip.ParseAddr(c.text("peer")); err != nil {
			return usagef("'%s' is no address for --peer", c.text("peer"))
		}
	}
	if c.given("mtu") {
		if spec.MTU, err = strconv.Atoi(c.text("mtu")); err != nil || spec.MTU < 68 || spec.MTU > 65535 {
			return usagef("'%s' is no MTU, such as 1496", c.text("mtu"))
		}
	}
	if c.given("tx-checksum") {
		if c.text("tx-checksum") != "off" {
			return usagef("--tx-checksum can be off alone")
		}
		spec.Unoffloaded = true
	}
	r, err := c.client.CreateUplink(c, spec)
	if err != nil {
		return failing(err, "Failed to create uplink %s", bridge)
	}
	if c.output == formatJSON {
		return c.json(r)
	}
	verb := "created"
	if spec.Plan {
		verb = "would be created"
	}
	how := ""
	if r.DHCP {
		how = ", which is its DHCP client"
	}
	fmt.Fprintf(c.out, "Uplink %s %s, kept by %s%s\n", bridge, verb, r.Manager, how)
	for _, op := range r.Operations {
		if spec.Plan {
			fmt.Fprintln(c.out, printable("  "+op, false))
		}
	}
	for _, f := range r.Files {
		for line := range strings.Lines(f.Diff) {
			fmt.Fprintln(c.out, printable("  "+strings.TrimSuffix(line, "\n"), false))
		}
	}
	c.notes(r)
	if r.Deadline != nil {
		fmt.Fprintf(c.out, "It is taken back at %s unless 'viaduct uplink-confirm %s' follows\n", r.Deadline.Local().Format(time.TimeOnly), bridge)
	}
	return nil
}

func (c *call) notes(r engine.UplinkReport) {
	for _, note := range r.Notes {
		fmt.Fprintln(c.out, "Note:", printable(note, false))
	}
}

// uplinkShow prints the uplinks, and proposes others.
func uplinkShow(c *call) error {
	all, err := c.client.Uplinks(c)
	if err != nil {
		return failing(err, "Failed to list uplinks")
	}
	if c.output == formatJSON {
		return c.json(all)
	}
	t := table{header: []string{"Bridge", "Card", "Kept by", "State", "Addresses"}}
	for _, u := range all.Uplinks {
		nic := u.NIC
		if nic == "" {
			nic = "none"
		}
		t.add(u.Bridge, nic, string(u.Manager), string(u.Phase), strings.Join(u.Addresses, " "))
	}
	if err := t.print(c.out); err != nil {
		return err
	}
	for _, p := range all.Proposals {
		if p.Refused != "" {
			fmt.Fprintf(c.out, "%s: %s\n", p.NIC, printable(p.Refused, false))
			continue
		}
		hint := ""
		if p.Default {
			hint = " --confirm 60s   # the host's way out"
		}
		fmt.Fprintf(c.out, "Proposed: viaduct uplink-create %s --nic %s%s\n", p.Bridge, p.NIC, hint)
	}
	return nil
}

func uplinkConfirm(c *call) error {
	bridge := c.operand("bridge")
	if err := c.client.ConfirmUplink(c, bridge, c.is("undo")); err != nil {
		return failing(err, "Failed to confirm uplink %s", bridge)
	}
	if c.is("undo") {
		return c.uplinkDone(bridge, "Uplink %s was taken back\n", bridge)
	}
	return c.uplinkDone(bridge, "Uplink %s is confirmed\n", bridge)
}

func uplinkDelete(c *call) error {
	bridge := c.operand("bridge")
	r, err := c.client.DeleteUplink(c, bridge)
	if err != nil {
		return failing(err, "Failed to delete uplink %s", bridge)
	}
	if c.output == formatJSON {
		return c.json(r)
	}
	fmt.Fprintf(c.out, "Uplink %s deleted\n", bridge)
	c.notes(r)
	return nil
}

func (c *call) uplinkDone(bridge, format string, args ...any) error {
	if c.output == formatJSON {
		return c.json(map[string]string{"bridge": bridge})
	}
	_, err := fmt.Fprintf(c.out, format, args...)
	return err
}
