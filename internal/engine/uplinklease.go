package engine

import (
	"context"
	"fmt"
	"slices"
	"time"

	"viaduct/internal/dhcpclient"
	"viaduct/internal/hoststate"
	"viaduct/internal/plan"
	"viaduct/internal/uplink"
)

// leaseLimit is how long a server may take to give a new uplink its lease.
const leaseLimit = 45 * time.Second

// leasedMetric is how long the routes of a lease are where the card had none by
// DHCP before: whatever way out the host has already stays the shorter one.
const leasedMetric = 1024

// isLeased tells an address that somebody got by DHCP.
func isLeased(a hoststate.HeldAddress) bool { return a.Prefix.Addr().Is4() && !a.Lasting() }

// uplinkClient is the DHCP client of an uplink, as an object.
func (e *Engine) uplinkClient(r uplink.Record) hoststate.Service {
	return hoststate.Service{
		Type: plan.ServiceDHCPClient, Network: r.Uplink.Bridge, Config: dhcpclient.Config{Bridge: r.Uplink.Bridge, MAC: r.Uplink.MAC},
	}
}

// uplinkNames is how the host finds names by the lease of an uplink whose bridge is
// there, if the server has said how.
func (e *Engine) uplinkNames(r uplink.Record, lease uplink.Lease) (names hoststate.Service, told bool) {
	bridge, exists := e.Host.Link(r.Uplink.Bridge)
	return hoststate.Service{Type: plan.ServiceHostDNS, Network: r.Uplink.Bridge, Config: uplink.Names{
		Link: r.Uplink.Bridge, Index: bridge.Index, NIC: r.Uplink.NIC, Taken: r.Leased, Servers: lease.DNS, Search: lease.Search,
	}}, exists && len(lease.DNS) > 0
}

// leasedMTU is the MTU of an uplink whose server may have told one. It is what all on
// the LAN have, or packets are lost; but nobody tells the host to send what the card
// could not when the uplink was made, or what its administrator has said otherwise.
func leasedMTU(u hoststate.Uplink, lease uplink.Lease) int {
	if u.MTU == 0 && lease.MTU <= u.CardMTU {
		return lease.MTU
	}
	return u.MTU
}

func namesKey(r uplink.Record) hoststate.Key {
	return hoststate.ServiceKey(plan.ServiceHostDNS, r.Uplink.Bridge)
}

// uplinkServices are the keys of what runs for uplinks, which belongs to no network.
func (e *Engine) uplinkServices() map[hoststate.Key]bool {
	e.uplinks.mu.Lock()
	defer e.uplinks.mu.Unlock()
	keys := map[hoststate.Key]bool{}
	for _, r := range e.uplinks.records {
		keys[e.uplinkClient(r).Key()], keys[namesKey(r)] = true, true
	}
	return keys
}

// wantedUplink is what the host is to have of an uplink that is ours to keep.
func (e *Engine) wantedUplink(r uplink.Record) hoststate.State {
	want := hoststate.State{}
	if !r.DHCP {
		want.Add(r.Uplink)
		return want
	}
	want.Add(e.uplinkClient(r))
	lease, sameBoot, err := e.Store.UplinkLease(r.Uplink.Bridge)
	if err != nil {
		e.Log.Error("read the lease of an uplink", "bridge", r.Uplink.Bridge, "error", err)
	}
	r.Uplink.MTU = leasedMTU(r.Uplink, lease)
	// One of another boot is the client's to ask for first.
	r.Uplink.Client = err == nil && (sameBoot || !lease.Address.IsValid())
	if r.Uplink.Client && lease.Held(time.Now()) {
		r.Uplink.Leased = lease.State(r.Metric)
		if names, told := e.uplinkNames(r, lease); told {
			want.Add(names)
		}
	}
	want.Add(r.Uplink)
	return want
}

