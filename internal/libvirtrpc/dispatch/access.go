package dispatch

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"viaduct/internal/libvirtrpc/polkit"
	"viaduct/internal/netdef"
	"viaduct/internal/peer"
)

// Access says who may do what. Root may do everything, and so may the members
// of a group; others have to ask polkit, where it runs.
type Access struct {
	// Group is the name of the group; "" is none.
	Group string
	// Polkit decides about others. Nil, or one that is not there, leaves them
	// with what a read-only socket offers.
	Polkit Authority
	// PerObject has Polkit asked before each call too, with libvirt's actions
	// for single objects, on behalf of whoever the client acts for.
	PerObject bool
}

// Authority is what is asked of polkit.
type Authority interface {
	Available(ctx context.Context) bool
	Check(ctx context.Context, who polkit.Subject, action string, details map[string]string, interactive bool) error
}

// client is the process at the other end of a connection.
type client struct {
	peer.Peer
	started uint64
	trusted bool // it may change everything
}

func (c client) String() string { return fmt.Sprintf("pid %d of uid %d", c.PID, c.UID) }

func (c client) identity() Identity {
	return Identity{PID: c.PID, Started: c.started, UID: c.UID, GID: c.GID}
}

// Identity is on whose behalf a client acts: itself, or, if it is trusted, who
// it says (virConnectSetIdentity).
type Identity struct {
	PID      int32
	Started  uint64 // in clock ticks since the host's start; 0 if unknown
	UID, GID uint32
	User     string // "" if unknown
}

func (i Identity) String() string {
	if i.User != "" {
		return fmt.Sprintf("user %s (uid %d, pid %d)", i.User, i.UID, i.PID)
	}
	return fmt.Sprintf("uid %d (pid %d)", i.UID, i.PID)
}

func (i Identity) subject() polkit.Subject {
	return polkit.Subject{PID: uint32(i.PID), Started: i.Started, UID: i.UID}
}

// identify tells who connected.
func (a Access) identify(c net.Conn) (client, error) {
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return client{}, errors.New("it is not local")
	}
	p, err := peer.Of(uc)
	if err != nil {
		return client{}, err
	}
	trusted := p.UID == 0 || int(p.UID) == os.Geteuid() || a.member(p.Groups)
	return client{Peer: p, started: startTime(p.PID), trusted: trusted}, nil
}

func (a Access) member(groups []uint32) bool {
	if a.Group == "" {
		return false
	}
	g, err := user.LookupGroup(a.Group)
	if err != nil {
		return false
	}
	gid, err := strconv.ParseUint(g.Gid, 10, 32)
	return err == nil && slices.Contains(groups, uint32(gid))
}

// startTime tells a process from a later one with its number, by field 22 of
// proc(5)'s stat. It is 0 for one that is gone.
func startTime(pid int32) uint64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The name of the program, in parentheses, may contain anything.
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	if len(fields) < 20 {
		return 0
	}
	started, _ := strconv.ParseUint(fields[19], 10, 64)
	return started
}

// The ways to authenticate (remote_auth_type).
const (
	authNone   = 0
	authByRule = 2 // REMOTE_AUTH_POLKIT
)

func authList(c *Call) error {
	if err := c.In.End(); err != nil {
		return err
	}
	method := uint32(authNone)
	access := c.server.Access
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.authenticated:
	case access.Polkit != nil && access.Polkit.Available(c):
		method = authByRule
	case c.server.ReadOnly:
		c.authenticated = true
	default:
		return netdef.Errorf(netdef.ErrAuthUnavailable,
			"only root and members of group '%s' have access: polkit, which could decide about others, does not run", access.Group)
	}
	c.Out.Uint32(1)
	c.Out.Uint32(method)
	return nil
}

// The actions that polkit decides about, for whole connections.
const (
	actionManage  = "org.libvirt.unix.manage"
	actionMonitor = "org.libvirt.unix.monitor"
)

func authPolkit(c *Call) error {
	if err := c.In.End(); err != nil {
		return err
	}
	c.mu.Lock()
	done := c.authenticated
	c.mu.Unlock()
	access := c.server.Access
	if done || access.Polkit == nil {
		return netdef.Errorf(netdef.ErrAuthFailed, "authentication failed")
	}
	action := actionManage
	if c.server.ReadOnly {
		action = actionMonitor
	}
	if err := access.Polkit.Check(c, c.client.identity().subject(), action, nil, true); err != nil {
		c.server.Log.Info("refused access", "action", action, "client", c.client, "error", err)
		return err
	}
	c.mu.Lock()
	c.authenticated = true
	c.mu.Unlock()
	c.Out.Int32(1)
	return nil
}

// Allow refuses what polkit does not allow whoever the client acts for, where
// it is asked about single objects: an object is libvirt's name of a kind of
// object, and a permission one of its names of what is done to such. Who it is
// about is in details, by libvirt's names.
func (c *Call) Allow(object, permission string, details map[string]string) error {
	access := c.server.Access
	who := c.Identity()
	if !access.PerObject || access.Polkit == nil || who.UID == 0 {
		return nil
	}
	action := "org.libvirt.api." + object + "." + permission
	if err := access.Polkit.Check(c, who.subject(), action, details, false); err != nil {
		c.server.Log.Info("refused access", "action", action, "by", who, "error", err)
		return netdef.Errorf(netdef.ErrAccessDenied, "'%s' denied access", c.server.Driver.Name)
	}
	return nil
}

// maxIdentity bounds what is said about an identity (REMOTE_CONNECT_IDENTITY_PARAMS_MAX).
const maxIdentity = 20

// setIdentity lets a trusted client say on whose behalf it acts.
func setIdentity(c *Call) error {
	params := ReadParams(c.In, maxIdentity)
	_ = c.In.Uint32() // flags: none are known
	if err := c.In.End(); err != nil {
		return err
	}
	if !c.client.trusted {
		return netdef.Errorf(netdef.ErrAccessDenied, "'%s' denied access", c.server.Driver.Name)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range params {
		switch p.Name {
		case "user-name":
			c.identity.User = p.Text
		case "unix-user-id":
			c.identity.UID = uint32(p.Number)
		case "unix-group-id":
			c.identity.GID = uint32(p.Number)
		case "process-id":
			c.identity.PID = int32(p.Number)
		case "process-time":
			c.identity.Started = p.Number
		}
	}
	return nil
}
