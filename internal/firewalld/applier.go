package firewalld

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/godbus/dbus/v5"

	"viaduct/internal/host"
	"viaduct/internal/hoststate"
)

// Kinds implements host.Applier.
func (c *Client) Kinds() []hoststate.Kind {
	return []hoststate.Kind{hoststate.KindZone, hoststate.KindZoned}
}

// Observe implements host.Applier.
func (c *Client) Observe(keys []hoststate.Key) hoststate.State {
	s := hoststate.State{}
	for _, k := range keys {
		c.mu.Lock()
		zone, withdrawn := c.zoneOf[k.Name], c.withdrawn
		c.mu.Unlock()
		switch {
		case k.Kind == hoststate.KindZoned && zone != "":
			s.Add(hoststate.Zoned{Link: k.Name, Zone: zone})
		case k.Kind == hoststate.KindZone && !withdrawn && c.knows(k.Name):
			s.Add(hoststate.Zone{Name: k.Name})
		}
	}
	return s
}

// Owned is empty: firewalld does not tell who has put a link into a zone.
func (c *Client) Owned() hoststate.State { return hoststate.State{} }

// Events implements host.Watcher.
func (c *Client) Events() <-chan []hoststate.Key { return c.events }

// Apply implements host.Applier.
func (c *Client) Apply(ctx context.Context, ops []hoststate.Op) error {
	for i, op := range ops {
		err := c.apply(ctx, op)
		if err == nil {
			continue
		}
		errs := []error{&host.OpError{Op: op, Err: err}}
		for j := i - 1; j >= 0; j-- {
			if undo := c.apply(context.WithoutCancel(ctx), ops[j].Inverse()); undo != nil {
				errs = append(errs, fmt.Errorf("undo %q: %w", ops[j], undo))
			}
		}
		return errors.Join(errs...)
	}
	return nil
}

// apply carries out one operation. A firewalld that is gone keeps nothing, and
// no network has to stay since another program does not answer.
func (c *Client) apply(ctx context.Context, op hoststate.Op) error {
	err := c.take(ctx)
	if err == nil {
		switch o := op.Object().(type) {
		case hoststate.Zone:
			err = c.applyZone(ctx, op, o.Name)
		case hoststate.Zoned:
			err = c.applyZoned(ctx, op, o)
		default:
			err = fmt.Errorf("%T is nothing of firewalld's", o)
		}
		<-c.turn
	}
	if op.Verb != hoststate.Delete || err == nil {
		return err
	}
	if !gone(err) && !refused(err, "UNKNOWN_INTERFACE") {
		c.log.Warn("firewalld keeps what is gone", "object", op.Object().Text(), "error", err)
	}
	return nil
}

// applyZoned puts a link into a zone or takes it out of it. The caller has the
// turn.
func (c *Client) applyZoned(ctx context.Context, op hoststate.Op, z hoststate.Zoned) error {
	method, zone := zones+".changeZoneOfInterface", z.Zone
	if op.Verb == hoststate.Delete {
		method, zone = zones+".removeInterface", ""
	}
	err := c.call(ctx, method, []any{z.Zone, z.Link}, nil)
	if err == nil {
		c.place(z.Link, zone)
	}
	return err
}

// gone reports whether a call failed since there is no firewalld.
func gone(err error) bool {
	var e dbus.Error
	return errors.Is(err, errNoBus) || errors.Is(err, dbus.ErrClosed) || errors.As(err, &e) &&
		(e.Name == "org.freedesktop.DBus.Error.ServiceUnknown" || e.Name == "org.freedesktop.DBus.Error.NameHasNoOwner")
}

// refused reports whether firewalld refused a call for that reason, such as
// "INVALID_ZONE".
func refused(err error, reason string) bool {
	var e dbus.Error
	return errors.As(err, &e) && e.Name == busName+".Exception" && strings.HasPrefix(e.Error(), reason)
}
