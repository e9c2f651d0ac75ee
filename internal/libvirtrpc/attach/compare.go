package attach

import (
	"slices"

	"viaduct/internal/engine"
	"viaduct/internal/libvirtrpc/remote"
	"viaduct/internal/netdef"
)

// markSpace is the namespace of the element of <metadata> by which a network
// in libvirtd is known as put there by us.
const markSpace = "urn:viaduct:attached:1"

var mark = netdef.Node{Space: markSpace, XML: `<viaduct:attached xmlns:viaduct="` + markSpace + `"/>`}

// Marked reports whether a definition of libvirtd's was put there by us.
func Marked(xml string) bool {
	def, err := netdef.Parse([]byte(xml))
	return err == nil && marked(def)
}

func marked(def *netdef.Network) bool {
	return slices.ContainsFunc(def.Metadata, func(m netdef.Node) bool { return m.Space == markSpace })
}

// network is a network as libvirtd has it, or is to have it.
type network struct {
	name string
	id   netdef.UUID
	// config and live are definitions in libvirt's form, "" if there is none.
	config, live string
	active       bool
	autostart    bool
	// ours says that we have put it into libvirtd.
	ours bool
	// without says why libvirtd is to have no such network.
	without string
}

// wish is the network that libvirtd is to have for one of ours.
func wish(ours Networks, i engine.Info) (network, error) {
	n := network{name: i.Name, id: i.UUID, active: i.Active, autostart: i.Autostart, ours: true}
	xml, err := ours.XML(i.UUID, false)
	if err != nil {
		return n, err
	}
	def, err := netdef.Parse([]byte(xml))
	if err != nil {
		return n, err
	}
	if def.Bridge.Name == "" {
		n.without = "it has no bridge that libvirtd could be told of"
		return n, nil
	}
	// Nothing is said of what we do ourselves, or libvirtd would do it too.
	// What it does to each guest's tap it has to know. Title and description
	// would not come back from versions that do not know them.
	image := &netdef.Network{
		Name: def.Name, UUID: def.UUID, Metadata: []netdef.Node{mark}, TrustGuestRxFilters: def.TrustGuestRxFilters,
		Forward: netdef.Forward{Mode: netdef.ModeBridge}, Bridge: netdef.Bridge{Name: def.Bridge.Name},
		VLAN: def.VLAN, Isolated: def.Isolated, VirtualPort: def.VirtualPort, PortGroups: def.PortGroups,
	}
	n.config = image.Format(netdef.FormatOptions{Inactive: true})
	if n.active {
		n.live = n.config
	}
	return n, nil
}

// observe reads a network of libvirtd's.
func observe(c *remote.Conn, of remote.Network) (network, error) {
	n := network{name: of.Name, id: of.UUID}
	state, err := c.State(of)
	if err != nil {
		return n, err
	}
	n.active, n.autostart = state.Active, state.Autostart
	for _, d := range []struct {
		there, inactive bool
		into            *string
	}{{state.Persistent, true, &n.config}, {state.Active, false, &n.live}} {
		if !d.there {
			continue
		}
		xml, err := c.XML(of, d.inactive)
		if err != nil {
			return n, err
		}
		def, err := netdef.Parse([]byte(xml))
		if err != nil {
			continue // something newer than we know, and so not ours
		}
		*d.into = def.Format(netdef.FormatOptions{Inactive: true})
		n.ours = n.ours || marked(def)
	}
	return n, nil
}

// Action is what is done to a network in libvirtd.
type Action string

// The actions.
const (
	Define      Action = "define"
	Start       Action = "start"
	Stop        Action = "stop"
	Autostart   Action = "autostart"
	NoAutostart Action = "no autostart"
	Undefine    Action = "undefine"
	// Leave is none: Reason says why.
	Leave Action = "leave"
)

// Step is one thing that is done to one network in libvirtd.
type Step struct {
	Network string
	Action  Action
	// Reason is why nothing is done, of a network that is left alone.
	Reason string

	in  remote.Network
	xml string
}

// compare lists what makes the networks that libvirtd has those that are
// wanted, network by network. Networks of its own are left alone.
func compare(wanted, have []network) ([]Step, error) {
	byName := map[string]network{}
	for _, h := range have {
		byName[h.name] = h
	}
	var steps []Step
	for _, w := range wanted {
		h, exists := byName[w.name]
		if exists && !h.ours {
			if h.id == w.id {
				return nil, netdef.Errorf(netdef.ErrOperationInvalid, "network '%s' is Viaduct's own there: that daemon asks Viaduct already, so there is nothing to attach", w.name)
			}
			if w.without == "" {
				w.without = "libvirtd has a network of its own by that name; undefine it there, or take it over with viaduct import-libvirt"
			}
		}
		if w.without != "" {
			steps = append(steps, Step{Network: w.name, Action: Leave, Reason: w.without})
			if exists && h.ours {
				steps = append(steps, h.removal()...)
			}
			continue
		}
		if exists && h.id != w.id { // another network that has the name now
			steps = append(steps, h.removal()...)
			h = network{}
		}
		steps = append(steps, w.from(h)...)
	}
	for _, h := range have {
		if h.ours && !slices.ContainsFunc(wanted, func(w network) bool { return w.name == h.name }) {
			// What goes may hold a UUID or name that another one waits for.
			steps = append(h.removal(), steps...)
		}
	}
	return steps, nil
}

// from lists what makes a network of libvirtd's, none if it is the zero value,
// the one that is wanted.
func (w network) from(h network) []Step {
	step := func(a Action) Step {
		return Step{Network: w.name, Action: a, in: remote.Network{Name: w.name, UUID: w.id}, xml: w.config}
	}
	var steps []Step
	if h.config != w.config {
		steps = append(steps, step(Define))
	}
	// A definition is in effect from the next start on. To libvirtd that means
	// nothing but what it tells of the network: guests stay in the bridge.
	if h.active && h.live != w.live {
		steps = append(steps, step(Stop))
		h.active = false
	}
	if w.active && !h.active {
		steps = append(steps, step(Start))
	}
	if w.autostart != h.autostart {
		steps = append(steps, step(map[bool]Action{true: Autostart, false: NoAutostart}[w.autostart]))
	}
	return steps
}

// removal lists what takes a network from libvirtd.
func (w network) removal() []Step {
	var steps []Step
	step := func(a Action) {
		steps = append(steps, Step{Network: w.name, Action: a, in: remote.Network{Name: w.name, UUID: w.id}})
	}
	if w.active {
		step(Stop)
	}
	if w.config != "" {
		step(Undefine)
	}
	return steps
}

// carryOut does the step.
func (s Step) carryOut(c *remote.Conn) error {
	switch s.Action {
	case Define:
		_, err := c.Define(s.xml)
		return err
	case Start:
		return c.Start(s.in)
	case Stop:
		return c.Stop(s.in)
	case Autostart, NoAutostart:
		return c.SetAutostart(s.in, s.Action == Autostart)
	case Undefine:
		return c.Undefine(s.in)
	}
	return nil
}
