package engine

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"strings"
	"time"

	"viaduct/internal/hook"
	"viaduct/internal/host"
	"viaduct/internal/netdef"
	"viaduct/internal/plan"
)

// guestKinds are the kinds of links whose other end is a guest. What is
// missing here, such as a physical device or a VLAN on one, may lead to
// another switch. Xen's links have no kind, but Viaduct is asked to plug those.
var guestKinds = map[string]bool{"tun": true, "veth": true, "macvtap": true}

// facts collects what a plan needs to know of the host. All known ports are
// wanted in the bridge: notePorts has forgotten those that left on purpose.
// One that is in a foreign bridge now is not taken out of it.
func (e *Engine) facts(n *network, def *netdef.Network, dnsPort uint16) plan.Facts {
	e.mu.Lock()
	known, translated := e.filtering.bound(n.ports), n.translated
	definitions := n.definitions()
	learning := slices.ContainsFunc(definitions[:], func(d *netdef.Network) bool { return learns(d, known) || answersLeases(d) })
	e.mu.Unlock()
	f := plan.Facts{DNSPort: dnsPort, NoIPv6: e.NoIPv6, ForceForwarding: e.ForceForwarding, Passes: e.Host.Passes(), Dnsmasq: e.Dnsmasq,
		Translated: translated, LiveRename: e.LiveRename}
	for _, l := range e.Host.Uplinks() {
		f.Uplinks = append(f.Uplinks, l.Name)
		if l.RA {
			f.RALinks = append(f.RALinks, l.Name)
		}
	}
	plug, bridged := plugType(def), true
	if plug == netdef.PlugBridge {
		l, exists := e.Host.Link(def.Bridge.Name)
		bridged = exists && l.Kind == kindBridge
		f.BridgeMTU = l.MTU
	}
	var held []netdef.Lease
	if learning {
		held = e.Options.Leases.Table(n.id).All()
	}
	if answersLeases(def) {
		for _, l := range held {
			f.Leases = append(f.Leases, l.Addr)
		}
	}
	for _, p := range known {
		l, exists := e.Host.Link(p.name)
		if exists && !p.is(l) || !exists && !p.made {
			continue
		}
		if p.made {
			if _, there := e.Host.Link(p.def.Plug.Dev); p.def.Plug.Type == netdef.PlugDirect && !there {
				continue // it comes when its device does
			}
			f.Taps = append(f.Taps, plan.Tap{Link: p.name, Port: p.def.UUID, Owner: p.owner, MAC: p.def.MAC, Plug: p.def.Plug})
		}
		// What another program makes for a bridge of the host's is in it or is no port.
		elsewhere := plug == netdef.PlugBridge && !p.plugged && l.Master == ""
		if bridged && e.ours(n, l.Master) && !elsewhere {
			f.Ports = append(f.Ports, plan.Port{
				Link: p.name, Guest: p.declared || guestKinds[l.Kind], Plugged: p.plugged,
				Def: p.def, Guard: p.guard, Routed: p.routed, MTU: p.mtu, Leases: leasesOf(held, p.def.MAC),
			})
		}
	}
	f.NoVLANs = plan.AsksForVLANs(def, f.Ports) && !e.Host.FiltersVLANs()
	f.Firewalld = e.firewalld()
	f.Placed = e.placed(n, def, f)
	return f
}

// inactive is what the network has on the host while it is not active.
func (e *Engine) inactive(n *network) plan.Fragment {
	e.mu.Lock()
	config := n.config
	e.mu.Unlock()
	if config == nil {
		return plan.Fragment{}
	}
	return plan.Taps(config, e.facts(n, config, 0))
}

