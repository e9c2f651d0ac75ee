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

// kindMacvtap is the kind that the kernel gives macvtaps.
const kindMacvtap = "macvtap"

// IFLA_MACVLAN_MODE of linux/if_link.h.
const macvlanMode = 1

// macvlanModes are the numbers of the modes (enum macvlan_mode).
var macvlanModes = map[string]uint32{"private": 1, "vepa": 2, "bridge": 4, "passthrough": 8}

func (l *link) decodeMacvtap(d *netlink.AttributeDecoder) error {
	for d.Next() {
		if d.Type() == macvlanMode {
			l.mode = d.Uint32()
		}
	}
	return nil
}

// ownMacvtap reports whether the link is a macvtap that Viaduct made, if only a
// moment ago.
func (l link) ownMacvtap() bool {
	return l.kind == kindMacvtap && (strings.HasPrefix(l.alias, portAliasPrefix) || l.group == ownGroup)
}

// macvtapFile is where a guest finds the other end of a macvtap.
func macvtapFile(index int) string { return fmt.Sprintf("/dev/tap%d", index) }

// macvtap is the link as a wanted one would be. The mirror is locked.
func (m *mirror) macvtap(l link) hoststate.Macvtap {
	t := hoststate.Macvtap{Name: l.name, Alias: l.alias, Device: m.links[int(l.device)].name, MAC: l.mac}
	for name, mode := range macvlanModes {
		if mode == l.mode {
			t.Mode = name
		}
	}
	var file unix.Stat_t
	if unix.Stat(macvtapFile(l.index), &file) == nil {
		t.Owner = file.Uid
	}
	return t
}

// applyMacvtap makes, changes or removes a macvtap. The group, unlike the
// alias, is given in the moment of creation.
func (a *linkApplier) applyMacvtap(verb hoststate.Verb, t hoststate.Macvtap) error {
	l, exists := a.mirror.link(t.Name)
	foreign := exists && (!l.ownMacvtap() || l.alias != t.Alias && l.alias != "")
	switch {
	case foreign && verb == hoststate.Delete, !exists && verb == hoststate.Delete:
		return nil // it has gone, and maybe another has its name
	case foreign:
		return errNotOurs(l)
	case verb == hoststate.Delete:
		return allow(a.request(unix.RTM_DELLINK, 0, l.index, nil), unix.ENODEV)
	}
	device, ok := a.mirror.link(t.Device)
	if !ok {
		return errVanished(t.Device)
	}
	if exists && (int(l.device) != device.index || l.mode != macvlanModes[t.Mode]) {
		return fmt.Errorf("macvtap %s exists on another device or in another mode", t.Name)
	}
	if !exists {
		err := a.request(unix.RTM_NEWLINK, netlink.Create|netlink.Excl, 0, func(e *netlink.AttributeEncoder) {
			e.String(unix.IFLA_IFNAME, t.Name)
			e.Uint32(unix.IFLA_LINK, uint32(device.index))
			e.Uint32(unix.IFLA_GROUP, ownGroup)
			e.Bytes(unix.IFLA_ADDRESS, t.MAC[:])
			e.Nested(unix.IFLA_LINKINFO, func(e *netlink.AttributeEncoder) error {
				e.String(unix.IFLA_INFO_KIND, kindMacvtap)
				e.Nested(unix.IFLA_INFO_DATA, func(e *netlink.AttributeEncoder) error {
					e.Uint32(macvlanMode, macvlanModes[t.Mode])
					return nil
				})
				return nil
			})
		})
		if errors.Is(err, unix.EOPNOTSUPP) {
			return fmt.Errorf("the kernel has no macvtap (CONFIG_MACVTAP): %w", err)
		}
		if err != nil {
			return err
		}
		if l, exists = a.mirror.link(t.Name); !exists {
			return errVanished(t.Name)
		}
	}
	if l.mac != t.MAC {
		if err := a.setMAC(l, t.MAC); err != nil {
			return fmt.Errorf("set the MAC address: %w", err)
		}
	}
	err := a.request(unix.RTM_SETLINK, 0, l.index, func(e *netlink.AttributeEncoder) { e.String(unix.IFLA_IFALIAS, t.Alias) })
	if err != nil {
		return err
	}
	if err := os.Chown(macvtapFile(l.index), int(t.Owner), -1); err != nil {
		return fmt.Errorf("let the guest's user open it: %w", err)
	}
	// The kernel announces no alias while the link is down.
	a.mirror.now(func() {
		if l, ok := a.mirror.links[l.index]; ok {
			l.alias = t.Alias
			a.mirror.setLink(l)
		}
	})
	return nil
}
