package dispatch

import (
	"strings"

	"viaduct/internal/netdef"
)

// connectProcedures are about the connection itself. They are the same for all
// drivers.
var connectProcedures map[uint32]Procedure

func init() { // not initialised in place: some refer to what refers to it
	connectProcedures = map[uint32]Procedure{
		1:   {Run: open, early: true},
		2:   {Run: closeConnection, early: true},
		3:   {Run: text(func(d Driver) string { return d.Name })},
		60:  {Run: supportsFeature, early: true},
		66:  {Run: authList, early: true, stranger: true},
		70:  {Run: authPolkit, early: true, stranger: true},
		110: {Run: text(Driver.uri)},
		149: {Run: isSecure},
		157: {Run: libVersion},
		360: {Run: nothing},
		361: {Run: nothing},
		419: {Run: setIdentity, Changes: "virConnectSetIdentity"},
	}
}

func (d Driver) uri() string { return d.Name + ":///system" }

// nothing has no arguments, results or effects. Clients that ask to be told
// before the server closes their connection are told by its end.
func nothing(c *Call) error { return c.In.End() }

// text makes a procedure that answers with a word about the driver.
func text(of func(Driver) string) func(*Call) error {
	return func(c *Call) error {
		c.Out.String(of(c.server.Driver))
		return c.In.End()
	}
}

// openReadOnly is the flag of a client that wants to look only (VIR_CONNECT_RO).
const openReadOnly = 1

func open(c *Call) error {
	uri := c.In.OptionalString()
	flags := c.In.Uint32()
	if err := c.In.End(); err != nil {
		return err
	}
	driver := c.server.Driver
	if uri != nil && *uri != "" {
		path, ours := strings.CutPrefix(*uri, driver.Name+"://")
		path, _, _ = strings.Cut(path, "?")
		switch {
		case !ours:
			return netdef.Errorf(netdef.ErrNoConnect, "%s", *uri)
		case path != "/system" && path != "/session":
			return netdef.Errorf(netdef.ErrInternal, "unexpected %s URI path '%s', try %s", driver.Name, path, driver.uri())
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.opened {
		return &fromRPC{netdef.Errorf(netdef.ErrInternal, "connection already open")}
	}
	c.opened, c.readOnly = true, c.readOnly || flags&openReadOnly != 0
	return nil
}

// closeConnection ends the connection after the reply.
func closeConnection(c *Call) error { return c.In.End() }

// keepaliveFeature is the one by which a client says that it answers to pings
// (VIR_DRV_FEATURE_PROGRAM_KEEPALIVE).
const keepaliveFeature = 10

// features are those of libvirt's driver features that a client may rely on
// (virDrvFeature).
var features = map[int32]bool{8: true, 9: true, keepaliveFeature: true, 14: true, 15: true, 16: true}

func supportsFeature(c *Call) error {
	feature := c.In.Int32()
	if err := c.In.End(); err != nil {
		return err
	}
	c.mu.Lock()
	opened := c.opened
	c.mu.Unlock()
	if feature == keepaliveFeature {
		c.After = func() { c.alive.start(c.Session) }
	} else if !opened {
		return errNotOpen
	}
	c.Out.Bool(features[feature])
	return nil
}

// isSecure is always so between processes of a host.
func isSecure(c *Call) error {
	c.Out.Bool(true)
	return c.In.End()
}

// version is that of the libvirt whose protocol is spoken, 10.7.0.
const version = 10*1000000 + 7*1000

func libVersion(c *Call) error {
	c.Out.Uint64(version)
	return c.In.End()
}
