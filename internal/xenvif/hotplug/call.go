package hotplug

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

// The faces of the script: how a guest is connected.
const (
	FaceViaduct = "vif-viaduct"
	FaceBridge  = "vif-bridge"
	FaceRoute   = "vif-route"
	FaceNAT     = "vif-nat"
	// FaceSetup is what udev's rules called before Xen 4.6: it stands for the
	// script that the guest asks for.
	FaceSetup = "vif-setup"
)

// Faces are the names that the script answers to.
var Faces = []string{FaceViaduct, FaceBridge, FaceRoute, FaceNAT, FaceSetup}

// The kinds of a guest's interfaces: that of Xen's own driver, and the link of
// the NIC that QEMU emulates for a guest that does not have one yet.
const (
	KindVif = "vif"
	KindTap = "tap"
)

// Call is how libxl runs the script for an interface.
type Call struct {
	Face, Command, Kind string
	Path                string // the interface's folder in xenstore
	Link                string // the host's end
	Domain, Device      int
	Emulated            string // the link of the emulated NIC, "" if there is none
	Netdev              string // the link by which a routed guest is to be found; "" for any
}

// backendOf reads the numbers of a domain and of its device at the end of an
// interface's path, .../backend/vif/DOMAIN/DEVICE. It is no regular expression
// since those take a program that runs so briefly too long to compile.
func backendOf(path string) (domain, device int, ok bool) {
	parts := strings.Split(path, "/")
	if len(parts) < 4 || parts[len(parts)-4] != "backend" || parts[len(parts)-3] != "vif" {
		return 0, 0, false
	}
	domain, okDomain := number(parts[len(parts)-2])
	device, okDevice := number(parts[len(parts)-1])
	return domain, device, okDomain && okDevice
}

// number reads a number of at most nine digits, and nothing but digits.
func number(text string) (int, bool) {
	n, err := strconv.ParseUint(text, 10, 31)
	return int(n), err == nil && len(text) <= 9
}

// vifOf is the path of the interface that belongs to the link of an emulated NIC,
// vifDOMAIN.DEVICE-emu; "" if that is none.
func vifOf(emulated string) string {
	name, isEmulated := strings.CutSuffix(emulated, TapSuffix)
	numbers, isVif := strings.CutPrefix(name, "vif")
	domain, device, _ := strings.Cut(numbers, ".")
	_, okDomain := number(domain)
	_, okDevice := number(device)
	if !isEmulated || !isVif || !okDomain || !okDevice {
		return ""
	}
	return "/local/domain/0/backend/vif/" + domain + "/" + device
}

// call reads the arguments and the environment. Of what both say the arguments
// count. On error the call has what is known of it.
func (s Script) call() (Call, error) {
	settings := map[string]string{}
	c := Call{Face: filepath.Base(s.Args[0])}
	for _, arg := range s.Args[1:] {
		if name, value, isSetting := strings.Cut(arg, "="); isSetting {
			settings[name] = value
		} else if c.Command == "" {
			c.Command = arg
		}
	}
	setting := func(name string) string { return cmp.Or(settings[name], s.Getenv(name)) }
	if c.Face == FaceSetup {
		c.Face = cmp.Or(filepath.Base(setting("script")), FaceBridge)
	}
	c.Path, c.Netdev = setting("XENBUS_PATH"), setting("netdev")
	c.Kind = cmp.Or(settings["type_if"], commands[c.Command].kind, KindVif)
	c.Emulated = setting("INTERFACE")
	if c.Path == "" && c.Kind == KindTap {
		c.Path = vifOf(c.Emulated)
	}
	var isBackend bool
	c.Domain, c.Device, isBackend = backendOf(path.Clean(c.Path))
	switch _, known := commands[c.Command]; {
	case !known:
		return c, fmt.Errorf("unknown command '%s': it is online, offline, add or remove", c.Command)
	case c.Kind != KindVif && c.Kind != KindTap:
		return c, fmt.Errorf("unknown interface type '%s': it is vif or tap", c.Kind)
	case c.Path == "":
		return c, errors.New("the variable XENBUS_PATH is not set")
	case !isBackend:
		return c, fmt.Errorf("XENBUS_PATH '%s' does not end in backend/vif/DOMAIN/DEVICE", c.Path)
	case c.Kind == KindTap && c.Emulated == "" && commands[c.Command].kind == KindTap:
		return c, errors.New("the variable INTERFACE is not set")
	}
	c.Link = cmp.Or(setting("vif"), fmt.Sprintf("vif%d.%d", c.Domain, c.Device))
	if c.Kind == KindTap {
		c.Link = c.Emulated
	}
	return c, nil
}

// Leaving is the call that takes back what this one has done.
func (c Call) Leaving() Call {
	for name, command := range commands {
		if command.kind == c.Kind && command.leaves {
			c.Command = name
		}
	}
	return c
}

// Leaves reports whether the guest's link goes.
func (c Call) Leaves() bool { return commands[c.Command].leaves }

// Daemon does what a script asks for.
type Daemon interface{ Do(Request) Answer }

// Request is what a script asks for.
type Request struct {
	Call
	Keys map[string]string // what the store has of the interface, as it is there
	// Guest is the guest's name and GuestUUID its UUID, "" if they cannot be read.
	Guest, GuestUUID string
	// Unguarded says that guests are to be left alone of whose network nobody
	// has said whether they are to be guarded.
	Unguarded bool
	Resolvers []string // the host's name servers, for guests in NAT
	// Hooked says that there are hooks, which want to know where the interface is.
	Hooked bool
}

// Answer is what came of it.
type Answer struct {
	MTU      int // of the link that was plugged in
	Warnings []string
	// For hooks: the bridge that the link is in, or the host's IPv4 address at the
	// link of a guest that is routed.
	Bridge, Gateway string
	Err             error
}

// KeyFrontend is the key with the path of the guest's own folder.
const KeyFrontend = "frontend"

// Keys are those that change how a guest is connected, in the order in which
// they are looked at. The others are netback's, libxl's and QEMU's: rate is
// enforced by netback in any case.
var Keys = []string{"bridge", KeyFrontend, "ip", "mac", "mtu", "rate", "vifname", "vlan"}

// TapSuffix ends the names of the links of emulated NICs, which begin with that
// of the guest's interface.
const TapSuffix = "-emu"
