package host

import "viaduct/internal/hoststate"

// Diff lists the operations that turn what is observed into what is desired,
// in the order in which Apply has to carry them out. What goes away with a
// container that is itself removed gets no operation of its own, except that
// links are taken down first: that cuts the guests off before anything else
// is dismantled.
func Diff(desired, observed hoststate.State) []hoststate.Op {
	var ops []hoststate.Op
	for _, o := range desired {
		if b, ok := o.(hoststate.Bridge); ok && b.Rename {
			observed = renamed(observed, b)
		}
	}
	for key, want := range desired {
		have, exists := observed[key]
		switch {
		case !exists:
			ops = append(ops, hoststate.CreateOp(want))
		case !satisfies(have, want):
			ops = append(ops, hoststate.ChangeOp(have, want))
		}
	}
	for key, have := range observed {
		if _, wanted := desired[key]; !wanted && !goesWithContainer(have, desired, observed) {
			ops = append(ops, hoststate.DeleteOp(have))
		}
	}
	hoststate.SortOps(ops)
	return ops
}

// renamed is what would be observed if the bridge that has the alias of b, but
// another name, were called as b is already. Only the bridge itself keeps its
// old name, so that it differs.
func renamed(observed hoststate.State, b hoststate.Bridge) hoststate.State {
	if _, there := observed[b.Key()]; there {
		return observed
	}
	var old hoststate.Bridge
	for _, o := range observed {
		if have, ok := o.(hoststate.Bridge); ok && have.Alias == b.Alias {
			old = have
		}
	}
	if old.Name == "" {
		return observed
	}
	state := make(hoststate.State, len(observed))
	for _, o := range observed {
		state.Add(hoststate.OnBridge(o, old.Name, b.Name))
	}
	delete(state, old.Key())
	state[b.Key()] = old
	return state
}

// goesWithContainer reports whether the removal of another object removes o.
func goesWithContainer(o hoststate.Object, desired, observed hoststate.State) bool {
	c, ok := o.(hoststate.Contained)
	if !ok || o.Key().Kind == hoststate.KindLinkUp {
		return false
	}
	container := c.Container()
	_, exists := observed[container]
	_, stays := desired[container]
	return exists && !stays
}

// satisfies reports whether the object have is as want says. It is equality,
// but for what is left to the kernel or to the link's maker.
func satisfies(have, want hoststate.Object) bool {
	switch w := want.(type) {
	case hoststate.Bridge:
		h, ok := have.(hoststate.Bridge)
		return ok && bridgeSatisfies(h, w)
	case hoststate.Shaper:
		h, ok := have.(hoststate.Shaper)
		return ok && shaperSatisfies(h, w)
	case hoststate.Uplink:
		h, ok := have.(hoststate.Uplink)
		return ok && uplinkSatisfies(h, w)
	case hoststate.Member:
		if h, ok := have.(hoststate.Member); ok && w.MAC == (hoststate.MAC{}) {
			w.MAC = h.MAC
			return h == w
		}
	}
	return hoststate.Equal(have, want)
}

// bridgeSatisfies is satisfies for bridges. What a wanted one leaves open is a
// MAC that is not given; an MTU that is not given, where the kernel takes the
// smallest of the ports' and without ports 1500; and the forward delay when
// STP is off.
func bridgeSatisfies(h, w hoststate.Bridge) bool {
	if w.MAC == (hoststate.MAC{}) {
		w.MAC = h.MAC
	}
	if w.MTU == 0 && h.MTU == mtuByPorts(h.PortMTU) {
		w.MTU = h.MTU
	}
	w.PortMTU, w.Rename = h.PortMTU, h.Rename
	if !w.STP && !h.STP {
		w.ForwardDelay = h.ForwardDelay
	}
	return w == h
}

// mtuByPorts is the MTU that the kernel gives a bridge of which nobody has
// asked for another. Once somebody has, the bridge no longer follows its ports.
func mtuByPorts(smallest int) int {
	if smallest == 0 {
		return defaultMTU
	}
	return smallest
}

// defaultMTU is the MTU of a bridge without ports, in bytes.
const defaultMTU = 1500