// leaseUplink starts the DHCP client of a new uplink and waits for its lease. It
// asks for the address that the card has. What the card had by another client is
// from then on what the lease says, and that client is ended: until then it is the
// one to go back to.
func (e *Engine) leaseUplink(ctx context.Context, r *uplink.Record) error {
	bridge := r.Uplink.Bridge
	had, err := e.hadLease(r)
	if err != nil {
		return err
	}
	changed := make(chan struct{}, 1)
	e.uplinks.mu.Lock()
	e.uplinks.leasing = changed
	e.uplinks.mu.Unlock()
	defer func() {
		e.uplinks.mu.Lock()
		e.uplinks.leasing = nil
		e.uplinks.mu.Unlock()
	}()
	if err := e.Host.Apply(ctx, []hoststate.Op{{Verb: hoststate.Create, New: e.uplinkClient(*r)}}); err != nil {
		return opError(err)
	}
	ctx, cancel := context.WithTimeout(ctx, leaseLimit)
	defer cancel()
	for {
		lease, sameBoot, err := e.Store.UplinkLease(bridge)
		if err != nil {
			return err
		}
		if sameBoot && lease.Held(time.Now()) {
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no DHCP server gives %s an address within %s", bridge, leaseLimit)
		case <-changed:
		}
	}
	// What the kernel learns of routers it learns again.
	r.Uplink.Held.Addresses = slices.DeleteFunc(slices.Clone(r.Uplink.Held.Addresses), func(a hoststate.HeldAddress) bool { return !a.Lasting() })
	r.Uplink.Held.Routes = slices.DeleteFunc(slices.Clone(r.Uplink.Held.Routes), func(h hoststate.HeldRoute) bool { return !h.Until.IsZero() || had.Rests(h) })
	if err := e.endClients(r); err != nil {
		return err
	}
	want := e.wantedUplink(*r)
	ops := []hoststate.Op{{Verb: hoststate.Change, Old: r.Uplink, New: want[r.Uplink.Key()]}}
	if names, told := want[namesKey(*r)]; told {
		ops = append(ops, hoststate.CreateOp(names))
	}
	return opError(e.Host.Apply(ctx, ops))
}

// endClients ends the DHCP clients of the card, having noted them.
func (e *Engine) endClients(r *uplink.Record) error {
	if e.System == nil {
		return nil
	}
	r.Clients = e.System.Clients(r.Uplink.NIC)
	if err := e.keepUplink(*r); err != nil {
		return err
	}
	for _, c := range r.Clients {
		e.Log.Info("taking over from a DHCP client", "nic", r.Uplink.NIC, "client", c.Argv, "process", c.PID)
		if err := e.System.StopClient(c); err != nil {
			return fmt.Errorf("end the DHCP client %s (process %d): %w", c.Argv[0], c.PID, err)
		}
	}
	return nil
}

// hadLease leaves to the client, as if it were from another boot, the address that the
// card has by somebody else's lease.
func (e *Engine) hadLease(r *uplink.Record) (uplink.Lease, error) {
	had := uplink.Lease{}
	r.Metric = leasedMetric
	for _, a := range r.Uplink.Held.Addresses {
		if isLeased(a) {
			had, r.Leased = uplink.Lease{Address: a.Prefix, Expires: a.Valid}, true
		}
	}
	for _, route := range r.Uplink.Held.Routes {
		if route.Dst.Bits() == 0 && had.Rests(route) {
			r.Metric = route.Metric
		}
	}
	return had, e.Store.PutUplinkLease(r.Uplink.Bridge, had)
}

// giveBackClients starts again who was DHCP client of the card before us.
func (e *Engine) giveBackClients(r uplink.Record) {
	if !e.Store.SameBoot(r) && r.Phase != uplink.Leaving {
		return // what there is now is by those whom this boot has started
	}
	if e.System == nil || len(e.System.Clients(r.Uplink.NIC)) > 0 {
		return
	}
	for _, c := range r.Clients {
		if err := e.System.StartClient(c.Argv); err != nil {
			e.Log.Error("start a DHCP client again", "nic", r.Uplink.NIC, "client", c.Argv, "error", err)
		}
	}
}
