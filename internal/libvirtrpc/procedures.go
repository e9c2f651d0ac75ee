package libvirtrpc

import (
	"context"

	"viaduct/internal/engine"
	"viaduct/internal/netdef"
)

// procedure is one call of the protocol. It reads all its arguments before it
// does anything.
type procedure struct {
	name      string
	needsOpen bool
	run       func(ctx context.Context, s *session, in *decoder, out *encoder) error
	// changes is the function of libvirt's API that a client with read-only
	// access may not call; "" for what only looks.
	changes string
}

// procedures are those that virsh needs to list, start and stop networks, by
// their numbers (enum remote_procedure in remote_protocol.x).
var procedures = map[uint32]procedure{
	1:   {name: "connect open", run: connectOpen},
	2:   {name: "connect close", run: nothing},
	3:   {name: "connect get type", needsOpen: true, run: connectType},
	39:  {name: "network create", needsOpen: true, run: onNetwork(Networks.Start), changes: "virNetworkCreate"},
	42:  {name: "network destroy", needsOpen: true, run: onNetwork(Networks.Destroy), changes: "virNetworkDestroy"},
	44:  {name: "network get autostart", needsOpen: true, run: networkFlag(func(i engine.Info) bool { return i.Autostart })},
	45:  {name: "network get bridge name", needsOpen: true, run: bridgeName},
	46:  {name: "network lookup by name", needsOpen: true, run: lookupByName},
	47:  {name: "network lookup by uuid", needsOpen: true, run: lookupByUUID},
	60:  {name: "connect supports feature", run: supportsFeature},
	66:  {name: "auth list", run: authList},
	152: {name: "network is active", needsOpen: true, run: networkFlag(func(i engine.Info) bool { return i.Active })},
	153: {name: "network is persistent", needsOpen: true, run: networkFlag(func(i engine.Info) bool { return i.Persistent })},
	283: {name: "connect list all networks", needsOpen: true, run: listAllNetworks},
	360: {name: "connect register close callback", needsOpen: true, run: nothing},
	361: {name: "connect unregister close callback", needsOpen: true, run: nothing},
}

// notOurs are procedures that libvirt's network driver does not have either,
// with the functions of its API that it then names. virsh calls them on every
// sort of connection.
var notOurs = map[uint32]string{
	4: "virConnectGetVersion", 6: "virNodeGetInfo", 7: "virConnectGetCapabilities", 51: "virConnectNumOfDomains",
	59: "virConnectGetHostname", 126: "virConnectNumOfInterfaces", 178: "virConnectNumOfNWFilters", 203: "virConnectGetSysinfo",
}

// features are those of libvirt's driver features that a client may rely on
// (virDrvFeature).
var features = map[int32]bool{8: true, 9: true, 10: true, 14: true, 15: true, 16: true}

func nothing(_ context.Context, _ *session, in *decoder, _ *encoder) error { return in.end() }

// connectType names the driver.
func connectType(_ context.Context, _ *session, in *decoder, out *encoder) error {
	out.string("network")
	return in.end()
}

func authList(_ context.Context, _ *session, in *decoder, out *encoder) error {
	out.uint32(1)
	out.int32(0) // REMOTE_AUTH_NONE
	return in.end()
}

func supportsFeature(_ context.Context, _ *session, in *decoder, out *encoder) error {
	out.bool(features[in.int32()])
	return in.end()
}

// openReadOnly is the flag of a client that wants to look only (VIR_CONNECT_RO).
const openReadOnly = 1

func connectOpen(_ context.Context, s *session, in *decoder, _ *encoder) error {
	uri := in.optionalString()
	flags := in.uint32()
	if err := in.end(); err != nil {
		return err
	}
	if uri != nil && *uri != "" && *uri != "network:///system" && *uri != "network:///session" {
		return netdef.Errorf(netdef.ErrInternal, "unexpected network URI path '%s', try network:///system", *uri)
	}
	s.opened, s.readOnly = true, flags&openReadOnly != 0
	return nil
}

// find looks the network up that a client means. A UUID is enough: the name is
// for messages.
func (s *session) find(n networkRef) (engine.Info, error) {
	info, err := s.networks.Lookup(n.UUID.String())
	if err != nil && n.Name != "" {
		return info, netdef.Errorf(netdef.ErrNoNetwork, "no network with matching uuid '%s' (%s)", n.UUID, n.Name)
	}
	if err != nil {
		return info, netdef.Errorf(netdef.ErrNoNetwork, "no network with matching uuid '%s'", n.UUID)
	}
	return info, nil
}

func refOf(i engine.Info) networkRef { return networkRef{i.Name, i.UUID} }

func lookupByName(_ context.Context, s *session, in *decoder, out *encoder) error {
	name := in.string()
	if err := in.end(); err != nil {
		return err
	}
	info, err := s.networks.ByName(name)
	if err != nil {
		return err
	}
	out.network(refOf(info))
	return nil
}

func lookupByUUID(_ context.Context, s *session, in *decoder, out *encoder) error {
	id := in.uuid()
	if err := in.end(); err != nil {
		return err
	}
	i, err := s.find(networkRef{UUID: id})
	if err == nil {
		out.network(refOf(i))
	}
	return err
}

// onNetwork makes a procedure of an operation on one network.
func onNetwork(do func(Networks, context.Context, netdef.UUID) error) func(context.Context, *session, *decoder, *encoder) error {
	return func(ctx context.Context, s *session, in *decoder, _ *encoder) error {
		n := in.network()
		if err := in.end(); err != nil {
			return err
		}
		i, err := s.find(n)
		if err != nil {
			return err
		}
		return do(s.networks, ctx, i.UUID)
	}
}

// networkFlag makes a procedure that answers yes or no about one network.
func networkFlag(ask func(engine.Info) bool) func(context.Context, *session, *decoder, *encoder) error {
	return func(_ context.Context, s *session, in *decoder, out *encoder) error {
		n := in.network()
		if err := in.end(); err != nil {
			return err
		}
		i, err := s.find(n)
		if err == nil {
			out.bool(ask(i))
		}
		return err
	}
}

func bridgeName(_ context.Context, s *session, in *decoder, out *encoder) error {
	n := in.network()
	if err := in.end(); err != nil {
		return err
	}
	i, err := s.find(n)
	switch {
	case err != nil:
		return err
	case i.Bridge == "":
		return netdef.Errorf(netdef.ErrInternal, "network '%s' does not have a bridge name.", i.Name)
	}
	out.string(i.Bridge)
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

func wanted(i engine.Info, flags uint32) bool {
	for _, f := range filters {
		given := flags & (f.yes | f.no)
		if given == f.yes && !f.is(i) || given == f.no && f.is(i) {
			return false
		}
	}
	return true
}

// maxNetworks bounds a list of networks (REMOTE_NETWORK_LIST_MAX).
const maxNetworks = 16384

func listAllNetworks(_ context.Context, s *session, in *decoder, out *encoder) error {
	needResults, flags := in.int32(), in.uint32()
	if err := in.end(); err != nil {
		return err
	}
	var list []engine.Info
	for _, i := range s.networks.Networks() {
		if wanted(i, flags) {
			list = append(list, i)
		}
	}
	if len(list) > maxNetworks {
		return netdef.Errorf(netdef.ErrRPC, "too many networks '%d' for limit '%d'", len(list), maxNetworks)
	}
	if needResults == 0 {
		out.uint32(0)
	} else {
		out.uint32(uint32(len(list)))
		for _, i := range list {
			out.network(refOf(i))
		}
	}
	out.uint32(uint32(len(list)))
	return nil
}