// ours reports whether a port of that bridge, "" for none, may be plugged into
// the network.
func (e *Engine) ours(n *network, bridge string) bool {
	if bridge == "" {
		return true
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, d := range n.definitions() {
		if d != nil && d.Bridge.Name == bridge {
			return true
		}
	}
	return false
}

// kindBridge is the kind of link that others can be ports of.
const kindBridge = "bridge"

// linksOf are the links that may be ports of the network.
func (e *Engine) linksOf(def *netdef.Network) []host.Link {
	switch plugType(def) {
	case netdef.PlugDirect:
		return slices.DeleteFunc(e.Host.Inventory().Links, func(l host.Link) bool {
			return !slices.Contains(def.Forward.Interfaces, l.Device)
		})
	case netdef.PlugHostdevPCI, netdef.PlugNone:
		return nil
	}
	return e.Host.Ports(def.Bridge.Name)
}

// portsOn lists the links in the network's bridge, or on the devices of its
// pool, and of the known ports those that stay without being there: those that
// Viaduct plugged and that exist still, or that it can make again, and those
// whose link is yet to come. What is in a bridge of the host's beside those is
// no business of the network's.
func (e *Engine) portsOn(def *netdef.Network, known []port) []port {
	links := e.linksOf(def)
	ports := make([]port, len(links))
	found := make([]bool, len(links))
	matched := make([]bool, len(known))
	for _, belongs := range []func(port, host.Link) bool{port.declaredIs, port.awaits, port.is} {
		for i, l := range links {
			for j, k := range known {
				if !found[i] && !matched[j] && belongs(k, l) {
					found[i], matched[j] = true, true
					ports[i] = k
				}
			}
		}
	}
	for i, l := range links {
		if !found[i] {
			ports[i].complete()
		}
		if p := &ports[i]; !p.made {
			p.name, p.index, p.mac = l.Name, l.Index, l.MAC
		}
	}
	for j, k := range known {
		if matched[j] {
			continue
		}
		if l, ok := e.Host.Link(k.name); k.made || k.plugged && ok && k.is(l) {
			ports = append(ports, k)
		} else if k.declared && !k.plugged {
			ports = append(ports, k.forgetLink())
		}
	}
	if !def.Forward.Mode.OwnsBridge() {
		ports = slices.DeleteFunc(ports, func(p port) bool { return !p.declared })
	}
	// The host lists its own in this order: whether a port is in the bridge
	// already must make no difference to what is kept of it.
	slices.SortStableFunc(ports, func(a, b port) int { return strings.Compare(a.name, b.name) })
	return ports
}

// notePorts remembers which links are in the network's bridge. A link that
// left while the bridge is there was taken on purpose and is forgotten; while
// the bridge is gone, its ports stay remembered, to be plugged in again.
func (e *Engine) notePorts(n *network, def *netdef.Network) {
	if _, exists := e.Host.Link(def.Bridge.Name); !exists && def.Bridge.Name != "" {
		return
	}
	e.mu.Lock()
	known := n.ports
	e.mu.Unlock()
	ports := e.portsOn(def, known)
	if samePorts(ports, known) {
		return
	}
	e.mu.Lock()
	n.ports = ports
	e.mu.Unlock()
	if err := e.Store.PutStatus(e.status(n)); err != nil {
		e.Log.Warn("keep the ports of a network", "network", n.name, "error", err)
	}
}

// CreatePort adds a port to an active network. It has what its port group and
// its network say, where it says nothing itself. It outlives the daemon, and
// stops and starts of its network, but not the host's end; that of an existing
// link ends with the link. To plug a link in again replaces what was said of it.
// What is returned of the port has no counters.
func (e *Engine) CreatePort(ctx context.Context, id netdef.UUID, spec PortSpec) (made Port, err error) {
	if spec.Tap != nil {
		if err := checkLinkName(spec.Tap.Name); err != nil {
			return Port{}, err
		}
	}
	if spec.Link != "" {
		var renamed string
		if renamed, err = e.prepareLink(ctx, &spec); err != nil {
			return Port{}, err
		}
		defer func() {
			if err != nil && renamed != "" {
				e.undoRename(spec.Link, renamed)
			}
		}()
	}
	n, err := e.seizeActive(id)
	if err != nil {
		return Port{}, err
	}
	defer n.busy.Unlock()
	known := e.currentPorts(n)
	p, err := e.newPort(n, known, spec)
	if err != nil {
		return Port{}, err
	}
	err = e.changePorts(ctx, n, func(ports []port) []port {
		return e.portsOn(n.live, append(slices.DeleteFunc(ports, p.replaces), p))
	})
	if err == nil {
		p, err = e.admitPort(ctx, n, p.def.UUID)
	}
	if err != nil {
		return Port{}, err
	}
	return e.outline(n, p), nil
}

// admitPort asks the hooks whether a new port may stay.
func (e *Engine) admitPort(ctx context.Context, n *network, id netdef.UUID) (port, error) {
	p, err := e.findPort(n, id.String())
	if err != nil {
		return port{}, err
	}
	def := e.describe(n, p)
	if err := e.hook(ctx, n, hook.PortCreated, n.live, &def); err != nil {
		undo := e.changePorts(context.WithoutCancel(ctx), n, func(ports []port) []port {
			return slices.DeleteFunc(ports, func(other port) bool { return other.def.UUID == id })
		})
		if undo != nil {
			e.Log.Error("take out a port that must not be", "network", n.name, "port", id, "error", undo)
		}
		return port{}, err
	}
	return p, nil
}

// removePorts takes ports out of the network and tells the hooks.
func (e *Engine) removePorts(ctx context.Context, n *network, gone func(port) bool) error {
	e.mu.Lock()
	known, def := n.ports, n.definition()
	e.mu.Unlock()
	err := e.changePorts(ctx, n, func(ports []port) []port { return slices.DeleteFunc(ports, gone) })
	if err != nil {
		return err
	}
	for _, p := range known {
		if gone(p) && p.declared {
			described := e.describe(n, p)
			e.tellHook(ctx, n, hook.PortDeleted, def, &described)
		}
	}
	return nil
}

// replaces reports whether the other port is what was known of the same link
// before.
func (p port) replaces(other port) bool { return p.plugged && p.name == other.name }

// newPort is the port that the spec describes. The caller holds n.busy.
func (e *Engine) newPort(n *network, known []port, spec PortSpec) (port, error) {
	switch {
	case spec.Reclaim && spec.Plug.Type == netdef.PlugNone:
		return port{}, netdef.Errorf(netdef.ErrInvalidArg, "Port reclaim requested but plug type is none")
	case !spec.Reclaim && spec.Plug.Type != netdef.PlugNone:
		return port{}, netdef.Errorf(netdef.ErrInvalidArg, "Port reclaim not requested but plug type is not none")
	}
	p := port{def: *spec.Port.Clone(), guard: spec.Guard.Clone(), routed: spec.Routed.Clone(), pattern: spec.Pattern,
		rateKey: spec.RateKey, rate: spec.Rate, mtu: spec.MTU, declared: true}
	var err error
	switch {
	case spec.Tap != nil:
		err = e.useTap(n, &p, known, *spec.Tap)
	case spec.Link != "":
		if err = e.useLink(n, &p, known, spec.Link); err == nil {
			known = slices.DeleteFunc(slices.Clone(known), p.replaces)
		}
	case p.def.MAC.IsZero():
		p.def.MAC = netdef.NewMAC()
	}
	if err != nil {
		return port{}, err
	}
	if err := checkRouted(n.live, p); err != nil {
		return port{}, err
	}
	if p.routed != nil {
		e.completeRouted(n.live, p.routed)
	}
	if n.live.PortGroup(p.def.Group) == nil && p.def.Group != "" {
		if p.plugged {
			return port{}, netdef.Errorf(netdef.ErrInvalidArg, "network '%s' has no port group '%s'", n.name, p.def.Group)
		}
		// libvirt takes such a guest, and so do we.
		e.Log.Warn("a port asks for a port group that its network does not have", "network", n.name, "port", p.def.UUID, "group", p.def.Group)
	}
	if p.guard != nil {
		if err := plan.CheckGuard(n.live, p.guard); err != nil {
			return port{}, err
		}
	}
	p.complete()
	if slices.ContainsFunc(known, func(k port) bool { return k.declared && k.def.UUID == p.def.UUID }) {
		return port{}, netdef.Errorf(netdef.ErrNetworkPortExist, "Network port with UUID %s already exists", p.def.UUID)
	}
	if spec.Reclaim {
		err = reclaim(n.live, &p, known)
	} else {
		err = allocate(n.live, &p, known)
	}
	if err == nil && p.guard != nil && p.routed == nil && p.def.Plug.Bridge == "" {
		err = netdef.Errorf(netdef.ErrOperationUnsupported, "a guest of network '%s' cannot be guarded: its frames pass no bridge", n.name)
	}
	if err == nil && p.plugged {
		err = plan.CheckPort(&p.def)
	}
	if err == nil {
		err = e.checkVLAN(n.live, &p.def, spec.Reclaim)
	}
	return p, err
}

// pluggable refuses networks whose ports are not of these types, or that have
// no bridge just now.
func (e *Engine) pluggable(n *netdef.Network, types ...netdef.PlugType) error {
	plug := plugType(n)
	if !slices.Contains(types, plug) {
		if n.Forward.Mode == netdef.ModeHostdev {
			return netdef.Errorf(netdef.ErrOperationUnsupported, "network '%s' hands PCI devices to its guests, which have no link on the host", n.Name)
		}
		return netdef.Errorf(netdef.ErrInternal, "network '%s' does not have a bridge name.", n.Name)
	}
	if l, ok := e.Host.Link(n.Bridge.Name); plug == netdef.PlugBridge && (!ok || l.Kind != kindBridge) {
		return netdef.Errorf(netdef.ErrInternal, "the host has no bridge '%s', which ports of network '%s' are to be in", n.Bridge.Name, n.Name)
	}
	return nil
}

// checkVLAN refuses a port that could not be kept in its VLANs: a bridge of the
// host's is the host's to set up. A guest that runs already stays where it is.
func (e *Engine) checkVLAN(n *netdef.Network, p *netdef.Port, runs bool) error {
	if p.VLAN == nil || p.Plug.Bridge == "" {
		return nil
	}
	l, exists := e.Host.Link(p.Plug.Bridge)
	linux := !exists || l.Kind == kindBridge // and not Open vSwitch, say
	switch {
	case runs || !linux:
	case !e.Host.FiltersVLANs():
		return plan.NoVLANs(n)
	case exists && p.Plug.Type == netdef.PlugBridge && !l.FiltersVLANs:
		return netdef.Errorf(netdef.ErrConfigUnsupported, "bridge '%s' does not filter by VLAN, so <vlan> of port %s would have no effect; "+
			"if its other ports are set up for that: ip link set %s type bridge vlan_filtering 1", p.Plug.Bridge, p.UUID, p.Plug.Bridge)
	}
	return plan.CheckVLAN(p.VLAN)
}

// completeRouted chooses what a routed port is not given: the uplink on which
// its guest's addresses are to be found, if they are not translated, and the
// gateways: the host's own address on the uplink, and in IPv6 one that is the
// same on every link.
func (e *Engine) completeRouted(n *netdef.Network, r *netdef.Routed) {
	is4, is6 := false, false
	for _, a := range r.Addresses {
		is4, is6 = is4 || a.Addr().Is4(), is6 || a.Addr().Is6()
	}
	uplink, own := e.Host.Outward(cmp.Or(r.Uplink, n.Forward.Dev()))
	if n.Forward.Mode == netdef.ModeRoute {
		r.Uplink = uplink
	}
	if is4 && !r.Gateway(netip.Addr.Is4).IsValid() {
		for _, a := range own {
			if a.Is4() {
				r.Gateways = append(r.Gateways, a)
			}
		}
	}
	if is6 && !r.Gateway(netip.Addr.Is6).IsValid() {
		r.Gateways = append(r.Gateways, routedGateway6)
	}
}

var routedGateway6 = netip.MustParseAddr("fe80::1")

// checkRouted makes sure that a port has what its network's layout asks for.
func checkRouted(n *netdef.Network, p port) error {
	settings, err := n.Settings()
	switch {
	case err != nil:
		return err
	case settings.Routed && (p.routed == nil || len(p.routed.Addresses) == 0):
		return netdef.Errorf(netdef.ErrInvalidArg, "network '%s' routes to its guests: a port needs the addresses of its guest", n.Name)
	case settings.Routed && p.name == "":
		return netdef.Errorf(netdef.ErrInvalidArg, "network '%s' routes to its guests: a port needs a link", n.Name)
	case settings.Routed && (p.def.VLAN != nil || p.def.Isolated == netdef.Yes):
		return netdef.Errorf(netdef.ErrConfigUnsupported, "network '%s' routes to its guests: <vlan> and <port isolated='yes'> need a bridge", n.Name)
	case !settings.Routed && p.routed != nil:
		return netdef.Errorf(netdef.ErrInvalidArg, "network '%s' has a bridge: its ports are not routed", n.Name)
	}
	return nil
}

// useTap lets the port have a tap of its own.
func (e *Engine) useTap(n *network, p *port, known []port, tap TapSpec) error {
	if p.def.MAC.IsZero() {
		p.def.MAC = netdef.NewMAC()
	}
	if err := e.pluggable(n.live, netdef.PlugNetwork, netdef.PlugBridge, netdef.PlugDirect); err != nil {
		return err
	}
	_, exists := e.Host.Link(tap.Name)
	mac := p.def.MAC
	switch {
	case exists:
		return netdef.Errorf(netdef.ErrOperationFailed, "link '%s' already exists", tap.Name)
	case mac.IsMulticast():
		return netdef.Errorf(netdef.ErrInvalidMAC, "expected unicast mac address, found multicast '%s'", mac)
	case slices.ContainsFunc(known, func(k port) bool { return k.made && k.def.MAC == mac }):
		return netdef.Errorf(netdef.ErrOperationFailed, "a port of network '%s' has the MAC address %s already", n.name, mac)
	}
	p.plugged, p.made, p.owner, p.name = true, true, tap.Owner, tap.Name
	return nil
}

// useLink lets the port have an existing link. It stays the port that the link
// was before.
func (e *Engine) useLink(n *network, p *port, known []port, link string) error {
	if err := e.pluggable(n.live, netdef.PlugNetwork, netdef.PlugBridge, netdef.PlugNone); err != nil {
		return err
	}
	l, ok := e.Host.Link(link)
	switch {
	case !ok:
		return noLink(link)
	case l.Master != "" && l.Master != n.live.Bridge.Name:
		return netdef.Errorf(netdef.ErrOperationInvalid, "link '%s' is a port of bridge '%s' already", link, l.Master)
	}
	if i := slices.IndexFunc(known, func(k port) bool { return k.is(l) }); i >= 0 && p.def.UUID.IsZero() {
		p.def.UUID = known[i].def.UUID
	}
	p.plugged, p.name, p.index, p.mac = true, l.Name, l.Index, l.MAC
	if p.routed == nil {
		p.mac = plan.PortMAC // as it is about to have
	}
	return nil
}

// Plug makes a guest's link a port of the network, without any settings of its
// own, and keeps it there until Unplug or until the link is gone.
func (e *Engine) Plug(ctx context.Context, id netdef.UUID, link string, wait time.Duration) error {
	_, err := e.CreatePort(ctx, id, PortSpec{Link: link, Wait: wait})
	return err
}

func noLink(name string) error {
	return netdef.Errorf(netdef.ErrInternal, "link '%s' does not exist", name)
}

// prepareLink waits for the link of a port and gives it its name, which the
// spec then has for its link. It returns the name that the link had, if it has
// another one now.
func (e *Engine) prepareLink(ctx context.Context, spec *PortSpec) (was string, err error) {
	if spec.Name == "" || spec.Name == spec.Link {
		return "", e.awaitLink(ctx, spec.Link, spec.Wait)
	}
	if err := checkLinkName(spec.Name); err != nil {
		return "", err
	}
	was, spec.Link = spec.Link, spec.Name
	l, taken := e.Host.Link(spec.Name)
	if taken && e.isPort(spec.UUID, l) {
		return "", nil // it was renamed when it was plugged in before
	}
	if taken {
		return "", netdef.Errorf(netdef.ErrOperationFailed, "cannot rename link '%s' to '%s': there is another link of that name", was, spec.Name)
	}
	if err := e.awaitLink(ctx, was, spec.Wait); err != nil {
		return "", err
	}
	return was, errAs(netdef.ErrInternal, e.Host.Rename(was, spec.Name))
}

func (e *Engine) undoRename(name, was string) {
	if err := e.Host.Rename(name, was); err != nil {
		e.Log.Warn("give a link back its name", "error", err)
	}
}

// isPort reports whether the link is that of the port.
func (e *Engine) isPort(id netdef.UUID, l host.Link) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, n := range e.networks {
		if slices.ContainsFunc(n.ports, func(p port) bool { return p.def.UUID == id && p.declaredIs(l) }) {
			return true
		}
	}
	return false
}

