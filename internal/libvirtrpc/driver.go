// Package libvirtrpc is the door for libvirt's clients: it speaks the wire
// protocol of libvirt's daemons (src/rpc/virnetprotocol.x and
// src/remote/remote_protocol.x there) on Unix sockets, so that every client of
// libvirt takes Viaduct for virtnetworkd. It translates and decides nothing.
// Below it, package dispatch knows connections, wire the frames and xdr the
// values; here are the procedures about networks.
package libvirtrpc

import (
	"context"

	"viaduct/internal/engine"
	"viaduct/internal/libvirtrpc/dispatch"
	"viaduct/internal/libvirtrpc/xdr"
	"viaduct/internal/netdef"
)

// Networks is what this door asks of the engine.
type Networks interface {
	Networks() []engine.Info
	Lookup(ref string) (engine.Info, error)
	ByName(name string) (engine.Info, error)
	Define(ctx context.Context, xml []byte) (engine.Info, error)
	Create(ctx context.Context, xml []byte) (engine.Info, error)
	Start(ctx context.Context, id netdef.UUID) error
	Destroy(ctx context.Context, id netdef.UUID) error
	Undefine(ctx context.Context, id netdef.UUID) error
	SetAutostart(ctx context.Context, id netdef.UUID, on bool) error
	XML(id netdef.UUID, inactive bool) (string, error)
	Leases(id netdef.UUID, mac string) ([]netdef.Lease, error)
	Update(ctx context.Context, id netdef.UUID, command netdef.UpdateCommand, section netdef.Section, parent int, xml string, live, config bool) error
	SetMetadata(ctx context.Context, id netdef.UUID, t netdef.MetadataType, value, key, uri string, live, config bool) error
	Metadata(id netdef.UUID, t netdef.MetadataType, uri string, live, config bool) (string, error)
	Ports(id netdef.UUID) ([]engine.Port, error)
	PortByUUID(network, port netdef.UUID) (engine.Port, error)
	CreatePort(ctx context.Context, network netdef.UUID, spec engine.PortSpec) (engine.Port, error)
	SetPortBandwidth(ctx context.Context, network netdef.UUID, ref string, b *netdef.Bandwidth) error
	DeletePort(ctx context.Context, network netdef.UUID, ref string) error
	Subscribe() *engine.Subscription
}

// domainNetwork is the part of libvirt that errors about networks come from
// (VIR_FROM_NETWORK).
const domainNetwork = 19

// Driver answers calls about the networks of an engine.
func Driver(n Networks) dispatch.Driver {
	d := &driver{networks: n}
	return dispatch.Driver{Name: "network", Domain: domainNetwork, Procedures: d.procedures()}
}

type driver struct{ networks Networks }

// procedures are what clients may call, by number (enum remote_procedure in
// remote_protocol.x).
func (d *driver) procedures() map[uint32]dispatch.Procedure {
	active := func(i engine.Info) bool { return i.Active }
	inactive := func(i engine.Info) bool { return !i.Active }
	persistent := func(i engine.Info) bool { return i.Persistent }
	autostart := func(i engine.Info) bool { return i.Autostart }
	return map[uint32]dispatch.Procedure{
		36:  {Run: d.names(inactive)},
		38:  {Run: d.names(active)},
		39:  {Run: d.onNetwork("start", Networks.Start), Changes: "virNetworkCreate"},
		40:  {Run: d.fromXML("networkCreateXML", "start", false, Networks.Create), Changes: "virNetworkCreateXML"},
		41:  {Run: d.fromXML("networkDefineXML", "save", false, Networks.Define), Changes: "virNetworkDefineXML"},
		42:  {Run: d.onNetwork("stop", Networks.Destroy), Changes: "virNetworkDestroy"},
		43:  {Run: d.xml},
		44:  {Run: d.flag(autostart)},
		45:  {Run: d.bridgeName},
		46:  {Run: d.lookupByName},
		47:  {Run: d.lookupByUUID},
		48:  {Run: d.setAutostart, Changes: "virNetworkSetAutostart"},
		49:  {Run: d.onNetwork("delete", Networks.Undefine), Changes: "virNetworkUndefine"},
		50:  {Run: d.count(inactive)},
		52:  {Run: d.count(active)},
		152: {Run: d.flag(active)},
		153: {Run: d.flag(persistent)},
		283: {Run: d.listAll},
		291: {Run: d.update, Changes: "virNetworkUpdate"},
		313: {Run: d.register},
		314: {Run: d.deregister},
		341: {Run: d.leases},
		404: {Run: d.listPorts},
		405: {Run: d.lookupPort},
		406: {Run: d.createPort, Changes: "virNetworkPortCreateXML"},
		407: {Run: d.portParams},
		408: {Run: d.setPortParams, Changes: "virNetworkPortSetParameters"},
		409: {Run: d.portXML},
		410: {Run: d.deletePort, Changes: "virNetworkPortDelete"},
		432: {Run: d.fromXML("networkDefineXMLFlags", "save", true, Networks.Define), Changes: "virNetworkDefineXMLFlags"},
		437: {Run: d.fromXML("networkCreateXMLFlags", "start", true, Networks.Create), Changes: "virNetworkCreateXMLFlags"},
		444: {Run: d.setMetadata, Changes: "virNetworkSetMetadata"},
		445: {Run: d.metadata},
	}
}

// networkRef is how the protocol names a network (remote_nonnull_network).
type networkRef struct {
	Name string
	UUID netdef.UUID
}

func readNetwork(in *xdr.Decoder) networkRef { return networkRef{in.String(), in.UUID()} }

func writeNetwork(out *xdr.Encoder, i engine.Info) {
	out.String(i.Name)
	out.UUID(i.UUID)
}

// find looks the network up that a client means, and whether it may do to it
// what it wants. A UUID is enough: the name is for messages.
func (d *driver) find(c *dispatch.Call, n networkRef, permission string) (engine.Info, error) {
	info, err := d.networks.Lookup(n.UUID.String())
	if err != nil && n.Name != "" {
		return info, netdef.Errorf(netdef.ErrNoNetwork, "no network with matching uuid '%s' (%s)", n.UUID, n.Name)
	}
	if err != nil {
		return info, netdef.Errorf(netdef.ErrNoNetwork, "no network with matching uuid '%s'", n.UUID)
	}
	return info, allowed(c, info, permission)
}

// allowed refuses what the client may not do to a network.
func allowed(c *dispatch.Call, i engine.Info, permission string) error {
	return c.Allow("network", permission, map[string]string{
		"connect_driver": "network", "network_name": i.Name, "network_uuid": i.UUID.String(),
	})
}

// connectAllowed refuses what the client may not do to the host as a whole.
func connectAllowed(c *dispatch.Call, permission string) error {
	return c.Allow("connect", permission, map[string]string{"connect_driver": "network"})
}

// checkFlags refuses flags that a function of libvirt does not know.
func checkFlags(flags, known uint32, function string) error {
	if flags&^known != 0 {
		return netdef.Errorf(netdef.ErrInvalidArg, "unsupported flags (0x%x) in function %s", flags&^known, function)
	}
	return nil
}
