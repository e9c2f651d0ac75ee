// Package uplink knows how a host's network card becomes the port of a bridge:
// what is remembered of it, by whom the card is configured, and what that
// program's files say before and after. It reads files and decides; it changes
// nothing.
package uplink

import (
	"net/netip"
	"time"

	"viaduct/internal/hoststate"
)

// Phase says how far a change has come.
type Phase string

// The phases. All but Kept are taken back, or brought to their end, by the next
// daemon if this one dies.
const (
	Changing Phase = "changing" // is being made
	Awaiting Phase = "awaiting" // is made, and to be confirmed
	Kept     Phase = "kept"     // is as it shall be
	Leaving  Phase = "leaving"  // is being removed
)

// Record is all that is remembered of one uplink.
type Record struct {
	// Format and BootID are filled in by the store.
	Format int    `json:"format"`
	BootID string `json:"bootId"`
	Phase  Phase  `json:"phase"`
	// Manager is who configures the card, and then the bridge.
	Manager Manager `json:"manager"`
	// Uplink is the bridge, with what the host had on the card.
	Uplink hoststate.Uplink `json:"uplink"`
	// DHCP says that Viaduct itself is the DHCP client on the bridge, Metric how
	// long its routes are, Leased that the card had a lease before, and Clients by whom
	// it was kept.
	DHCP    bool     `json:"dhcp,omitempty"`
	Leased  bool     `json:"leased,omitempty"`
	Metric  uint32   `json:"metric,omitempty"`
	Clients []Client `json:"clients,omitempty"`
	// Edits are what was changed in the manager's files.
	Edits []Edit `json:"edits,omitempty"`
	// Needed are those who have to answer by the bridge, and of those the
	// Gateways as neighbours, since not all answer a ping.
	Needed   []netip.Addr `json:"needed,omitempty"`
	Gateways []netip.Addr `json:"gateways,omitempty"`
	// Deadline is when a change that awaits confirmation is taken back. Within is
	// how long there was until then.
	Deadline time.Time     `json:"deadline,omitzero"`
	Within   time.Duration `json:"within,omitempty"`
}

// Manager is who configures a network card.
type Manager string

// The managers that are known. Viaduct does what nobody else does.
const (
	Viaduct        Manager = "viaduct"
	Networkd       Manager = "systemd-networkd"
	Ifupdown       Manager = "ifupdown"
	NetworkManager Manager = "NetworkManager"
	Netplan        Manager = "netplan"
	Wicked         Manager = "wicked"
)

// Client is a program that is DHCP client of a link.
type Client struct {
	PID  int      `json:"pid"`
	Argv []string `json:"argv"`
}

// Edit is a file before and after a change.
type Edit struct {
	Path string `json:"path"`
	// Old and New are its content; nil where it does not exist.
	Old  *string `json:"old"`
	New  *string `json:"new"`
	Mode uint32  `json:"mode,omitempty"` // of a file that is made
	// Once is a file that its reader goes on with: it is only given its beginning.
	Once bool `json:"once,omitempty"`
}
