package engine

import (
	"fmt"
	"time"

	"viaduct/internal/netdef"
	"viaduct/internal/plan"
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
	// Connections counts the ports that were asked for.
	Connections int `json:"connections"`
}

// loopWarning is what is said of a port that the guard against loops blocks.
const loopWarning = "port %s is blocked: the bridge's own frames come back through it, so it is part of a loop"

// Warnings tells what keeps a network from working as defined and only
// somebody outside can mend. It is empty for one that is not active.
func (e *Engine) Warnings(id netdef.UUID) ([]string, error) {
	e.mu.Lock()
	n := e.networks[id]
	known := n != nil && n.known()
	var live *netdef.Network
	if known {
		live = n.live
	}
	e.mu.Unlock()
	switch {
	case !known:
		return nil, noNetwork(id)
	case live == nil:
		return nil, nil
	}
	warnings := e.missing(live)
	looped, err := e.Host.Collected(plan.Looped)
	if err != nil {
		return nil, errAs(netdef.ErrInternal, err)
	}
	blocked := map[string]bool{}
	for _, port := range looped {
		blocked[port.Fields[0].IfName] = true
	}
	for _, p := range e.Host.Ports(live.Bridge.Name) {
		if blocked[p.Name] {
			warnings = append(warnings, fmt.Sprintf(loopWarning, p.Name))
		}
	}
	return warnings, nil
}

// missing tells of what a network needs and the host does not have. That is no
// reason to refuse a start, as a link may come later, but often a slip.
func (e *Engine) missing(n *netdef.Network) (warnings []string) {
	plug := plugType(n)
	if l, ok := e.Host.Link(n.Bridge.Name); plug == netdef.PlugBridge && (!ok || l.Kind != kindBridge) {
		warnings = append(warnings, fmt.Sprintf("the host has no bridge '%s' now, which guests are to be in", n.Bridge.Name))
	}
	for _, dev := range n.Forward.Interfaces {
		if _, ok := e.Host.Link(dev); !ok && plug != netdef.PlugHostdevPCI {
			warnings = append(warnings, fmt.Sprintf("the host has no device '%s' now, which guests' traffic is to go by", dev))
		}
	}
	return warnings
}

// EventType says what happened to a network. The numbers are libvirt's
// (virNetworkEventLifecycleType), but for those that are no lifecycle events.
type EventType int

// The events: those of the lifecycle, and changes of metadata.
const (
	EventDefined EventType = iota
	EventUndefined
	EventStarted
	EventStopped
	EventMetadataChange
)

var eventNames = [...]string{"Defined", "Undefined", "Started", "Stopped", "MetadataChange"}

// Lifecycle tells whether the event is one of the network's life, rather than
// about what people write on it.
func (t EventType) Lifecycle() bool { return t <= EventStopped }

func (t EventType) String() string { return eventNames[t] }

// Event is one thing that happened to a network.
type Event struct {
	Time time.Time
	Name string
	UUID netdef.UUID
	Type EventType
	// Metadata and URI say what changed, in an EventMetadataChange; URI is the
	// namespace of an element.
	Metadata netdef.MetadataType
	URI      string
}
