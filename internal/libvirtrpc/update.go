package libvirtrpc

import (
	"viaduct/internal/libvirtrpc/dispatch"
	"viaduct/internal/netdef"
)

// Which definitions an update is about (virNetworkUpdateFlags). Neither means
// the live one of an active network.
const (
	flagLive   = 1
	flagConfig = 2
)

// change names what an update needs the permission for.
func change(flags uint32) string {
	if flags&flagConfig != 0 {
		return "save"
	}
	return "write"
}

func (d *driver) update(c *dispatch.Call) error {
	n, command, section, parent := readNetwork(c.In), c.In.Uint32(), c.In.Uint32(), c.In.Int32()
	xml, flags := c.In.String(), c.In.Uint32()
	if err := c.In.End(); err != nil {
		return err
	}
	if err := checkFlags(flags, flagLive|flagConfig, "networkUpdate"); err != nil {
		return err
	}
	i, err := d.find(c, n, change(flags))
	if err != nil {
		return err
	}
	return d.networks.Update(c, i.UUID, netdef.UpdateCommand(int32(command)), netdef.Section(int32(section)), int(parent), xml,
		flags&flagLive != 0, flags&flagConfig != 0)
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func (d *driver) setMetadata(c *dispatch.Call) error {
	n, kind := readNetwork(c.In), c.In.Int32()
	value, key, uri, flags := text(c.In.OptionalString()), text(c.In.OptionalString()), text(c.In.OptionalString()), c.In.Uint32()
	if err := c.In.End(); err != nil {
		return err
	}
	if err := checkFlags(flags, flagLive|flagConfig, "networkSetMetadata"); err != nil {
		return err
	}
	i, err := d.find(c, n, change(flags))
	if err != nil {
		return err
	}
	return d.networks.SetMetadata(c, i.UUID, netdef.MetadataType(kind), value, key, uri, flags&flagLive != 0, flags&flagConfig != 0)
}

func (d *driver) metadata(c *dispatch.Call) error {
	n, kind, uri, flags := readNetwork(c.In), c.In.Int32(), text(c.In.OptionalString()), c.In.Uint32()
	if err := c.In.End(); err != nil {
		return err
	}
	if err := checkFlags(flags, flagLive|flagConfig, "networkGetMetadata"); err != nil {
		return err
	}
	i, err := d.find(c, n, "read")
	if err != nil {
		return err
	}
	value, err := d.networks.Metadata(i.UUID, netdef.MetadataType(kind), uri, flags&flagLive != 0, flags&flagConfig != 0)
	if err == nil {
		c.Out.String(value)
	}
	return err
}
