package firewalld

import (
	"context"
	"fmt"
	"reflect"
	"slices"

	"github.com/godbus/dbus/v5"

	"viaduct/internal/hoststate"
)

const (
	configPath = objectPath + "/config"
	config     = busName + ".config"
)

// about is what an administrator reads of what we add to firewalld.
const about = "For the virtual networks of Viaduct, which adds it where there is no other zone for them, and removes it with the last of them."

// part is a zone or a policy in firewalld's permanent configuration.
type part struct {
	add, find, remove, settings string // methods
	name                        string
	is                          map[string]any
}

// parts are what makes up a zone of ours: guests reach the services that they
// are offered, and are forwarded as our own rules have it. What others refer to
// comes first.
func parts(zone string) []part {
	policy := func(name, from, to string) part {
		return part{config + ".addPolicy", config + ".getPolicyByName", config + ".policy.remove", config + ".policy.getSettings", name, map[string]any{
			"short": name, "description": about, "target": "ACCEPT", "ingress_zones": []string{from}, "egress_zones": []string{to},
		}}
	}
	return []part{
		{config + ".addZone2", config + ".getZoneByName", config + ".zone.remove", config + ".zone.getSettings2", zone, map[string]any{
			"short": zone, "description": about, "services": []string{"dhcp", "dhcpv6", "dns", "ssh", "tftp"}, "protocols": []string{"icmp", "ipv6-icmp"},
		}},
		policy(zone+"-in", "ANY", zone),
		policy(zone+"-out", zone, "ANY"),
	}
}

// addZone has firewalld know a zone of ours, now and when it starts again. It
// takes up what is new only when it loads all that it has. The caller has the
// turn.
func (c *Client) addZone(ctx context.Context, zone string) error {
	for i, p := range parts(zone) {
		settings := map[string]dbus.Variant{}
		for key, value := range p.is {
			settings[key] = dbus.MakeVariant(value)
		}
		var at dbus.ObjectPath
		err := c.callAt(ctx, configPath, p.add, []any{p.name, settings}, &at)
		if err != nil && !refused(err, "NAME_CONFLICT") {
			c.removeParts(ctx, parts(zone)[:i])
			return err
		}
	}
	if c.knows(zone) {
		return nil
	}
	c.log.Info("firewalld has no zone for networks, so it gets one and loads its rules again", "zone", zone)
	if err := c.callWithin(ctx, reloading, objectPath, busName+".reload", nil, nil); err != nil {
		c.removeParts(ctx, parts(zone))
		return err
	}
	return c.readAll(ctx)
}

// knows reports whether firewalld has loaded all of a zone of ours.
func (c *Client) knows(zone string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Contains(c.facts.Zones, zone) && slices.Contains(c.facts.Policies, zone+"-in") && slices.Contains(c.facts.Policies, zone+"-out")
}

// removeParts removes from firewalld's permanent configuration what is still as
// we made it. What is loaded goes when firewalld loads its rules again: for that
// alone nobody has to lose what else it was told meanwhile. The caller has the turn.
func (c *Client) removeParts(ctx context.Context, list []part) {
	for _, p := range slices.Backward(list) {
		err := c.removePart(ctx, p)
		if err != nil && !gone(err) {
			c.log.Warn("firewalld keeps what was added for networks", "name", p.name, "error", err)
		}
	}
}

func (c *Client) removePart(ctx context.Context, p part) error {
	var at dbus.ObjectPath
	err := c.callAt(ctx, configPath, p.find, []any{p.name}, &at)
	if refused(err, "INVALID_ZONE") || refused(err, "INVALID_POLICY") {
		return nil
	}
	var settings map[string]dbus.Variant
	if err == nil {
		err = c.callAt(ctx, at, p.settings, nil, &settings)
	}
	if err != nil {
		return err
	}
	if key := p.edited(settings); key != "" {
		return fmt.Errorf("somebody has changed its %s", key)
	}
	return c.callAt(ctx, at, p.remove, nil, nil)
}

// edited names something that an administrator has changed; "" if nothing.
// What firewalld says of its own accord is false, zero or empty, but for what
// goes between links of one zone, and a policy's priority.
func (p part) edited(settings map[string]dbus.Variant) string {
	for key, is := range settings {
		v := reflect.ValueOf(is.Value())
		list, isList := is.Value().([]string)
		switch want, ours := p.is[key]; {
		case ours && isList:
			if slices.Sort(list); !reflect.DeepEqual(list, want) {
				return key
			}
		case ours:
			if is.Value() != want {
				return key
			}
		case key == "forward", key == "priority", key == "target" && is.Value() == "default":
		case v.Kind() == reflect.Slice && v.Len() == 0:
		case !v.IsZero():
			return key
		}
	}
	return ""
}

// applyZone carries out an operation on a zone of ours. The caller has the turn.
func (c *Client) applyZone(ctx context.Context, op hoststate.Op, zone string) error {
	if op.Verb == hoststate.Delete {
		c.removeParts(ctx, parts(zone))
		c.mu.Lock()
		c.withdrawn = true
		c.mu.Unlock()
		return nil
	}
	err := c.addZone(ctx, zone)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.withdrawn, c.facts.Closed = err != nil, err != nil
	return err
}
