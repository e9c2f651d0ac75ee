package libvirtrpc

import (
	"viaduct/internal/engine"
	"viaduct/internal/libvirtrpc/dispatch"
	"viaduct/internal/libvirtrpc/xdr"
	"viaduct/internal/netdef"
)

// portRef is how the protocol names a port (remote_nonnull_network_port).
type portRef struct {
	network networkRef
	id      netdef.UUID
}

func readPort(in *xdr.Decoder) portRef { return portRef{readNetwork(in), in.UUID()} }

func writePort(out *xdr.Encoder, network engine.Info, id netdef.UUID) {
	writeNetwork(out, network)
	out.UUID(id)
}

// portAllowed refuses what the client may not do to a port.
func portAllowed(c *dispatch.Call, network engine.Info, id netdef.UUID, permission string) error {
	return c.Allow("network-port", permission, map[string]string{
		"connect_driver": "network", "network_name": network.Name, "network_uuid": network.UUID.String(), "port_uuid": id.String(),
	})
}

// findPort looks up the port that a client means. Links that somebody put into
// a bridge without asking are none for libvirt's clients.
func (d *driver) findPort(c *dispatch.Call, p portRef, permission string) (engine.Info, engine.Port, error) {
	i, err := d.find(c, p.network, "getattr")
	if err != nil {
		return i, engine.Port{}, err
	}
	port, err := d.networks.PortByUUID(i.UUID, p.id)
	switch {
	case err != nil:
		return i, port, err
	case !port.Declared:
		return i, port, netdef.Errorf(netdef.ErrNoNetworkPort, "Network port with UUID %s does not exist", p.id)
	}
	return i, port, portAllowed(c, i, p.id, permission)
}

func (d *driver) listPorts(c *dispatch.Call) error {
	n, needResults, flags := readNetwork(c.In), c.In.Int32(), c.In.Uint32()
	if err := c.In.End(); err != nil {
		return err
	}
	if err := checkFlags(flags, 0, "networkListAllPorts"); err != nil {
		return err
	}
	i, err := d.find(c, n, "search-ports")
	switch {
	case err != nil:
		return err
	case !i.Active:
		return netdef.Errorf(netdef.ErrOperationInvalid, "network '%s' is not active", i.Name)
	}
	all, err := d.networks.Ports(i.UUID)
	if err != nil {
		return err
	}
	var ids []netdef.UUID
	for _, p := range all {
		if p.Declared && portAllowed(c, i, p.UUID, "getattr") == nil {
			ids = append(ids, p.UUID)
		}
	}
	if err := bound("network_ports", len(ids), maxPorts); err != nil {
		return err
	}
	total := uint32(len(ids))
	if needResults == 0 {
		ids = nil
	}
	c.Out.Uint32(uint32(len(ids)))
	for _, id := range ids {
		writePort(c.Out, i, id)
	}
	c.Out.Uint32(total)
	return nil
}

func (d *driver) lookupPort(c *dispatch.Call) error {
	p := portRef{readNetwork(c.In), c.In.UUID()}
	if err := c.In.End(); err != nil {
		return err
	}
	i, port, err := d.findPort(c, p, "getattr")
	if err == nil {
		writePort(c.Out, i, port.UUID)
	}
	return err
}

// The flags of a port's creation (virNetworkPortCreateFlags).
const (
	flagReclaim      = 1
	flagValidatePort = 2
)

func (d *driver) createPort(c *dispatch.Call) error {
	n, xml, flags := readNetwork(c.In), c.In.String(), c.In.Uint32()
	if err := c.In.End(); err != nil {
		return err
	}
	if err := checkFlags(flags, flagReclaim|flagValidatePort, "networkPortCreateXML"); err != nil {
		return err
	}
	i, err := d.find(c, n, "getattr")
	if err == nil {
		err = portAllowed(c, i, netdef.UUID{}, "create")
	}
	if err != nil {
		return err
	}
	if flags&flagValidatePort != 0 {
		if err := netdef.ValidatePort([]byte(xml)); err != nil {
			return err
		}
	}
	def, err := netdef.ParsePort([]byte(xml))
	if err != nil {
		return err
	}
	port, err := d.networks.CreatePort(c, i.UUID, engine.PortSpec{Port: *def, Reclaim: flags&flagReclaim != 0})
	if err == nil {
		writePort(c.Out, i, port.UUID)
	}
	return err
}

func (d *driver) portXML(c *dispatch.Call) error {
	p, flags := readPort(c.In), c.In.Uint32()
	if err := c.In.End(); err != nil {
		return err
	}
	if err := checkFlags(flags, 0, "networkPortGetXMLDesc"); err != nil {
		return err
	}
	_, port, err := d.findPort(c, p, "read")
	if err == nil {
		c.Out.String(port.Def.Format())
	}
	return err
}