// awaitLink waits until the host has a link of that name, or the time is over.
func (e *Engine) awaitLink(ctx context.Context, name string, wait time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		e.mu.Lock()
		changed := e.changed
		e.mu.Unlock()
		if _, ok := e.Host.Link(name); ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return noLink(name)
		}
	}
}

// Unplug takes a link, or the port of that UUID, out of the network that it is
// in. It is no error if it is in none, or gone. A port that Viaduct made stays;
// that is for DeletePort.
func (e *Engine) Unplug(ctx context.Context, ref string) error {
	named := func(p port) bool { return p.name == ref && !p.made }
	if id, err := netdef.ParseUUID(ref); err == nil {
		named = func(p port) bool { return p.def.UUID == id && p.declared && !p.made }
	}
	e.mu.Lock()
	var in []netdef.UUID
	for id, n := range e.networks {
		if slices.ContainsFunc(n.ports, named) {
			in = append(in, id)
		}
	}
	e.mu.Unlock()
	for _, id := range in {
		n, err := e.seize(id)
		if err != nil {
			continue // it has ended, and its ports with it
		}
		err = e.removePorts(ctx, n, named)
		n.busy.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// changePorts changes what is known of a network's ports and makes the host
// follow. On error both are as before. The caller holds n.busy.
func (e *Engine) changePorts(ctx context.Context, n *network, change func([]port) []port) error {
	e.mu.Lock()
	before := n.ports
	n.ports = change(slices.Clone(before))
	active := n.live != nil
	e.mu.Unlock()
	keep := func() error { return e.Store.PutStatus(e.status(n)) }
	if !active {
		keep = func() error { return e.keepInactive(n) }
	}
	err := keep()
	switch {
	case err != nil:
	case active:
		_, err = e.reconcile(ctx, n)
	default:
		_, err = e.transition(ctx, n, e.inactive(n))
	}
	if err != nil {
		e.mu.Lock()
		n.ports = before
		e.mu.Unlock()
		if undo := keep(); undo != nil {
			e.Log.Warn("keep the ports of a network", "network", n.name, "error", undo)
		}
	}
	return opError(err)
}
