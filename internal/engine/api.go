package engine

import (
	"time"

	"viaduct/internal/netdef"
)

// Info is what a list of networks shows of one.
type Info struct {
	Name       string      `json:"name"`
	UUID       netdef.UUID `json:"uuid"`
	Title      string      `json:"title,omitempty"`
	Bridge     string      `json:"bridge,omitempty"`
	Mode       netdef.Mode `json:"mode"`
	Active     bool        `json:"active"`
	Persistent bool        `json:"persistent"`
	Autostart  bool        `json:"autostart"`
	// Connections counts the ports that guests have in the network.
	Connections int `json:"connections"`
}

// EventType says what happened to a network. The numbers are libvirt's
// (virNetworkEventLifecycleType).
type EventType int

// The lifecycle events.
const (
	EventDefined EventType = iota
	EventUndefined
	EventStarted
	EventStopped
)

var eventNames = [...]string{"Defined", "Undefined", "Started", "Stopped"}

func (t EventType) String() string { return eventNames[t] }

// Event is one thing that happened to a network.
type Event struct {
	Time time.Time
	Name string
	UUID netdef.UUID
	Type EventType
}