func (d *driver) deletePort(c *dispatch.Call) error {
	p, flags := readPort(c.In), c.In.Uint32()
	if err := c.In.End(); err != nil {
		return err
	}
	if err := checkFlags(flags, 0, "networkPortDelete"); err != nil {
		return err
	}
	i, port, err := d.findPort(c, p, "delete")
	if err != nil {
		return err
	}
	return d.networks.DeletePort(c, i.UUID, port.UUID.String())
}

// rateParams are the parameters of a port (VIR_NETWORK_PORT_BANDWIDTH_*), all
// of them unsigned integers, in the order in which libvirt lists them.
var rateParams = []struct {
	name    string
	inbound bool
	value   func(*netdef.Rate) *uint64
}{
	{"inbound.average", true, average}, {"inbound.peak", true, peak}, {"inbound.burst", true, burst},
	{"inbound.floor", true, func(r *netdef.Rate) *uint64 { return &r.Floor }},
	{"outbound.average", false, average}, {"outbound.peak", false, peak}, {"outbound.burst", false, burst},
}

func average(r *netdef.Rate) *uint64 { return &r.Average }
func peak(r *netdef.Rate) *uint64    { return &r.Peak }
func burst(r *netdef.Rate) *uint64   { return &r.Burst }

// maxParams bounds a list of parameters (REMOTE_NETWORK_PORT_PARAMETERS_MAX).
const maxParams = 16

// flagTextOkay says that the client understands parameters that are texts
// (VIR_TYPED_PARAM_STRING_OKAY).
const flagTextOkay = 4

func (d *driver) portParams(c *dispatch.Call) error {
	p, room, flags := readPort(c.In), c.In.Int32(), c.In.Uint32()
	if err := c.In.End(); err != nil {
		return err
	}
	if err := checkFlags(flags, flagTextOkay, "networkPortGetParameters"); err != nil {
		return err
	}
	_, port, err := d.findPort(c, p, "read")
	if err != nil {
		return err
	}
	var params []dispatch.Param
	if b := port.Def.Bandwidth; b != nil {
		for _, r := range rateParams {
			rate := b.Outbound
			if r.inbound {
				rate = b.Inbound
			}
			if rate != nil {
				params = append(params, dispatch.Param{Name: r.name, Type: dispatch.ParamUint, Number: *r.value(rate)})
			}
		}
	}
	total := int32(len(params))
	// The bindings for Python and Perl send what happens to be in memory; libvirt
	// too looks only whether it is 0.
	if room == 0 {
		params = nil
	}
	dispatch.WriteParams(c.Out, params)
	c.Out.Int32(total)
	return nil
}

func (d *driver) setPortParams(c *dispatch.Call) error {
	p, params, flags := readPort(c.In), dispatch.ReadParams(c.In, maxParams), c.In.Uint32()
	if err := c.In.End(); err != nil {
		return err
	}
	if err := checkFlags(flags, flagTextOkay, "networkPortSetParameters"); err != nil {
		return err
	}
	i, port, err := d.findPort(c, p, "write")
	if err != nil {
		return err
	}
	b, err := withParams(port.Def.Bandwidth, params)
	if err != nil {
		return err
	}
	return d.networks.SetPortBandwidth(c, i.UUID, port.UUID.String(), b)
}

// withParams is the bandwidth after parameters have been set. A direction of
// which none is named stays, others get what is named and nothing else; one
// without an average or a floor has no limit.
func withParams(old *netdef.Bandwidth, params []dispatch.Param) (*netdef.Bandwidth, error) {
	var in, out *netdef.Rate
	for _, p := range params {
		known := false
		for _, r := range rateParams {
			if r.name != p.Name {
				continue
			}
			known = true
			if p.Type != dispatch.ParamUint {
				return nil, netdef.Errorf(netdef.ErrInvalidArg, "invalid type '%s' for parameter '%s', expected 'uint'", p.Type, p.Name)
			}
			rate := &out
			if r.inbound {
				rate = &in
			}
			if *rate == nil {
				*rate = &netdef.Rate{}
			}
			*r.value(*rate) = p.Number
		}
		if !known {
			return nil, netdef.Errorf(netdef.ErrArgumentUnsupported, "parameter '%s' not supported", p.Name)
		}
	}
	b := netdef.Bandwidth{}
	if old != nil {
		b = *old
	}
	b.Inbound, b.Outbound = replaced(b.Inbound, in), replaced(b.Outbound, out)
	if b.Inbound == nil && b.Outbound == nil {
		return nil, nil
	}
	return &b, nil
}

func replaced(old, next *netdef.Rate) *netdef.Rate {
	switch {
	case next == nil:
		return old
	case next.Average == 0 && next.Floor == 0:
		return nil
	}
	return next
}
