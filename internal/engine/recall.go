package engine

import (
	"fmt"
	"maps"

	"viaduct/internal/hoststate"
	"viaduct/internal/netdef"
	"viaduct/internal/plan"
	"viaduct/internal/store"
)

// recallSysctls takes up the host's settings that were changed by the last
// daemon. Those that no network comes to use are put back by sweep.
func (e *Engine) recallSysctls() {
	e.sysctls = e.Store.Host().Sysctls
	for name, r := range e.sysctls {
		e.shared[hoststate.SysctlKey(name)] = sharedObject{object: hoststate.Sysctl{Name: name, Value: r.Set}}
	}
}

// adopted is a network that was active when the last daemon ended.
type adopted struct {
	*network
	want plan.Fragment
	// persistent says that it had a definition then.
	persistent bool
}

// recall registers the networks that were active when the last daemon ended,
// and returns the statuses of those that were not. It reports whether all of
// them were understood.
func (e *Engine) recall() (active []adopted, inactive []store.Status, understood bool) {
	statuses, errs := e.Store.Statuses()
	understood = len(errs) == 0
	for _, bad := range errs {
		e.Log.Error("status left aside", "file", bad.Path, "error", bad.Err)
	}
	for _, s := range statuses {
		if s.Taking && s.Live == "" {
			// Guests are in the bridge, so there is no way back from here.
			s.Live, s.Next = s.Next, ""
			if err := e.recallClaim(s); err != nil {
				e.Log.Error("take over bridge", "network", s.Name, "error", err)
			}
		}
		if s.Live == "" {
			inactive = append(inactive, s)
			continue
		}
		a, err := e.recallOne(s)
		if err != nil {
			e.Log.Error("status left aside", "network", s.Name, "error", err)
			understood = false
			continue
		}
		active = append(active, a)
	}
	return active, inactive, understood
}

// recallOne registers an active network and plans it.
func (e *Engine) recallOne(s store.Status) (adopted, error) {
	def, err := netdef.Parse([]byte(s.Live))
	if err != nil {
		return adopted{}, err
	}
	if def.Name != s.Name || def.UUID != s.UUID || e.networks[s.UUID] != nil {
		return adopted{}, fmt.Errorf("it does not belong to the network '%s' with uuid %s", def.Name, def.UUID)
	}
	n := &network{id: def.UUID, name: def.Name, live: def, dnsPort: s.DNSPort, translated: s.Translated, ports: e.portsOf(s)}
	if _, exists := e.Host.Link(def.Bridge.Name); exists || def.Bridge.Name == "" {
		n.ports = e.portsOn(def, n.ports)
	}
	// The port was given up with the last daemon, and may be another's now;
	// unless dnsmasq has kept it.
	if kept := hoststate.ServiceKey(plan.ServiceDnsmasq, def.UUID.String()); len(e.Host.Observe([]hoststate.Key{kept})) == 0 {
		if port, err := e.chooseDNSPort(def); err == nil {
			n.dnsPort = port
		}
	}
	f, err := plan.Network(def, e.facts(n, def, n.dnsPort))
	if err != nil {
		return adopted{}, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	// All of it counts as there already: should it turn out to be broken, what
	// it shares with others has a user nevertheless.
	if err := e.claim(n, plan.Fragment{}, f); err != nil {
		return adopted{}, err
	}
	n.fragment = plan.Fragment{Own: e.halfDone(s), Shared: f.Shared}
	maps.Copy(n.fragment.Own, f.Own)
	e.add(n)
	return adopted{n, f, s.Persistent}, nil
}

// halfDone is what a change under way may have made. What the live definition
// does not want of it is removed in the transition that adopts the network. It
// needs e.mu.
func (e *Engine) halfDone(s store.Status) hoststate.State {
	state := hoststate.State{}
	if s.Next == "" {
		return state
	}
	next, err := netdef.Parse([]byte(s.Next))
	if err != nil {
		return state
	}
	f, err := plan.Network(next, plan.Facts{DNSPort: s.DNSPort, NoIPv6: e.NoIPv6, Dnsmasq: e.Dnsmasq})
	if err != nil {
		return state
	}
	for k, o := range f.Own {
		if e.claims[k] == nil {
			state[k] = o
		}
	}
	return state
}

// recallPorts takes up the ports of networks that are not active, and forgets
// starts that were cut short. It returns the networks that have something on
// the host nevertheless, and whether there are no others.
func (e *Engine) recallPorts(inactive []store.Status, aside leftAside) (keeping []adopted, understood bool) {
	understood = true
	for _, s := range inactive {
		n := e.networks[s.UUID]
		var err error
		switch {
		case n != nil && n.name == s.Name:
			n.ports = e.portsOf(s)
			if s.Next != "" {
				err = e.keepInactive(n)
			}
			if taps := e.inactive(n); len(taps.Own) > 0 {
				n.fragment = plan.Fragment{Own: e.leftUp(n)}
				keeping = append(keeping, adopted{network: n, want: taps})
			}
		case !aside.has(s.Name):
			err = e.Store.DeleteStatus(s.Name)
		default:
			understood = false
		}
		if err != nil {
			e.Log.Error("keep status", "network", s.Name, "error", err)
		}
	}
	return keeping, understood
}

// leftUp are the links of an inactive network that are up or in its bridge, as a
// start or stop that was cut short leaves them: without their bridge they would
// lead guests to the host itself.
func (e *Engine) leftUp(n *network) hoststate.State {
	state := hoststate.State{}
	for _, p := range n.ports {
		l, exists := e.Host.Link(p.name)
		if !p.plugged || !exists || !p.is(l) || !e.ours(n, l.Master) {
			continue
		}
		if l.Up {
			state.Add(hoststate.LinkUp{Link: p.name})
		}
		if l.Master != "" {
			state.Add(hoststate.Member{Link: p.name, Bridge: l.Master})
		}
	}
	return state
}
