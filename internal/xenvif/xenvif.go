// Package xenvif is the door for Xen: the hotplug script that libxl runs when a
// guest's network interface comes and goes (docs/misc/vif-paths and
// tools/libs/light/libxl_nic.c in Xen's sources). It reads from xenstore what
// the guest is to have, asks the daemon for it, and writes back how it went. It
// translates and decides nothing.
package xenvif

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"syscall"
	"time"

	"viaduct/internal/engine"
	"viaduct/internal/xenvif/xenstore"
)

// Networks is what this door asks of the daemon.
type Networks interface {
	Networks(ctx context.Context) ([]engine.Info, error)
	Plug(ctx context.Context, ref, link string, wait time.Duration) error
	Unplug(ctx context.Context, link string) error
}

// libxl kills a script after 40 s. What goes wrong is told well before that.
const (
	workLimit = 25 * time.Second
	tellLimit = 5 * time.Second
	// linkLimit is how long the guest's link may take to appear: the kernel
	// tells libxl that it is there shortly before it is.
	linkLimit = 10 * time.Second
)

// Script is one run of the hotplug script.
type Script struct {
	// Args are the program's arguments: its name, a command, and settings
	// such as type_if=vif.
	Args     []string
	Getenv   func(string) string
	Networks Networks
	Errs     io.Writer
}

// Run does what libxl asks for and returns the exit status.
func (s Script) Run(ctx context.Context) int {
	ctx, cancel := context.WithTimeout(ctx, workLimit)
	defer cancel()
	v, err := s.vif()
	if err == nil {
		err = commands[v.command](s, ctx, v)
	}
	if err != nil {
		s.say(err)
		return 1
	}
	return 0
}

func (s Script) say(err error) { fmt.Fprintf(s.Errs, "%s: %v\n", s.Args[0], err) }

var commands = map[string]func(Script, context.Context, vif) error{"online": Script.online, "offline": Script.offline}

// vif is a guest's network interface as libxl names it.
type vif struct {
	command string
	path    string // its folder in xenstore
	link    string // the host's end
}

// vif reads the arguments and the environment.
func (s Script) vif() (vif, error) {
	v := vif{path: s.Getenv("XENBUS_PATH"), link: s.Getenv("vif")}
	kind := "vif"
	for _, arg := range s.Args[1:] {
		if name, value, isSetting := strings.Cut(arg, "="); !isSetting && v.command == "" {
			v.command = arg
		} else if name == "type_if" {
			kind = value
		}
	}
	switch {
	case commands[v.command] == nil:
		return v, fmt.Errorf("unknown command '%s': it is online or offline", v.command)
	case kind != "vif":
		return v, fmt.Errorf("interface of type '%s': only type_if=vif is supported", kind)
	case v.link == "":
		return v, errors.New("the variable vif is not set")
	case v.command == "online" && v.path == "":
		return v, errors.New("the variable XENBUS_PATH is not set")
	}
	return v, nil
}

// online plugs the guest in and tells the guest's driver and libxl how it went.
func (s Script) online(ctx context.Context, v vif) error {
	store, err := xenstore.Dial(ctx, xenstore.SocketPath(s.Getenv))
	if err != nil {
		return err
	}
	defer store.Close()
	plugErr := s.plug(ctx, store, v)
	// There is time for this even if there was none left for plugging in.
	telling, cancel := context.WithTimeout(context.WithoutCancel(ctx), tellLimit)
	defer cancel()
	return errors.Join(plugErr, store.Transaction(telling, func(tx *xenstore.Tx) error {
		if plugErr != nil {
			return errors.Join(tx.Write(telling, v.path+"/hotplug-error", clip(plugErr.Error())),
				tx.Write(telling, v.path+"/hotplug-status", "error"))
		}
		return errors.Join(tx.Remove(telling, v.path+"/hotplug-error"),
			tx.Write(telling, v.path+"/hotplug-status", "connected"))
	}))
}

// clip keeps a message so short that it fits into xenstore beside any path.
func clip(message string) string {
	const limit = 1000
	if len(message) > limit {
		return strings.ToValidUTF8(message[:limit], "") + "..."
	}
	return message
}

// notYet are keys that change what the guest may do or how it is reached. As
// long as that cannot be applied, a guest that has them is refused rather than
// connected otherwise than it was meant to be.
var notYet = []string{"vifname", "ip", "mtu", "vlan"}

// plug makes the guest's link a port of the network that its keys name.
func (s Script) plug(ctx context.Context, store *xenstore.Client, v vif) error {
	var bridge string
	err := store.Transaction(ctx, func(tx *xenstore.Tx) error {
		for _, key := range notYet {
			switch value, err := tx.Read(ctx, v.path+"/"+key); {
			case err == nil:
				return fmt.Errorf("%s=%s is not supported yet", key, value)
			case !errors.Is(err, xenstore.ErrNotExist):
				return err
			}
		}
		var err error
		bridge, err = tx.Read(ctx, v.path+"/bridge")
		return err
	})
	if err != nil {
		return err
	}
	networks, err := s.Networks.Networks(ctx)
	if err != nil {
		return fmt.Errorf("ask the viaduct daemon for its networks: %w", err)
	}
	n, ok := find(networks, bridge)
	if !ok {
		return fmt.Errorf("bridge=%s: no network is called so, and none has a bridge of that name", bridge)
	}
	if err := s.Networks.Plug(ctx, n.UUID.String(), v.link, linkLimit); err != nil {
		return fmt.Errorf("plug %s into network '%s': %w", v.link, n.Name, err)
	}
	return nil
}

// libxl writes xenbr0 where a guest's configuration names no bridge.
const (
	unnamed        = "xenbr0"
	defaultNetwork = "default"
)

// find looks the network up that a guest's bridge= means: by its name, or by
// that of its bridge.
func find(networks []engine.Info, bridge string) (engine.Info, bool) {
	for _, names := range []func(engine.Info) bool{
		func(n engine.Info) bool { return n.Name == bridge },
		func(n engine.Info) bool { return n.Bridge == bridge && bridge != "" }, // not all have one
		func(n engine.Info) bool { return bridge == unnamed && n.Name == defaultNetwork },
	} {
		for _, n := range networks {
			if names(n) {
				return n, true
			}
		}
	}
	return engine.Info{}, false
}

// offline unplugs the guest. It needs nothing of xenstore, and no daemon: one
// that is started later sees that the link is gone.
func (s Script) offline(ctx context.Context, v vif) error {
	err := s.Networks.Unplug(ctx, v.link)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		s.say(fmt.Errorf("leave %s where it is: %w", v.link, err))
		return nil
	}
	return err
}
