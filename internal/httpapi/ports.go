package httpapi

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"

	"viaduct/internal/engine"
	"viaduct/internal/netdef"
)

func getPorts(_ *Server, r request) (any, error) {
	ports, err := r.api.Ports(r.net.UUID)
	return list(ports), err
}

// getGuestPorts answers with the ports of a guest in all networks.
func getGuestPorts(_ *Server, r request) (any, error) {
	given := r.URL.Query()
	var mac netdef.MAC
	var guest netdef.UUID
	var err error
	if text := given.Get("mac"); text != "" {
		if mac, err = netdef.ParseMAC(text); err != nil {
			return nil, netdef.Errorf(netdef.ErrInvalidMAC, "%s", text)
		}
	}
	if text := given.Get("guest"); text != "" {
		if guest, err = netdef.ParseUUID(text); err != nil {
			return nil, netdef.Errorf(netdef.ErrInvalidArg, "parameter 'guest' is a UUID, not '%s'", text)
		}
	}
	return r.api.GuestPorts(mac, guest, given.Get("name")), nil
}

func getPortXML(_ *Server, r request) (any, error) {
	text, err := r.api.PortXML(r.net.UUID, r.PathValue("port"))
	return xmlText(text), err
}

// putPortXML replaces what a port is to have, and its guard if one is given.
func putPortXML(_ *Server, r request) (any, error) {
	xml, err := r.body("port")
	if err != nil {
		return nil, err
	}
	def, err := netdef.ParsePort(xml)
	if err != nil {
		return nil, err
	}
	var guard *netdef.Guard
	if given := r.URL.Query(); given.Has("guard") {
		if guard, err = netdef.ParseGuard(given.Get("guard")); err != nil {
			return nil, err
		}
	}
	return nil, r.api.UpdatePort(r.Context(), r.net.UUID, r.PathValue("port"), *def, guard)
}

// createPort makes a port. What its guest and its settings are may be given as
// XML, or in part as parameters.
func createPort(_ *Server, r request) (any, error) {
	xml, err := r.body("port")
	if err != nil {
		return nil, err
	}
	given := r.URL.Query()
	p := engine.PortSpec{Link: given.Get("link")}
	if len(xml) > 0 {
		def, err := netdef.ParsePort(xml)
		if err != nil {
			return nil, err
		}
		p.Port = *def
	}
	if p.Reclaim, err = r.yes("reclaim"); err != nil {
		return nil, err
	}
	if given.Has("group") {
		p.Group = given.Get("group")
	}
	if text := given.Get("mac"); text != "" {
		var err error
		if p.MAC, err = netdef.ParseMAC(text); err != nil || p.MAC.IsZero() {
			return nil, netdef.Errorf(netdef.ErrInvalidMAC, "%s", text)
		}
	}
	if given.Has("guard") {
		if p.Guard, err = netdef.ParseGuard(given.Get("guard")); err != nil {
			return nil, err
		}
	}
	var owner uint64
	if text := given.Get("owner"); text != "" {
		if owner, err = strconv.ParseUint(text, 10, 32); err != nil || owner == noUser {
			return nil, netdef.Errorf(netdef.ErrInvalidArg, "parameter 'owner' is the number of a user, not '%s'", text)
		}
	}
	if given.Has("tap") {
		p.Tap = &engine.TapSpec{Name: given.Get("tap"), Owner: uint32(owner)}
	}
	if p.Wait, err = r.wait(); err != nil {
		return nil, err
	}
	p.Name = given.Get("name")
	if text := given.Get("mtu"); text != "" {
		if p.MTU, err = strconv.Atoi(text); err != nil || p.MTU < 68 || p.MTU > 65535 {
			return nil, netdef.Errorf(netdef.ErrInvalidArg, "parameter 'mtu' is a number of octets from 68 to 65535, not '%s'", text)
		}
	}
	if text := given.Get("routed"); text != "" {
		if err := json.Unmarshal([]byte(text), &p.Routed); err != nil {
			return nil, netdef.Errorf(netdef.ErrInvalidArg, "parameter 'routed': %w", err)
		}
	}
	if text := given.Get("pattern"); text != "" {
		if p.Pattern, err = netdef.ParseUUID(text); err != nil {
			return nil, netdef.Errorf(netdef.ErrInvalidArg, "parameter 'pattern' is a UUID, not '%s'", text)
		}
	}
	switch {
	case p.Tap != nil && p.Link != "":
		return nil, netdef.Errorf(netdef.ErrInvalidArg, "parameters 'tap' and 'link' exclude each other")
	case p.Tap == nil && p.Link == "" && len(xml) == 0:
		return nil, netdef.Errorf(netdef.ErrInvalidArg, "a port is given by parameter 'tap' or 'link', or as XML")
	}
	return r.api.CreatePort(r.Context(), r.net.UUID, p)
}

