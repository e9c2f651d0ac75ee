package engine

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"time"

	"viaduct/internal/host"
	"viaduct/internal/hoststate"
	"viaduct/internal/plan"
	"viaduct/internal/uplink"
)

// awaitUplink takes the uplink back at its deadline, or when somebody who is
// needed no longer answers.
func (e *Engine) awaitUplink(r uplink.Record) {
	bridge := r.Uplink.Bridge
	end := make(chan struct{})
	e.uplinks.mu.Lock()
	e.uplinks.waiting[bridge] = end
	e.uplinks.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	e.tasks.Go(func() {
		defer cancel()
		why := e.untilLost(ctx, r, end)
		if why == "" {
			return
		}
		e.uplinks.busy.Lock()
		defer e.uplinks.busy.Unlock()
		// Somebody may have confirmed it at the last moment.
		select {
		case <-end:
			return
		default:
		}
		e.stopWaiting(bridge)
		if err := e.unmakeUplink(context.Background(), r); err != nil {
			e.Log.Error("take back an uplink", "bridge", bridge, "error", err)
			return
		}
		e.Log.Warn("took back an uplink", "bridge", bridge, "reason", why)
	})
}

// untilLost waits until the uplink is to be taken back, and says why; "" if it
// is not.
func (e *Engine) untilLost(ctx context.Context, r uplink.Record, end chan struct{}) string {
	// A clock that was set back does not prolong the time.
	deadline := time.NewTimer(min(time.Until(r.Deadline), r.Within))
	defer deadline.Stop()
	ask := time.NewTicker(askEvery)
	defer ask.Stop()
	misses := 0
	for {
		select {
		case <-end:
			return ""
		case <-deadline.C:
			return "nobody confirmed it in time"
		case <-ask.C:
			err := e.answered(ctx, r, r.Uplink.Bridge, askEvery)
			if misses++; err == nil {
				misses = 0
			}
			if misses >= missesAtEnd {
				return err.Error()
			}
		}
	}
}

// stopWaiting ends the wait for confirmation, if there is one.
func (e *Engine) stopWaiting(bridge string) {
	e.uplinks.mu.Lock()
	defer e.uplinks.mu.Unlock()
	if end, ok := e.uplinks.waiting[bridge]; ok {
		close(end)
		delete(e.uplinks.waiting, bridge)
	}
}

// closeUplinks leaves what is not confirmed to the next daemon.
func (e *Engine) closeUplinks() {
	e.uplinks.mu.Lock()
	defer e.uplinks.mu.Unlock()
	for bridge, end := range e.uplinks.waiting {
		close(end)
		delete(e.uplinks.waiting, bridge)
	}
	for bridge, h := range e.uplinks.healing {
		if h.timer != nil && h.timer.Stop() {
			e.tasks.Done()
		}
		delete(e.uplinks.healing, bridge)
	}
	e.uplinks.healing = nil
}

// recallUplinks takes up the uplinks: what was cut short or not confirmed is
// taken back, what is ours to keep is made as it is to be.
func (e *Engine) recallUplinks(ctx context.Context) {
	e.uplinks.busy.Lock()
	defer e.uplinks.busy.Unlock()
	records, errs := e.Store.Uplinks()
	for _, bad := range errs {
		e.Log.Error("record of an uplink left aside", "file", bad.Path, "error", bad.Err)
	}
	for _, r := range records {
		bridge := r.Uplink.Bridge
		e.uplinks.mu.Lock()
		e.uplinks.records[bridge] = r
		e.uplinks.mu.Unlock()
		why := ""
		switch {
		case r.Phase == uplink.Kept:
			e.keepUp(ctx, r)
		case r.Phase == uplink.Leaving:
			why = "its removal was cut short"
		case r.Phase == uplink.Changing:
			why = "the change was cut short"
		case !e.Store.SameBoot(r), !time.Now().Before(r.Deadline):
			why = "nobody confirmed it in time"
		default:
			e.keepUp(ctx, r)
			e.awaitUplink(r)
		}
		if why == "" {
			continue
		}
		e.Log.Warn("taking back an uplink", "bridge", bridge, "reason", why)
		if err := e.unmakeUplink(ctx, r); err != nil {
			e.Log.Error("take back an uplink", "bridge", bridge, "error", err)
		}
	}
}

// keepUp makes an uplink that is ours to keep as it is to be. It reports whether
// something had to be done.
func (e *Engine) keepUp(ctx context.Context, r uplink.Record) bool {
	if r.Manager != uplink.Viaduct {
		return false
	}
	want := e.wantedUplink(r)
	keys := slices.Collect(maps.Keys(want))
	bridge, _ := want[r.Uplink.Key()].(hoststate.Uplink)
	if _, exists := e.Host.Link(r.Uplink.Bridge); exists && bridge.Client {
		keys = append(keys, namesKey(r)) // which go with the lease
	}
	ops := host.Diff(want, e.Host.Observe(keys))
	if len(ops) == 0 {
		return false
	}
	if err := e.Host.Apply(ctx, ops); err != nil {
		e.Log.Error("keep an uplink", "bridge", r.Uplink.Bridge, "error", err)
	} else {
		e.Log.Info("brought uplink back to what it shall be", "bridge", r.Uplink.Bridge, "operations", hoststate.FormatOps(ops))
	}
	return true
}

