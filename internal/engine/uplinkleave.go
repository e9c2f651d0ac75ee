package engine

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"viaduct/internal/hoststate"
	"viaduct/internal/netdef"
	"viaduct/internal/uplink"
)

// leaveUplink gives the card back what the bridge has. If then somebody who
// answers now does not answer any more, the bridge is made again.
func (e *Engine) leaveUplink(ctx context.Context, r uplink.Record) error {
	now := e.answering(ctx, r)
	leaving := r
	leaving.Phase = uplink.Leaving
	if err := e.keepUplink(leaving); err != nil {
		return err
	}
	if err := e.unmakeUplink(ctx, leaving); err != nil {
		return err
	}
	err := e.answered(ctx, now, r.Uplink.NIC, answerAfter)
	if err == nil {
		return nil
	}
	if again := e.remakeUplink(ctx, r); again != nil {
		return netdef.Errorf(netdef.ErrOperationFailed, "%w, and uplink %s could not be made again: %w", err, r.Uplink.Bridge, again)
	}
	return netdef.Errorf(netdef.ErrOperationFailed, "uplink %s was made again: %w", r.Uplink.Bridge, err)
}

// answering is the record with those as needed who answer by the bridge now.
func (e *Engine) answering(ctx context.Context, r uplink.Record) uplink.Record {
	asked := r
	asked.Needed, asked.Gateways = nil, nil
	peers := slices.DeleteFunc(slices.Clone(r.Needed), func(a netip.Addr) bool { return slices.Contains(r.Gateways, a) })
	held, err := e.Host.Held(r.Uplink.Bridge)
	if r.Uplink.NIC == "" || err != nil {
		return asked
	}
	ctx, cancel := context.WithTimeout(ctx, answerBefore)
	defer cancel()
	for _, gateway := range held.Gateways() {
		if e.Host.Neighbour(ctx, r.Uplink.Bridge, gateway) == nil {
			asked.Needed, asked.Gateways = append(asked.Needed, gateway), append(asked.Gateways, gateway)
		}
	}
	for _, peer := range peers {
		if e.Host.Echo(ctx, peer) == nil {
			asked.Needed = append(asked.Needed, peer)
		}
	}
	return asked
}

// remakeUplink makes an uplink again that was just taken away.
func (e *Engine) remakeUplink(ctx context.Context, was uplink.Record) error {
	r := was
	var err error
	if r.Uplink.Held, err = e.Host.Held(r.Uplink.NIC); err != nil {
		return err
	}
	r.Phase, r.Needed, r.Gateways = uplink.Changing, nil, nil
	if err := e.keepUplink(r); err != nil {
		return err
	}
	if err := e.makeUplink(ctx, &r); err != nil {
		return errors.Join(err, e.unmakeUplink(ctx, r))
	}
	if r.Manager != uplink.Viaduct {
		r.Uplink.Held = hoststate.Held{Settings: r.Uplink.Held.Settings}
	}
	r.Phase, r.Needed, r.Gateways, r.Deadline, r.Within = uplink.Kept, was.Needed, was.Gateways, time.Time{}, 0
	return e.keepUplink(r)
}
