package xenvif

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"regexp"
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

var (
	backendForm = regexp.MustCompile(`(?:^|/)backend/vif/([0-9]{1,9})/([0-9]{1,9})$`)
	tapForm     = regexp.MustCompile(`^vif([0-9]{1,9})\.([0-9]{1,9})-emu$`)
)

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
	if m := tapForm.FindStringSubmatch(c.emulated); c.path == "" && c.kind == kindTap && m != nil {
		c.path = fmt.Sprintf("/local/domain/0/backend/vif/%s/%s", m[1], m[2])
	}
	m := backendForm.FindStringSubmatch(path.Clean(c.path))
	switch _, known := commands[c.command]; {
	case !known:
		return c, fmt.Errorf("unknown command '%s': it is online, offline, add or remove", c.command)
	case c.kind != kindVif && c.kind != kindTap:
		return c, fmt.Errorf("unknown interface type '%s': it is vif or tap", c.kind)
	case c.path == "":
		return c, errors.New("the variable XENBUS_PATH is not set")
	case m == nil:
		return c, fmt.Errorf("XENBUS_PATH '%s' does not end in backend/vif/DOMAIN/DEVICE", c.path)
	case c.kind == kindTap && c.emulated == "" && commands[c.command].kind == kindTap:
		return c, errors.New("the variable INTERFACE is not set")
	}
	// The form has no numbers that are too large.
	c.domain, _ = strconv.Atoi(m[1])
	c.device, _ = strconv.Atoi(m[2])
	c.link = cmp.Or(setting("vif"), fmt.Sprintf("vif%d.%d", c.domain, c.device))
	if c.kind == kindTap {
		c.link = c.emulated
	}
	return c, nil
}

// port is the UUID of the interface's port, which can be told from what libxl
// says at its end too, when xenstore may have forgotten it.
func (c call) port() netdef.UUID {
	return netdef.NamedUUID(fmt.Sprintf("xen %s %d/%d", c.kind, c.domain, c.device))
}
