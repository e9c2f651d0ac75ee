package engine

import (
	"context"
	"errors"
	"os"
	"strings"

	"viaduct/internal/netdef"
)

// maxLinkName is the length of the longest name of a link (IFNAMSIZ - 1).
const maxLinkName = 15

// checkLinkName refuses what the kernel refuses, and templates.
func checkLinkName(name string) error {
	if name == "" || len(name) > maxLinkName || name == "." || name == ".." ||
		strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune("/:%", r) }) {
		return netdef.Errorf(netdef.ErrInvalidArg, "'%s' is no name for a link: it has 1 to %d characters, none of which is a blank, '/', ':' or '%%'",
			name, maxLinkName)
	}
	return nil
}

// DeletePort takes a port out of its network, by UUID or by the name of its
// link, and removes the link if Viaduct made it. Ports that others put into the
// bridge are theirs to remove.
func (e *Engine) DeletePort(ctx context.Context, id netdef.UUID, ref string) error {
	n, err := e.seize(id)
	if err != nil {
		return err
	}
	defer n.busy.Unlock()
	p, err := e.findPort(n, ref)
	if err != nil {
		return err
	}
	if !p.declared {
		return notDeclared(n, p)
	}
	return e.removePorts(ctx, n, func(other port) bool { return other.def.UUID == p.def.UUID })
}

func notDeclared(n *network, p port) error {
	return netdef.Errorf(netdef.ErrOperationInvalid, "port '%s' was put into network '%s' by another program", p.name, n.name)
}

// OpenTap makes a tap in the active network that has a bridge of that name. It
// is a port for as long as somebody has the file open.
func (e *Engine) OpenTap(ctx context.Context, bridge string, vnetHeader bool) (*os.File, error) {
	e.mu.Lock()
	n := e.bridgeUser(bridge, nil, nil)
	e.mu.Unlock()
	if n == nil {
		return nil, netdef.Errorf(netdef.ErrNoNetwork, "no network has a bridge '%s'", bridge)
	}
	l, ok := e.Host.Link(bridge)
	if !ok {
		return nil, netdef.Errorf(netdef.ErrOperationInvalid, "network '%s' is not active", n.name)
	}
	f, name, err := e.Host.OpenTap(l.MTU, vnetHeader)
	if err != nil {
		return nil, errAs(netdef.ErrInternal, err)
	}
	if err := e.Plug(ctx, n.id, name, 0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// seizeActive is seize for a network that has to be active.
func (e *Engine) seizeActive(id netdef.UUID) (*network, error) {
	n, err := e.seize(id)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	active := n.live != nil
	e.mu.Unlock()
	if !active {
		n.busy.Unlock()
		return nil, netdef.Errorf(netdef.ErrOperationInvalid, "network '%s' is not active", n.name)
	}
	return n, nil
}
