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
func (c *Client) Kinds() []hoststate.Kind { return []hoststate.Kind{hoststate.KindZoned} }

// Observe implements host.Applier.
func (c *Client) Observe(keys []hoststate.Key) hoststate.State {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := hoststate.State{}
	for _, k := range keys {
		if zone, ok := c.zoneOf[k.Name]; ok {
			s.Add(hoststate.Zoned{Link: k.Name, Zone: zone})
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

// apply carries out one operation. A firewalld that is gone keeps no link.
func (c *Client) apply(ctx context.Context, op hoststate.Op) error {
	z, ok := op.Object().(hoststate.Zoned)
	if !ok {
		return fmt.Errorf("%T is no link in a zone", op.Object())
	}
	method, zone := zones+".changeZoneOfInterface", z.Zone
	if op.Verb == hoststate.Delete {
		method, zone = zones+".removeInterface", ""
	}
	err := c.take(ctx)
	if err == nil {
		var answer string
		if err = c.call(ctx, method, []any{z.Zone, z.Link}, &answer); err == nil {
			c.place(z.Link, zone)
		}
		<-c.turn
	}
	if op.Verb == hoststate.Delete && err != nil {
		if !gone(err) && !refused(err, "UNKNOWN_INTERFACE") {
			c.log.Warn("a link that is gone stays in its zone of firewalld's", "link", z.Link, "zone", z.Zone, "error", err)
		}
		return nil // no network has to stay for that
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
