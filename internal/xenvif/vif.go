package xenvif

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"viaduct/internal/netdef"
	"viaduct/internal/xenvif/vifspec"
)

// vif is what a guest's interface is to have.
type vif struct {
	call
	guest     string      // the guest's name, "" if it cannot be read
	guestUUID netdef.UUID // zero if it cannot be read
	unguarded bool        // as in request
	resolvers []string    // as in request

	bridge    string
	mac       netdef.MAC
	addresses []netip.Prefix // as given: with host bits
	name      string         // what the link is to be called; "" for its own name
	mtu       int            // 0 if none is given
	vlan      *netdef.VLAN
	rate      *vifspec.Rate
	rateText  string // the rate as the store has it
}

// vif reads what the store has of the interface. The warnings are for whoever
// looks after the host.
func (r request) vif() (v vif, warnings []string, err error) {
	v = vif{call: r.call, guest: r.guest, unguarded: r.unguarded, resolvers: r.resolvers}
	v.guestUUID, _ = netdef.ParseUUID(r.guestUUID)
	for _, name := range keys {
		if value := strings.TrimSpace(r.keys[name]); value != "" {
			if err := readers[name](&v, value); err != nil {
				return v, nil, fmt.Errorf("%s=%s: %w", name, value, err)
			}
		}
	}
	if v.rate != nil {
		for _, warning := range v.rate.Warnings() {
			warnings = append(warnings, fmt.Sprintf("%s: rate=%s: %s", v.link, v.rate, warning))
		}
	}
	return v, warnings, v.checkName()
}

// keyFrontend is the key with the path of the guest's own folder.
const keyFrontend = "frontend"

// keys are those that change how a guest is connected, in the order in which
// they are looked at. The others are netback's, libxl's and QEMU's: rate is
// enforced by netback in any case.
var keys = []string{"bridge", keyFrontend, "ip", "mac", "mtu", "rate", "vifname", "vlan"}

// readers say what the keys mean.
var readers = map[string]func(v *vif, value string) error{
	keyFrontend: func(*vif, string) error { return nil }, // the script's
	"bridge":    func(v *vif, value string) error { v.bridge = value; return nil },
	"vifname":   func(v *vif, value string) error { v.name = value; return nil },
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
func (c call) rateKey() string { return fmt.Sprintf("backend/vif/%d/%d/rate", c.domain, c.device) }

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

// Links of emulated NICs have the name of the guest's interface and this suffix.
const (
	tapSuffix   = "-emu"
	maxLinkName = 15 // IFNAMSIZ - 1
)

// checkName completes the name that the link is to have, and refuses one that
// the kernel cannot give it. Where a guest has an emulated NIC beside its vif,
// the name has to leave room for what tells that.
func (v *vif) checkName() error {
	if v.name == "" {
		return nil
	}
	longest := maxLinkName
	if v.kind == kindTap {
		v.name += tapSuffix
	} else if strings.Contains(v.emulated, tapSuffix) {
		longest -= len(tapSuffix)
	}
	if len(v.name) > longest {
		reason := "names of links have at most 15 characters"
		if longest < maxLinkName || v.kind == kindTap {
			reason += ", of which the emulated NIC needs 4 for '" + tapSuffix + "'"
		}
		return fmt.Errorf("vifname=%s is too long: %s", strings.TrimSuffix(v.name, tapSuffix), reason)
	}
	return nil
}

func toValid(s string) string { return strings.ToValidUTF8(s, "") }
