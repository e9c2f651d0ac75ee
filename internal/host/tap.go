package host

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"viaduct/internal/hoststate"
)

// kindTap is the kind that the kernel gives taps, and tun devices too.
const kindTap = "tun"

// portAliasPrefix begins the alias of the taps that stay.
const portAliasPrefix = aliasPrefix + " port "

// tunDevice is where taps come from.
const tunDevice = "/dev/net/tun"

// ownTap reports whether the link is a tap that Viaduct keeps.
func (l link) ownTap() bool { return l.kind == kindTap && strings.HasPrefix(l.alias, portAliasPrefix) }

func (l link) tap() hoststate.Tap {
	return hoststate.Tap{Name: l.name, Alias: l.alias, Owner: l.owner, MTU: l.mtu}
}

// applyTap makes, changes or removes a tap.
func (a *linkApplier) applyTap(verb hoststate.Verb, t hoststate.Tap) error {
	l, exists := a.mirror.link(t.Name)
	if exists && (!l.ownTap() || l.alias != t.Alias) {
		if verb == hoststate.Delete {
			return nil // it has gone, and another has its name
		}
		return errNotOurs(l)
	}
	switch {
	case verb == hoststate.Delete && !exists:
		return nil
	case verb == hoststate.Delete:
		return allow(a.request(unix.RTM_DELLINK, 0, l.index, nil), unix.ENODEV)
	case exists && l.owner == t.Owner:
		return a.labelTap(l.index, t)
	}
	flags := uint16(unix.IFF_VNET_HDR)
	if !exists {
		flags |= unix.IFF_TUN_EXCL
	}
	f, name, err := attachTap(t.Name, flags)
	if err != nil {
		return err
	}
	defer f.Close()
	if l, exists = a.mirror.link(name); !exists {
		return errVanished(name)
	}
	// Until it is to stay it goes with f, so there is none without its label.
	if err := a.labelTap(l.index, t); err != nil {
		return err
	}
	if err := unix.IoctlSetInt(int(f.Fd()), unix.TUNSETOWNER, int(t.Owner)); err != nil {
		return fmt.Errorf("set the owner: %w", err)
	}
	if err := unix.IoctlSetInt(int(f.Fd()), unix.TUNSETPERSIST, 1); err != nil {
		return fmt.Errorf("keep the tap: %w", err)
	}
	// The kernel announces neither while the link is down.
	a.mirror.now(func() {
		if l, ok := a.mirror.links[l.index]; ok {
			l.alias, l.owner = t.Alias, t.Owner
			a.mirror.setLink(l)
		}
	})
	return nil
}

func (a *linkApplier) labelTap(index int, t hoststate.Tap) error {
	return a.request(unix.RTM_SETLINK, 0, index, func(e *netlink.AttributeEncoder) {
		e.String(unix.IFLA_IFALIAS, t.Alias)
		e.Uint32(unix.IFLA_MTU, uint32(t.MTU))
	})
}

// attachTap attaches to the tap of that name, which may contain %d for the
// first free number, and makes it if there is none. It returns its name.
func attachTap(name string, flags uint16) (*os.File, string, error) {
	fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, "", fmt.Errorf("open %s: %w", tunDevice, err)
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | flags)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		return nil, "", errors.Join(fmt.Errorf("make tap %s: %w", name, err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), tunDevice), req.Name(), nil
}

// tapTemplate names taps that nobody named.
const tapTemplate = "tap%d"

// OpenTap implements Host.
func (h *kernelHost) OpenTap(mtu int, vnetHeader bool) (*os.File, string, error) {
	flags := uint16(unix.IFF_TUN_EXCL)
	if vnetHeader {
		flags |= unix.IFF_VNET_HDR
	}
	f, name, err := attachTap(tapTemplate, flags)
	if err != nil {
		return nil, "", err
	}
	l, ok := h.mirror.named(name)
	if !ok {
		return nil, "", errors.Join(errVanished(name), f.Close())
	}
	body, err := linkBody(l.Index, 0, 0, func(e *netlink.AttributeEncoder) { e.Uint32(unix.IFLA_MTU, uint32(mtu)) })
	if err == nil {
		err = h.rtnl.do(unix.RTM_SETLINK, 0, body)
	}
	if err != nil {
		return nil, "", errors.Join(fmt.Errorf("set the MTU of %s: %w", name, err), f.Close())
	}
	return f, name, nil
}
