package xenvif

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"viaduct/internal/netdef"
	"viaduct/internal/xenvif/hotplug"
	"viaduct/internal/xenvif/vifspec"
)

// vif is what a guest's interface is to have.
type vif struct {
	hotplug.Call
	guest     string      // the guest's name, "" if it cannot be read
	guestUUID netdef.UUID // zero if it cannot be read
	unguarded bool        // as in the request
	resolvers []string    // as in the request

	bridge    string
	mac       netdef.MAC
	addresses []netip.Prefix // as given: with host bits
	name      string         // what the link is to be called; "" for its own name
	mtu       int            // 0 if none is given
	vlan      *netdef.VLAN
	rate      *vifspec.Rate
	rateText  string // the rate as the store has it
}

// readVif reads what the store has of the interface. The warnings are for whoever
// looks after the host.
func readVif(r hotplug.Request) (v vif, warnings []string, err error) {
	v = vif{Call: r.Call, guest: r.Guest, unguarded: r.Unguarded, resolvers: r.Resolvers}
	v.guestUUID, _ = netdef.ParseUUID(r.GuestUUID)
	for _, name := range hotplug.Keys {
		if value := strings.TrimSpace(r.Keys[name]); value != "" {
			if err := readers[name](&v, value); err != nil {
				return v, nil, fmt.Errorf("%s=%s: %w", name, value, err)
			}
		}
	}
	if v.rate != nil {
		for _, warning := range v.rate.Warnings() {
			warnings = append(warnings, fmt.Sprintf("%s: rate=%s: %s", v.Link, v.rate, warning))
		}
	}
	return v, warnings, v.checkName()
}

// readers say what the keys mean.
var readers = map[string]func(v *vif, value string) error{
	hotplug.KeyFrontend: func(*vif, string) error { return nil }, // the script's
	"bridge":            func(v *vif, value string) error { v.bridge = value; return nil },
	"vifname":           func(v *vif, value string) error { v.name = value; return nil },
	"mac": func(v *vif, value string) (err error) {
		v.mac, err = vifspec.ParseMAC(value)
		return err
	},
	"ip": func(v *vif, value string) error {
		for _, text := range strings.Fields(value) {
			prefix, err := vifspec.ParseIP(text)
			if err != nil {
				return err
			}
			v.addresses = append(v.addresses, prefix)
		}
		return nil
	},
	"mtu": func(v *vif, value string) (err error) {
		if v.mtu, err = strconv.Atoi(value); err != nil || v.mtu < 68 || v.mtu > 65535 {
			return errors.New("an MTU is a number of octets from 68 to 65535")
		}
		return nil
	},
	"vlan": func(v *vif, value string) error {
		vlans, err := vifspec.ParseVLANs(value)
		if err != nil {
			return err
		}
		v.vlan, err = portVLAN(vlans)
		return err
	},
	"rate": func(v *vif, value string) error {
		rate, err := vifspec.ParseStoredRate(value)
		if err == nil {
			v.rate, v.rateText = &rate, value
		}
		return err
	},
}

// rateKey is where in the store the rate is, for whoever serves the interface.
func (v vif) rateKey() string { return fmt.Sprintf("backend/vif/%d/%d/rate", v.Domain, v.Device) }

// portVLAN says in a port's terms what a guest's VLANs are.
func portVLAN(v vifspec.VLANs) (*netdef.VLAN, error) {
	if len(v.Untagged) > 1 {
		return nil, errors.New("a guest can have a single VLAN without tags")
	}
	p := &netdef.VLAN{Tags: []netdef.VLANTag{{ID: v.PVID}}}
	if len(v.Tagged) == 0 {
		return p, nil
	}
	p.Trunk, p.Tags[0].NativeMode = netdef.Yes, "untagged"
	for _, id := range v.Tagged {
		p.Tags = append(p.Tags, netdef.VLANTag{ID: id})
	}
	return p, nil
}

// maxLinkName is IFNAMSIZ - 1.
const maxLinkName = 15

// checkName completes the name that the link is to have, and refuses one that
// the kernel cannot give it. Where a guest has an emulated NIC beside its vif,
// the name has to leave room for what tells that.
func (v *vif) checkName() error {
	if v.name == "" {
		return nil
	}
	longest := maxLinkName
	if v.Kind == hotplug.KindTap {
		v.name += hotplug.TapSuffix
	} else if strings.Contains(v.Emulated, hotplug.TapSuffix) {
		longest -= len(hotplug.TapSuffix)
	}
	if len(v.name) > longest {
		reason := "names of links have at most 15 characters"
		if longest < maxLinkName || v.Kind == hotplug.KindTap {
			reason += ", of which the emulated NIC needs 4 for '" + hotplug.TapSuffix + "'"
		}
		return fmt.Errorf("vifname=%s is too long: %s", strings.TrimSuffix(v.name, hotplug.TapSuffix), reason)
	}
	return nil
}
