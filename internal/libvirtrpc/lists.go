package libvirtrpc

import (
	"fmt"
	"strings"

	"viaduct/internal/engine"
	"viaduct/internal/libvirtrpc/dispatch"
	"viaduct/internal/netdef"
)

// The bounds of lists on the wire (REMOTE_NETWORK_LIST_MAX,
// REMOTE_NETWORK_PORT_LIST_MAX, REMOTE_NETWORK_DHCP_LEASES_MAX). What is longer
// is refused.
const (
	maxNetworks = 16384
	maxPorts    = 16384
	maxLeases   = 65536
)

func bound(what string, n, limit int) error {
	if n > limit {
		return netdef.Errorf(netdef.ErrRPC, "Too many %s '%d' for limit '%d'", what, n, limit)
	}
	return nil
}

// filters are pairs of flags of which either, both or none may be given
// (virConnectListAllNetworksFlags).
var filters = []struct {
	yes, no uint32
	is      func(engine.Info) bool
}{
	{2, 1, func(i engine.Info) bool { return i.Active }},
	{4, 8, func(i engine.Info) bool { return i.Persistent }},
	{16, 32, func(i engine.Info) bool { return i.Autostart }},
}

// allFilters are all flags of filters.
const allFilters = 63

func wanted(i engine.Info, flags uint32) bool {
	for _, f := range filters {
		given := flags & (f.yes | f.no)
		if given == f.yes && !f.is(i) || given == f.no && f.is(i) {
			return false
		}
	}
	return true
}

// visible lists the networks that the client may know of and that are meant.
func (d *driver) visible(c *dispatch.Call, meant func(engine.Info) bool) []engine.Info {
	var list []engine.Info
	for _, i := range d.networks.Networks() {
		if meant(i) && allowed(c, i, "getattr") == nil {
			list = append(list, i)
		}
	}
	return list
}

func (d *driver) listAll(c *dispatch.Call) error {
	needResults, flags := c.In.Int32(), c.In.Uint32()
	if err := c.In.End(); err != nil {
		return err
	}
	if err := checkFlags(flags, allFilters, "networkConnectListAllNetworks"); err != nil {
		return err
	}
	if err := connectAllowed(c, "search-networks"); err != nil {
		return err
	}
	list := d.visible(c, func(i engine.Info) bool { return wanted(i, flags) })
	if err := bound("networks", len(list), maxNetworks); err != nil {
		return err
	}
	total := uint32(len(list))
	if needResults == 0 {
		list = nil
	}
	c.Out.Uint32(uint32(len(list)))
	for _, i := range list {
		writeNetwork(c.Out, i)
	}
	c.Out.Uint32(total)
	return nil
}

// names makes a procedure that lists the names of networks, as many as the
// client has room for.
func (d *driver) names(meant func(engine.Info) bool) func(*dispatch.Call) error {
	return func(c *dispatch.Call) error {
		room := c.In.Int32()
		if err := c.In.End(); err != nil {
			return err
		}
		switch {
		case room > maxNetworks:
			return netdef.Errorf(netdef.ErrInternal, "maxnames > REMOTE_NETWORK_LIST_MAX")
		case room < 0:
			return netdef.Errorf(netdef.ErrInvalidArg, "maxnames in virConnectListNetworks must be zero or greater")
		}
		if err := connectAllowed(c, "search-networks"); err != nil {
			return err
		}
		list := d.visible(c, meant)
		list = list[:min(len(list), int(room))]
		c.Out.Uint32(uint32(len(list)))
		for _, i := range list {
			c.Out.String(i.Name)
		}
		return nil
	}
}

func (d *driver) count(meant func(engine.Info) bool) func(*dispatch.Call) error {
	return func(c *dispatch.Call) error {
		if err := c.In.End(); err != nil {
			return err
		}
		if err := connectAllowed(c, "search-networks"); err != nil {
			return err
		}
		c.Out.Int32(int32(len(d.visible(c, meant))))
		return nil
	}
}

// The types of addresses in leases (virIPAddrType).
const (
	typeIPv4 = 0
	typeIPv6 = 1
)

func (d *driver) leases(c *dispatch.Call) error {
	n, mac, needResults, flags := readNetwork(c.In), c.In.OptionalString(), c.In.Int32(), c.In.Uint32()
	if err := c.In.End(); err != nil {
		return err
	}
	if err := checkFlags(flags, 0, "networkGetDHCPLeases"); err != nil {
		return err
	}
	i, err := d.find(c, n, "read")
	if err != nil {
		return err
	}
	of := ""
	if mac != nil {
		of = *mac
		if _, err := netdef.ParseMAC(of); err != nil { // "" is none either
			return netdef.Errorf(netdef.ErrInvalidMAC, "%s", of)
		}
	}
	list, err := d.networks.Leases(i.UUID, of)
	if err == nil {
		err = bound("leases", len(list), maxLeases)
	}
	if err != nil {
		return err
	}
	total := uint32(len(list))
	if needResults == 0 {
		list = nil
	}
	c.Out.Uint32(uint32(len(list)))
	for _, l := range list {
		writeLease(c, i.Bridge, l)
	}
	c.Out.Uint32(total)
	return nil
}

// writeLease writes remote_network_dhcp_lease. An end of 0 means never.
func writeLease(c *dispatch.Call, bridge string, l netdef.Lease) {
	var expiry uint64
	if !l.Expiry.IsZero() {
		expiry = uint64(l.Expiry.Unix())
	}
	kind, iaid := uint32(typeIPv4), ""
	if l.Addr.Is6() {
		kind, iaid = typeIPv6, fmt.Sprint(l.IAID)
	}
	mac := ""
	if !l.MAC.IsZero() {
		mac = l.MAC.String()
	}
	c.Out.String(bridge)
	c.Out.Uint64(expiry)
	c.Out.Uint32(kind)
	c.Out.OptionalString(given(mac))
	c.Out.OptionalString(given(iaid))
	c.Out.String(l.Addr.String())
	c.Out.Uint32(uint32(l.PrefixLen))
	c.Out.OptionalString(given(l.Hostname))
	c.Out.OptionalString(given(strings.ReplaceAll(fmt.Sprintf("% x", l.ClientID), " ", ":")))
}

// given is nil for what is not known.
func given(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
