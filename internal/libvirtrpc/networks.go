package libvirtrpc

import (
	"context"

	"viaduct/internal/engine"
	"viaduct/internal/libvirtrpc/dispatch"
	"viaduct/internal/netdef"
)

func (d *driver) lookupByName(c *dispatch.Call) error {
	name := c.In.String()
	if err := c.In.End(); err != nil {
		return err
	}
	i, err := d.networks.ByName(name)
	if err == nil {
		err = allowed(c, i, "getattr")
	}
	if err != nil {
		return err
	}
	writeNetwork(c.Out, i)
	return nil
}

func (d *driver) lookupByUUID(c *dispatch.Call) error {
	id := c.In.UUID()
	if err := c.In.End(); err != nil {
		return err
	}
	i, err := d.find(c, networkRef{UUID: id}, "getattr")
	if err != nil {
		return err
	}
	writeNetwork(c.Out, i)
	return nil
}

// one reads the only argument of a procedure, and finds the network it names.
func (d *driver) one(c *dispatch.Call, permission string) (engine.Info, error) {
	n := readNetwork(c.In)
	if err := c.In.End(); err != nil {
		return engine.Info{}, err
	}
	return d.find(c, n, permission)
}

// onNetwork makes a procedure of an operation on one network.
func (d *driver) onNetwork(permission string, do func(Networks, context.Context, netdef.UUID) error) func(*dispatch.Call) error {
	return func(c *dispatch.Call) error {
		i, err := d.one(c, permission)
		if err != nil {
			return err
		}
		return do(d.networks, c, i.UUID)
	}
}

// flag makes a procedure that answers yes or no about one network.
func (d *driver) flag(ask func(engine.Info) bool) func(*dispatch.Call) error {
	return func(c *dispatch.Call) error {
		i, err := d.one(c, "read")
		if err == nil {
			c.Out.Bool(ask(i))
		}
		return err
	}
}

func (d *driver) bridgeName(c *dispatch.Call) error {
	i, err := d.one(c, "read")
	switch {
	case err != nil:
		return err
	case i.Bridge == "":
		return netdef.Errorf(netdef.ErrInternal, "network '%s' does not have a bridge name.", i.Name)
	}
	c.Out.String(i.Bridge)
	return nil
}

func (d *driver) setAutostart(c *dispatch.Call) error {
	n, on := readNetwork(c.In), c.In.Int32()
	if err := c.In.End(); err != nil {
		return err
	}
	i, err := d.find(c, n, "write")
	if err != nil {
		return err
	}
	return d.networks.SetAutostart(c, i.UUID, on != 0)
}

// flagInactive asks for the definition that the next start uses
// (VIR_NETWORK_XML_INACTIVE).
const flagInactive = 1

func (d *driver) xml(c *dispatch.Call) error {
	n, flags := readNetwork(c.In), c.In.Uint32()
	if err := c.In.End(); err != nil {
		return err
	}
	if err := checkFlags(flags, flagInactive, "networkGetXMLDesc"); err != nil {
		return err
	}
	i, err := d.find(c, n, "read")
	if err != nil {
		return err
	}
	xml, err := d.networks.XML(i.UUID, flags&flagInactive != 0)
	if err == nil {
		c.Out.String(xml)
	}
	return err
}

// flagValidate refuses what libvirt's schema does not know
// (VIR_NETWORK_DEFINE_VALIDATE, VIR_NETWORK_CREATE_VALIDATE).
const flagValidate = 1

// fromXML makes a procedure of an operation that makes a network of a
// definition, of which not a word is read before it is sure that the client
// may do this (CVE-2025-12748 was libvirt reading first).
func (d *driver) fromXML(function, permission string, flagged bool,
	do func(Networks, context.Context, []byte) (engine.Info, error)) func(*dispatch.Call) error {
	return func(c *dispatch.Call) error {
		xml, flags := c.In.String(), uint32(0)
		if flagged {
			flags = c.In.Uint32()
		}
		if err := c.In.End(); err != nil {
			return err
		}
		if err := checkFlags(flags, flagValidate, function); err != nil {
			return err
		}
		if err := allowed(c, engine.Info{}, permission); err != nil {
			return err
		}
		if flags&flagValidate != 0 {
			if err := netdef.ValidateNetwork([]byte(xml)); err != nil {
				return err
			}
		}
		i, err := do(d.networks, c, []byte(xml))
		if err == nil {
			writeNetwork(c.Out, i)
		}
		return err
	}
}