// setBandwidth replaces what a port is limited to; a direction that is not
// given is not limited.
func setBandwidth(_ *Server, r request) (any, error) {
	var b netdef.Bandwidth
	var err error
	for name, into := range map[string]**netdef.Rate{"inbound": &b.Inbound, "outbound": &b.Outbound} {
		if *into, err = netdef.ParseRate(r.URL.Query().Get(name)); err != nil {
			return nil, err
		}
	}
	wanted := &b
	switch {
	case b.Outbound != nil && b.Outbound.Floor > 0:
		return nil, netdef.Errorf(netdef.ErrConfigUnsupported, "'floor' attribute allowed only in <inbound> element")
	case b == netdef.Bandwidth{}:
		wanted = nil
	}
	return nil, r.api.SetPortBandwidth(r.Context(), r.net.UUID, r.PathValue("port"), wanted)
}

// noUser is what the kernel takes for no user at all, and so for everybody.
const noUser = 1<<32 - 1

// Ports lists the ports of a network, with what went over them.
func (c *Client) Ports(ctx context.Context, ref string) ([]engine.Port, error) {
	return get[[]engine.Port](ctx, c, network(ref)+"/ports")
}

// GuestPorts lists the ports, of whatever network, that a guest is to have, by
// its MAC address, its UUID or its name. A zero value finds none.
func (c *Client) GuestPorts(ctx context.Context, mac netdef.MAC, guest netdef.UUID, name string) ([]engine.GuestPort, error) {
	query := url.Values{"name": {name}}
	if !mac.IsZero() {
		query.Set("mac", mac.String())
	}
	if !guest.IsZero() {
		query.Set("guest", guest.String())
	}
	return get[[]engine.GuestPort](ctx, c, "/v1/ports?"+query.Encode())
}

// Bridges lists the host's bridges by name.
func (c *Client) Bridges(ctx context.Context) ([]string, error) {
	return get[[]string](ctx, c, "/v1/bridges")
}

// Release stops a transient network that nobody has a port in any more, and
// leaves others as they are.
func (c *Client) Release(ctx context.Context, ref string) error {
	return c.act(ctx, http.MethodPost, network(ref)+"/release")
}

// PortXML describes a port, named by its UUID or its link.
func (c *Client) PortXML(ctx context.Context, ref, port string) (string, error) {
	return c.text(ctx, network(ref)+"/ports/"+segment(port)+"/xml")
}

// CreatePort makes a port. Settings need an owner beside them. The daemon waits
// for a link that does not exist yet up to 15 s.
func (c *Client) CreatePort(ctx context.Context, ref string, p engine.PortSpec) (engine.Port, error) {
	query := url.Values{}
	if p.Tap != nil {
		query.Set("tap", p.Tap.Name)
		query.Set("owner", strconv.FormatUint(uint64(p.Tap.Owner), 10))
	}
	if p.Link != "" {
		query.Set("link", p.Link)
	}
	if p.Wait != 0 {
		query.Set("wait", p.Wait.String())
	}
	if p.Name != "" {
		query.Set("name", p.Name)
	}
	if p.MTU != 0 {
		query.Set("mtu", strconv.Itoa(p.MTU))
	}
	if p.Routed != nil {
		routed, err := json.Marshal(p.Routed)
		if err != nil {
			return engine.Port{}, err
		}
		query.Set("routed", string(routed))
	}
	if !p.Pattern.IsZero() {
		query.Set("pattern", p.Pattern.String())
	}
	if p.Reclaim {
		query.Set("reclaim", "yes")
	}
	if p.Guard != nil {
		query.Set("guard", p.Guard.String())
	}
	var body []byte
	if p.OwnerName != "" {
		body = []byte(p.Format())
	} else {
		if p.Group != "" {
			query.Set("group", p.Group)
		}
		if !p.MAC.IsZero() {
			query.Set("mac", p.MAC.String())
		}
	}
	return call[engine.Port](ctx, c, http.MethodPost, network(ref)+"/ports?"+query.Encode(), body)
}

// UpdatePort replaces what a port is to have, while its guest runs: what the
// description says, and its guard unless that is nil.
func (c *Client) UpdatePort(ctx context.Context, ref, port string, xml []byte, guard *netdef.Guard) error {
	path := network(ref) + "/ports/" + segment(port) + "/xml"
	if guard != nil {
		path += "?" + url.Values{"guard": {guard.String()}}.Encode()
	}
	body, err := c.send(ctx, http.MethodPut, path, xml)
	if err != nil {
		return err
	}
	return body.Close()
}

// SetPortBandwidth replaces what a port is limited to, while its guest runs. Rates
// are as netdef.ParseRate reads them; "" is no limit.
func (c *Client) SetPortBandwidth(ctx context.Context, ref, port, inbound, outbound string) error {
	query := url.Values{"inbound": {inbound}, "outbound": {outbound}}
	return c.act(ctx, http.MethodPut, network(ref)+"/ports/"+segment(port)+"/bandwidth?"+query.Encode())
}

// DeletePort takes a port, named by its UUID or its link, out of its network.
func (c *Client) DeletePort(ctx context.Context, ref, port string) error {
	return c.act(ctx, http.MethodDelete, network(ref)+"/ports/"+segment(port))
}

// Counters tells what went over an active network.
func (c *Client) Counters(ctx context.Context, ref string) (engine.NetworkCounters, error) {
	return get[engine.NetworkCounters](ctx, c, network(ref)+"/counters")
}