// healUplinks has a look, soon, at the uplinks that objects belong to.
func (e *Engine) healUplinks(ctx context.Context, keys []hoststate.Key) {
	e.uplinks.mu.Lock()
	defer e.uplinks.mu.Unlock()
	if e.uplinks.leasing != nil {
		select {
		case e.uplinks.leasing <- struct{}{}:
		default: // it will look anyway
		}
	}
	for bridge, r := range e.uplinks.records {
		nic, client := hoststate.LinkUp{Link: r.Uplink.NIC}.Key(), hoststate.ServiceKey(plan.ServiceDHCPClient, bridge)
		concerned := len(keys) == 0 || slices.ContainsFunc(keys, func(k hoststate.Key) bool { return k == r.Uplink.Key() || k == nic || k == client })
		if concerned && r.Manager == uplink.Viaduct {
			e.healUplinkLater(ctx, bridge)
		}
	}
}

// healUplinkLater needs e.uplinks.mu.
func (e *Engine) healUplinkLater(ctx context.Context, bridge string) {
	if e.uplinks.healing == nil || ctx.Err() != nil {
		return // closed
	}
	h := e.uplinks.healing[bridge]
	if h == nil {
		h = &healing{delay: healDelay}
		e.uplinks.healing[bridge] = h
	}
	if h.timer != nil {
		return
	}
	if time.Since(h.last) > healCalm {
		h.delay = healDelay
	}
	e.tasks.Add(1)
	h.timer = time.AfterFunc(h.delay, func() {
		defer e.tasks.Done()
		e.uplinks.busy.Lock()
		defer e.uplinks.busy.Unlock()
		e.uplinks.mu.Lock()
		h.timer = nil
		r, known := e.uplinks.records[bridge]
		e.uplinks.mu.Unlock()
		if !known || ctx.Err() != nil || r.Phase != uplink.Kept && r.Phase != uplink.Awaiting {
			return
		}
		if e.keepUp(ctx, r) {
			e.uplinks.mu.Lock()
			h.delay, h.last = min(2*h.delay, healDelayMax), time.Now()
			e.uplinks.mu.Unlock()
		}
	})
}

// proposeUplinks lists the cards that could have a bridge in front of them, the
// host's way out first (S3, S4 of what a Xen host's installation offers).
func (e *Engine) proposeUplinks() []UplinkProposal {
	proposals := []UplinkProposal{}
	taken := map[string]bool{}
	number := 0
	free := func() string {
		for ; ; number++ {
			name := bridgeNames + strconv.Itoa(number)
			if _, exists := e.Host.Link(name); !exists && !taken[name] {
				taken[name] = true
				return name
			}
		}
	}
	for _, up := range e.Host.Uplinks() {
		l, ok := e.Host.Link(up.Name)
		if !ok || l.MAC == (hoststate.MAC{}) || l.Kind == "bridge" || notCards[l.Kind] {
			continue
		}
		held, err := e.Host.Held(up.Name)
		p := UplinkProposal{NIC: up.Name, Default: len(held.Gateways()) > 0, Addresses: []string{}}
		for _, a := range held.Addresses {
			p.Addresses = append(p.Addresses, a.Prefix.String())
		}
		if err == nil {
			err = e.refuseRemoteRoot(up.Name)
		}
		if err != nil {
			p.Refused = err.Error()
		}
		proposals = append(proposals, p)
	}
	slices.SortStableFunc(proposals, func(a, b UplinkProposal) int {
		switch {
		case a.Default == b.Default:
			return 0
		case a.Default:
			return -1
		}
		return 1
	})
	for i := range proposals {
		proposals[i].Bridge = free()
		r := uplink.Record{Uplink: hoststate.Uplink{Bridge: proposals[i].Bridge, NIC: proposals[i].NIC}}
		if err := e.manageUplink(&r); err != nil && proposals[i].Refused == "" {
			proposals[i].Refused = err.Error()
		}
		proposals[i].Manager = r.Manager
	}
	return proposals
}

// bridgeNames begins the names of proposed bridges, as Xen's tools expect them.
const bridgeNames = "xenbr"

// notCards are the kinds of links that lead to guests or nowhere.
var notCards = map[string]bool{"tun": true, "dummy": true, "ifb": true, "macvtap": true, "vif": true, "wireguard": true, "sit": true, "ip6tnl": true}
