package xenvif

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"viaduct/internal/netdef"
)

// The faces of the script: how a guest is connected.
const (
	faceViaduct = "vif-viaduct"
	faceBridge  = "vif-bridge"
	faceRoute   = "vif-route"
	faceNAT     = "vif-nat"
	// faceSetup is what udev's rules called before Xen 4.6: it stands for the
	// script that the guest asks for.
	faceSetup = "vif-setup"
)

// Faces are the names that the script answers to.
var Faces = []string{faceViaduct, faceBridge, faceRoute, faceNAT, faceSetup}

// The kinds of a guest's interfaces: that of Xen's own driver, and the link of
// the NIC that QEMU emulates for a guest that does not have one yet.
const (
	kindVif = "vif"
	kindTap = "tap"
)

// call is how libxl runs the script for an interface.
type call struct {
	face, command, kind string
	path                string // the interface's folder in xenstore
	link                string // the host's end
	domain, device      int
	emulated            string // the link of the emulated NIC, "" if there is none
	netdev              string // the link by which a routed guest is to be found; "" for any
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
	name, isEmulated := strings.CutSuffix(emulated, tapSuffix)
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
func (s Script) call() (call, error) {
	settings := map[string]string{}
	c := call{face: filepath.Base(s.Args[0])}
	for _, arg := range s.Args[1:] {
		if name, value, isSetting := strings.Cut(arg, "="); isSetting {
			settings[name] = value
		} else if c.command == "" {
			c.command = arg
		}
	}
	setting := func(name string) string { return cmp.Or(settings[name], s.Getenv(name)) }
	if c.face == faceSetup {
		c.face = cmp.Or(filepath.Base(setting("script")), faceBridge)
	}
	c.path, c.netdev = setting("XENBUS_PATH"), setting("netdev")
	c.kind = cmp.Or(settings["type_if"], commands[c.command].kind, kindVif)
	c.emulated = setting("INTERFACE")
	if c.path == "" && c.kind == kindTap {
		c.path = vifOf(c.emulated)
	}
	var isBackend bool
	c.domain, c.device, isBackend = backendOf(path.Clean(c.path))
	switch _, known := commands[c.command]; {
	case !known:
		return c, fmt.Errorf("unknown command '%s': it is online, offline, add or remove", c.command)
	case c.kind != kindVif && c.kind != kindTap:
		return c, fmt.Errorf("unknown interface type '%s': it is vif or tap", c.kind)
	case c.path == "":
		return c, errors.New("the variable XENBUS_PATH is not set")
	case !isBackend:
		return c, fmt.Errorf("XENBUS_PATH '%s' does not end in backend/vif/DOMAIN/DEVICE", c.path)
	case c.kind == kindTap && c.emulated == "" && commands[c.command].kind == kindTap:
		return c, errors.New("the variable INTERFACE is not set")
	}
	c.link = cmp.Or(setting("vif"), fmt.Sprintf("vif%d.%d", c.domain, c.device))
	if c.kind == kindTap {
		c.link = c.emulated
	}
	return c, nil
}

// leaving is the call that takes back what this one has done.
func (c call) leaving() call {
	for name, command := range commands {
		if command.kind == c.kind && command.leaves {
			c.command = name
		}
	}
	return c
}

// port is the UUID of the interface's port, which can be told from what libxl
// says at its end too, when xenstore may have forgotten it.
func (c call) port() netdef.UUID {
	return netdef.NamedUUID(fmt.Sprintf("xen %s %d/%d", c.kind, c.domain, c.device))
}
